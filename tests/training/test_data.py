"""Batches: whole, repeatable, the same from memory and from disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.memory import BATCHES_AHEAD
from pipeline.training import table
from pipeline.training.batches import OrderedBatches, ShuffledBatches
from pipeline.training.dataset import DataError
from pipeline.training.table import Readers, share_out
from pipeline.training.tokens import Tokens
from tests.later import Later, train
from tests.training.learnable import FIELDS

classification = Later("pipeline.training.classification")
loading = Later("pipeline.training.data")

EVERYTHING, NOTHING = 1e9, 0.0


@pytest.fixture(scope="module")
def samples(made):
    return made.run(Path()).samples


def _equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_batch_holds_the_stored_tokens_of_its_samples(samples):
    ids = samples.parts["train"]
    batch = Tokens(samples, ids, EVERYTHING)[[3, 0]]
    for role, stream in samples.streams.items():
        np.testing.assert_array_equal(batch[role].numpy(), stream.store.read([ids[3], ids[0]], FIELDS[role]))
        assert batch[role].dtype == torch.float16
    assert batch["label"].tolist() == [samples.labels[ids[3]], samples.labels[ids[0]]]
    assert batch["times"].tolist() == [[0.5, 1.5, 2.5, 3.5]] * 2
    assert batch["row"].tolist() == [3, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_disk_equal_batches_from_memory(samples, workers):
    ids = samples.parts["train"]
    batches = OrderedBatches(range(len(ids)), 16)
    held = list(Tokens(samples, ids, EVERYTHING).loader(batches, 8, Readers(workers, 1e9)))
    read = list(Tokens(samples, ids, NOTHING).loader(batches, 8, Readers(workers, 1e9)))
    assert len(held) == len(read) == 4
    assert all(map(_equal, held, read))


@pytest.mark.parametrize("left", [1_000_000, None])
def test_what_is_under_way_stays_within_the_bound_whatever_is_asked(monkeypatch, left):
    monkeypatch.setattr(table, "shared_memory_left", lambda: left)
    for size in (1, 999, 10_000, 400_000):
        for wanted in (1, 3, 12, 64):
            for bound in (size, 3 * size, 600_000):
                workers, ahead = share_out(8, size, Readers(wanted, bound))
                assert 1 <= workers <= wanted and 1 <= ahead <= BATCHES_AHEAD
                room = min(bound, left / 2) if left else bound
                assert workers * ahead * size <= room
                assert workers == wanted or (workers + 1) * size > room  # no fewer than fit


def test_shared_memory_or_a_bound_too_small_for_a_batch_is_one_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(table, "shared_memory_left", lambda: 64_000_000)  # Docker's
    assert share_out(8, 8_000_000, Readers(12, 2e9)) == (4, 1)
    with pytest.raises(
        DataError, match=r"64.0 MB left.*256 samples has 717.0 MB.*--shm-size=3g\), or set compute.decode_"
    ):
        share_out(256, 717_000_000, Readers(12, 2e9))
    with pytest.raises(DataError, match="--shm-size=2g"):
        share_out(8, 20_000_000, Readers(1, 2e9, sharing=16))
    monkeypatch.setattr(table, "shared_memory_left", lambda: None)
    with pytest.raises(
        DataError, match=r"readahead_gb is 2, and a batch of 256 samples has 3,000.0 MB; raise it to 3 or"
    ):
        share_out(256, 3_000_000_000, Readers(12, 2e9))


def test_a_loader_has_the_readers_that_its_batches_allow(samples, monkeypatch):
    ids = samples.parts["train"]
    read, batches = Tokens(samples, ids, NOTHING), OrderedBatches(range(len(ids)), 16)
    each = sum(of.nbytes for of in read[[0]].values())
    assert each == read.bytes_of_longest
    loader = read.loader(batches, 16, Readers(12, 16 * each * 3.5))
    assert (loader.num_workers, loader.prefetch_factor) == (3, 1)
    assert read.loader(batches, 16, Readers(0, 0)).num_workers == 0
    assert Tokens(samples, ids, EVERYTHING).loader(batches, 16, Readers(2, 0)).num_workers == 0
    monkeypatch.setattr(table, "shared_memory_left", lambda: 1000)
    with pytest.raises(DataError, match="shm-size"):
        read.loader(batches, 16, Readers(2, 1e9))


def test_a_training_that_shared_memory_is_too_small_for_ends_before_its_first_step(made, tmp_path, monkeypatch):
    run = made.run(tmp_path / "run", epochs=1)
    compute = run.params.compute.model_copy(update={"cache_memory_gb": 0.0, "decode_workers": 2})
    monkeypatch.setattr(table, "shared_memory_left", lambda: 64 << 10)
    monkeypatch.setattr(classification.ClassificationStep, "training_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(
        DataError, match=r"a batch of 16 samples has 37.4 kB; give the container more \(--shm-size=1g\)"
    ):
        train(replace(run, params=run.params.model_copy(update={"compute": compute})), progress=lambda line: None)


def test_the_smallest_streams_are_held_first(samples):
    ids = samples.parts["train"]
    motion = len(ids) * 4 * 4 * 8 * 2
    assert set(Tokens(samples, ids, motion).held) == {"motion"}
    assert set(Tokens(samples, ids, motion - 1).held) == set()
    assert set(Tokens(samples, ids, EVERYTHING).held) == {"semantic", "motion"}


def _epoch(batches: ShuffledBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    return list(batches)


def test_the_batches_of_an_epoch_follow_from_seed_and_epoch_alone():
    first, second = ShuffledBatches(range(50), 8, seed=1), ShuffledBatches(range(50), 8, seed=1)
    third = _epoch(first, 3)
    _epoch(second, 0)
    assert _epoch(second, 3) == third
    assert _epoch(second, 4) != third
    assert _epoch(ShuffledBatches(range(50), 8, seed=2), 3) != third


def test_an_epoch_draws_no_sample_twice_and_all_batches_are_full():
    batches = _epoch(ShuffledBatches(range(100, 150), 8, seed=1), 0)
    drawn = [row for batch in batches for row in batch]
    assert [len(batch) for batch in batches] == [8] * 6
    assert len(set(drawn)) == 48 and set(drawn) <= set(range(100, 150))


def test_two_devices_share_the_batches_that_one_would_draw():
    alone = _epoch(ShuffledBatches(range(50), 8, seed=1), 2)
    parts = [_epoch(ShuffledBatches(range(50), 8, 1, rank, 2), 2) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in alone]


def test_a_set_smaller_than_a_batch_is_one_batch():
    assert sorted(_epoch(ShuffledBatches(range(5), 8, 0), 0)[0]) == [0, 1, 2, 3, 4]


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(DataError, match="multiple of compute"):
        ShuffledBatches(range(50), 9, 0, 0, 2)


@pytest.mark.parametrize("rows, size, world", [(33, 8, 2), (32, 8, 2), (17, 8, 1), (5, 8, 2), (7, 2, 3)])
def test_every_row_is_validated_once_and_all_devices_have_as_many_batches(rows, size, world):
    parts = [OrderedBatches(range(100, 100 + rows), size, rank, world) for rank in range(world)]
    seen = [row for part in parts for batch in part for row in batch]
    assert sorted(seen) == list(range(100, 100 + rows))
    assert len({len(part) for part in parts}) == 1
    assert all(0 < len(batch) <= size for part in parts for batch in part)


def test_too_few_rows_for_the_devices_are_refused():
    with pytest.raises(DataError, match="devices"):
        OrderedBatches(range(1), 4, 1, 2)


def test_training_and_holdout_are_disjoint_and_the_evaluated_part_is_not_loaded(samples):
    data = loading.FeatureData(samples, Tokens, batch_size=16, seed=0, memory=EVERYTHING, readers=Readers(0, 1e9))
    data.setup("fit")
    held = {data.table.ids[row] for batch in data.val_dataloader() for row in batch["row"].tolist()}
    trained = {data.table.ids[row] for batch in data.train_dataloader() for row in batch["row"].tolist()}
    assert held == set(samples.parts["holdout"])
    assert trained <= set(samples.parts["train"])
    assert not set(samples.parts["evaluated"]) & set(data.table.ids)
