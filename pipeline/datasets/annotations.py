"""The one face of all layouts: annotations of a data set, and where its videos lie. Opens no video."""

from pathlib import Path
from types import ModuleType

import pandas as pd

from pipeline.config import Dataset
from pipeline.datasets import ssv2

LAYOUTS: dict[str, ModuleType] = {"ssv2": ssv2}


def read_annotations(dataset: Dataset) -> pd.DataFrame:
    """One row a sample: `sample`, `path`, `label` (str or None), `split`, `template`; ids are unique.

    Cheap enough for plan time: it reads the annotation files of `dataset.layout` and looks at no video.

    Raises:
        DatasetError: the annotation files cannot be used; the message names the file and the remedy.
    """
    return LAYOUTS[dataset.layout].read_annotations(dataset)


def annotation_files(dataset: Dataset) -> list[Path]:
    """The files that `read_annotations` reads, in a fixed order.

    Raises:
        DatasetError: one that must be there is not; the message says where it was looked for.
    """
    return LAYOUTS[dataset.layout].annotation_files(dataset)


def video_folder(dataset: Dataset) -> Path:
    """The folder that a sample's `path` is relative to."""
    return Path(dataset.root) / dataset.videos
