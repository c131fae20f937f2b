"""The writer's contract: what it refuses, what it copies, what it says when the disk is full."""

import errno
import hashlib
import json
import os
import subprocess

import numpy as np
import pytest

from pipeline.store import FeatureStore, ShardWriter, StoreBusy, StoreError, StoreFull, verify
from pipeline.store.journal import guard

PROVENANCE = {"key": "abc"}


def write(base, samples, arrays, dtype="float16", shape=None):
    shape = shape or next(iter(arrays.values())).shape
    with ShardWriter(base, samples, {"x": (shape, dtype)}, PROVENANCE) as writer:
        for sample in writer.pending:
            writer.put(sample, {"x": arrays[sample]}, {})
        return writer.finish()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65505.0, -70000.0])
@pytest.mark.parametrize("given", ["float32", "float64"])
def test_a_value_that_fp16_cannot_hold_fails_its_sample_by_name_and_writes_nothing(tmp_path, value, given):
    with ShardWriter(
        tmp_path / "shard-000", [("a", "1"), ("b", "2")], {"x": ((2, 2), "float16")}, PROVENANCE
    ) as writer:
        bad = np.array([[0, value], [1, 2]], dtype=given)
        with pytest.raises(ValueError, match=r"sample 'a', field 'x': 1 of 4 values, the first .* at \(0, 1\)"):
            writer.put("a", {"x": bad}, {})
        writer.fail("a", "nan")
        writer.put("b", {"x": np.full((2, 2), 65504, given)}, {})
        writer.finish()
    store = FeatureStore(tmp_path)
    assert store.failed == {"a": "nan"}
    assert (store.read(["b"], "x") == 65504).all()


def test_a_half_that_is_not_finite_is_refused_too(tmp_path):
    with ShardWriter(tmp_path / "shard-000", [("a", "1")], {"x": ((3,), "float16")}, PROVENANCE) as writer:
        for value in (np.nan, np.inf, -np.inf):
            with pytest.raises(ValueError, match="does not fit float16"):
                writer.put("a", {"x": np.array([1, value, 2], np.float16)}, {})
        writer.put("a", {"x": np.array([-65504, 65504, 0], np.float16)}, {})


def test_float32_is_rounded_to_half_as_numpy_rounds_it(tmp_path):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(64, 99)) * 10.0 ** rng.uniform(-9, 4, (64, 99))).astype(np.float32)
    values.flags.writeable = False
    write(tmp_path / "shard-000", [("a", "1")], {"a": values.T})
    stored = FeatureStore(tmp_path).load("x")[0]
    assert np.array_equal(stored.view(np.uint16), values.T.astype(np.float16).view(np.uint16))


def test_plain_fields_are_written_byte_for_byte_as_the_first_release_wrote_them(job):
    job.run()
    files = job.files()
    for name, digest in {
        "shard-000.journal": "278adfbd50372a8a13dd7ef98c846db7e441ff42d0705f7b7c816744b181d81e",
        "shard-000.zarr/cls/c/0/0": "60a148263ce96213ea75866ad152aa957d2e3a12b46b8e50f4bc57710c979470",
        "shard-000.zarr/tokens/c/0/0/0": "4c5d8573e6debfb6ef82bfecb398f4c42e29e0951c10e0993338901c4d794b42",
    }.items():
        assert hashlib.sha256(files[name]).hexdigest() == digest, name


def test_shapes_fields_and_samples_that_do_not_belong_are_refused(job):
    good = job.arrays("v0", "digest0")
    with job.writer() as writer:
        with pytest.raises(ValueError, match=r"shape \(5, 3\), expected \(3, 5\)"):
            writer.put("v0", {**good, "tokens": good["tokens"].T}, {})
        with pytest.raises(StoreError, match=r"fields \['cls'\], expected \['cls', 'tokens'\]"):
            writer.put("v0", {"cls": good["cls"]}, {})
        with pytest.raises(StoreError, match="'stranger' is not in its list"):
            writer.fail("stranger", "?")
        writer.put("v0", good, {})
        with pytest.raises(StoreError, match="'v0' was settled already"):
            writer.put("v0", good, {})
        with pytest.raises(StoreError, match="13 samples are still pending, the first 'v1'"):
            writer.finish()
    with pytest.raises(StoreError, match="ids must differ"):
        ShardWriter(job.base, [("a", "1"), ("a", "2")], {"x": ((1,), "float16")}, PROVENANCE)
    with pytest.raises(StoreError, match="lacks the feature's key"):
        ShardWriter(job.base, [("a", "1")], {"x": ((1,), "float16")}, {})


def test_arrays_may_be_reused_after_put(tmp_path):
    buffer = np.zeros(4, np.float16)
    with ShardWriter(tmp_path / "shard-000", [("a", "1"), ("b", "2")], {"x": ((4,), "float16")}, PROVENANCE) as writer:
        for number, sample in enumerate(writer.pending):
            buffer[:] = number
            writer.put(sample, {"x": buffer}, {})
        writer.finish()
    assert FeatureStore(tmp_path, verify=True).load("x")[:, 0].tolist() == [0, 1]


def test_a_second_writer_is_told_which_shard_is_busy_and_what_to_do(make_job, in_child, kind):
    job = make_job("feature", kind=kind)
    with job.writer():
        with pytest.raises(StoreBusy, match=r"shard-000 is being written by another process; wait for it, or end it"):
            job.run()
        assert in_child(job.run) == 1
    job.run()


def test_a_decode_worker_that_outlives_its_killed_writer_does_not_keep_the_lock(job, in_child):
    reading, writing = os.pipe()

    def write_then_leave_a_worker():
        with job.writer():
            worker = os.fork()
            if worker == 0:
                os.close(writing)
                os.read(reading, 1)  # lives until the test closes the pipe
                os._exit(0)
            os._exit(9)

    assert in_child(write_then_leave_a_worker) == 9
    job.run()
    os.close(writing)
    os.close(reading)


def test_samples_of_an_earlier_version_are_copied_not_computed(make_job, kind):
    job = make_job("feature", kind=kind)
    job.run()
    old = values(job, "v3")
    job.log.unlink()
    job.samples = [("new", "n"), *job.samples[:4], ("v4", "replaced"), *job.samples[5:12]]
    with job.writer() as writer:
        assert writer.copied == 11
        assert writer.pending == ["new", "v4"]
        assert not job.base.with_suffix(".json").exists()
    job.failed = ()
    manifest = job.run()
    assert job.computed() == ["new", "v4"]
    assert manifest["counts"] == {"ok": 12, "failed": 1}
    for field, value in values(job, "v3").items():
        assert np.array_equal(value, old[field])
    for field, value in values(job, "v4").items():
        assert value == pytest.approx(job.arrays("v4", "replaced")[field], abs=0.02)
    assert verify(job.base.parent) == []
    assert {path.suffix for path in job.base.parent.iterdir()} == {
        ".journal", ".json", ".lock", ".h5" if "ragged" in kind else ".zarr",
    }  # fmt: skip


def values(job, sample):
    """All that a store gives of a sample, by field."""
    store = FeatureStore(job.base.parent, verify=True)
    ragged = {field for field, (shape, _) in store.fields.items() if shape[0] is None}
    return {
        field: (store.read_ragged if field in ragged else store.read)([sample], field)[0].copy()
        for field in store.fields
    }


def test_a_damaged_sample_of_an_earlier_version_is_computed_again(job, flip):
    job.run()
    job.log.unlink()
    flip(next(job.base.parent.rglob("tokens/c/0/0/0")), 34 * 2 + 1)
    job.samples.pop()
    job.run()
    assert job.computed() == ["v2"]
    assert verify(job.base.parent) == []


def test_an_unfinished_version_gives_its_samples_too(make_job, in_child, kind):
    job = make_job("feature", kind=kind)
    in_child(lambda: job.run(before_finish=lambda: os._exit(9)))
    job.log.unlink()
    job.samples[0] = ("v0", "replaced")
    job.run()
    assert job.computed() == ["v0"]


def test_a_newer_format_is_refused_and_left_as_it_is(make_job, kind):
    job = make_job("feature", kind=kind)
    job.run()
    path = job.base.with_suffix(".json")
    manifest = json.loads(path.read_text())
    del manifest["crc32c"]
    path.write_bytes(guard({**manifest, "format": 2})[0] + b"\n")
    before = job.files()
    with pytest.raises(StoreError, match="has store format 2, this code reads up to 1; update the code"):
        job.run()
    with pytest.raises(StoreError, match="format 2"):
        _ = FeatureStore(job.base.parent).samples
    path.unlink()
    journal = job.base.with_suffix(".journal")
    header, rest = journal.read_bytes().split(b"\n", 1)
    document = json.loads(header)
    del document["crc32c"]
    journal.write_bytes(guard({**document, "format": 7})[0] + b"\n" + rest)
    before = job.files()
    with pytest.raises(StoreError, match="format 7"):
        job.run()
    assert job.files() == before


def test_a_shard_of_another_key_is_not_touched(job):
    job.run()
    before = job.files()
    with pytest.raises(StoreError, match="written with key abc, not other; extract into the directory of this key"):
        ShardWriter(job.base, job.samples, {"tokens": ((3, 5), "float16")}, {"key": "other"}).__enter__()
    assert job.files() == before


def test_a_journal_without_a_readable_header_is_not_thrown_away(job, flip):
    job.run()
    job.base.with_suffix(".json").unlink()
    flip(job.base.with_suffix(".journal"), 40)
    before = job.files()
    with pytest.raises(StoreError, match=r"shard-000\.journal, line 1: its crc32c"):
        job.run()
    assert job.files() == before


def test_a_write_error_stops_the_writer_and_names_the_shard(job, monkeypatch):
    real, calls = os.writev, []

    def full_after_ten(descriptor, parts):
        calls.append(1)
        if len(calls) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, parts)

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full_after_ten)
        with job.writer() as writer:
            first = job.samples[0]
            with pytest.raises(StoreFull, match="shard-000: the disk is full"):
                for sample, digest in job.samples:
                    writer.put(sample, job.arrays(sample, digest), {})
            with pytest.raises(StoreError, match="was stopped by an error"):
                writer.commit()
            assert not isinstance(StoreFull(), ValueError), "a loop that fails single samples must not catch it"
    with job.writer() as writer:
        assert writer.pending[0] == first[0]
    assert job.run()["counts"] == {"ok": 13, "failed": 1}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.parametrize("free", [0, 4096, 12_288, 300_000])
def test_a_disk_that_fills_up_while_hdf5_is_written_loses_nothing_and_a_rerun_completes(small_disk, free):
    base, ballast = small_disk / "feature" / "shard-000", small_disk / "ballast"
    samples = [(f"v{i}", str(i)) for i in range(20)]

    def fill_up():
        ballast.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - free))

    def extract(before_finish):
        with ShardWriter(base, samples, {"x": ((None, 1000), "float16")}, PROVENANCE) as writer:
            for sample in writer.pending:
                writer.put(sample, {"x": np.full((20, 1000), int(sample[1:]), np.float16)}, {})
            writer.commit()
            before_finish()
            writer.finish()
            return writer.kept

    with pytest.raises(StoreFull, match=r"feature/shard-000: the disk is full .*: free some space and run again"):
        extract(fill_up)
    ballast.unlink()
    assert extract(lambda: None) == 20
    assert verify(base.parent) == []
    rows = FeatureStore(base.parent, verify=True).read_ragged(["v3", "v19"], "x")
    assert [(array.shape, array[7, 7]) for array in rows] == [((20, 1000), 3), ((20, 1000), 19)]


@pytest.mark.parametrize("shape", [(20_000,), (None,)])
def test_a_full_disk_loses_nothing_committed_and_a_rerun_completes(small_disk, shape):
    base, ballast = small_disk / "feature" / "shard-000", small_disk / "ballast"
    fields = {"x": (shape, "float16")}
    ballast.write_bytes(bytes(1_500_000))
    samples = [(f"v{i}", str(i)) for i in range(20)]
    arrays = {sample: np.full(20_000, number, np.float32) for number, (sample, _) in enumerate(samples)}
    with pytest.raises(StoreFull, match=r"feature/shard-000: the disk is full .*: free some space and run again"):
        write(base, samples, arrays, shape=shape)
    with ShardWriter(base, samples, fields, PROVENANCE) as writer:
        assert writer.kept == 0
        for sample in writer.pending[:5]:
            writer.put(sample, {"x": arrays[sample]}, {})
        writer.commit()
        with pytest.raises(StoreFull):
            for sample in writer.pending:
                writer.put(sample, {"x": arrays[sample]}, {})
    ballast.unlink()
    with ShardWriter(base, samples, fields, PROVENANCE) as writer:
        assert (writer.kept, writer.dropped) == (5, 0)
        for sample in writer.pending:
            writer.put(sample, {"x": arrays[sample]}, {})
        writer.finish()
    store = FeatureStore(base.parent, verify=True)
    read = store.read_ragged if None in shape else store.read
    assert [array[0] for array in read(store.samples, "x")] == list(range(20))
