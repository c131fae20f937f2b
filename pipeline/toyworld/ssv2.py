"""Writes toy-ssv2 in Something-Something-V2's layout: VP9 in webm, JSON annotations. Knows no reader and no network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ToySSv2, Toyworld
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.templates import TEMPLATES
from pipeline.toyworld.writing import encode, make_all, prepare, write_json

SPLITS = ("train", "validation", "test")
# Ids start here for each split, and the split's index is the second word of its videos' seeds.
FIRST_ID = {"train": 100_000, "validation": 200_000, "test": 300_000}
# Bumped when the same seed gives other videos.
VERSION = 4


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
    sizes = params.ssv2.model_dump(include={"size", "frames", "fps"}, mode="json")
    prepare(root, {"version": VERSION, "seed": params.seed, **sizes}, "*.webm", ["*.json"])
    todo = videos(params.ssv2)
    made = make_all(_make, todo, params, root, name="toy-ssv2", say=say, workers=workers)
    annotations: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for video, annotation in zip(todo, made, strict=True):
        annotations[video.split].append({"id": annotation["id"]} if video.split == "test" else annotation)
    for split, entries in annotations.items():
        write_json(root / f"{split}.json", entries)
    labels = sorted(template.label for template in TEMPLATES)
    write_json(root / "labels.json", {label: str(index) for index, label in enumerate(labels)})
