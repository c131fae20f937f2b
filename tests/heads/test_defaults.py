"""Claims about what a params file need not say of a head."""

import pytest

from pipeline.config.heads import head_model

TEXTS = {"dataset": "texts", "feature": "clip_text"}
ROLES = {"plain": "clip_text", "object": "clip_text_object", "background": "clip_text_background"}
SAID = {
    "gasm_cast": {"features": {"semantic": "tokens", "motion": "clips"}},
    "fact": {"features": {"frames": "rows"}},
    "fact_clip": {"features": {"frames": "rows"}, "vocabulary": TEXTS, "unseen": "held_out"},
    "clip_align": {"features": {"tokens": "clips", "maps": "maps"}},
    "negalign": {
        "features": {"image": "clip", "cam": "cam"},
        "classes": TEXTS,
        "ood": {"other": "other"},
        "words": TEXTS | {"roles": ROLES},
        "reference_split": "val",
    },
    "probe": {"features": ["tokens"]},
}


@pytest.mark.parametrize("kind", SAID)
def test_what_has_a_usual_value_needs_no_word(kind):
    document = {"kind": kind, "dataset": "own", "result": "own", "eval_split": "test", **SAID[kind]}
    assert head_model(kind).model_validate(document).kind == kind
