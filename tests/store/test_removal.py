"""Claims about taking stores away."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

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
