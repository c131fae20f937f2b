"""Ragged fields: whole samples and single rows, equal to what was put, through h5py too, or an error by name."""

import os
import time

import h5py
import numpy as np
import pytest

from pipeline.store import FeatureStore, ShardWriter, StoreCorrupt, StoreError, StoreMissing, describe, reader, verify

KEY = {"key": "k"}


@pytest.fixture
def whole(make_job):
    job = make_job("feature", kind="ragged")
    job.run()
    return job


@pytest.fixture
def h5(whole):
    return whole.base.with_suffix(".h5")


def expected(job, sample, field):
    dtype = job.fields[field][1]
    return job.arrays(sample, f"digest{sample[1:]}")[field].astype(dtype)


@pytest.mark.parametrize("access", ["mmap", "pread"])
@pytest.mark.parametrize("check", [True, False])
def test_reads_equal_what_was_put(whole, access, check):
    store = FeatureStore(whole.base.parent, verify=check, access=access)
    assert store.fields == {"cls": ((None,), "float32"), "tokens": ((None, 5), "float16")}
    lengths = store.lengths("tokens")
    assert list(lengths) == store.samples
    for field in store.fields:
        for sample, got in zip(store.samples, store.read_ragged(store.samples, field), strict=True):
            value = expected(whole, sample, field)
            assert (got.dtype, len(got)) == (value.dtype, lengths[sample])
            assert np.array_equal(got, value)
            assert np.array_equal(store.read_rows(sample, field, 0, len(value)), value)
            assert np.array_equal(store.read_rows(sample, field, len(value) // 2, len(value)), value[len(value) // 2 :])
            assert store.read_rows(sample, field, 1, 1).shape == (0, *value.shape[1:])


@pytest.mark.parametrize("check", [True, False])
def test_rows_of_int8_equal_those_of_the_whole(make_job, check):
    job = make_job("feature", kind="ragged int8")
    job.run()
    store = FeatureStore(job.base.parent, verify=check)
    for sample in store.samples:
        value = store.read_ragged([sample], "tokens")[0]
        assert value.dtype == np.float16
        assert value == pytest.approx(job.arrays(sample, f"digest{sample[1:]}")["tokens"], abs=0.02)
        for start in range(len(value)):
            assert np.array_equal(store.read_rows(sample, "tokens", start, len(value)), value[start:])


def test_h5py_reads_the_same_contiguous_where_the_manifest_says(whole, h5):
    manifest = FeatureStore(whole.base.parent)._shards[0].manifest
    with h5py.File(h5) as file:
        assert sorted(file) == ["cls", "tokens"]
        for field, group in file.items():
            assert len(group) == 13, "a failed sample has no dataset"
            for row, offset in zip(manifest["samples"], manifest["hdf5"]["offsets"][field], strict=True):
                if row["status"] == "ok":
                    dataset = group[row["sample"]]
                    assert np.array_equal(dataset[:], expected(whole, row["sample"], field))
                    assert dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
                    assert dataset.id.get_offset() == offset


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "int64", "int8_scaled"])
def test_every_dtype_and_any_id_reads_back_through_h5py(tmp_path, dtype):
    ids = ["P01/P01_01", "P01", "P01%2FP01_01", ".", "..", "ä ö", "a.b"]
    rng = np.random.default_rng(0)
    values = {sample: rng.integers(0, 100, (3 + number, 2, 4)) for number, sample in enumerate(ids)}
    with ShardWriter(tmp_path / "shard-000", [(s, s) for s in ids], {"x": ((None, 2, 4), dtype)}, KEY) as writer:
        for sample in reversed(ids):
            writer.put(sample, {"x": values[sample].astype(dtype if dtype != "int8_scaled" else "float16")}, {})
        writer.finish()
    store = FeatureStore(tmp_path, verify=True)
    with h5py.File(tmp_path / "shard-000.h5") as file:
        for sample, got in zip(ids, store.read_ragged(ids, "x"), strict=True):
            entry = "%2E" if sample == "." else sample.replace("%", "%25").replace("/", "%2F")
            theirs = file["x"][entry][:]
            if dtype == "int8_scaled":
                token, channel = (file[f"x.{which}_scale"][entry][:] for which in ("token", "channel"))
                theirs = (theirs * token[..., None] * channel).astype(np.float16)
            else:
                assert np.array_equal(got, values[sample])
            assert np.array_equal(got, theirs)


def test_the_file_depends_on_no_clock_and_on_no_order_of_writing(tmp_path):
    values = {f"s{i}": np.full((i + 1, 3), i, np.float16) for i in range(5)}
    contents = []
    for number, order in enumerate((list(values), list(values)[::-1])):
        base = tmp_path / str(number) / "shard-000"
        with ShardWriter(base, [(s, s) for s in values], {"x": ((None, 3), "float16")}, KEY) as writer:
            for sample in order:
                writer.put(sample, {"x": values[sample]}, {})
            writer.finish()
        contents.append(base.with_suffix(".h5").read_bytes())
        time.sleep(1.1)
    assert contents[0] == contents[1]


def test_wrong_questions_name_the_right_ones(whole, make_job):
    store = FeatureStore(whole.base.parent)
    with pytest.raises(StoreError, match=r"'tokens' of shape \(None, 5\) is ragged; .* `read_ragged` and `read_rows`"):
        store.read(["v1"], "tokens")
    with pytest.raises(StoreError, match=r"shard-000: sample 'v5' has no data, it failed: short: 3 of 30 frames"):
        store.read_ragged(["v5"], "tokens")
    with pytest.raises(StoreError, match="sample 'v5' has no data"):
        store.read_rows("v5", "tokens", 0, 1)
    length = store.lengths("cls")["v1"]
    for start, stop in ((-1, 1), (0, length + 1), (2, 1)):
        with pytest.raises(StoreError, match=rf"rows \[{start}, {stop}\) of sample 'v1', which has {length} rows"):
            store.read_rows("v1", "tokens", start, stop)
    fixed = make_job("fixed")
    fixed.run()
    for ask in (lambda s: s.read_ragged(["v1"], "cls"), lambda s: s.lengths("cls")):
        with pytest.raises(StoreError, match=r"'cls' of shape \(7,\) is not ragged; it is read with `read` and `load`"):
            ask(FeatureStore(fixed.base.parent))


def test_shapes_and_lengths_that_do_not_belong_are_refused(whole, tmp_path):
    job = whole
    job.samples = [("new", "n")]
    good = job.arrays("v1", "digest1")
    with job.writer() as writer:
        with pytest.raises(ValueError, match=r"shape \(2, 6\), expected \(None, 5\)"):
            writer.put("new", {**good, "tokens": np.zeros((2, 6))}, {})
        with pytest.raises(ValueError, match=r"shape \(5,\), expected \(None, 5\)"):
            writer.put("new", {**good, "tokens": np.zeros(5)}, {})
        with pytest.raises(ValueError, match=r"lengths \[2, 3\]; ragged fields have one, and not 0"):
            writer.put("new", {"tokens": np.zeros((2, 5)), "cls": np.zeros(3)}, {})
        with pytest.raises(ValueError, match=r"lengths \[0\]"):
            writer.put("new", {"tokens": np.zeros((0, 5)), "cls": np.zeros(0)}, {})
        writer.put("new", good, {})
    for fields, message in (
        ({"x": ((None, 5), "float16"), "y": ((5,), "float16")}, "either all fields of a feature are ragged or none is"),
        ({"x": ((5, None), "float16")}, r"field 'x' has shape \(5, None\); only its first side may be None"),
    ):
        with pytest.raises(StoreError, match=message):
            ShardWriter(tmp_path / "other" / "shard-000", [("a", "1")], fields, KEY)


def test_a_flipped_bit_in_the_data_is_refused_by_the_verified_reader_and_found_by_verify(whole, h5, flip):
    offsets = FeatureStore(whole.base.parent)._shards[0].manifest["hdf5"]["offsets"]["tokens"]
    flip(h5, offsets[3] + 2)
    store = FeatureStore(whole.base.parent, verify=True)
    store.read_ragged(["v2", "v4"], "tokens")
    for ask in (lambda: store.read_ragged(["v3"], "tokens"), lambda: store.read_rows("v3", "tokens", 0, 1)):
        with pytest.raises(StoreCorrupt, match=r"shard-000: sample 'v3', field 'tokens' does not fit its crc32c; del"):
            ask()
    assert [(found.sample, found.field) for found in verify(whole.base.parent)] == [("v3", "tokens")]


def test_a_verified_reader_of_rows_looks_at_each_sample_once_and_in_pieces(whole, monkeypatch):
    store, plain = FeatureStore(whole.base.parent, verify=True), FeatureStore(whole.base.parent)
    monkeypatch.setattr(reader, "PIECE", 7)
    honest, looked = FeatureStore._expect_whole, []
    monkeypatch.setattr(FeatureStore, "_expect_whole", lambda self, *at: looked.append(at) or honest(self, *at))
    length = store.lengths("tokens")["v3"]
    for _ in range(3):
        assert np.array_equal(store.read_rows("v3", "tokens", 0, length), plain.read_rows("v3", "tokens", 0, length))
    assert looked == [("v3", "tokens")]


def test_a_flipped_bit_in_hdf5s_own_structures_is_refused_and_found(whole, h5, flip):
    flip(h5, 2000)
    assert FeatureStore(whole.base.parent).read_ragged(["v3"], "tokens"), "unverified readers need none of it"
    with pytest.raises(StoreCorrupt, match="HDF5's own structures do not fit the crc32c of the manifest; delete"):
        FeatureStore(whole.base.parent, verify=True).read_ragged(["v3"], "tokens")
    assert "HDF5's own structures" in verify(whole.base.parent)[0].what


def test_every_flipped_bit_anywhere_is_found_and_none_is_read(make_job, flip):
    job = make_job("feature", kind="ragged int8")
    job.run()
    rng = np.random.default_rng(0)
    for name, content in job.files().items():
        for _ in range(25):
            where, bit = int(rng.integers(len(content))), int(rng.integers(8))
            flip(job.base.parent / name, where, bit)
            assert verify(job.base.parent), f"{name}, byte {where}, bit {bit}"
            with pytest.raises(StoreError):
                store = FeatureStore(job.base.parent, verify=True)
                for field in store.fields:
                    store.read_ragged(store.samples, field)
            (job.base.parent / name).write_bytes(content)
    assert verify(job.base.parent) == []


@pytest.mark.parametrize("access", ["mmap", "pread"])
def test_a_file_that_is_cut_or_gone_is_refused(whole, h5, access):
    os.truncate(h5, h5.stat().st_size - 1)
    with pytest.raises(StoreCorrupt, match=r"shard-000.h5 has \d+ bytes, expected \d+; delete .*shard-000.json"):
        FeatureStore(whole.base.parent, access=access).read_ragged(["v1"], "tokens")
    assert "bytes, expected" in verify(whole.base.parent)[0].what
    h5.unlink()
    with pytest.raises(StoreMissing, match=r"shard-000.h5 is gone though"):
        FeatureStore(whole.base.parent, access=access).read_ragged(["v1"], "tokens")


def test_describe_and_unfinished_shards_know_hdf5(whole):
    about = describe(whole.base.parent)
    assert about["fields"]["tokens"] == {"shape": [None, 5], "dtype": "float16"}
    assert about["counts"] == {"ok": 13, "failed": 1}
    whole.base.with_suffix(".json").unlink()
    whole.base.with_suffix(".journal").unlink()
    assert describe(whole.base.parent)["unfinished"] == ["shard-000"]


def test_a_store_of_failures_alone_is_still_a_store(tmp_path):
    with ShardWriter(tmp_path / "shard-000", [("a", "1")], {"x": ((None, 3), "float16")}, KEY) as writer:
        writer.fail("a", "missing")
        writer.finish()
    assert FeatureStore(tmp_path).lengths("x") == {}
    assert verify(tmp_path) == []
