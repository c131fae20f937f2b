"""What a probe's params say, and what is refused when they are read."""

import re
from functools import cache

import pytest
import yaml

from pipeline.config import ParamsError, load_params, parse_params
from pipeline.config.heads import Head
from pipeline.config.layouts import layout_of
from pipeline.heads.probe.config import linear_of
from pipeline.plan import Plan
from tests.prediction.worlds import ROOT

PROBE = {"kind": "probe", "dataset": "toy-ssv2", "result": "probe", "eval_split": "validation"}


@cache
def shipped() -> dict:
    return load_params(str(ROOT / "params.yaml")).model_dump(mode="json")


def params(head: dict):
    full = shipped()
    kept = {name: full[name] for name in ("compute", "toyworld", "datasets", "features")}
    return parse_params({**kept, "heads": {"probe": {**PROBE, **head}}})


@pytest.fixture(autouse=True)
def project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_five_lines_are_enough_and_features_are_named_in_three_ways():
    one = params({"features": "dinov3_patches"}).head("probe")
    assert one == params({"features": ["dinov3_patches"]}).head("probe")
    assert one == params({"features": {"dinov3_patches": "dinov3_patches"}}).head("probe")
    assert (one.probe, one.targets, one.lr, one.epochs, one.task) == ("linear", "label", 0.01, 100, "probe")
    attentive = params({"features": "dinov3_patches", "probe": "attentive"}).head("probe")
    assert (attentive.blocks, attentive.attention_heads, attentive.lr, attentive.epochs) == (4, 16, 1e-3, 20)
    assert params({"features": "dinov3_patches", "probe": "knn"}).head("probe").trains is False


def test_it_reads_tokens_vectors_rows_and_maps_side_by_side_whatever_their_steps_and_crops():
    read = ["dinov3_patches", "r3d18_clips", "clip_image", "i3d_frames"]
    assert list(params({"features": read}).head("probe").inputs) == read
    maps = {"dataset": "toy-clinic", "features": ["attention_maps"], "eval_split": "test"}
    assert params(maps).head("probe").probe == "linear"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"features": "clip_text"}, r"names 'clip_text', which gives embeddings of texts .*; expected a grid"),
        ({"features": "clip_cam_tokens"}, r"gives the input of a block"),
        ({"features": "i3d_flow"}, r"gives optical flow"),
        ({"features": "gone"}, r"names 'gone', which is not in features"),
        ({"features": []}, r"heads\.probe\.features"),
        ({"features": ["clip_image", "clip_image"]}, r"'clip_image' is named twice; name each feature once"),
        ({"features": {"label": "clip_image"}}, r"a batch holds something else as 'label'"),
        ({"features": "attention_maps"}, r"but toy-ssv2 has no maps"),
        ({"features": "clip_image", "probe": "attentive", "attention_heads": 5},
         r"attention_heads is 5, which does not divide the width 128 of the widest feature; choose a divisor"),
        ({"features": "attention_maps", "dataset": "toy-clinic", "probe": "attentive"}, r"linear reads a map whole"),
        ({"features": "i3d_frames", "dataset": "toy-assembly"}, r"labels frames, and this head"),
        ({"features": "clip_image", "targets": "labels"},
         r"whose samples have one label each, and this head learns several labels .* of a probe set targets: label"),
        ({"features": "clip_image", "probe": "nearest"}, r"heads\.probe\.probe: Input should be 'linear', 'attentive'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_when_params_are_read(head, said):
    with pytest.raises(ParamsError, match=said):
        params(head)


@pytest.mark.parametrize(("targets", "task"), [("label", "probe"), ("labels", "multilabel"), ("target", "regression")])
def test_the_data_set_decides_what_is_learned_and_another_head_of_labels_is_refused(monkeypatch, targets, task):
    shipped()
    monkeypatch.setattr(type(layout_of("ssv2")), "targets", lambda self, dataset: (targets,))
    head = params({"features": "clip_image"}).head("probe")
    assert (head.targets, head.task) == (targets, task)
    assert params(head.model_dump(mode="json")).head("probe") == head
    if targets != "label":
        with pytest.raises(ParamsError, match=r"heads\.gasm_cast\.dataset names 'toy-ssv2', whose samples have"):
            parse_params(shipped())


@pytest.mark.parametrize(("column", "task"), [("label", "probe"), ("labels", "multilabel"), ("target", "regression")])
def test_of_one_s_own_table_its_columns_decide(tmp_path, column, task):
    (tmp_path / "videos.csv").write_text(f"path,{column}\na.mp4,1\n", encoding="utf-8")
    own = {"own": {"layout": "table", "root": str(tmp_path), "split": {"train": 0.8, "test": 0.2}}}
    head = {**PROBE, "dataset": "own", "features": "clip_image", "eval_split": "test"}
    kept = {"compute": shipped()["compute"], "features": {"clip_image": shipped()["features"]["clip_image"]}}
    assert parse_params({**kept, "datasets": own, "heads": {"probe": head}}).head("probe").task == task


def test_of_a_class_beside_numbers_the_head_says_which_it_learns(monkeypatch):
    shipped()
    monkeypatch.setattr(type(layout_of("ssv2")), "targets", lambda self, dataset: ("label", "target"))
    assert params({"features": "clip_image"}).head("probe").task == "probe"
    assert params({"features": "clip_image", "targets": "target"}).head("probe").task == "regression"
    with pytest.raises(ParamsError, match="have one label each and numbers, and this head learns several labels each"):
        params({"features": "clip_image", "targets": "labels"})


def test_a_knob_of_one_probe_moves_no_key_of_another_and_its_own_does(monkeypatch):
    def key(**head) -> str:
        return Plan(params({"features": "dinov3_patches", **head})).results["probe"].key

    assert key(probe="knn") == key(probe="knn", lr=0.5, blocks=2) != key(probe="knn", k=5)
    assert key() == key(k=5, blocks=2) != key(lr=0.5)
    assert key(probe="attentive") == key(probe="attentive", k=5) != key(probe="attentive", blocks=1)
    assert len({key(), key(probe="knn"), key(probe="attentive")}) == 3


def test_a_classifier_s_baseline_learns_from_and_is_judged_on_the_classifier_s_own_samples():
    head: Head = parse_params(shipped()).head("gasm_cast")
    probe = linear_of(head, "motion")
    assert probe.features == {"r3d18_clips": "r3d18_clips"} and probe.probe == "linear"
    for name in ("dataset", "seed", "train_split", "eval_split", "holdout", "bootstrap"):
        assert getattr(probe, name) == getattr(head, name)


def test_the_examples_of_the_docs_are_params():
    text = (ROOT / "docs/probes.md").read_text(encoding="utf-8")
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(examples) == 2
    kept = {name: shipped()[name] for name in ("compute", "toyworld", "datasets", "features")}
    for example in examples:
        plan = Plan(parse_params({**kept, **example}))
        assert {run.config.kind for run in plan.results.values()} == {"probe"}
        for name in example.get("ablations", {}):
            assert len({run.key for run in plan.ablation_runs(name)}) == 5 * 3


@pytest.mark.parametrize("targets", ["classes", ["labels", "target"], None])
def test_targets_that_there_are_not_are_told_with_those_that_there_are(targets):
    with pytest.raises(ParamsError, match="expected one of label, labels, target"):
        params({"features": "dinov3_patches", "targets": targets})


@pytest.mark.parametrize("key", ["kind", "features", "targets", "dataset", "probe", "epochs"])
@pytest.mark.parametrize("value", [[], {}, [[]], [{}], {"a": []}], ids=str)
def test_lists_and_mappings_where_names_are_wanted_are_refused_by_their_key(key, value):
    with pytest.raises(ParamsError, match=rf"cannot be used:\n(?:  .+\n)*  heads\.probe(?:\.{key})?\b"):
        params({key: value})
