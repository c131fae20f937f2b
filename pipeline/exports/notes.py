"""What a manifest says of a store's samples, for whoever gets the files: split, labels, targets. Opens no store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.datasets import classes, read_manifest
from pipeline.datasets.splits import ALL

ANSWERS = ("label", "labels", "target", "segments")


@dataclass(frozen=True)
class Notes:
    """What is known beside the features.

    Attributes:
        of: sample -> {split, label, labels, target, segments}, without those that nobody said.
        classes: names; a label is one of them.
        targets: names of the numbers of a target.
        known: which of ANSWERS any sample has.
    """

    of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    classes: Sequence[str] = ()
    targets: Sequence[str] = ()
    known: tuple[str, ...] = ()

    def split(self, sample: str) -> str:
        return self.of.get(sample, {}).get("split", ALL)

    def by_split(self, samples: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """(split, its samples), in the order in which they first occur."""
        found: dict[str, list[str]] = {}
        for sample in samples:
            found.setdefault(self.split(sample), []).append(sample)
        yield from found.items()


def notes_of(manifest: Path) -> Notes:
    """The notes in a manifest; none where there is no manifest. Raises DatasetError: it is damaged."""
    if not manifest.exists():
        return Notes()
    frame = read_manifest(manifest)
    told: dict[str, dict[str, Any]] = {}
    columns = ("split", *ANSWERS)
    for sample, *values in zip(frame["sample"], *(frame[name] for name in columns), strict=True):
        told[sample] = {name: of for name, of in zip(columns, values, strict=True) if not _is_none(of)}
    known = tuple(name for name in ANSWERS if any(name in of for of in told.values()))
    return Notes(told, classes(frame), frame.attrs.get("targets", ()), known)


def _is_none(value: Any) -> bool:
    return value is None or (not isinstance(value, list) and pd.isna(value))
