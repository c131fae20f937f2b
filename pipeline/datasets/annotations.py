"""The one face of all layouts: what a data set says of its samples. Opens no video and no picture."""

from pathlib import Path
from types import ModuleType

import pandas as pd

from pipeline.config import Dataset
from pipeline.datasets import images, ssv2, texts

LAYOUTS: dict[str, ModuleType] = {"ssv2": ssv2, "images": images, "texts": texts}


def read_annotations(dataset: Dataset) -> pd.DataFrame:
    """One row a sample: `sample`, `path`, `label` (str or None), `split`, `template`; ids are unique.

    Cheap enough for plan time: it reads the annotation files of `dataset.layout`, or lists the folders of one that has
    none, and looks at no video or picture. A text is its own id, and has no path.

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
