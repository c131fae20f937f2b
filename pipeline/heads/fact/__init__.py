"""FACT: the head for temporal action segmentation of long videos on cached frame features; FACT_CLIP beside it."""

from .blocks import BlockSettings, blocks
from .classes import Classes
from .clip import FactClip, clip_loss, score
from .losses import LossSettings, fact_loss, targets_of
from .model import Fact, Parts, TimeMask
from .outputs import BlockOutput
from .prediction import predict

__all__ = [
    "BlockOutput",
    "BlockSettings",
    "Classes",
    "Fact",
    "FactClip",
    "LossSettings",
    "Parts",
    "TimeMask",
    "blocks",
    "clip_loss",
    "fact_loss",
    "predict",
    "score",
    "targets_of",
]
