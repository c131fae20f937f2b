"""Claims about taking stores away."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.files import lock
from pipeline.runs import only_writer
from pipeline.store import FeatureStore, ShardWriter, StoreBusy, StoreMissing, leftovers, remove

FIELDS = {"tokens": ((2, 3), "float16")}


@pytest.fixture
def store(tmp_path):
    directory = tmp_path / "features" / "set" / "f-0123456789"
    with ShardWriter(directory / "shard-000", [("a", "1")], FIELDS, {"key": "0123456789"}) as writer:
        writer.put("a", {"tokens": np.ones((2, 3), np.float16)}, {})
        writer.finish()
    return directory


def test_a_removed_store_is_gone(store):
    remove(store)
    assert not store.exists() and not leftovers(store.parent)
    with pytest.raises(StoreMissing):
        _ = FeatureStore(store).samples


def test_a_store_that_is_being_written_stays(store):
    with (
        ShardWriter(store / "shard-001", [("b", "2")], FIELDS, {"key": "0123456789"}),
        pytest.raises(StoreBusy, match="shard-001"),
    ):
        remove(store)
    assert (store / "shard-000.json").exists()


def test_a_removal_that_is_killed_leaves_no_half_store(store):
    """The process dies while files are being deleted."""
    program = (
        "import os, shutil, signal, sys; from pathlib import Path; from pipeline.store import remove;"
        "shutil.rmtree = lambda path: (next(Path(path).glob('*.json')).unlink(), os.kill(os.getpid(), signal.SIGKILL));"
        "remove(Path(sys.argv[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", program, store], env={**os.environ, "PYTHONPATH": "."})
    assert ended.returncode == -signal.SIGKILL
    assert not store.exists()
    (left,) = leftovers(store.parent)
    remove(left)
    assert not leftovers(store.parent)


def test_a_writer_that_starts_while_its_store_is_taken_away_keeps_it(store, monkeypatch):
    """It has its lock, of a shard that had none, when the store is renamed."""
    writer = ShardWriter(store / "shard-001", [("b", "2")], FIELDS, {"key": "0123456789"})
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if self == store:
            writer.__enter__()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(StoreBusy, match="another process has begun to write in it; end it, or wait"):
        remove(store)
    writer.put("b", {"tokens": np.ones((2, 3), np.float16)}, {})
    writer.finish()
    writer.__exit__(None, None, None)
    assert not leftovers(store.parent) and len(FeatureStore(store).samples) == 2


def test_a_lock_is_that_of_the_file_which_is_there_although_its_folder_was_taken_away_meanwhile(tmp_path, monkeypatch):
    path, flock, calls = tmp_path / "run" / "lock", fcntl.flock, []

    def taken_away(descriptor: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            remove(path.parent)  # takes the second lock, which the writer then finds gone
        else:
            flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", taken_away)
    with only_writer(path.parent):
        monkeypatch.undo()
        with pytest.raises(BlockingIOError):
            lock(path)
    os.close(lock(path))
