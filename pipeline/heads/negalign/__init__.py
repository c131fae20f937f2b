"""NegAlign: zero-shot out-of-distribution detection with a frozen CLIP, from cached vectors; it trains nothing."""

from .masks import background_embedding, foreground, p_align
from .scores import Standard, Variant, combine, groups, neglabel, neglabels, predict
from .words import ROLES, by_role, candidate_scores, mine, role_scores, roles, without

__all__ = [
    "ROLES",
    "Standard",
    "Variant",
    "background_embedding",
    "by_role",
    "candidate_scores",
    "combine",
    "foreground",
    "groups",
    "mine",
    "neglabel",
    "neglabels",
    "p_align",
    "predict",
    "role_scores",
    "roles",
    "without",
]
