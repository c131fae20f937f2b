"""mmap and pread give the same bytes, keep few files open, and take no memory that grows with the store."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import FeatureStore, ShardWriter, StoreError
from pipeline.store.access import MappedFile, PreadFiles

KEY = {"key": "k"}


def write_shards(folder: Path, shards: int, samples: int, shape: tuple[int, ...]) -> list[str]:
    ids = [[f"s{shard}-{i}" for i in range(samples)] for shard in range(shards)]
    for shard, names in enumerate(ids):
        with ShardWriter(
            folder / f"shard-{shard:03d}", [(n, n) for n in names], {"x": (shape, "float32")}, KEY
        ) as writer:
            for number, name in enumerate(names):
                writer.put(name, {"x": np.full(shape, shard * samples + number)}, {})
            writer.finish()
    return [name for names in ids for name in names]


def test_both_ways_read_the_same_and_survive_pickling(tmp_path):
    ids = write_shards(tmp_path, 3, 4, (2, 3))
    picked = [str(sample) for sample in np.random.default_rng(0).choice(ids, 30)]
    for access in ("mmap", "pread"):
        for verify in (True, False):
            store = pickle.loads(pickle.dumps(FeatureStore(tmp_path, verify=verify, access=access)))
            assert store.read(picked, "x")[:, 0, 0].tolist() == [ids.index(sample) for sample in picked]
    with pytest.raises(StoreError, match='access is \'direct\', expected "mmap" or "pread"'):
        FeatureStore(tmp_path, access="direct")


@pytest.mark.parametrize("access", ["mmap", "pread"])
def test_a_store_of_more_files_than_a_process_may_open_is_read_all_the_same(tmp_path, access):
    ids = write_shards(tmp_path, 40, 2, (3,))
    code = (
        "import resource, sys, numpy as np; from pipeline.store import FeatureStore\n"
        f"store = FeatureStore({str(tmp_path)!r}, access={access!r})\n"
        "import pipeline.store.reader as reader\n"
        "make = reader.PreadFiles; reader.PreadFiles = lambda: make(most=8)\n"
        "_ = store.samples\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        f"for _ in range(2): print(*store.load('x')[:, 0].astype(int))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == [str(number) for number in range(len(ids))] * 2, done.stderr


def test_pread_says_where_a_file_ends(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(100)))
    file, place = PreadFiles()(path), np.empty(20, np.uint8)
    file.read(80, place)
    assert place.tolist() == list(range(80, 100))
    os.truncate(path, 90)
    with pytest.raises(OSError, match="data ends at byte 90, expected 100 at least"):
        file.read(80, place)


def test_a_map_cannot_be_written_and_outlives_its_file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"abc" * 5000)
    mapped = MappedFile(path)
    path.unlink()
    assert mapped.bytes[-3:].tobytes() == b"abc"
    with pytest.raises(ValueError, match="read-only"):
        mapped.bytes[0] = 1
    (tmp_path / "empty").touch()
    assert MappedFile(tmp_path / "empty").size == 0
    with pytest.raises(FileNotFoundError):
        MappedFile(path)


@pytest.mark.parametrize(("access", "counted"), [("mmap", "RssAnon"), ("pread", "VmRSS")])
def test_memory_does_not_grow_with_the_store(tmp_path, access, counted):
    write_shards(tmp_path, 8, 16, (1 << 18,))  # 128 MiB
    code = (
        "import re; from pipeline.store import FeatureStore\n"
        f"used = lambda: int(re.search(r'{counted}:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        f"store = FeatureStore({str(tmp_path)!r}, verify=True, access={access!r})\n"
        "store.read(store.samples[:4], 'x'); before = used()\n"
        "for sample in store.samples: store.read([sample], 'x')\n"
        "print(used() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert int(done.stdout) < 8192, done.stderr
