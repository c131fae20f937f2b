"""Params to be examined, and what is found of them."""

import json
from pathlib import Path

from permafrost.doctor import Finding, asked
from pipeline.config import Params, load_params
from pipeline.plan import Plan

ROOT = Path(__file__).parents[3]
MINI = {"path": str(ROOT / "weights/mini-dinov3")}


def params(videos: Path, weights: dict = MINI, compute: dict | None = None, **feature) -> str:
    """A literal document: a folder of videos, a backbone, a probe."""
    tokens = {"backbone": "dinov3", "weights": weights, "sampling": {"frames": 4}, "preprocess": {"resize": [64, 64]}}
    split = {"train": 0.5, "test": 0.5}
    return json.dumps(
        {
            "compute": compute or {},
            "datasets": {"own": {"root": str(videos), "layout": "videos", "split": split, "features": ["tokens"]}},
            "features": {"tokens": tokens | feature},
        }
    )


def found(checks, what: str) -> Finding:
    (one,) = (of for of in checks if of.what.startswith(what))
    assert bool(one.remedy) == (one.state != "ok"), one
    return one


def loaded(*given, **named) -> Params:
    return load_params(params(*given, **named))


def planned(*given, **named) -> tuple[Plan, asked.Tables]:
    """A plan and its annotations, as `imports` and `disk` take them."""
    plan = Plan(loaded(*given, **named))
    return plan, asked.tables(plan)
