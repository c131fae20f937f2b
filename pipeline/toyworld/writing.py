"""How a toy data set comes onto the disk: encoded videos, made in processes, whole or not there. Knows no scene."""

import csv
import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

from pipeline.config import canonical_json
from pipeline.files import whole, write_text

STAMP = ".toyworld.json"
# Constant quality, one thread and a bit-exact muxer: the same frames always give the same bytes. H.264 without B-frames
# needs no edit list, and decord then gives the frames that PyAV gives.
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0", "row-mt": "0", "lag-in-frames": "0"}
H264 = {"preset": "fast", "crf": "18", "bf": "0", "threads": "1"}
# Suffix -> container, encoder and its options.
FORMATS = {".webm": ("webm", "libvpx-vp9", VP9), ".mp4": ("mp4", "libx264", H264)}

Item, Result = TypeVar("Item"), TypeVar("Result")


class ToyworldError(ValueError):
    """A toy data set that cannot be written there; the message gives the remedy."""


def encode(frames_THWC: np.ndarray, file: Path, fps: int) -> None:
    """Writes RGB frames, by rename: a file of the final name is whole. Byte-deterministic.

    Args:
        frames_THWC: uint8, sides even.
        file: its suffix, .webm (VP9) or .mp4 (H.264), says how.
        fps: frames a second.
    """
    container_format, encoder, options = FORMATS[file.suffix]
    how = {"format": container_format, "options": {"fflags": "+bitexact"}}
    with whole(file) as scratch, av.open(str(scratch), "w", **how) as container:
        stream = container.add_stream(encoder, rate=fps, options=options)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def prepare(root: Path, recipe: Mapping[str, Any], videos: str, annotations: Sequence[str]) -> None:
    """Makes the folder ready: no annotations, and no videos but those that this recipe would give.

    Args:
        root: folder of the set.
        recipe: everything that decides a video's bytes.
        videos, annotations: patterns of the files that the set consists of.

    Raises:
        ToyworldError: it holds such files that the toy world did not write.
    """
    stamp, old_videos = root / STAMP, sorted(root.glob(videos))
    old_annotations = [file for pattern in annotations for file in sorted(root.glob(pattern)) if file != stamp]
    if (old_videos or old_annotations) and not stamp.exists():
        found = (old_videos + old_annotations)[0].name
        raise ToyworldError(
            f"{root} holds {found}, which the toy world did not write; name an empty folder as the set's root"
        )
    for file in old_annotations:
        file.unlink()
    if stamp.exists() and stamp.read_bytes() != canonical_json(recipe).encode():
        for file in old_videos:
            file.unlink()
    root.mkdir(parents=True, exist_ok=True)
    write_text(stamp, canonical_json(recipe))


def make_all(
    make: Callable[..., Result],
    todo: Sequence[Item],
    *shared: Any,
    name: str,
    say: Callable[[str], None],
    workers: int | None,
) -> Iterator[Result]:
    """`make(item, *shared)` of every item, in order, in processes, with a line of progress every few seconds.

    Args:
        make: importable by name.
        todo: the videos to be.
        shared: further arguments, the same for all.
        name: of the data set, for the lines.
        say: takes them.
        workers: processes; as many as there are processors for us by default.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), len(todo))
    if workers == 1:
        yield from _told(map(make, todo, *map(repeat, shared)), len(todo), name, say)
        return
    # Spawned, not forked: the caller may hold threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = pool.map(make, todo, *map(repeat, shared), chunksize=4)
        yield from _told(results, len(todo), name, say)


def _told(results: Iterable[Result], total: int, name: str, say: Callable[[str], None]) -> Iterator[Result]:
    started = last = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        if (now := time.monotonic()) - last > 3 or done == total:
            say(f"{name}: {done}/{total} videos, {done / (now - started):.1f}/s")
            last = now


def write_json(file: Path, content: Any) -> None:
    """Writes a document, by rename."""
    write_text(file, json.dumps(content, indent=1) + "\n")


def write_table(file: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a csv file with a head, by rename."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([head, *rows])
    write_text(file, table.getvalue())
