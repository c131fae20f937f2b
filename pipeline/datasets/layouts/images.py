"""Lists a folder of pictures: <videos' folder>/<class>/.../<file>, any depth. Opens no picture: runs at plan time.

A sample is a file whose name ends like a picture's, and its id is its path below the folder, suffix included, since
`7.jpg` and `7.png` may lie side by side. Its label is the first folder of that path; a picture that lies in no folder
has none. Hidden files and folders are passed over: `._7.jpg` is no picture but what a Mac leaves beside one. So is the
folder of masks, if params name one.
"""

import os
from collections import Counter
from pathlib import Path

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.folders import check_folder, files_below, home_of
from pipeline.datasets.names import DatasetError

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SPLIT = "all"


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
        for path in files_below(str(folder), home_of(dataset)):
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
