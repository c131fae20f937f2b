"""Data sets for tests: Something-Something-V2's annotation files at any size, folders of pictures, files of texts."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from pipeline.datasets import assign_shards
from pipeline.datasets.manifest import SCHEMA, to_frame

# What the published set holds: 220,847 videos.
OFFICIAL_COUNTS = {"train": 168_913, "validation": 24_777, "test": 27_157}

VERBS = ("Holding", "Pushing", "Covering", "Lifting", "Dropping", "Turning", "Moving", "Showing", "Tilting", "Hiding")
RELATIONS = ("next to", "behind", "in front of", "onto", "into", "away from", "towards", "with", "under", "on top of")
THINGS = ("potato", "vicks vaporub bottle", "a red cup", "a remote control", "scissors", "a box of matches", "a coin")


def templates(n_classes: int) -> list[str]:
    """Made-up templates with their brackets, all different."""
    pairs = [f"{verb} [something] {relation} [something]" for verb in VERBS for relation in RELATIONS]
    return [pairs[i % 100] + (f", time {i // 100}" if i >= 100 else "") for i in range(n_classes)]


def write_annotations(
    root: Path, counts: Mapping[str, int], n_classes: int = 174, answers: bool = False, prefix: str = "", seed: int = 0
) -> list[str]:
    """Writes labels.json, train.json, validation.json, test.json (as many entries as `counts` says) and, if asked for,
    test-answers.csv.

    Returns:
        The ids, in the order train, validation, test.
    """
    rng = random.Random(seed)
    kinds = templates(n_classes)
    ids = [str(number) for number in rng.sample(range(1, 2 * sum(counts.values()) + 1), sum(counts.values()))]
    left = iter(ids)
    write_json(root, f"{prefix}labels.json", {_plain(kind): str(i) for i, kind in enumerate(kinds)})
    for split, count in counts.items():
        entries = [entry(next(left), kinds[i % n_classes], rng) for i in range(count)]
        if split == "test" and answers:
            lines = "".join(f"{e['id']};{_plain(e['template'])}\n" for e in entries)
            (root / f"{prefix}test-answers.csv").write_text(lines)
        if split == "test":
            entries = [{"id": e["id"]} for e in entries]
        write_json(root, f"{prefix}{split}.json", entries)
    return ids


def entry(sample: Any, template: str, rng: random.Random | None = None) -> dict[str, Any]:
    """One entry of train.json or validation.json."""
    things = (rng or random.Random(0)).sample(THINGS, 2)
    label = template.replace("[something]", "{}").format(*things).lower()
    return {"id": sample, "label": label, "template": template, "placeholders": things}


def write_set(root: Path, **splits: Sequence[Any]) -> None:
    """Writes a small set of two classes, ids alternating between them: write_set(root, train=["1"], validation=[])."""
    kinds = ["Holding [something]", "Moving [something] up"]
    write_json(root, "labels.json", {_plain(kind): str(i) for i, kind in enumerate(kinds)})
    for split in ("train", "validation", "test"):
        ids = splits.get(split, ())
        write_json(
            root,
            f"{split}.json",
            [{"id": s} if split == "test" else entry(s, kinds[i % 2]) for i, s in enumerate(ids)],
        )


def write_json(root: Path, name: str, document: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(document))


def picture(seed: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    """An RGB picture of `size` (width, height): soft blobs of colour that follow from the seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_images(
    folder: Path,
    counts: Mapping[str, int] | None = None,
    suffix: str = ".png",
    size: tuple[int, int] = (32, 24),
    seed: int = 0,
) -> list[str]:
    """Writes folder/<class>/<number><suffix>, all different: write_images(folder, {"cat": 3, "": 1}), where the class
    "" is the folder itself.

    Args:
        counts: pictures a class; {"cat": 3, "dog": 3} by default.
        suffix: decides the format.
        size: width and height in pixels.

    Returns:
        The sample ids, in the order in which the layout `images` lists them.
    """
    samples = []
    for kind, count in ({"cat": 3, "dog": 3} if counts is None else counts).items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = folder / kind / f"{number:04d}{suffix}"
            picture(seed + len(samples), size).save(path)
            samples.append(path.relative_to(folder).as_posix())
    return sorted(samples)


def write_texts(path: Path, texts: Sequence[str] = ("dog", "a red fox", "ice cream")) -> list[str]:
    """Writes one text a line and returns them: the sample ids of the layout `texts`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return list(texts)


# Three classes and three videos, as sets of MS-TCN's layout have them.
MAPPING = ("SIL", "take_cup", "pour_coffee")
LABELLED = {"v1": "SIL take_cup take_cup SIL", "v2": "take_cup pour_coffee pour_coffee", "v3": "SIL SIL pour_coffee"}


def write_labelled(root: Path, bundles: Mapping[str, Sequence[str]], labels: Mapping[str, str] | None = None) -> Path:
    """Writes mapping.txt, a file of labels a video (names between spaces, one a frame) and lists of videos by path."""
    for folder in ("groundTruth", "splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "mapping.txt").write_text("".join(f"{index} {name}\n" for index, name in enumerate(MAPPING)))
    for sample, names in (LABELLED if labels is None else labels).items():
        (root / f"groundTruth/{sample}.txt").write_text("".join(f"{name}\n" for name in names.split()))
    for path, lines in bundles.items():
        (root / path).write_text("".join(f"{line}\n" for line in lines))
    return root


def made_up_manifest(annotations: pd.DataFrame, shard_size: int) -> pd.DataFrame:
    """A manifest as if every video were there and ok; digests are those of the ids."""
    samples = annotations["sample"].tolist()
    facts = {
        "duration": 4.0, "frames": 48, "fps": 12.0, "width": 427, "height": 240,
        "codec": "vp9", "rotation": 0, "edit_list": False, "mirrored": False,
        "video_streams": 1, "grid": "12", "key_frames": "0:0:5eed", "decord_doubt": "",
    }  # fmt: skip
    columns = {name: annotations[name].tolist() for name in ("sample", "path", "label", "template", "split")}
    columns |= {name: [value] * len(samples) for name, value in facts.items()}
    columns |= {"status": ["ok"] * len(samples), "digest": [hashlib.sha256(s.encode()).hexdigest() for s in samples]}
    columns |= {
        "bytes": [90_000] * len(samples),
        "mtime_ns": [1_700_000_000_000_000_000 + i for i in range(len(samples))],
    }
    columns |= {"shard": list(assign_shards(samples, {}, shard_size).values())}
    absent = [None] * len(samples)
    return to_frame(pa.table({name: columns.get(name, absent) for name in SCHEMA.names}, schema=SCHEMA))


def _plain(template: str) -> str:
    return template.replace("[", "").replace("]", "")
