"""Writes toy-ssv2 in Something-Something-V2's layout: VP9 in webm, JSON annotations. Knows no reader and no network."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.config import ToySSv2, Toyworld, canonical_json
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.templates import TEMPLATES

SPLITS = ("train", "validation", "test")
# Ids start here for each split, and the split's index is the second word of its videos' seeds.
FIRST_ID = {"train": 100_000, "validation": 200_000, "test": 300_000}
STAMP = ".toyworld.json"
# Bumped when the same seed gives other videos.
VERSION = 4
# Constant quality, one thread and a bit-exact muxer: the same frames always give the same bytes.
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0", "row-mt": "0", "lag-in-frames": "0"}


class ToyworldError(ValueError):
    """A toy data set that cannot be written there; the message gives the remedy."""


@dataclass(frozen=True)
class Video:
    """One video to be: its place in the set determines it, together with the seed and the sizes."""

    split: str
    index: int

    @property
    def id(self) -> str:
        return str(FIRST_ID[self.split] + self.index)

    @property
    def template(self) -> int:
        """Index in TEMPLATES: classes take turns, so a larger set begins with the smaller one's videos."""
        return self.index % len(TEMPLATES)


def videos(sizes: ToySSv2) -> list[Video]:
    """All videos of the set, in the order of its annotations."""
    counts = zip(SPLITS, (sizes.train, sizes.validation, sizes.test), strict=True)
    return [Video(split, index) for split, count in counts for index in range(count * len(TEMPLATES))]


def stage(video: Video, params: Toyworld) -> tuple[Scene, dict[str, Any]]:
    """The scene of one video, which is its ground truth, and its annotation: id, label, template, placeholders."""
    rng = np.random.default_rng([params.seed, SPLITS.index(video.split), video.index])
    template = TEMPLATES[video.template]
    shortest, longest = params.ssv2.frames
    scene, names = template.scene(rng, int(rng.integers(shortest, longest + 1)))
    return scene, {
        "id": video.id,
        "label": template.sentence(names),
        "template": template.text,
        "placeholders": names,
    }


def encode(frames_THWC: np.ndarray, file: Path, fps: int) -> None:
    """Writes RGB frames as VP9 in webm, by rename: a file of the final name is whole. Byte-deterministic."""
    scratch = file.with_suffix(file.suffix + ".part")
    with av.open(str(scratch), "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=fps, options=VP9)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    scratch.replace(file)


def _make(video: Video, params: Toyworld, root: Path) -> dict[str, Any]:
    """Writes one video, unless it is there already, and returns its annotation."""
    scene, annotation = stage(video, params)
    file = root / f"{video.id}.webm"
    if not file.exists():
        encode(render(scene, params.ssv2.size)[0], file, params.ssv2.fps)
    return annotation


def write_ssv2(params: Toyworld, root: Path, say: Callable[[str], None] = print, workers: int | None = None) -> None:
    """Writes the whole set; the annotations last, so that a set with annotations is whole.

    Can be called again after being killed: whole videos are kept. Videos of another seed or size are replaced.

    Args:
        params: seed and sizes.
        root: folder of the set; videos and annotations lie side by side in it.
        say: takes a line of progress every few seconds.
        workers: processes; as many as there are processors for us by default.

    Raises:
        ToyworldError: `root` holds a data set that this function did not write.
    """
    _prepare(params, root)
    todo = videos(params.ssv2)
    annotations: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for video, annotation in zip(todo, _progress(_make_all(todo, params, root, workers), len(todo), say), strict=True):
        annotations[video.split].append({"id": annotation["id"]} if video.split == "test" else annotation)
    for split, entries in annotations.items():
        _write_json(root / f"{split}.json", entries)
    labels = sorted(template.label for template in TEMPLATES)
    _write_json(root / "labels.json", {label: str(index) for index, label in enumerate(labels)})


def _prepare(params: Toyworld, root: Path) -> None:
    """Makes the folder ready: no annotations, and no videos but those that these params would give."""
    recipe = {
        "version": VERSION,
        "seed": params.seed,
        **params.ssv2.model_dump(include={"size", "frames", "fps"}, mode="json"),
    }
    stamp, old_videos, old_labels = root / STAMP, sorted(root.glob("*.webm")), sorted(root.glob("*.json"))
    if (old_videos or old_labels) and not stamp.exists():
        found = (old_videos + old_labels)[0].name
        raise ToyworldError(
            f"{root} holds {found}, which the toy world did not write; name an empty folder as the set's root"
        )
    for file in old_labels:
        if file != stamp:
            file.unlink()
    if stamp.exists() and stamp.read_text() != canonical_json(recipe):
        for file in old_videos:
            file.unlink()
    root.mkdir(parents=True, exist_ok=True)
    stamp.write_text(canonical_json(recipe))


def _make_all(todo: list[Video], params: Toyworld, root: Path, workers: int | None) -> Iterator[dict[str, Any]]:
    workers = min(workers or len(os.sched_getaffinity(0)), len(todo))
    if workers == 1:
        yield from map(_make, todo, repeat(params), repeat(root))
        return
    # Spawned, not forked: the caller may hold threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_make, todo, repeat(params), repeat(root), chunksize=4)


def _progress(results: Iterable[dict[str, Any]], total: int, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Passes results on, with a line every few seconds."""
    started = last = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        if (now := time.monotonic()) - last > 3 or done == total:
            say(f"toy-ssv2: {done}/{total} videos, {done / (now - started):.1f}/s")
            last = now


def _write_json(file: Path, content: Any) -> None:
    scratch = file.with_suffix(".part")
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    scratch.replace(file)
