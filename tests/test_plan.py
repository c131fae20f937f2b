"""What a params document asks for, as parts that a rule may see."""

from pathlib import Path

import pytest

from pipeline.config import ParamsError, load_params, parse_params
from pipeline.plan import Plan

ROOT = Path(__file__).parents[1]


def test_the_part_of_an_ablation_holds_every_feature_that_its_variants_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan(load_params("params.yaml"))
    part = load_params(plan.part(ablation="gasm_cast_storage"))
    assert {"dinov3_full", "dinov3_int8", "dinov3_pool_int8", "dinov3_patches"} <= set(part.features)
    assert [run.key for run in Plan(part).ablation_runs("gasm_cast_storage")] == [
        run.key for run in plan.ablation_runs("gasm_cast_storage")
    ]


def test_variants_of_an_ablation_that_are_one_training_are_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    document = load_params("params.yaml").model_dump(mode="json")
    variants = {"here": {}, "there": {"eval_split": "train"}}
    document["claims"], document["ablations"] = (
        {},
        {"splits": {"head": "gasm_cast", "seeds": [0, 1], "variants": variants}},
    )
    with pytest.raises(ParamsError, match=r"ablations\.splits: there with seed 0 trains the same as here with seed 0"):
        Plan(parse_params(document)).ablation_runs("splits")
