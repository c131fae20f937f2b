"""What the layouts whose frames have labels share: classes, lists of classes, text files of labels. Knows no layout."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import Dataset
from pipeline.datasets.folders import followed, home_of
from pipeline.datasets.names import DatasetError
from pipeline.datasets.segments import Segment, run_lengths
from pipeline.datasets.twins import but_for_looks
from pipeline.limits import MOST_TEXT

SHOWN = 80  # characters of what a file holds, in messages


@dataclass(frozen=True)
class Labels:
    """What a data set says of its frames.

    Attributes:
        classes: names; class i of every head is the i-th of these.
        segments: sample -> the runs of its labels; a sample without labels is not in it.
        parts: where a class is a verb and a noun: {"verbs", "nouns": names, "pairs": [verb, noun] of each class, as
            indices}; else None.
        notes: JSON-able remarks for the quality report.
    """

    classes: list[str]
    segments: Mapping[str, list[Segment]]
    parts: dict[str, list[Any]] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self, dataset: Dataset) -> dict[str, Any]:
        """What the manifest keeps beside its rows: `classes`, `class_lists` and, if there are any, `parts`.

        Raises:
            DatasetError: the data set's background or a list of classes names a class that there is not.
        """
        for name in dataset.background:
            if name not in self.classes:
                known = but_for_looks(name, self.classes) or f" ({', '.join(self.classes[:5])}, ...)"
                raise DatasetError(
                    f"the background {name!r} of the data set in {dataset.root} is not among its {len(self.classes)} "
                    f"classes{known}; correct it in params"
                )
        lists = {name: _class_list(path, self.classes) for name, path in class_list_files(dataset).items()}
        return {"classes": self.classes, "class_lists": lists} | ({"parts": self.parts} if self.parts else {})


def digest_of(segments: Sequence[Segment]) -> str:
    """sha256 of a sample's labels: what stands for it where the set has no videos."""
    return hashlib.sha256(json.dumps([[s["label"], s["frames"]] for s in segments]).encode()).hexdigest()


def class_list_files(dataset: Dataset) -> dict[str, Path]:
    """The files of the data set's lists of classes, by name, in the order of params.

    Raises:
        DatasetError: one is not there, or leads out of the root.
    """
    return {name: required(dataset, path) for name, path in dataset.class_lists.items()}


def required(dataset: Dataset, *parts: str) -> Path:
    """A file below the root.

    Raises:
        DatasetError: it is not there, or leads out of the root.
    """
    path = Path(dataset.root, *parts)
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist or is no file; put the data set's file there (docs/real-data.md says where from), "
            "or correct its paths in params"
        )
    followed(path, home_of(dataset))
    return path


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without the white space around them; a last one may lack its line end.

    Raises:
        DatasetError: it is not UTF-8, or cannot be read.
    """
    try:
        if (size := path.stat().st_size) > MOST_TEXT:
            raise DatasetError(f"{path} has {size} bytes, and {MOST_TEXT} are read of a text; name the right file")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DatasetError(f"{path} is not UTF-8 text on line {line}: {error}; save it as UTF-8") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def read_label_file(path: Path, sample: str, classes: Collection[str]) -> list[Segment]:
    """A text file with the label of a frame a line.

    Raises:
        DatasetError: it cannot be read, holds nothing or a label that is no class; the message names sample and file.
    """
    try:
        lines = read_lines(path)
    except DatasetError as error:
        raise DatasetError(f"video {sample!r}: {error}") from None
    if not lines:
        raise DatasetError(f"video {sample!r}: {path} holds no label; write one a frame, or remove the file")
    segments, line = run_lengths(lines), 1
    for segment in segments:
        if segment["label"] not in classes:
            near = but_for_looks(segment["label"], classes)
            raise DatasetError(
                f"video {sample!r}: {path} has the label {segment['label'][:SHOWN]!r} on line {line}, which is none of "
                f"the {len(classes)} classes of the mapping{near}; correct it, or add it to the mapping"
            )
        line += segment["frames"]
    return segments


def _class_list(path: Path, classes: Sequence[str]) -> list[str]:
    known, listed = set(classes), dict.fromkeys(filter(None, read_lines(path)))
    if not listed:
        raise DatasetError(f"{path} lists no class; write one a line, or remove it from class_lists in params")
    for name in listed:
        if name not in known:
            raise DatasetError(
                f"{path} lists {name[:SHOWN]!r}, which is none of the {len(classes)} "
                f"classes{but_for_looks(name, classes)}; correct its spelling"
            )
    return list(listed)
