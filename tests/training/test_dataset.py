"""What may be learned from: joining, refusing, carving."""

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets import map_digest_of
from pipeline.store import FeatureStore, ShardWriter
from pipeline.training.dataset import DataError, carve, join, usable
from tests.training.learnable import CLASSES, FEATURES, GRIDS, WIDTHS, digest, frame, write_store

ASKED = {"train": "train", "evaluated": "validation", "holdout": 0.25, "seed": 0}


def _join(root, table, stored=None, failed=None, **changes):
    """Stores of `stored` (the table itself by default) joined with the table; `changes` go to the motion store."""
    written = table if stored is None else stored
    stores = {
        role: FeatureStore(write_store(root, role, written, failed, **(changes if role == "motion" else {})))
        for role in FEATURES
    }
    return join(table, stores, **ASKED)


def test_every_row_of_the_manifest_is_counted_once(tmp_path):
    table = frame({"train": 4, "validation": 2, "test": 1, "extra": 1})
    table.loc[table["split"] == "test", "label"] = None
    table.loc[0, "status"] = "unreadable: no moov atom"
    samples = _join(tmp_path, table, failed={"validation-rising-1": "short: 3 of 40 frames"})
    assert samples.counts == {
        "train": 11,
        "holdout": 4,
        "evaluated": 7,
        "failed": 2,
        "unlabelled": 4,
        "skipped": 4,
    }
    assert sum(samples.counts.values()) == len(table)
    assert samples.failed == {
        "train-falling-0": "unreadable: no moov atom",
        "validation-rising-1": "short: 3 of 40 frames",
    }


def test_classes_streams_and_labels_are_those_of_the_manifest_and_the_stores(tmp_path):
    samples = _join(tmp_path, frame({"train": 4, "validation": 2}))
    assert samples.classes == sorted(CLASSES)
    for role, stream in samples.streams.items():
        assert (stream.grid, stream.width) == (GRIDS[role], WIDTHS[role])
    assert all(samples.classes[label] == sample.split("-")[1] for sample, label in samples.labels.items())


def test_a_sample_that_is_ok_in_one_store_only_counts_as_failed(tmp_path):
    table = frame({"train": 4, "validation": 2})
    stores = {
        "semantic": FeatureStore(write_store(tmp_path, "semantic", table)),
        "motion": FeatureStore(write_store(tmp_path, "motion", table, {"train-rising-0": "holds NaN"})),
    }
    samples = join(table, stores, **ASKED)
    assert samples.failed == {"train-rising-0": "holds NaN"}
    assert "train-rising-0" not in samples.parts["train"] + samples.parts["holdout"]


def test_a_store_made_from_another_file_is_refused_by_name_with_the_remedy(tmp_path):
    table = frame({"train": 4, "validation": 2})
    replaced = table.copy()
    replaced.loc[5, "digest"] = digest("another video")
    with pytest.raises(DataError, match=r"patches-keysemantic.*stale.*train-rising-1.*python -m pipeline extract"):
        _join(tmp_path, replaced, stored=table)


def test_a_sample_that_failed_before_it_was_replaced_is_stale_too(tmp_path):
    table = frame({"train": 4, "validation": 2})
    replaced = table.copy()
    replaced.loc[5, "digest"] = digest("another video")
    with pytest.raises(DataError, match="stale"):
        _join(tmp_path, replaced, stored=table, failed={"train-rising-1": "short: cut"})


def test_a_store_of_maps_is_compared_by_video_and_map(tmp_path):
    table = frame({"train": 4})
    table["map_digest"] = [digest(f"the map of {sample}") for sample in table["sample"]]
    provenance = {"key": "keymaps", "feature": "maps", "config": {"backbone": "maps"}}
    samples = [(row.sample, map_digest_of(row)) for row in table.itertuples()]
    base, fields = tmp_path / "maps-keymaps" / "shard-000", {"maps": ((1,), "float16")}
    with ShardWriter(base, samples, fields, provenance) as writer:
        for sample, _ in samples:
            writer.put(sample, {"maps": np.zeros(1)}, {})
        writer.finish()
    motion = FeatureStore(write_store(tmp_path, "motion", table))
    stores = {"motion": motion, "maps": FeatureStore(tmp_path / "maps-keymaps")}

    def found(table, stores=stores):
        return usable(table, stores, ("train",), table["label"].notna())

    replaced = table.copy()
    replaced.loc[5, "map_digest"] = digest("another map")
    assert found(table).digests == dict(samples), "what was learned from follows the maps"
    assert found(replaced, {"motion": motion}).digests == dict(zip(table["sample"], table["digest"], strict=True))
    with pytest.raises(DataError, match=r"the maps store \(maps-keymaps\) is stale: sample train-rising-1 was"):
        found(replaced)


def test_a_store_of_imported_features_is_compared_by_their_files_and_what_is_learned_from_follows_them(tmp_path):
    table = frame({"train": 4})
    files = {sample: digest(f"the array of {sample}") for sample in table["sample"]}

    def known(store: str, **replaced: str):
        records = [{"feature": store, "digest": (files | replaced)[s], "bytes": 1, "mtime_ns": 1} for s in files]
        return table.assign(imported=pd.Series([[record] for record in records], dtype=object))

    provenance = {"key": "keynpy", "feature": "i3d", "config": {"backbone": "npy"}}
    with ShardWriter(tmp_path / "i3d-keynpy/shard-000", list(files.items()), {"x": ((1,), "float16")}, provenance) as w:
        for sample in files:
            w.put(sample, {"x": np.zeros(1)}, {})
        w.finish()
    stores = {"frames": FeatureStore(tmp_path / "i3d-keynpy")}

    def found(table):
        return usable(table, stores, ("train",), table["label"].notna()).digests

    assert found(known("i3d-keynpy")) == files
    with pytest.raises(
        DataError, match=r"frames store \(i3d-keynpy\) is stale: sample train-rising-1 was made from an"
    ):
        found(known("i3d-keynpy", **{"train-rising-1": digest("another array")}))
    with pytest.raises(DataError, match=r"frames store \(i3d-keynpy\) is stale.*snakemake"):
        found(known("of-another"))


def test_a_sample_that_the_store_has_not_seen_is_refused_by_name(tmp_path):
    table = frame({"train": 4, "validation": 2})
    with pytest.raises(DataError, match=r"sample validation-walking-1 is not in it.*snakemake"):
        _join(tmp_path, table, stored=table.iloc[:-1])


def test_streams_at_different_times_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"sample train-falling-0: the tokens of semantic are at \[0.5, .*sampling"):
        _join(tmp_path, frame({"train": 4, "validation": 2}), times=[0.5, 1.5, 2.5, 3.6])


def test_times_that_differ_by_rounding_are_accepted(tmp_path):
    _join(tmp_path, frame({"train": 4, "validation": 2}), times=[0.5, 1.5, 2.5, 3.5 + 1e-9])


def test_streams_of_different_crops_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"different parts of the frame.*0\.17.*same crop"):
        _join(tmp_path, frame({"train": 4, "validation": 2}), box=[0.0, 0.17, 1.0, 0.83])


def test_crops_of_the_shorter_side_are_compared_in_shorter_sides(tmp_path):
    table = frame({"train": 4, "validation": 2})

    def store(role: str, resize: int, crop: int) -> FeatureStore:
        seen = {"backbone": "r3d18", "preprocess": {"resize": resize, "crop": [crop, crop]}}
        return FeatureStore(write_store(tmp_path / f"{resize}-{crop}", role, table, box=None, config=seen))

    semantic = store("semantic", 256, 224)
    assert join(table, {"semantic": semantic, "motion": store("motion", 128, 112)}, **ASKED).parts["train"]
    with pytest.raises(DataError, match=r"different parts of the frame: .*in shorter sides"):
        join(table, {"semantic": semantic, "motion": store("motion", 128, 128)}, **ASKED)


def test_a_grid_that_does_not_fit_the_tokens_is_refused(tmp_path):
    with pytest.raises(DataError, match="grid"):
        _join(tmp_path, frame({"train": 4, "validation": 2}), grid=[4, 3, 3])


def test_the_evaluated_split_must_be_another_one(tmp_path):
    table = frame({"train": 4, "validation": 2})
    stores = {role: FeatureStore(write_store(tmp_path, role, table)) for role in FEATURES}
    with pytest.raises(DataError, match="both 'train'"):
        join(table, stores, **{**ASKED, "evaluated": "train"})
    with pytest.raises(DataError, match="splits are"):
        join(table, stores, **{**ASKED, "train": "training"})


def test_the_digest_follows_samples_contents_labels_and_carve(tmp_path):
    table = frame({"train": 4, "validation": 2})
    stores = {role: FeatureStore(write_store(tmp_path, role, table)) for role in FEATURES}
    first = join(table, stores, **ASKED)
    assert join(table, stores, **ASKED).digest == first.digest
    assert join(table, stores, **{**ASKED, "seed": 1}).digest != first.digest
    assert join(table[table["sample"] != "train-rising-1"], stores, **ASKED).digest != first.digest
    relabelled = table.copy()
    relabelled.loc[0, "label"] = "rising"
    assert join(relabelled, stores, **ASKED).digest != first.digest
    assert join(table[table["sample"] != "validation-rising-1"], stores, **ASKED).digest == first.digest


def _labels(counts: dict[int, int]) -> dict[str, int]:
    return {f"{label}/{i}": label for label, count in counts.items() for i in range(count)}


def test_the_carve_takes_its_share_of_every_class_and_never_a_whole_one():
    labels = _labels({0: 40, 1: 20, 2: 3, 3: 2, 4: 1})
    held = carve(list(labels), labels, 0.1, seed=0)
    assert [sum(labels[sample] == label for sample in held) for label in range(5)] == [4, 2, 1, 1, 0]
    nearly_all = carve(list(labels), labels, 0.99, seed=0)
    assert all(any(labels[s] == label and s not in nearly_all for s in labels) for label in range(5))


def test_the_carve_depends_on_the_seed_and_not_on_the_order():
    labels = _labels({0: 40, 1: 40})
    held = carve(list(labels), labels, 0.2, seed=1)
    assert carve(list(labels)[::-1], labels, 0.2, seed=1) == held
    assert carve(list(labels), labels, 0.2, seed=2) != held


def test_adding_samples_moves_few_of_those_held_out():
    labels = _labels({0: 100})
    more = _labels({0: 110})
    held, grown = carve(list(labels), labels, 0.2, 0), carve(list(more), more, 0.2, 0)
    assert len(held - grown) <= 4
