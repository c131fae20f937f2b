"""Lists a folder of pictures: <videos' folder>/<class>/.../<file>, any depth. Opens no picture: runs at plan time.

A sample is a file whose name ends like a picture's, and its id is its path below the folder, suffix included, since
`7.jpg` and `7.png` may lie side by side. Its label is the first folder of that path; a picture that lies in no folder
has none. Hidden files and folders are passed over: `._7.jpg` is no picture but what a Mac leaves beside one. So is the
folder of masks, if params name one.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.folders import check_folder, followed, home_of
from pipeline.datasets.names import DatasetError

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SPLIT = "all"
# Control characters, line separators, and bytes that are not UTF-8 (Python shows them as lone surrogates).
UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Images(Layout):
    """A folder of pictures, a folder a class."""

    kind = "image"
    takes = frozenset({"masks"})

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a picture, sorted by path, character by character. No file is opened, and none but links looked up.

        Returns:
            Columns `sample`, `path` (equal: POSIX, relative to the videos' folder), `label` (or None), `split` ("all").
            Ignored are the files that are not pictures.

        Raises:
            DatasetError: the folder is absent or cannot be listed, holds no picture or a name that cannot be kept in a
                table, or a linked folder leads out of the root or back to itself.
        """
        folder = check_folder(dataset)
        paths, ignored = [], Counter()
        masks = None if dataset.masks is None else f"{os.path.relpath(Path(dataset.root, dataset.masks), folder)}/"
        for path in _files(str(folder), home_of(dataset)):
            if masks is not None and path.startswith(masks):
                continue
            suffix = os.path.splitext(path)[1].lower()
            if suffix in SUFFIXES:
                paths.append(path)
            else:
                ignored[suffix or "no suffix"] += 1
        if not paths:
            raise DatasetError(
                f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))}) among its {ignored.total()} files; "
                "correct the data set's root or videos in params"
            )
        paths.sort()
        labels = [path.partition("/")[0] if "/" in path else None for path in paths]
        return Annotations({"sample": paths, "path": paths, "label": labels, "split": SPLIT}, ignored=dict(ignored))

    def files(self, dataset: Dataset) -> list[Path]:
        """None: the pictures' places say all there is."""
        return []


def _files(top: str, home: str | None) -> Iterator[str]:
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
