"""The one face of all layouts: what a data set says of its samples, and that it can be believed. Knows no layout.

Opens no video and no picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Annotations, Dataset
from pipeline.datasets.folders import check_folder
from pipeline.datasets.labels import Labels
from pipeline.datasets.names import DatasetError

if TYPE_CHECKING:
    import pandas as pd

# Of every layout, and those that are None where it does not give them.
COLUMNS, OPTIONAL = ("sample", "path", "label", "split", "template"), ("label", "template")
# Those that are not text: what one value of each is.
LISTED, NUMBERS = {"labels": str, "target": float}, ("start", "stop")


def read_annotations(dataset: Dataset) -> pd.DataFrame:
    """One row a sample: `sample`, `path`, `label` (str or None), `split`, `template`; ids are unique; all are objects.

    A layout that knows of them also gives `map`, `patient`, `clinician` and `group` (str or None), `labels` (list of
    str or None), `target` (list of float or None), `start` and `stop` (float or None). `frame.attrs` has
    `listed_twice`, `ignored` and `targets`, as `Annotations`.

    Cheap enough for plan time: it reads the annotation files of `dataset.layout`, or lists the folders of one that has
    none, and looks at no video or picture, nor at labels of frames. A text is its own id, and has no path.

    Raises:
        DatasetError: the annotations cannot be used; the message names the file and the remedy.
    """
    import pandas as pd

    found = dataset.laid.annotations(dataset)
    columns = _columns(dataset, found)
    frame = pd.DataFrame({name: columns[name] for name in [*COLUMNS, *columns]}, dtype=object)
    frame.attrs |= {"listed_twice": found.listed_twice, "ignored": found.ignored, "targets": found.targets}
    return frame


def _columns(dataset: Dataset, found: Annotations) -> dict[str, Sequence[Any]]:
    """The columns that a layout gave, as lists of one length. Raises DatasetError where they are not that."""

    def refused(what: str, remedy: str) -> DatasetError:
        return DatasetError(f"layout {dataset.layout} of the data set in {dataset.root} gives {what}; {remedy} there")

    if not isinstance(found, Annotations):
        raise refused(f"a {type(found).__name__}", "return pipeline.config.Annotations")
    samples = found.columns.get("sample")
    if samples is None or isinstance(samples, str):
        raise refused("no samples", "give the column sample, a list of ids,")
    given = dict.fromkeys(OPTIONAL) | ({"path": None} if dataset.kind == "text" else {}) | dict(found.columns)
    if absent := [name for name in COLUMNS if name not in given]:
        raise refused(f"no column {absent[0]}", "add it")
    columns = {name: [of] * len(samples) if of is None or isinstance(of, str) else of for name, of in given.items()}
    for name, values in columns.items():
        if len(values) != len(samples):
            raise refused(f"{len(values)} values of {name} for {len(samples)} samples", "give one a sample")
        needed = name in ("sample", "split") or (
            name == "path" and dataset.kind != "text" and dataset.videos is not None
        )
        for sample, value in zip(samples, values, strict=True):
            if not (isinstance(value, str) and value if needed else value is None or _is_a(name, value)):
                wanted = f"a list of {LISTED[name].__name__}" if name in LISTED else "a number"
                wanted = wanted if name in (*LISTED, *NUMBERS) else "text"
                raise refused(f"the {name} {value!r} of {sample!r}", f"give {wanted}{'' if needed else ' or None'}")
    if len(set(samples)) < len(samples):
        known: set[str] = set()
        twice = next(sample for sample in samples if sample in known or known.add(sample))
        raise refused(f"the sample {twice!r} twice", "give each once")
    for name in ("path", "map"):
        for path in columns.get(name, ()):
            if path is not None and (path.startswith("/") or ".." in path.split("/")):
                raise refused(f"the {name} {path!r}", "give one below the data set's folder, as folder/name")
    return columns


def _is_a(name: str, value: Any) -> bool:
    """Whether a value is one of a column."""
    if name in LISTED:
        return isinstance(value, list) and all(isinstance(of, LISTED[name]) for of in value)
    return isinstance(value, float if name in NUMBERS else str)


def annotation_files(dataset: Dataset) -> list[Path]:
    """The files that `read_annotations` reads, in a fixed order; empty where it only lists folders.

    Raises:
        DatasetError: one that must be there is not; the message says where it was looked for.
    """
    return dataset.laid.files(dataset)


def video_paths(dataset: Dataset, sample: str) -> tuple[str, ...]:
    """Where a sample's video may lie, below the videos' folder, in a layout that has such places; else nothing.

    Raises:
        DatasetError: the id is like none of the patterns of params.
    """
    return dataset.laid.places(dataset, sample)


def located(dataset: Dataset, annotations: pd.DataFrame) -> tuple[list[str | None], dict[str, tuple[str, ...]]]:
    """The path of each sample's video, and of those that are nowhere where they may lie, by sample, all the places.

    Args:
        annotations: some or all rows of `read_annotations`, of which `sample` and `path` are read.

    Raises:
        DatasetError: as `video_paths` and `check_folder`.
    """
    places = {sample: video_paths(dataset, sample) for sample in annotations["sample"]}
    if dataset.videos is None:
        return [None] * len(annotations), {}
    if not any(places.values()):
        return annotations["path"].tolist(), {}
    folder, paths, absent = check_folder(dataset), [], {}
    for sample, of in places.items():
        there = next((path for path in of if os.path.lexists(os.path.join(folder, path))), None)
        paths.append(there or of[0])
        if there is None:
            absent[sample] = of
    return paths, absent


def label_files(dataset: Dataset, samples: Sequence[str]) -> dict[str, Path]:
    """sample -> the file of its frames' labels, where a layout has one a sample and it is there."""
    return dataset.laid.label_files(dataset, samples)


def read_labels(dataset: Dataset, samples: Sequence[str]) -> Labels | None:
    """The labels of all frames; None of a layout whose frames have none.

    Raises:
        DatasetError: they cannot be used; the message names the video, the file and the remedy.
    """
    if not dataset.laid.labelled:
        return None
    labels = dataset.laid.labels(dataset, samples)
    if not isinstance(labels, Labels):
        raise DatasetError(
            f"layout {dataset.layout} is labelled, but its labels are a {type(labels).__name__}; return "
            "pipeline.datasets.labels.Labels there"
        )
    return labels
