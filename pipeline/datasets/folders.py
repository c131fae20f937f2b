"""Where a data set's files lie, and which links may be followed. Knows no layout."""

import os
from pathlib import Path

from pipeline.config import Dataset
from pipeline.datasets.names import DatasetError


def video_folder(dataset: Dataset) -> Path:
    """The folder that a sample's `path` is relative to.

    Raises:
        DatasetError: the data set has none, only labels.
    """
    if dataset.videos is None:
        raise DatasetError(
            f"the data set in {dataset.root} has no videos (videos: null); use features that are imported, of backbone "
            "npy"
        )
    return Path(dataset.root) / dataset.videos


def home_of(dataset: Dataset) -> str | None:
    """The real folder that no link may leave: the root, wherever it is linked from; None where links may lead out."""
    return None if dataset.allow_links else os.path.realpath(dataset.root)


def is_inside(path: str, home: str) -> bool:
    """Whether a real path is `home`, or below it."""
    return path == home or path.startswith(home.rstrip(os.sep) + os.sep)


def followed(path: str | Path, home: str | None) -> str:
    """The real path behind `path`.

    Raises:
        DatasetError: it lies outside `home`.
    """
    target = os.path.realpath(path)
    if home is not None and not is_inside(target, home):
        raise DatasetError(
            f"{path} leads to {target}, outside the root {home}; set allow_links: true for this data set if that is "
            "meant"
        )
    return target


def check_folder(dataset: Dataset) -> Path:
    """The videos' folder, if it may be used.

    Raises:
        DatasetError: it does not exist, or leads out of the root.
    """
    folder = video_folder(dataset)
    if not folder.is_dir():
        raise DatasetError(f"the folder {folder} does not exist; correct the data set's root or videos in params")
    followed(folder, home_of(dataset))
    return folder
