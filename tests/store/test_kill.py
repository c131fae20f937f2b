"""A writer may die at any moment: nothing committed is lost, and the end is byte for byte the same."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import FeatureStore, verify

from .conftest import KINDS

BATCH = 4
QUICK = ("zarr", "ragged int8")


@pytest.fixture(params=[kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def kind(request) -> str:
    return request.param


@pytest.fixture
def tmp_path():
    """In memory where that can be: a killed process loses nothing of its file system, and syncs take minutes."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


class Fuse:
    """Ends the process at the n-th system call that changes a file; a write is torn in half first."""

    CALLS = ("writev", "fsync", "replace", "ftruncate", "unlink", "mkdir")

    def __init__(self, at: int) -> None:
        self.left = at
        self.real = {name: getattr(os, name) for name in self.CALLS}

    def light(self) -> None:
        for name in self.CALLS:
            setattr(os, name, self._burning(name))

    def _burning(self, name):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                if name == "writev":
                    whole = b"".join(bytes(part) for part in args[1])
                    os.write(args[0], whole[: len(whole) // 2])
                os._exit(9)
            return self.real[name](*args, **kwargs)

        return call


def _whole_and_same(job, reference) -> None:
    assert job.files() == reference.files()
    assert verify(job.base.parent) == []


def _kill_until_done(job, in_child, rng, longest) -> int:
    """Runs the job with kills at random moments, later and later, until one run gets through; returns the kills."""
    kills = 0
    while in_child(job.run, kill_after=rng.uniform(0, longest)) != 0:
        kills += 1
        longest *= 1.02  # where a fork alone takes as long, no run would ever begin
        if kills > 400:
            pytest.fail("killed 400 times without an end: nothing is kept")
    return kills


def _rounds_of_kills(make_job, in_child, kind: str, at_least: int, seed: int) -> None:
    reference = make_job("reference", samples=60, kind=kind)
    reference.run()
    started = time.monotonic()
    make_job("clock", samples=60, pause=0.002, kind=kind).run()
    longest = (time.monotonic() - started) / 3
    kills, rounds, rng = 0, 0, np.random.default_rng(seed)
    while kills < at_least:
        job = make_job(f"round{rounds}", samples=60, pause=0.002, kind=kind)
        round_kills = _kill_until_done(job, in_child, rng, longest)
        _whole_and_same(job, reference)
        assert len(job.computed()) <= 60 + BATCH * round_kills, "more than the batch in flight was lost"
        kills += round_kills
        rounds += 1
        longest *= 1.0 if round_kills else 0.7


def test_a_killed_extraction_resumes_without_recomputing_finished_samples(make_job, in_child, kind):
    _rounds_of_kills(make_job, in_child, kind, at_least=5, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [25, pytest.param(100, marks=pytest.mark.proof)])
def test_many_kills_change_nothing(make_job, in_child, kind, kills):
    """A hundred over the four kinds of shard, or of each."""
    _rounds_of_kills(make_job, in_child, kind, at_least=kills, seed=1)


@pytest.mark.sweep
def test_a_kill_at_any_system_call_of_finish_ends_with_the_same_bytes(make_job, in_child, kind):
    reference = make_job("reference", kind=kind)
    reference.run()
    for call in range(1000):
        job, fuse = make_job(f"call{call}", kind=kind), Fuse(call)
        status = in_child(lambda job=job, fuse=fuse: job.run(before_finish=fuse.light))
        if status == 0:
            break
        assert status == 9
        job.run()
        _whole_and_same(job, reference)
        assert len(job.computed()) == len(job.samples), f"call {call}: finish lost samples"
    assert call > 20


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.proof)])
def test_a_kill_at_any_system_call_and_again_while_resuming_ends_with_the_same_bytes(make_job, in_child, kind, every):
    """At each call, or at each fourth: every kind of shard begins at another, so that together they meet them all."""
    reference = make_job("reference", samples=6, failed=(2,), kind=kind)
    reference.run()

    def lit(job, fuse):
        fuse.light()
        job.run()

    for call in range(list(KINDS).index(kind) % every, 1000, every):
        job = make_job(f"call{call}", samples=6, failed=(2,), kind=kind)
        status = in_child(lambda job=job, call=call: lit(job, Fuse(call)))
        in_child(lambda job=job, call=call: lit(job, Fuse(call // 2)))
        job.run()
        _whole_and_same(job, reference)
        if status == 0:
            break
    assert call > 50


@pytest.mark.sweep
@pytest.mark.parametrize("first", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_kill_at_any_call_while_copying_an_earlier_version_ends_with_the_same_bytes(make_job, in_child, kind, first):
    def changed(name):
        job = make_job(name, samples=9, kind=kind)
        job.run()
        job.samples[1] = ("v1", "replaced")
        job.samples.append(("v9", "digest9"))
        job.log.unlink()
        return job

    def lit(job, fuse):
        fuse.light()
        job.run()

    reference = changed("reference")
    reference.run()
    assert reference.computed() == ["v1", "v9"]
    for call in range(first, 1000, 7):
        job = changed(f"call{call}")
        status = in_child(lambda job=job, call=call: lit(job, Fuse(call)))
        job.run()
        _whole_and_same(job, reference)
        assert set(job.computed()) == {"v1", "v9"}
        if status == 0:
            break
    assert call > 40


def test_data_that_a_power_cut_took_after_all_are_computed_again(make_job, in_child, kind):
    reference = make_job("reference", kind=kind)
    reference.run()
    job = make_job("cut", kind=kind)
    assert in_child(lambda: job.run(before_finish=lambda: os._exit(9))) == 9
    data = max(path for path in job.base.parent.rglob("*.partial") if "tokens" in str(path))
    os.truncate(data, data.stat().st_size - 10)
    with job.writer() as writer:
        assert (writer.kept, writer.dropped) == (12, 2)
    job.run()
    _whole_and_same(job, reference)
    assert len(job.computed()) == len(job.samples) + 2


def test_deleting_a_shard_manifest_costs_no_sample(make_job, kind):
    job = make_job("feature", kind=kind)
    job.run()
    before = job.files()
    job.base.with_suffix(".json").unlink()
    job.run()
    assert job.files() == before
    assert len(job.computed()) == len(job.samples)


def test_a_finished_shard_is_left_alone(make_job, kind):
    job = make_job("feature", kind=kind)
    manifest = job.run()
    before = {path: path.stat().st_mtime_ns for path in job.base.parent.rglob("*") if path.is_file()}
    assert job.run() == manifest
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(job.computed()) == len(job.samples)


def test_damage_in_a_finished_shard_is_repaired_by_deleting_its_manifest(job, flip):
    job.run()
    before = job.files()
    data = next((job.base.with_suffix(".zarr") / "tokens").rglob("c/0/0/0"))
    flip(data, 34 * 9 + 5)  # the tenth stored sample: in the third batch
    job.base.with_suffix(".json").unlink()
    job.run()
    assert job.files() == before
    assert len(job.computed()) == len(job.samples) + 6
    assert len(FeatureStore(job.base.parent, verify=True).load("tokens")) == 13


def test_damage_in_a_finished_hdf5_shard_is_repaired_by_deleting_its_manifest(make_job, flip):
    job = make_job("feature", kind="ragged")
    manifest = job.run()
    before = job.files()
    flip(job.base.with_suffix(".h5"), manifest["hdf5"]["offsets"]["tokens"][10])  # in the third batch
    job.base.with_suffix(".json").unlink()
    job.run()
    assert job.files() == before
    assert len(job.computed()) == len(job.samples) + 6


def test_an_hdf5_shard_that_hdf5_cannot_open_is_computed_again(make_job, flip):
    job = make_job("feature", kind="ragged")
    job.run()
    before = job.files()
    flip(job.base.with_suffix(".h5"), 3)  # its signature
    job.base.with_suffix(".json").unlink()
    job.run()
    assert job.files() == before
    assert len(job.computed()) == 2 * len(job.samples)
