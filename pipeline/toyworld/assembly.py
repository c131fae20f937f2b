"""Writes toy-assembly in the layout of MS-TCN's data sets: H.264 in mp4, a label a frame. Knows no reader, no network.

videos/<id>.mp4, groundTruth/<id>.txt, mapping.txt, splits/{train,test}.split1.bundle
held_out.txt    the combinations of verb and part that training is not to see, a sixth of all
held_out_half.txt   such a list of half of them
texts.txt       what each class is called, in the mapping's order: its name with spaces
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import Toyworld
from pipeline.files import write_text
from pipeline.toyworld.procedures import CLASSES, HELD_OUT, HELD_OUT_HALF, Step, procedure, scene
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.writing import encode, make_all, prepare

SPLITS = ("train", "test")
# The second word of its videos' seeds; toy-ssv2 has 0 to 2.
STREAM = {"train": 10, "test": 11}
# Bumped when the same seed gives other videos.
VERSION = 1


@dataclass(frozen=True)
class Video:
    """One video to be: its place in the set determines it, together with the seed and the sizes."""

    split: str
    index: int

    @property
    def id(self) -> str:
        return f"{self.split}_{self.index:03d}"


def videos(params: Toyworld) -> list[Video]:
    """All videos of the set, in the order of its bundles."""
    return [Video(split, index) for split in SPLITS for index in range(getattr(params.assembly, split))]


def stage(video: Video, params: Toyworld) -> tuple[Scene, list[Step]]:
    """The scene of one video and its segments, which are its ground truth."""
    rng = np.random.default_rng([params.seed, STREAM[video.split], video.index])
    steps = procedure(rng, params.assembly.steps, params.assembly.frames)
    return scene(rng, steps), steps


def _make(video: Video, params: Toyworld, root: Path) -> str:
    """Writes one video, unless it is there already, and returns its labels, one a line."""
    staged, steps = stage(video, params)
    file = root / "videos" / f"{video.id}.mp4"
    if not file.exists():
        encode(render(staged, params.assembly.size)[0], file, params.assembly.fps)
    return "".join(f"{_name(step.label)}\n" * step.frames for step in steps)


def _name(label: str) -> str:
    """As these data sets write it: `push_left_red_star`."""
    return label.replace(" ", "_")


def write_assembly(
    params: Toyworld, root: Path, say: Callable[[str], None] = print, workers: int | None = None
) -> None:
    """Writes the whole set; bundles and mapping last, so that a set with a mapping is whole.

    Can be called again after being killed: whole videos are kept. Videos of another seed or size are replaced.

    Args:
        params: seed and sizes.
        root: folder of the set.
        say: takes a line of progress every few seconds.
        workers: processes; as many as there are processors for us by default.

    Raises:
        ToyworldError: `root` holds a data set that this function did not write.
    """
    recipe = params.assembly.model_dump(exclude=set(SPLITS), mode="json")
    annotations = ["mapping.txt", "splits/*.bundle", "held_out*.txt", "texts.txt", "groundTruth/*.txt"]
    prepare(root, {"version": VERSION, "seed": params.seed, **recipe}, "videos/*.mp4", annotations)
    (root / "videos").mkdir(exist_ok=True)
    todo = videos(params)
    made = make_all(_make, todo, params, root, name="toy-assembly", say=say, workers=workers)
    for video, labels in zip(todo, made, strict=True):
        write_text(root / "groundTruth" / f"{video.id}.txt", labels)
    for name, labels in (("held_out", HELD_OUT), ("held_out_half", HELD_OUT_HALF)):
        write_text(root / f"{name}.txt", "".join(f"{_name(label)}\n" for label in labels))
    write_text(root / "texts.txt", "".join(f"{label}\n" for label in CLASSES))
    for split in SPLITS:
        listed = "".join(f"{video.id}.txt\n" for video in todo if video.split == split)
        write_text(root / "splits" / f"{split}.split1.bundle", listed)
    write_text(root / "mapping.txt", "".join(f"{index} {_name(label)}\n" for index, label in enumerate(CLASSES)))
