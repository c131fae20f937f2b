"""Where a data set's files lie, and which links may be followed. Knows no layout."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Dataset
from pipeline.datasets.names import DatasetError

# Control characters, line separators, and bytes that are not UTF-8 (Python shows them as lone surrogates).
UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def video_folder(dataset: Dataset) -> Path:
    """The folder that a sample's `path` is relative to.

    Raises:
        DatasetError: the data set has none, only labels.
    """
    if dataset.videos is None:
        raise DatasetError(
            f"the data set in {dataset.root} has no videos (videos: null); use features that are imported, of backbone "
            "imported"
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
            "meant (of `permafrost init`: --allow-links)"
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


def files_below(top: str, home: str | None) -> Iterator[str]:
    """POSIX paths, relative to `top`, of all files below it that are not hidden, links among them, in no order."""
    # Each folder with the real folders that lead to it, so that a link back to one of them is seen.
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(top),))]
    while waiting:
        prefix, trail = waiting.pop()
        try:
            with os.scandir(os.path.join(top, prefix)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = prefix + entry.name
                    if UNUSABLE.search(entry.name):
                        raise DatasetError(
                            f"{top}: the name {path!r} is refused because it holds a control character or is not "
                            "UTF-8; rename that file or folder"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((f"{path}/", _extended(trail, os.path.join(trail[-1], entry.name), path)))
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        waiting.append((f"{path}/", _extended(trail, followed(entry.path, home), path)))
                    else:
                        yield path
        except OSError as error:
            raise DatasetError(
                f"{os.path.join(top, prefix)} cannot be listed: {error.strerror}; check its permissions"
            ) from None


def _extended(trail: tuple[str, ...], real: str, path: str) -> tuple[str, ...]:
    if real in trail:
        raise DatasetError(f"the folder {path} leads back to {real}, which it lies in; remove that link")
    return (*trail, real)
