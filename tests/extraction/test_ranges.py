"""Claims about a range of shards in one process: each as if alone, none held up by another, nothing lost by a kill."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from pipeline import backbones
from pipeline.config import feature_dir
from pipeline.extraction import (
    ExtractionError,
    ExtractionFailed,
    clips,
    derive,
    derive_range,
    extract,
    extract_range,
    progress,
)
from pipeline.extraction import ranges as module
from pipeline.memory import Shortage
from pipeline.store import ShardWriter, StoreBusy
from tests.conftest import write_ssv2
from tests.extraction.small import DINO, contents, make_manifest, params_of, with_workers

POOLED = {"backbone": "derived", "source": "dino", "pool": 2}
SHARDS = [0, 1, 2]


def params_for(root: Path, **options):
    """3 shards of 4 videos, 2 batches each."""
    return params_of(root, {"dino": DINO | {"batch": 2, "pool": 1} | options, "pooled": POOLED}, shard_size=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return write_ssv2(tmp_path_factory.mktemp("ranges") / "ssv2", {"train": 8, "validation": 4})


@pytest.fixture(scope="module")
def apart(videos, tmp_path_factory) -> Path:
    """The features' folder where each shard was extracted and derived by a call of its own."""
    params, features = params_for(videos), tmp_path_factory.mktemp("apart")
    make_manifest(params, features)
    for shard in SHARDS:
        extract(params, "small", "dino", shard, features, quiet)
        derive(params, "small", "pooled", shard, features, quiet)
    return features


@pytest.fixture
def features(apart, tmp_path) -> Path:
    """A folder with the manifest alone."""
    (tmp_path / "features/small").mkdir(parents=True)
    shutil.copy(apart / "small/manifest.parquet", tmp_path / "features/small")
    return tmp_path / "features"


def quiet(line: str) -> None:
    pass


def store(params, features: Path, name: str = "dino") -> Path:
    return feature_dir(params, "small", name, features)


def finished(params, features: Path, name: str = "dino") -> list[str]:
    return sorted(path.stem for path in store(params, features, name).glob("*.json"))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_range_gives_each_shard_the_bytes_that_it_has_alone_and_loads_each_backbone_once(
    videos, apart, features, workers, monkeypatch
):
    loaded, load = [], backbones.load
    monkeypatch.setattr(backbones, "load", lambda *of: loaded.append(of) or load(*of))
    params = with_workers(params_for(videos), workers)
    made = extract_range(params, "small", "dino", SHARDS, features, quiet)
    derived = derive_range(params, "small", "pooled", SHARDS, features, quiet)
    assert [*made, *derived] == [*SHARDS, *SHARDS] and made[1]["dino"]["counts"] == {"ok": 4, "failed": 0}
    assert contents(features / "small") == contents(apart / "small")
    assert len(loaded) == 1


def test_the_next_shard_is_decoded_while_the_last_batches_of_one_are_written(videos, features, monkeypatch):
    lines: list[str] = []
    extract_range(with_workers(params_for(videos), 1), "small", "dino", SHARDS, features, lines.append)
    began = next(n for n, line in enumerate(lines) if "shard 001: 0 of 4 samples are there" in line)
    ended = next(n for n, line in enumerate(lines) if "shard 000: computed 4 of 4" in line)
    assert began < ended


@pytest.mark.parametrize("commits", [2, 3])
def test_a_range_that_dies_between_shards_or_within_one_keeps_what_was_committed(
    videos, apart, features, commits, monkeypatch
):
    params, commit, done = params_for(videos), ShardWriter.commit, []

    def dies(self):
        if self._batch:
            if len(done) == commits:
                raise KeyboardInterrupt
            done.append(self)
        commit(self)

    monkeypatch.setattr(ShardWriter, "commit", dies)
    with pytest.raises(KeyboardInterrupt):
        extract_range(params, "small", "dino", SHARDS, features, quiet)
    monkeypatch.undo()
    assert finished(params, features) == ["shard-000"]
    before = {path: path.stat().st_mtime_ns for path in store(params, features).rglob("shard-000*")}
    lines: list[str] = []
    extract_range(params, "small", "dino", SHARDS, features, lines.append)
    there = [line for line in lines if "samples are there" in line]
    assert [int(line.split(": ")[1].split()[0]) for line in there] == [2 * (commits - 2), 0]
    assert [line for line in lines if "000" in line] == [lines[-1]] and "1 of 3 shards were complete already" in lines[
        -1
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    folder = store(params, features).name
    assert contents(features / f"small/{folder}") == contents(apart / f"small/{folder}")


def test_a_shard_with_too_many_failures_holds_up_no_other_and_is_told_at_the_end(videos, apart, features, tmp_path):
    root = shutil.copytree(videos, tmp_path / "damaged")
    for sample in ("5", "6"):
        (root / f"{sample}.webm").write_bytes(b"no video")
    params = params_for(root, max_failed=0.1)
    make_manifest(params, features)
    with pytest.raises(ExtractionFailed, match=r"(?s)1 of 3 shards .*\(001\).*2 of 4 samples failed") as error:
        extract_range(params, "small", "dino", SHARDS, features, quiet)
    assert "5: " in str(error.value) and finished(params, features) == ["shard-000", "shard-002"]
    lines: list[str] = []
    extract_range(params, "small", "dino", SHARDS, features, lines.append, max_failed=0.5)
    assert lines == [lines[0]] and "3 of 3 shards were complete already (000, 001, 002)" in lines[0], (
        "what was computed of it is kept"
    )
    with pytest.raises(ExtractionError, match=r"(?s)pooled: 1 of 3 shards .*\(001\)"):
        shutil.rmtree(store(params, features, "dino") / "shard-001.zarr")
        (store(params, features) / "shard-001.json").unlink()
        derive_range(params, "small", "pooled", SHARDS, features, quiet)
    assert finished(params, features, "pooled") == ["shard-000", "shard-002"]


def test_a_shard_that_another_process_has_comes_last_and_is_waited_for(videos, apart, features, monkeypatch):
    params = params_for(videos)
    extract(params, "small", "dino", 1, features, quiet)
    base = store(params, features) / "shard-001"
    for path in base.parent.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    other = module_lock(base)
    with pytest.raises(StoreBusy):
        extract_range(params, "small", "dino", SHARDS, features, quiet, waits=False)
    assert finished(params, features) == ["shard-000", "shard-002"]
    lines: list[str] = []
    monkeypatch.setattr(module.time, "sleep", lambda seconds: other.release())
    extract_range(params, "small", "dino", SHARDS, features, lines.append)
    assert sum(line.startswith("waiting: ") for line in lines) == 1
    folder = store(params, features).name
    assert contents(features / f"small/{folder}") == contents(apart / f"small/{folder}")


def module_lock(base: Path):
    from pipeline.store.durable import Lock

    return Lock(base.with_name(f"{base.name}.lock"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's signal handler, anywhere
def test_a_video_that_kills_its_decode_process_costs_its_shard_alone(videos, features, monkeypatch):
    def frames_of(honest, path, *rest):
        if path.name == "6.webm":
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(path, *rest)

    monkeypatch.setattr(clips, "read_frames", partial(frames_of, clips.read_frames))
    params = with_workers(params_for(videos), 1)
    with pytest.raises(ExtractionError, match=r"(?s)1 of 3 shards .*\(001\).*decode process died"):
        extract_range(params, "small", "dino", SHARDS, features, quiet)
    assert finished(params, features) == ["shard-000", "shard-002"]


def test_a_range_tells_where_it_is_and_how_long_all_of_it_takes(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    whole = progress.Whole("small/dino", 4, lines.append)
    progress.Progress("small", 7, 10, {"dino": 10}, lines.append, whole).end("dino", {}, Path("shard-007"))
    first = progress.Progress("small", 8, 10, {"dino": 4}, lines.append, whole)
    second = progress.Progress("small", 9, 10, {"dino": 0}, lines.append, whole)
    now[0] += 3.0
    first(5, 1)
    assert lines == [
        "small/dino shard 008: 4 of 10 samples are there, 6 to compute",
        "small/dino shard 009: 0 of 10 samples are there, 10 to compute",
    ], "of a finished shard nothing, and a line every five seconds"
    now[0] += 3.0
    first(1)
    # 6 of 30 known samples in 6 s, and a fourth shard that is taken to be like the others: 40 - 20 are left.
    assert lines.pop() == "small/dino shard 008, 2 of 4: 10/10; of all shards 20/40, 1 failed, 1.0/s, about 20 s left"
    first.end("dino", {}, Path("shard-008"))
    assert lines.pop().endswith("computed 6 of 10 in 6.0 s, 0 failed")
    now[0] += 2.0
    second(10)
    second.end("dino", {}, Path("shard-009"))
    assert lines.pop().endswith("computed 10 of 10 in 2.0 s, 0 failed"), "not from when it was opened ahead"
    whole.end()
    assert lines.pop().startswith("small/dino: 1 of 4 shards were complete already (007)")


def test_a_full_disk_ends_a_range_at_once(videos, features, monkeypatch):
    from pipeline.store.errors import StoreFull

    def full(self):
        raise StoreFull(28, "the disk is full")

    monkeypatch.setattr(ShardWriter, "commit", full)
    with pytest.raises(StoreFull):
        extract_range(params_for(videos), "small", "dino", SHARDS, features, quiet)


def test_a_dev_shm_that_is_too_small_is_told_once_and_not_of_each_shard(videos, features, monkeypatch):
    monkeypatch.setattr("pipeline.extraction.ring.shared_memory_left", lambda folder: 1 << 20)
    with pytest.raises(Shortage, match=r"^/dev/shm has 1 MB left[^\n]*--shm-size") as told:
        extract_range(with_workers(params_for(videos), 1), "small", "dino", SHARDS, features, quiet)
    assert str(told.value).count("/dev/shm") == 1


def test_where_no_shard_could_be_finished_none_is_called_complete():
    def work(shards, turns):
        for shard in shards:
            turns.failed(shard, ExtractionError("bad"))

    with pytest.raises(ExtractionError, match=r"2 of 2 shards could not be finished \(000, 001\):\n"):
        module.Range([0, 1], work, "small/dino", quiet).results()
