"""Claims about clips: who is learned from, what a batch holds, and what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config import ParamsError, override
from pipeline.datasets.manifest import read_manifest, write_manifest
from pipeline.training.clips import ClipTable, few, open_clips
from pipeline.training.dataset import DataError
from pipeline.training.registry import HeadError, build
from tests.evaluation.clinic import GRID, SCALE, clinic
from tests.later import Later, train

alignment = Later("pipeline.training.alignment")

SPLITS = {"train": "train", "holdout": "val", "evaluated": "test", "seed": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return clinic(tmp_path_factory.mktemp("clinic"))


def features(made):
    root = made.run.folder.parent
    return {"tokens": root / "clips-keyclips", "maps": root / "attention-keymaps"}


def opened(made, manifest=None, **changes):
    return open_clips(manifest or made.run.folder.parent / "manifest.parquet", features(made), **{**SPLITS, **changes})


def test_where_no_clip_has_a_map_there_is_nothing_to_predict_maps_from(tmp_path):
    kind = {"model__map_guided_type": "predicted", "model__classifier_source": "video"}
    with pytest.raises(
        HeadError, match=r"none of the 18 clips of train has a map .* set map_teach and loss.lambda_map"
    ):
        clinic(tmp_path / "none", tuple(range(18)), **kind)
    clinic(tmp_path / "attention", tuple(range(18)), **kind, model__map_teach=0.0, loss__lambda_map=0.0)


@pytest.mark.parametrize("source, given", [("video", False), ("fusion", False), ("attn", True)])
def test_an_epoch_is_judged_without_maps_unless_the_diagnosis_is_of_the_map_alone(made, source, given):
    config = override(made.run.config, {"model.classifier_source": source})
    step = alignment.AlignmentStep("clip_align", made.run.model, config, made.samples, 1)
    asked, model = [], step.model
    model.register_forward_pre_hook(lambda _, args: asked.append(len(args)))
    step.log = lambda name, value, **_: None
    step.validation_step(ClipTable(made.samples, made.samples.parts["holdout"], 1e9)[range(18)], 0)
    assert asked == [3 if given else 1]


def edited(made, path, edit):
    """The manifest with an edit, in a file of its own."""
    frame = read_manifest(made.run.folder.parent / "manifest.parquet")
    edit(frame)
    write_manifest(frame, path)
    return path


def test_every_row_is_counted_once_and_those_without_a_map_are_told(made):
    counts = opened(made).counts
    assert {part: counts[part] for part in ("train", "holdout", "evaluated")} == dict.fromkeys(
        ("train", "holdout", "evaluated"), 18
    )
    assert counts["failed"] == counts["skipped"] == 0 and counts["without_map"] == 6


def test_a_clip_without_a_map_is_there_and_says_so(made):
    samples = opened(made)
    table = ClipTable(samples, samples.parts["train"], 0)
    batch = table[range(18)]
    without = [row for row, has in enumerate(batch["has_map"].tolist()) if not has]
    assert [table.ids[row] for row in without] == ["train-4", "train-11"]
    assert not batch["maps"][without].any() and batch["maps"][[0, 1]].any()
    assert batch["maps"].shape == (18, 1, GRID[0], GRID[1] * SCALE, GRID[2] * SCALE)
    stored = samples.streams["maps"].store.read(["train-5"], "maps")[0]
    assert np.array_equal(batch["maps"][table.ids.index("train-5")].numpy(), stored)


def test_the_same_map_and_the_same_patient_have_the_same_number_and_others_another(made):
    samples = opened(made)
    batch = ClipTable(samples, samples.parts["train"], 0)[range(18)]
    maps, groups, has = batch["map"].tolist(), batch["group"].tolist(), batch["has_map"].tolist()
    for a in range(18):
        for b in range(18):
            assert (groups[a] == groups[b]) == (a // 2 == b // 2)
            if has[a] and has[b]:
                assert (maps[a] == maps[b]) == (a == b or {a, b} == {0, 6})


def test_clinicians_choose_who_is_learned_from_and_who_is_evaluated_with(made):
    samples = opened(made, learned_from=("ann", "bob"), evaluated_with=("cat",))
    of = {part: {samples.clinicians[sample] for sample in ids} for part, ids in samples.parts.items()}
    assert of == {"train": {"ann", "bob"}, "holdout": {"ann", "bob"}, "evaluated": {"cat"}}
    assert sum(samples.counts[name] for name in ("train", "holdout", "evaluated", "skipped")) == 54
    with pytest.raises(DataError, match=r"no usable clip is of the clinician 'dan'; known are \['ann', 'bob', 'cat'\]"):
        opened(made, learned_from=("dan",))


def test_a_fraction_takes_whole_patients_of_every_diagnosis_and_a_smaller_one_is_part_of_a_larger(made):
    whole = opened(made)
    parts = {share: opened(made, fraction=share).parts["train"] for share in (0.1, 0.34, 0.7)}
    for small, large in ((0.1, 0.34), (0.34, 0.7)):
        assert set(parts[small]) < set(parts[large])
    assert parts[0.7] == whole.parts["train"] == opened(made, fraction=1.0).parts["train"]
    for ids in parts.values():
        patients = {whole.patients[sample] for sample in ids}
        assert sorted(ids) == sorted(s for s in whole.parts["train"] if whole.patients[s] in patients)
        assert {whole.labels[sample] for sample in ids} == {0, 1, 2}
    assert opened(made, fraction=0.34).digest != whole.digest


def test_the_seed_decides_which_patients_are_few():
    clips = [f"clip {i}" for i in range(20)]
    chosen = {tuple(few(clips, {c: c for c in clips}, dict.fromkeys(clips, 0), 0.25, seed)) for seed in range(5)}
    assert len(chosen) > 1 and {len(ids) for ids in chosen} == {5}


def test_a_patient_in_two_splits_is_refused_by_name(made, tmp_path):
    def move(frame):
        frame.loc[frame["sample"] == "train-3", "patient"] = "test-patient-0"

    manifest = edited(made, tmp_path / "manifest.parquet", move)
    with pytest.raises(DataError, match=r"patient test-patient-0 is in train \(train-3\) and in test \(test-0\); move"):
        opened(made, manifest)


def test_a_changed_map_makes_the_store_stale_and_the_run_another(made, tmp_path):
    def redraw(frame):
        frame.loc[frame["sample"] == "train-3", "map_digest"] = "0" * 64

    manifest = edited(made, tmp_path / "manifest.parquet", redraw)
    with pytest.raises(DataError, match=r"maps store .* is stale: sample train-3 was made from another file"):
        opened(made, manifest)


def test_maps_on_another_grid_and_tokens_in_place_of_maps_are_refused(made):
    root = made.run.folder.parent
    with pytest.raises(DataError, match=r"maps: clips holds no maps; name a feature with backbone: maps"):
        open_clips(root / "manifest.parquet", features(made) | {"maps": root / "clips-keyclips"}, **SPLITS)


def test_a_split_that_nobody_is_in_is_named(made):
    with pytest.raises(
        DataError, match=r"the split 'valid' holds no usable clip for holdout: .* \['test', 'train', 'v"
    ):
        opened(made, holdout="valid")


def test_three_splits_are_three(made):
    with pytest.raises(ParamsError, match=r"'train', 'test' and 'test'; name three splits"):
        override(made.params.head("clip_align"), {"holdout_split": "test"})


def test_the_mean_map_is_that_of_train_and_class_weights_balance_it(made):
    samples = opened(made)
    store = samples.streams["maps"].store
    drawn = [sample for sample in samples.parts["train"] if samples.maps[sample] is not None]
    wanted = sum(store.read([sample], "maps")[0].astype(float) for sample in drawn) / len(drawn)
    torch.testing.assert_close(samples.mean_map, torch.from_numpy(wanted).float())
    head = build("clip_align", made.params.head("clip_align"), samples)
    assert torch.equal(head.mean_map_CTHW, samples.mean_map)
    kept = [sample for sample in samples.parts["train"] if sample not in ("train-0", "train-1", "train-2")]
    uneven = type(samples)(**{**vars(samples), "parts": {**samples.parts, "train": kept}})
    counts = pd.Series([uneven.labels[sample] for sample in kept]).value_counts().sort_index()
    assert (uneven.class_weights.numpy() * counts.to_numpy()) == pytest.approx(np.full(3, len(kept) / 3))


def test_what_no_loss_reaches_is_not_trained(made):
    def idle(**changes):
        config = override(made.params.head("clip_align"), {k.replace("__", "."): v for k, v in changes.items()})
        head = build("clip_align", config, made.samples)
        return {name.split(".")[0] for name, of in head.named_parameters() if not of.requires_grad}

    assert idle() == set()
    assert idle(loss__clip_weight=0.0) == {"project_video", "project_attn", "log_scale"}
    assert idle(loss__clip_weight=0.0, model__classifier_source="video") == {
        "project_video", "project_attn", "log_scale", "maps"
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss.clip_weight": 0.0, "model.map_guided": False},
        {"loss.lambda_token": 0.5, "model.map_dropout": 0.5, "loss.class_weights": True},
        {"compat": "published", "model.encoder": "2dcnn"},
    ],
    ids=lambda changes: ", ".join(changes) or "as it is",
)
def test_a_head_trains_and_repeats_to_the_byte(made, tmp_path, changes):
    params = made.params.replacing("clip_align", override(made.params.head("clip_align"), changes))
    runs = [tmp_path / name for name in ("once", "again")]
    for run in runs:
        record = train(replace(made.run, params=params, folder=run), lambda line: None)
        assert record["samples"]["without_map"] == 4 and np.isfinite(record["holdout_accuracy"])
    assert (runs[0] / "weights.safetensors").read_bytes() == (runs[1] / "weights.safetensors").read_bytes()
