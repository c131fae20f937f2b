"""What a params document asks for, as parts that a rule may see."""

import re
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
    variants = {"here": {}, "there": {"eval_split": "test"}}
    document["claims"], document["ablations"] = (
        {},
        {"splits": {"head": "gasm_cast", "seeds": [0, 1], "variants": variants}},
    )
    with pytest.raises(ParamsError, match=r"ablations\.splits: there with seed 0 trains the same as here with seed 0"):
        Plan(parse_params(document)).ablation_runs("splits")


def test_runs_of_heads_without_training_are_swept_each_once_and_the_result_apart(plan):
    swept = [run.key for runs in plan.swept.values() for run in runs]
    assert {plan.params.ablations[name].head for name in plan.swept} == {"negalign"}
    assert len(swept) == len(set(swept)) and plan.results["waterbirds_ood"].key not in swept
    made = {run.key for name in plan.swept for run in plan.ablation_runs(name)}
    assert made == {*swept, plan.results["waterbirds_ood"].key}


def test_the_part_of_an_ablation_holds_the_data_sets_that_its_variants_read(plan):
    document = plan.params.model_dump(mode="json")
    other = {"dataset": "toy-assembly-texts", "feature": "clip_text_negatives"}
    document["claims"], document["ablations"] = (
        {},
        {"names": {"head": "negalign", "seeds": [0], "variants": {"other": {"classes": other}}}},
    )
    part = load_params(Plan(parse_params(document)).part(ablation="names"))
    assert "toy-assembly-texts" in part.datasets and "toy-ssv2" not in part.datasets


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.chdir(ROOT)
    return Plan(load_params("params.yaml"))


def test_a_shard_of_maps_is_made_from_the_same_shard_of_tokens_and_every_shard_of_the_texts(plan, monkeypatch):
    monkeypatch.setattr(plan, "shards", lambda dataset: {"toy-waterbirds-classes": [0, 1]}[dataset])
    read = plan.read_by("toy-waterbirds", "clip_cam", 3)
    assert [re.sub(r"-[0-9a-f]{8,}/", "-KEY/", path) for path in read] == [
        "features/toy-waterbirds/clip_cam_tokens-KEY/shard-003.json",
        "features/toy-waterbirds-classes/clip_text_negatives-KEY/shard-000.json",
        "features/toy-waterbirds-classes/clip_text_negatives-KEY/shard-001.json",
    ]
    assert plan.read_by("toy-waterbirds", "clip_cam_tokens", 3) == []


def test_the_texts_that_maps_are_compared_with_are_asked_for(plan):
    assert "clip_text_negatives" in plan.features("toy-waterbirds-classes")
    assert {"clip_image", "clip_cam_tokens", "clip_cam"} <= set(plan.features("toy-waterbirds-unknown-other"))
    assert "clip_cam" in plan.derived and "clip_cam_tokens" not in plan.derived


def test_a_data_set_in_the_folder_of_another_is_rendered_with_it(plan):
    assert plan.rendered_with("toy-waterbirds-backgrounds") == plan.rendered_with("toy-waterbirds") == "toy-waterbirds"
    assert plan.rendered_with("toy-waterbirds-words") is None
