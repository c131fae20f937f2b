"""What a probe learns from: targets of three kinds, and features of any shape, pooled or as tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.store import FeatureStore, ShardWriter
from pipeline.training.dataset import DataError
from pipeline.training.probed import Probed, join_probed, probed_stream
from tests.training.learnable import CLASSES, frame, write_store

SIZES = {"train": 10, "validation": 4}
SHAPES: dict[str, tuple[int | None, ...]] = {
    "vector": (6,),
    "steps": (3, 6),
    "rows": (None, 6),
    "map": (2, 3, 2, 2),
}


@pytest.fixture(scope="module")
def table():
    return frame(SIZES)


@pytest.fixture(scope="module")
def stores(table, tmp_path_factory) -> dict[str, FeatureStore]:
    """Tokens with CLS, and a store of each other shape; rows are 2 to 6."""
    root = tmp_path_factory.mktemp("probed")
    found = {"tokens": FeatureStore(write_store(root, "semantic", table))}
    for name, shape in SHAPES.items():
        provenance = {"key": f"key{name}", "feature": name, "config": {"backbone": "made"}, "grid": [1], "box": None}
        samples = list(zip(table["sample"], table["digest"], strict=True))
        folder = root / f"{name}-key{name}"
        with ShardWriter(folder / "shard-000", samples, {name: (shape, "float16")}, provenance) as writer:
            for row, (sample, _) in enumerate(samples):
                writer.put(sample, {name: value(row, shape)}, {})
            writer.commit()
            writer.finish()
        found[name] = FeatureStore(folder)
    return found


def value(row: int, shape: tuple[int | None, ...]) -> np.ndarray:
    size = tuple(2 + row % 5 if of is None else of for of in shape)
    return np.random.default_rng(row).normal(size=size).astype(np.float16)


def joined(table, stores, learns: str = "label", pooled: bool = True, **changes: Any):
    chosen = {"train": "train", "evaluated": "validation", "holdout": 0.2, "seed": 0, "is_pooled": pooled, **changes}
    return join_probed(table, stores, learns=learns, **chosen)


def test_tokens_are_pooled_with_the_cls_beside_them_and_the_others_by_their_steps(table, stores):
    samples = joined(table, stores)
    ids = samples.parts["evaluated"]
    batch = Probed(samples, ids, 1e9)[[2, 0]]
    chosen = [ids[2], ids[0]]
    store, place = stores["tokens"], {sample: row for row, sample in enumerate(table["sample"])}
    tokens = store.read(chosen, "patch_tokens").astype(np.float32).mean(axis=(1, 2))
    cls = store.read(chosen, "cls").astype(np.float32).mean(axis=1)
    assert np.allclose(batch["tokens"], np.concatenate([tokens, cls], axis=1), atol=1e-5)
    made = {name: [value(place[of], shape).astype(np.float32) for of in chosen] for name, shape in SHAPES.items()}
    assert np.allclose(batch["vector"], np.stack(made["vector"]), atol=1e-6)
    for name in ("steps", "rows"):
        assert np.allclose(batch[name], np.stack([of.mean(axis=0) for of in made[name]]), atol=1e-5), name
    assert np.allclose(batch["map"], np.stack([of.ravel() for of in made["map"]]), atol=1e-6)
    widths = {role: stream.pooled for role, stream in samples.streams.items()}
    assert widths == {"tokens": 32, "vector": 6, "steps": 6, "rows": 6, "map": 24}


@pytest.mark.parametrize("pooled", [True, False])
def test_what_does_not_fit_into_the_memory_is_read_and_is_the_same(table, stores, pooled):
    chosen = {role: of for role, of in stores.items() if role != "map"}
    samples = joined(table, chosen, pooled=pooled)
    ids = samples.parts["train"]
    held, read = Probed(samples, ids, 1e9), Probed(samples, ids, 0)
    assert held.in_memory == pooled and not read.in_memory
    for name, tensor in held[[3, 1, 4]].items():
        assert torch.equal(tensor, read[[3, 1, 4]][name]), name


def test_tokens_are_one_after_the_other_and_rows_are_padded_behind_a_mask(table, stores):
    samples = joined(table, {role: stores[role] for role in ("tokens", "vector", "rows")}, pooled=False)
    ids = samples.parts["train"][:4]
    batch = Probed(samples, ids, 1e9)[range(4)]
    assert batch["tokens"].shape == (4, 64, 16) and batch["vector"].shape == (4, 1, 6)
    assert "tokens.mask" not in batch
    (rows,) = (stores["rows"].read_ragged(ids, "rows"),)
    assert batch["rows.mask"].sum(dim=1).tolist() == [len(of) for of in rows]
    for own, mask, of in zip(batch["rows"], batch["rows.mask"], rows, strict=True):
        assert np.array_equal(own[mask], of) and (own[~mask] == 0).all()


def test_streams_of_other_times_and_crops_may_stand_side_by_side(table, stores, tmp_path):
    motion = FeatureStore(write_store(tmp_path, "motion", table, box=[0, 0, 0.5, 0.5], times=[0, 0.1, 0.2, 0.3]))
    assert joined(table, {"a": stores["tokens"], "b": motion}).counts["train"] == 32


def several(table):
    """Some samples have two labels, one has none of them, and some have no list."""
    lists = [[label, "moving"] if row % 3 == 0 else [label] for row, label in enumerate(table["label"])]
    lists[1], lists[5] = [], None
    return table.assign(labels=lists)


def test_several_labels_are_ones_of_the_names_that_occur(table, stores):
    samples = joined(several(table), {"video": stores["vector"]}, "labels")
    assert samples.classes == sorted([*CLASSES, "moving"]) and samples.unlabelled == 1
    row = table["sample"][0]
    assert [samples.classes[c] for c in samples.labels[row]] == sorted([table["label"][0], "moving"])
    assert samples.targets[table["sample"][1]].sum() == 0, "none of them is an answer too"
    assert samples.targets_of("train").shape == (len(samples.parts["train"]), 5)
    held = samples.targets_of("holdout").sum(axis=0)
    assert (held > 0).all(), "the holdout has some of each, the rare ones too"


def numbers(table, **changes):
    values = [float(row) for row in range(len(table))]
    return table.assign(target=values, **changes)


def test_numbers_have_their_scale_and_the_holdout_its_share_of_each_tenth(table, stores):
    samples = joined(numbers(table), {"video": stores["vector"]}, "target")
    learned = samples.targets_of("train")
    assert samples.classes == ["target"] and learned.shape[1] == 1
    assert samples.centre == (learned.mean(),) and samples.spread == (learned.std(),)
    held = samples.targets_of("holdout").ravel()
    assert len(held) == 10 and len(np.unique(held // 4)) == 10
    both = table.assign(target=[[1.0, float(row)] if row % 2 else [2.0, 0.0] for row in range(len(table))])
    assert joined(both, {"video": stores["vector"]}, "target").classes == ["target 1", "target 2"]


@pytest.mark.parametrize(
    ("change", "learns", "said"),
    [
        (lambda t: t, "labels", r"no sample of the manifest has 'labels', which the probe learns; name a data set"),
        (lambda t: numbers(t).assign(target=np.nan), "target", r"no sample of the manifest has 'target'"),
        (lambda t: numbers(t).assign(target=[[1.0]] * (len(t) - 1) + [[1.0, 2.0]]), "target",
         r"sample \S+ has the target \[1\.0, 2\.0\], expected 1 finite numbers"),
        (lambda t: numbers(t).assign(target=[np.inf, *range(1, len(t))]), "target", r"expected 1 finite numbers"),
        (lambda t: numbers(t).assign(target=3.0), "target",
         r"target is 3 in all \d+ samples that are learned from: there is nothing to learn"),
        (lambda t: numbers(t).assign(target=0.1), "target", r"target is 0.1 in all \d+ samples that are learned from"),
        (lambda t: numbers(t).assign(target=1.7e9 + t.index % 5), "target", r"float32 cannot hold or tell apart; give"),
        (lambda t: numbers(t).assign(target=1e300 * t.index), "target", r"float32 cannot hold or tell apart"),
        (lambda t: numbers(t).assign(target=[[] for _ in t.index]), "target", r"expected 1 finite numbers"),
        (lambda t: numbers(t).assign(target=t.index.where(t["split"] == "train", 7)), "target",
         r"all 16 usable samples of the split 'validation' have the target \[7\.0\], so no R² of them is defined"),
        (lambda t: t.assign(labels=[[] for _ in t.index]), "labels", r"the labels of all samples are empty"),
        (lambda t: t.assign(labels=[["a"] for _ in t.index]), "labels", r"have the same labels: there is nothing to"),
        (lambda t: t.assign(labels=[[row % 2 * "a"] if s == "train" and row % 2 else [] for row, s in
                                    zip(t.index, t["split"], strict=True)]), "labels",
         r"none of the 16 samples of the split 'validation' has any label"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be_learned_are_one_line(table, stores, change, learns, said):
    with pytest.raises(DataError, match=said):
        joined(change(table), {"video": stores["vector"]}, learns)


def test_maps_are_refused_as_tokens_and_so_is_a_store_of_several_fields_without_tokens(stores, tmp_path: Path):
    with pytest.raises(DataError, match="maps, whose cells say little alone; probe: linear reads a map whole"):
        probed_stream("maps", stores["map"], is_pooled=False)


def test_the_digest_is_of_the_targets_too(table, stores):
    own = {"video": stores["vector"]}
    first, again = (joined(numbers(table), own, "target").digest for _ in range(2))
    changed = numbers(table)
    changed.loc[changed["sample"] == joined(numbers(table), own, "target").parts["train"][0], "target"] = 99.0
    assert first == again != joined(changed, own, "target").digest


def test_one_label_that_some_have_can_be_learned_and_so_can_a_number_that_is_nearly_always_the_same(table, stores):
    tagged = table.assign(labels=[["wet"] if row % 3 else [] for row in table.index])
    assert joined(tagged, {"video": stores["vector"]}, "labels").classes == ["wet"]
    for usual, rare in ((0.0, 1.0), (1.0, 0.0)):
        skewed = table.assign(target=[rare if row % 15 == 0 else usual for row in table.index])
        samples = joined(skewed, {"video": stores["vector"]}, "target")
        assert set(samples.targets_of("holdout").ravel()) == {0.0, 1.0}
