"""Which file says where to look in a sample, an attention map or an object mask, and its digest. Opens no map as such.

A layout that names maps (clinic) does so itself; of layouts of pictures, params name a folder of masks.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.config import Dataset
from pipeline.datasets.folders import followed, home_of
from pipeline.datasets.names import DatasetError
from pipeline.memory import refuse_shortage


class MapFinding(NamedTuple):
    """What is known of one map: its largest number and what its numbers are divided by, or why it is no map."""

    largest: float = 0.0
    unit: float = 1.0
    refused: str = ""


def mask_paths(dataset: Dataset, paths: Sequence[str]) -> list[str | None]:
    """The mask of each picture, relative to the root: of a/b.jpg `<masks>/a/b.png` where that is there, else None.

    Raises:
        DatasetError: the folder of masks is absent, leads out of the root, or has not one picture's mask.
    """
    folder = Path(dataset.root, dataset.masks)
    if not folder.is_dir():
        raise DatasetError(f"the folder {folder} does not exist; correct the data set's masks in params")
    followed(folder, home_of(dataset))
    places = mask_places(dataset, paths)
    found = [place if os.path.lexists(os.path.join(dataset.root, place)) else None for place in places]
    if not any(found):
        raise DatasetError(
            f"none of the {len(paths)} pictures has a mask in {folder}: that of {paths[0]!r} was looked for at "
            f"{places[0]}; correct the data set's masks in params"
        )
    return found


def mask_places(dataset: Dataset, paths: Sequence[str]) -> list[str]:
    """Where the mask of each picture would lie, relative to the root; nothing where params name no masks."""
    if dataset.masks is None:
        return []
    return [str(PurePosixPath(dataset.masks, path).with_suffix(".png")) for path in paths]


def map_digests(dataset: Dataset, paths: Sequence[str | None]) -> list[str | None]:
    """The digest of each map: None where there is none, empty where it cannot be read or leads out of the root.

    Maps are hashed anew each time, unlike videos: they are small, and a digest that is stale would train on old maps.
    """
    digests = {path: _digest(Path(dataset.root, path), home_of(dataset)) for path in set(paths) if path is not None}
    return [digests.get(path) for path in paths]


def _digest(path: Path, home: str | None) -> str:
    """sha256 of a file; of a folder, over the name and sha256 of each of its files, sorted, hidden ones passed over."""
    try:
        if not path.is_dir():
            return _of_file(path, home)
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
        lines = (f"{name}\0{_of_file(path / name, home)}\n" for name in names)
        return hashlib.sha256("".join(lines).encode()).hexdigest() if names else ""
    except (OSError, DatasetError) as error:
        refuse_shortage(error, path)
        return ""


def _of_file(path: Path, home: str | None) -> str:
    followed(path, home)
    with path.open("rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise DatasetError(f"{path} is not a regular file")
        return hashlib.file_digest(stream, "sha256").hexdigest()
