"""The one face of all layouts: what a data set says of its samples. Opens no video and no picture."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pandas as pd

from pipeline.config import Dataset
from pipeline.datasets import clinic, epic, images, mstcn, ssv2, texts, waterbirds, words
from pipeline.datasets.labels import Labels

LAYOUTS: dict[str, ModuleType] = {
    "ssv2": ssv2, "images": images, "texts": texts, "mstcn": mstcn, "egoprocel": mstcn, "epic": epic,
    "waterbirds": waterbirds, "words": words, "clinic": clinic,
}  # fmt: skip
# Those whose frames have labels.
LABELLED = ("mstcn", "egoprocel", "epic")


def read_annotations(dataset: Dataset) -> pd.DataFrame:
    """One row a sample: `sample`, `path`, `label` (str or None), `split`, `template`; ids are unique.

    A layout that knows of maps, patients and clinicians also gives `map`, `patient` and `clinician` (str or None).

    Cheap enough for plan time: it reads the annotation files of `dataset.layout`, or lists the folders of one that has
    none, and looks at no video or picture, nor at labels of frames. A text is its own id, and has no path.

    Raises:
        DatasetError: the annotations cannot be used; the message names the file and the remedy.
    """
    return LAYOUTS[dataset.layout].read_annotations(dataset)


def annotation_files(dataset: Dataset) -> list[Path]:
    """The files that `read_annotations` reads, in a fixed order; empty where it only lists folders.

    Raises:
        DatasetError: one that must be there is not; the message says where it was looked for.
    """
    return LAYOUTS[dataset.layout].annotation_files(dataset)


def video_paths(dataset: Dataset, sample: str) -> tuple[str, ...]:
    """Where a sample's video may lie, below the videos' folder, in a layout that has such places; else nothing.

    Raises:
        DatasetError: the id is like none of the patterns of params.
    """
    return mstcn.video_paths(dataset, sample) if LAYOUTS[dataset.layout] is mstcn else ()


def label_files(dataset: Dataset, samples: Sequence[str]) -> dict[str, Path]:
    """sample -> the file of its frames' labels, where a layout has one a sample and it is there."""
    return LAYOUTS[dataset.layout].label_files(dataset, samples) if dataset.layout in LABELLED else {}


def read_labels(dataset: Dataset, samples: Sequence[str]) -> Labels | None:
    """The labels of all frames; None of a layout whose frames have none.

    Raises:
        DatasetError: they cannot be used; the message names the video, the file and the remedy.
    """
    return LAYOUTS[dataset.layout].read_labels(dataset, samples) if dataset.layout in LABELLED else None
