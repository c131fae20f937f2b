"""Where this machine is short of something, the job ends: no store and no manifest says that a video is at fault."""

import builtins
import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import memory
from pipeline.config import Compute, feature_dir
from pipeline.datasets.build import Job, MapJob, examine, examine_map
from pipeline.extraction import TooMuch, clips, extract, rows
from pipeline.extraction.device import Device
from pipeline.extraction.lanes import RowLane
from pipeline.extraction.rows import Piece, Rows
from pipeline.memory import Shortage, refuse_shortage
from pipeline.video import frames, iterate_frames, read_frames
from tests.extraction.small import params_for, params_of, run, with_workers

FLOW = {"backbone": "flow", "method": "farneback", "sampling": {"fps": 6}, "preprocess": {"resize": [32, 32]}}


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


@contextmanager
def short_of_memory() -> Iterator[None]:
    with limited(resource.RLIMIT_AS, address_space() + (1 << 20)):
        yield


@contextmanager
def short_of_files() -> Iterator[None]:
    with open("/dev/null", "rb") as lowest, limited(resource.RLIMIT_NOFILE, lowest.fileno()):
        yield


SHORT = {"memory": short_of_memory, "open files": short_of_files}


def short_at(number: str, lack: str, honest):
    """A reader that is short of something at one video."""

    def read(path, *given):
        if path.stem != number:
            return honest(path, *given)
        if lack == "memory that is made up":
            raise MemoryError
        with SHORT[lack]():
            return honest(path, np.repeat(given[0], 4000) if lack == "memory" else given[0], *given[1:])

    return read


@pytest.mark.parametrize("lack", [*SHORT, "memory that is made up"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_shortage_ends_the_job_with_its_name_and_the_next_one_finds_the_video_whole(
    small_ssv2, tmp_path, monkeypatch, workers, lack
):
    params = with_workers(params_for(small_ssv2), workers)
    with monkeypatch.context() as patch:
        patch.setattr(clips, "read_frames", short_at("6", lack, read_frames))
        with pytest.raises(Shortage, match=rf"6\.webm: this machine is short of {lack.split(' that')[0]} .*run again"):
            run(params, tmp_path)
    folder = feature_dir(params, "small", "dino", tmp_path)
    assert not list(folder.glob("*.json"))  # no manifest of the shard
    manifest = extract(params, "small", "dino", 0, tmp_path, lambda line: None)["dino"]
    assert manifest["counts"] == {"ok": 36, "failed": 0}


@pytest.mark.parametrize("workers", [0, 1])
def test_so_it_does_where_videos_come_in_pieces(small_ssv2, tmp_path, monkeypatch, workers):
    def short(path, *given):
        for number, piece in enumerate(iterate_frames(path, *given)):
            if path.stem == "6" and number == 0:
                raise MemoryError
            yield piece

    params = with_workers(params_of(small_ssv2, {"dino": FLOW}), workers)
    with monkeypatch.context() as patch:
        patch.setattr(rows, "iterate_frames", short)
        with pytest.raises(Shortage, match=r"6\.webm: this machine is short of memory"):
            run(params, tmp_path)
    assert run(params, tmp_path)["counts"] == {"ok": 36, "failed": 0}


@pytest.mark.parametrize("lack", SHORT)
def test_a_probe_that_is_short_gives_no_status(tmp_path, small_ssv2, lack):
    picture = tmp_path / "large.png"
    Image.new("RGB", (6000, 4000)).save(picture)
    with pytest.raises(Shortage, match=f"large.png: this machine is short of {lack}"), SHORT[lack]():
        examine(Job(str(picture), None, None))
    assert examine(Job(str(picture), None, None)).status == "ok"


def test_a_map_that_is_not_read_for_want_of_files_is_not_refused(tmp_path):
    np.save(tmp_path / "map.npy", np.zeros((2, 4, 4), np.uint8))
    job = MapJob(str(tmp_path / "map.npy"), None)
    assert not examine_map(job).refused  # what it imports is there from now on
    with pytest.raises(Shortage, match="open files"), short_of_files():
        examine_map(job)


# --- whose fault it is ------------------------------------------------------------------------------------------------


def test_libav_s_want_of_memory_is_the_file_s_fault_where_the_system_has_some(monkeypatch):
    error = av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory", "a.mp4")
    refuse_shortage(error, "a.mp4")  # it asked for more than any file may
    with pytest.raises(Shortage, match="memory"), short_of_memory():
        refuse_shortage(error, "a.mp4")


def test_libav_s_failure_to_read_is_the_file_s_fault_where_its_bytes_can_be_read(tmp_path, monkeypatch):
    error = av.error.OSError(errno.EIO, "Input/output error")
    (tmp_path / "a.mp4").write_bytes(b"whole")
    refuse_shortage(error, tmp_path / "a.mp4")

    def fails(path, *mode, **how):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(builtins, "open", fails)
    with pytest.raises(Shortage, match="a disk or share that answers"):
        refuse_shortage(error, tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (OSError(errno.EMFILE, "Too many open files"), "open files"),
        (RuntimeError("[ERROR] cannot open x.mp4, Too many open files"), "open files"),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/torch_1"), "disk space"),
        (OSError(errno.ESTALE, "Stale file handle"), "a disk or share that answers"),
    ],
)
def test_what_a_machine_lacks_is_named(error, lacking):
    with pytest.raises(Shortage, match=f"^sample 3: this machine is short of {lacking} "):
        refuse_shortage(error, "sample 3")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOENT, "No such file"), OSError(95, "Operation not supported"), ValueError("out of range")],
)
def test_other_errors_are_the_file_s(error):
    refuse_shortage(error, "sample 3")


@pytest.mark.parametrize("said", memory.REFUSED)
def test_a_reader_that_was_refused_memory_is_believed_by_what_the_system_has(said):
    refuse_shortage(OSError(said), "a.h5")
    with pytest.raises(Shortage), short_of_memory():
        refuse_shortage(OSError(said), "a.h5")


@pytest.mark.parametrize("where", ["_packets", "_decoded"])
def test_a_decoder_that_is_short_in_the_middle_of_a_file_reports_no_damage(where):
    def fails(*given):
        raise av.error.OSError(errno.EMFILE, "Too many open files")

    film = frames._Film.__new__(frames._Film)
    film.path, film.stream, film.sure = Path("1.webm"), None, False  # nor is it passed over where damage would be
    film.container, packet = SimpleNamespace(demux=fails), SimpleNamespace(decode=fails)
    with pytest.raises(Shortage, match=r"1\.webm: this machine is short of open files"):
        list(film._packets() if where == "_packets" else film._decoded(packet))


def test_rows_of_a_video_s_own_size_that_no_device_memory_holds_end_the_job():
    def rows_of(streams):
        raise torch.OutOfMemoryError("CUDA out of memory")

    lane = RowLane.__new__(RowLane)
    lane._given_up, lane._varying, lane.stored, lane.device = "", True, {}, Device(Compute(device="cpu"))
    lane.backbone = type("Backbone", (), {"rows": staticmethod(rows_of)})
    piece = Piece(0, "3", 1, 0, 1.0, Rows({"rgb": torch.zeros(1, 3, 4, 4)}, (0, 0)))
    with pytest.raises(TooMuch, match=r"^sample 3: a batch of one does not fit the device's memory"):
        list(lane.take(piece))
