"""Claims about features as an axis: what is varied is a feature of its own, planned, keyed and reused."""

import copy
import json
from pathlib import Path

import pytest

from pipeline.config import ParamsError, feature_key, load_params, parse_params
from pipeline.plan import Plan
from tests.config.shipped import shipped

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def planned(head: str = "gasm_cast", variants=None, grid=None, **features) -> Plan:
    """params.yaml with one ablation, `it`, alone."""
    written = copy.deepcopy(shipped()) | {"claims": {}}
    written["features"] |= features
    rows = {name: given for name, given in (("variants", variants), ("grid", grid)) if given}
    written["ablations"] = {"it": {"head": head, "seeds": [0], **rows}}
    return Plan(parse_params(written))


def read(plan: Plan, role: str = "semantic") -> list[str]:
    """What each row reads in a role."""
    return [run.config.inputs[role].feature for run in plan.ablation_runs("it")]


def test_a_role_is_an_axis():
    plan = planned(grid={"features.semantic": ["dinov3_patches", "dinov3_full"]})
    first, second = plan.ablation_runs("it")
    assert read(plan) == ["dinov3_patches", "dinov3_full"] and first.key == plan.results["ssv2_top1"].key != second.key


def test_a_field_of_a_feature_is_an_axis_and_each_value_a_feature_of_its_own():
    plan = planned(grid={"features.dinov3_patches.precision": ["fp32", "bf16"], "lr": [0.01, 0.02]})
    same, _, varied, again = read(plan)
    assert (same, varied) == ("dinov3_patches", again) and varied.startswith("dinov3_patches__precision_bf16_")
    made, base = plan.params.features[varied], plan.params.features["dinov3_patches"]
    assert made.precision == "bf16" and made.model_copy(update={"precision": "fp32"}) == base
    assert feature_key(plan.params, varied) != feature_key(plan.params, "dinov3_patches")
    assert plan.shard_path("toy-ssv2", varied, 0).startswith(f"features/toy-ssv2/{varied}-")
    assert all(run.config.inputs["motion"].feature == "r3d18_clips" for run in plan.ablation_runs("it"))


def test_a_variant_that_is_declared_already_is_that_feature():
    plan = planned(grid={"features.dinov3_patches.pool": [1, 2]})
    assert read(plan) == ["dinov3_full", "dinov3_patches"]
    assert set(plan.params.features) == set(shipped()["features"])


def test_of_two_that_are_declared_alike_every_job_takes_the_same_one():
    twin = shipped()["features"]["dinov3_patches"] | {"precision": "bf16"}
    plan = planned(grid={"features.dinov3_patches.precision": ["fp32", "bf16"]}, z_twin=twin, a_twin=twin)
    whole = Plan(load_params(plan.document))  # as the page and the claims read it, sorted
    files = ([run.result_file for run in of.ablation_runs("it")] for of in (whole, plan))
    assert next(files) == next(files)


def test_no_key_of_what_is_not_varied_moves():
    plan, before = planned(grid={"features.dinov3_patches.precision": ["bf16"]}), Plan(load_params("params.yaml"))
    assert plan.results["ssv2_top1"].result_file == before.results["ssv2_top1"].result_file
    assert {name: feature_key(plan.params, name) for name in shipped()["features"]} == {
        name: feature_key(before.params, name) for name in shipped()["features"]
    }


def test_what_is_made_from_a_varied_feature_is_a_variant_too():
    changes = {"features.r3d18_clips.precision": "bf16"}
    plan = planned("clip_align", variants={"it": changes})
    tokens, maps = read(plan, "tokens")[0], read(plan, "maps")[0]
    assert plan.params.features[maps].source == tokens != "r3d18_clips" and maps.startswith(
        "attention_maps__precision_"
    )
    assert plan.params.reading(maps) == (tokens, maps)
    both = {"features.i3d_flow.sampling.fps": 6.0, "features.i3d_frames.sampling.fps": 6.0}
    rows = read(planned("fact", variants={"slower": both}), "frames")
    assert rows[0].startswith("i3d_frames__fps_6_0_fps_6_0_")


def test_texts_and_words_are_axes_too():
    plan = planned("negalign", variants={"it": {"features.clip_text_negatives.prompts": ["a picture of a {}"]}})
    (run,) = plan.ablation_runs("it")
    texts = run.config.classes.feature
    assert run.config.words.feature == texts != "clip_text_negatives"
    assert plan.params.features[run.config.features.cam].texts.feature == texts
    assert plan.params.features[run.config.features.masks].source == run.config.features.cam
    assert run.config.inputs["ood.backgrounds.cam"].feature == run.config.features.cam


@pytest.mark.parametrize(
    ("head", "variants"),
    [
        ("gasm_cast", {"a": {"features.dinov3_patches.precision": "bf16"}}),
        ("gasm_cast", {"a": {"features.semantic": "dinov3_full", "features.dinov3_full.precision": "bf16"}}),
        ("gasm_cast", {"a": {"features.semantic": "dinov3_int8", "features.dinov3_full.precision": "bf16"}, "b": {}}),
        ("negalign", {"a": {"features.clip_cam_tokens.precision": "bf16"}}),
    ],
    ids=str,
)
def test_each_rule_sees_the_variant_and_gives_it_the_same_name(head, variants):
    plan = planned(head, variants)
    runs = plan.ablation_runs("it")
    table = Plan(load_params(plan.part(ablation="it")))
    assert [run.result_file for run in table.ablation_runs("it")] == [run.result_file for run in runs]
    whole = Plan(load_params(plan.document))
    assert [run.result_file for run in whole.ablation_runs("it")] == [run.result_file for run in runs]
    for run in runs:
        one = load_params(plan.part(head=head, key=run.key, evaluation=run.evaluation))
        assert one.head(head) == run.config and Plan(one).run(head).result_file == run.result_file
        for of in run.config.inputs.values():
            alone = load_params(plan.part(dataset=of.dataset, features=(of.feature,)))
            assert feature_key(alone, of.feature) == feature_key(plan.params, of.feature)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features.dinov3_patches.frames": 4},
            r"worse: features\.dinov3_patches\.frames: unknown key; remove it or correct its spelling",
        ),
        (
            {"features.dinov3_patches.precision": "fp8"},
            r"worse: features\.dinov3_patches\.precision: Input should be 'fp32'",
        ),
        (
            {"features.clip_text.batch": 8},
            r"worse: features\.clip_text is varied, but nothing that is read is made from it; vary one of "
            "dinov3_patches, r3d18_clips",
        ),
        (
            {"features.dinov3_patches.sampling.frames": 4},
            r"has the steps 4 and features\.motion \(r3d18_clips\) the steps 8",
        ),
        ({"features.r3d18_clips.sampling.frames": 30}, r"sampling\.frames is 30, and a step is of 4 frames"),
        (
            {"features.semantic": "none", "features.dinov3_full.pool": 2},
            r"features\.semantic names 'none', which is not in",
        ),
        ({"features.nowhere.pool": 2}, r"features\.nowhere\.pool: unknown key"),
    ],
    ids=str,
)
def test_a_variant_that_does_not_fit_is_refused_when_params_are_read(changes, message):
    with pytest.raises(ParamsError, match=message) as error:
        planned(variants={"worse": changes})
    assert len(str(error.value).splitlines()) == 2


def test_a_feature_that_is_called_like_a_variant_and_is_another_is_refused():
    name = read(planned(grid={"features.dinov3_patches.precision": ["bf16"]}))[0]
    with pytest.raises(
        ParamsError, match=f"features.{name} is declared, and is what a variant of dinov3_patches is called"
    ):
        planned(grid={"features.dinov3_patches.precision": ["bf16"]}, **{name: shipped()["features"]["r3d18_clips"]})


def test_the_name_of_a_variant_stays_short_whatever_is_varied():
    long = copy.deepcopy(shipped()["features"]["dinov3_patches"])
    changes = {"features.semantic": "x" * 120, f"features.{'x' * 120}.weights": {"path": "weights/" + "y" * 200}}
    params = planned(variants={"it": changes}, **{"x" * 120: long}).params
    (made,) = params.features.keys() - shipped()["features"].keys() - {"x" * 120}
    assert len(made) <= 120 and parse_params(params.model_dump(mode="json")) == params


def test_a_variant_is_asked_for_on_the_command_line_as_in_an_ablation():
    plan, asked = planned(grid={"features.dinov3_patches.precision": ["bf16"]}), Plan(load_params("params.yaml"))
    run = asked.run("gasm_cast", {"features.dinov3_patches.precision": "bf16", "seed": 0})
    assert run.result_file == plan.ablation_runs("it")[0].result_file
    assert json.loads(asked.params.replacing("gasm_cast", run.config).part(head="gasm_cast"))["features"].keys() == {
        run.config.features.semantic,
        "r3d18_clips",
    }
