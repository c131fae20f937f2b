"""Writes toy-ssv2 in Something-Something-V2's layout: VP9 in webm, JSON annotations; and videos of it played backwards.

Knows no reader and no network.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ToySSv2, Toyworld
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.templates import BY_TEXT, TEMPLATES, Template
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
    template: int

    @property
    def id(self) -> str:
        return str(FIRST_ID[self.split] + self.index)


def videos(sizes: ToySSv2, templates: Sequence[Template] = TEMPLATES) -> list[Video]:
    """All videos of a set, in the order of its annotations.

    Classes take turns, so a larger set begins with the smaller one's videos; `template` is an index in templates.
    """
    counts = zip(SPLITS, (sizes.train, sizes.validation, sizes.test), strict=True)
    every = ((split, index) for split, count in counts for index in range(count * len(templates)))
    return [Video(split, index, index % len(templates)) for split, index in every]


def stage(video: Video, params: Toyworld) -> tuple[Scene, dict[str, Any]]:
    """The scene of one video, which is its ground truth, and its annotation: id, label, template, placeholders."""
    return staged(video, TEMPLATES, params.ssv2, [params.seed])


def staged(
    video: Video, templates: Sequence[Template], sizes: ToySSv2, seed: Sequence[int]
) -> tuple[Scene, dict[str, Any]]:
    """As `stage`, of any templates; a set's seed is what it shares with no other."""
    rng = np.random.default_rng([*seed, SPLITS.index(video.split), video.index])
    template = templates[video.template]
    shortest, longest = sizes.frames
    scene, names = template.scene(rng, int(rng.integers(shortest, longest + 1)))
    return scene, {
        "id": video.id,
        "label": template.sentence(names),
        "template": template.text,
        "placeholders": names,
    }


def reversible(sizes: ToySSv2) -> list[Video]:
    """The validation videos whose time reversal shows a class: its opposite."""
    return [video for video in videos(sizes) if video.split == "validation" and TEMPLATES[video.template].opposite]


def stage_reversed(video: Video, params: Toyworld) -> tuple[Scene, dict[str, Any]]:
    """The scene of a video of `reversible`, in its own order of time, and the annotation of what it shows backwards."""
    scene, annotation = stage(video, params)
    shown = BY_TEXT[str(TEMPLATES[video.template].opposite)]
    label = shown.sentence(annotation["placeholders"])
    return scene, {**annotation, "label": label, "template": shown.text}


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
    write_set("toy-ssv2", ToySet("ssv2", VERSION, stage), videos(params.ssv2), TEMPLATES, params, root, say, workers)


def write_ssv2_reversed(
    params: Toyworld, root: Path, say: Callable[[str], None] = print, workers: int | None = None
) -> None:
    """Writes toy-ssv2's validation videos backwards, each under its own id and labelled with what it then shows.

    Left out are videos of classes without an opposite. Arguments and errors as `write_ssv2`.
    """
    backwards = ToySet("ssv2", VERSION, stage_reversed, backwards=True)
    write_set("toy-ssv2-reversed", backwards, reversible(params.ssv2), TEMPLATES, params, root, say, workers)


@dataclass(frozen=True)
class ToySet:
    """What makes the videos of one set in this layout.

    Attributes:
        section: of params.toyworld, with the sizes.
        version: bumped when the same seed gives other videos.
        stage: the scene of a video and its annotation; a function of a module, for other processes.
        backwards: the rendered frames, camera and noise and all, are encoded from the last to the first.
    """

    section: str
    version: int
    stage: Callable[[Video, Toyworld], tuple[Scene, dict[str, Any]]]
    backwards: bool = False


def write_set(
    name: str,
    made_by: ToySet,
    todo: Sequence[Video],
    templates: Sequence[Template],
    params: Toyworld,
    root: Path,
    say: Callable[[str], None],
    workers: int | None,
) -> None:
    """Writes the videos `todo` and their annotations, with all classes; the rest, and errors, as `write_ssv2`."""
    sizes = getattr(params, made_by.section).model_dump(include={"size", "frames", "fps"}, mode="json")
    recipe = {"version": made_by.version, "seed": params.seed, **sizes}
    prepare(root, recipe | ({"backwards": True} if made_by.backwards else {}), "*.webm", ["*.json"])
    made = make_all(_make, todo, params, root, made_by, name=name, say=say, workers=workers)
    write_annotations(root, zip((video.split for video in todo), made, strict=True), templates)


def _make(video: Video, params: Toyworld, root: Path, made_by: ToySet) -> dict[str, Any]:
    """Writes one video, unless it is there already, and returns its annotation."""
    scene, annotation = made_by.stage(video, params)
    sizes, file = getattr(params, made_by.section), root / f"{video.id}.webm"
    if not file.exists():
        frames_THWC = render(scene, sizes.size)[0]
        encode(frames_THWC[::-1] if made_by.backwards else frames_THWC, file, sizes.fps)
    return annotation


def write_annotations(
    root: Path, entries: Iterable[tuple[str, Mapping[str, Any]]], templates: Iterable[Template]
) -> None:
    """Writes the JSON files of a set: its splits, of which test has ids alone, and last the classes.

    Args:
        root: folder of the set.
        entries: (split, annotation) of each video.
        templates: all classes.
    """
    annotations: dict[str, list[Mapping[str, Any]]] = {split: [] for split in SPLITS}
    for split, annotation in entries:
        annotations[split].append({"id": annotation["id"]} if split == "test" else annotation)
    for split, of in annotations.items():
        write_json(root / f"{split}.json", of)
    labels = sorted(template.label for template in templates)
    write_json(root / "labels.json", {label: str(index) for index, label in enumerate(labels)})
