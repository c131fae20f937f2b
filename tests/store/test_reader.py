"""The reader's contract: equal to what was put, through any zarr client, from any process, or an error by name."""

import functools
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from pipeline.store import FeatureStore, ShardWriter, StoreCorrupt, StoreError, StoreMissing
from tests.later import Later

tensorstore = Later("tensorstore")
zarr = Later("zarr")

DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int32", "int64"]


@pytest.fixture
def shards(make_job):
    """Two shards of one feature: v0..v13 and w0..w5; v5 failed in the first, w5 in the second."""
    first = make_job("feature-abc")
    first.run()
    second = make_job("feature-abc", samples=6)
    second.base = first.base.with_name("shard-001")
    second.samples = [(f"w{i}", f"d{i}") for i in range(6)]
    second.run()
    return first, second


@pytest.fixture
def expected(shards):
    return {sample: job.arrays(sample, digest) for job in shards for sample, digest in job.samples}


def test_random_reads_equal_what_was_put(shards, expected):
    store = FeatureStore(shards[0].base.parent, verify=True)
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = [str(sample) for sample in rng.choice(store.samples, 8)]
        for field, dtype in (("tokens", np.float16), ("cls", np.float32)):
            got = store.read(ids, field)
            assert got.dtype == dtype
            assert np.array_equal(got, np.stack([expected[sample][field] for sample in ids]).astype(dtype))


def test_a_store_tells_what_it_holds(shards):
    store = FeatureStore(shards[0].base.parent)
    assert len(store) == 18
    assert store.samples[:2] == ["v0", "v1"]
    assert store.samples[-1] == "w4"
    assert store.failed == {"v5": "short: 3 of 30 frames", "w5": "short: 3 of 30 frames"}
    assert store.fields == {"cls": ((7,), "float32"), "tokens": ((3, 5), "float16")}
    assert store.key == "abc"
    assert store.provenance == {"key": "abc", "backbone": "none"}
    assert store.digest("v3") == "digest3"
    assert store.meta("v3") == {"times": [1.0, 1.5]}
    assert store.load("cls").shape == (18, 7)


def test_reading_fills_an_array_that_is_given(shards):
    store = FeatureStore(shards[0].base.parent)
    out = np.empty((2, 3, 5), np.float16)
    assert store.read(["v1", "w1"], "tokens", out=out) is out
    assert np.array_equal(out, store.read(["v1", "w1"], "tokens"))
    assert store.read([], "tokens").shape == (0, 3, 5)
    for wrong in (np.empty((3, 3, 5), np.float16), np.empty((2, 3, 5), np.float32), np.empty((2, 5, 3), np.float16).mT):
        with pytest.raises(StoreError, match=r"expected C-contiguous float16 \(2, 3, 5\)"):
            store.read(["v1", "w1"], "tokens", out=wrong)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 2)])
def test_zarr_python_and_tensorstore_read_the_same(tmp_path, dtype, shape):
    rng = np.random.default_rng(1)
    values = {f"s{i}": np.asarray(rng.integers(0, 100, shape), dtype) for i in range(5)}
    with ShardWriter(tmp_path / "shard-000", [(s, s) for s in values], {"x": (shape, dtype)}, {"key": "k"}) as writer:
        writer.fail("s2", "empty")
        for sample in reversed(writer.pending):
            writer.put(sample, {"x": values[sample]}, {})
        writer.finish()
    path = tmp_path / "shard-000.zarr" / "x"
    by_zarr = zarr.open_group(str(tmp_path / "shard-000.zarr"), mode="r")["x"][:]
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    by_tensorstore = tensorstore.open(spec).result().read().result()
    ours = FeatureStore(tmp_path, verify=True).load("x")
    kept = [0, 1, 3, 4]
    assert np.array_equal(ours, np.stack([values[f"s{i}"] for i in kept]))
    for theirs in (by_zarr, by_tensorstore):
        assert theirs.dtype == ours.dtype
        assert np.array_equal(theirs[kept], ours)
        if dtype.startswith("float"):
            assert np.isnan(theirs[2]).all(), "a failed sample must not read as zeros"


def test_a_store_of_failures_alone_is_still_a_store(tmp_path):
    with ShardWriter(tmp_path / "shard-000", [("a", "1")], {"x": ((3,), "float16")}, {"key": "k"}) as writer:
        writer.fail("a", "missing")
        writer.finish()
    assert FeatureStore(tmp_path).samples == []
    assert np.isnan(zarr.open_group(str(tmp_path / "shard-000.zarr"), mode="r")["x"][:]).all()


def test_a_failed_sample_is_an_error_that_gives_its_reason(shards):
    with pytest.raises(StoreError, match=r"shard-000: sample 'v5' has no data, it failed: short: 3 of 30 frames"):
        FeatureStore(shards[0].base.parent).read(["v1", "v5"], "tokens")


def test_unknown_samples_and_fields_are_named(shards):
    store = FeatureStore(shards[0].base.parent)
    with pytest.raises(StoreMissing, match="no sample 'x9' among its 20"):
        store.read(["x9"], "tokens")
    with pytest.raises(StoreError, match=r"no field 'patch'; its fields are \['cls', 'tokens'\]"):
        store.read(["v1"], "patch")


def test_one_shard_is_read_while_others_are_still_being_written(shards):
    shards[1].base.with_suffix(".json").unlink()
    store = pickle.loads(pickle.dumps(FeatureStore(shards[0].base.parent, shard=0, verify=True)))
    assert list(store.failed) == ["v5"] and "v1" in store.samples and "w2" not in store.samples
    assert np.array_equal(store.read(["v1"], "cls"), FeatureStore(shards[0].base.parent, shard=0).read(["v1"], "cls"))
    with pytest.raises(StoreMissing, match="shard-001"):
        _ = FeatureStore(shards[0].base.parent, shard=1).samples


def test_a_shard_without_its_manifest_is_refused(shards, tmp_path):
    shards[1].base.with_suffix(".json").unlink()
    with pytest.raises(StoreMissing, match=r"1 of 2 shards have no manifest, the first shard-001; run `extract`"):
        _ = FeatureStore(shards[0].base.parent).samples
    with pytest.raises(StoreMissing, match="holds no shard; run `extract`"):
        _ = FeatureStore(tmp_path / "nowhere").samples


def test_two_features_in_one_directory_are_refused(shards):
    base = shards[0].base.with_name("shard-002")
    with ShardWriter(base, [("z", "1")], {"tokens": ((3, 5), "float16")}, {"key": "other"}) as writer:
        writer.fail("z", "missing")
        writer.finish()
    with pytest.raises(StoreCorrupt, match="shard-002 has key other, shard-000 has abc"):
        _ = FeatureStore(base.parent).samples


def test_a_sample_in_two_shards_is_refused(shards):
    shards[1].base = shards[1].base.with_name("shard-002")
    shards[1].run()
    with pytest.raises(StoreCorrupt, match="both hold sample 'w0'"):
        _ = FeatureStore(shards[0].base.parent).samples


@pytest.mark.parametrize("change", [-1, 1])
def test_a_data_file_of_another_size_is_refused(shards, change):
    data = next(shards[0].base.with_suffix(".zarr").rglob("tokens/c/0/0/0"))
    os.truncate(data, data.stat().st_size + change)
    with pytest.raises(StoreCorrupt, match=r"has \d+ bytes, expected 670; delete .*shard-000.json and run `extract`"):
        FeatureStore(shards[0].base.parent).read(["v1"], "tokens")
    data.unlink()
    with pytest.raises(StoreMissing, match="is gone though"):
        FeatureStore(shards[0].base.parent).read(["v1"], "tokens")


def test_the_index_and_the_manifest_are_checked_even_without_verify(shards, flip):
    data = next(shards[0].base.with_suffix(".zarr").rglob("tokens/c/0/0/0"))
    flip(data, -30)
    with pytest.raises(StoreCorrupt, match="the shard index does not fit its crc32c"):
        FeatureStore(shards[0].base.parent).read(["v1"], "tokens")
    flip(shards[0].base.with_suffix(".json"), -40)
    with pytest.raises(StoreCorrupt, match=r"shard-000.json is damaged"):
        FeatureStore(shards[0].base.parent).read(["w1"], "tokens")


def test_verified_reads_refuse_a_flipped_bit_and_name_the_sample(shards, flip):
    data = next(shards[0].base.with_suffix(".zarr").rglob("tokens/c/0/0/0"))
    flip(data, 34 * 3 + 7)
    store = FeatureStore(shards[0].base.parent, verify=True)
    store.read(["v2", "v4"], "tokens")
    with pytest.raises(StoreCorrupt, match=r"shard-000: sample 'v3', field 'tokens' does not fit its crc32c; delete"):
        store.read(["v2", "v3"], "tokens")


@pytest.mark.parametrize("name", ["shard-000.journal", "shard-000.zarr/zarr.json", "shard-000.zarr/cls/zarr.json"])
def test_verified_reads_refuse_changed_metadata(shards, flip, name):
    flip(shards[0].base.parent / name, 20)
    FeatureStore(shards[0].base.parent).read(["v2"], "tokens")
    with pytest.raises(StoreCorrupt, match=f"{name} does not have the sha256 of the manifest"):
        FeatureStore(shards[0].base.parent, verify=True).read(["v2"], "tokens")


def test_only_paths_are_pickled(shards):
    store = FeatureStore(shards[0].base.parent, verify=True)
    store.load("tokens")
    pickled = pickle.dumps(store)
    assert len(pickled) < 400
    assert np.array_equal(pickle.loads(pickled).load("cls"), store.load("cls"))


def test_nothing_is_opened_before_it_is_asked_for(shards):
    store = FeatureStore(shards[0].base.parent)
    next(shards[1].base.with_suffix(".zarr").rglob("tokens/c/0/0/0")).unlink()
    store.read(["v1"], "tokens")
    with pytest.raises(StoreMissing):
        store.read(["w1"], "tokens")


def test_a_spawned_process_reads_the_same(shards):
    store = FeatureStore(shards[0].base.parent, verify=True)
    here = store.load("cls")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(store.load, ("cls",)), here)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader_workers_read_the_same(shards, expected, method):
    store = FeatureStore(shards[0].base.parent, verify=True)
    ids = store.samples
    store.load("cls")  # opened in the parent before the workers start
    loader = DataLoader(
        ids,
        batch_size=5,
        num_workers=2 if method == "fork" else 1,
        multiprocessing_context=method,
        collate_fn=functools.partial(store.read, field="tokens"),
    )
    got = np.concatenate(list(loader))
    assert np.array_equal(got, np.stack([expected[sample]["tokens"] for sample in ids]).astype(np.float16))
