"""Reads files of maps: arrays, a picture, a folder of pictures, a video. Knows no store and not what a map belongs to.

Nothing in the files is trusted: no pickle is opened, no link followed out of the data set, every number looked at.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.datasets import DatasetError
from pipeline.datasets.folders import followed
from pipeline.video import VideoError, frame_starts, probe, read_frames
from pipeline.video.pictures import is_picture, read_picture

ARRAYS = (".npy", ".npz")
# What float16 still holds in full precision is 6e-5: maps that stay far below 1, such as those that sum to 1, are
# divided by their largest number as those above 1 are.
FAINT = 1e-3


class MapError(ValueError):
    """A map that cannot be used; the message is the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class MapFile:
    """The frames of one map.

    Attributes:
        frames: T; 1 of a still map.
        height, width, channels: of each frame.
        colours: the channels are those of a picture, and their mean is a map of one channel.
        unit: what its numbers are to be divided by to lie in [0, 1].
        at: ascending numbers of K frames -> (K, H, W, C) as the file has them.
    """

    frames: int
    height: int
    width: int
    channels: int
    colours: bool
    unit: float
    at: Callable[[np.ndarray], np.ndarray]


def open_map(path: Path, home: str | None) -> MapFile:
    """A map of any kind.

    Args:
        path: .npy or .npz of shape (T, H, W), (T, H, W, C) or (H, W) and uint8, bool or floats, an .npz of one array; a
            picture; a folder of pictures of one size, .png, in the order of their names, in which 10 comes after 9; or
            a video.
        home: the real folder that no link may leave; None where links may lead anywhere.

    Raises:
        MapError: the file leads out of `home`, cannot be read, has another shape or dtype, or holds a number that is
            negative or not finite.
    """
    _stay(path, home)
    try:
        if path.is_dir():
            return _of_pictures(_pictures_in(path, home))
        if path.suffix.lower() in ARRAYS:
            return _of_array(path)
        return _of_pictures([path]) if is_picture(path) else _of_video(path)
    except VideoError as error:
        raise MapError(f"cannot be read: {error.reason}: {error.detail}") from None
    except OSError as error:
        raise MapError(f"cannot be read: {error.strerror or error}; correct the annotations or the file") from None


def _stay(path: Path, home: str | None) -> None:
    try:
        followed(path, home)
    except DatasetError:
        raise MapError("leads out of the data set's root; set allow_links: true for this data set if meant") from None


# --- arrays -----------------------------------------------------------------------------------------------------------


def _of_array(path: Path) -> MapFile:
    values = _load(path)
    if values.ndim not in (2, 3, 4) or not values.size:
        raise MapError(f"has the shape {values.shape}, expected (T, H, W), (T, H, W, C) or (H, W), nothing of them 0")
    if values.ndim == 2:
        values = values[None]
    values_THWC = values[..., None] if values.ndim == 3 else values
    unit = 255.0 if values.dtype == np.uint8 else 1.0 if values.dtype == bool else _unit(values_THWC)
    return MapFile(*values_THWC.shape, colours=False, unit=unit, at=lambda frames: values_THWC[frames])


def _load(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found as archive:
                if len(archive.files) != 1:
                    raise MapError(f"holds the arrays {archive.files}, expected one; save it alone")
                found = archive[archive.files[0]]
    except MapError:
        raise
    except FileNotFoundError:
        raise MapError("does not exist; correct the annotations") from None
    except (OSError, EOFError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MapError(f"cannot be read: no array of numbers in a whole .npy or .npz ({cause})") from None
    dtype = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
    if not isinstance(found, np.ndarray) or not (found.dtype in (np.uint8, bool) or found.dtype.kind == "f"):
        raise MapError(f"holds {dtype}, expected uint8, bool or floats; save it as one of these")
    return found


def _unit(values_THWC: np.ndarray) -> float:
    """What floats are to be divided by; frame by frame, since a map in its file may be larger than memory."""
    lowest, highest = (float(pick([pick(frame) for frame in values_THWC])) for pick in (np.min, np.max))
    if not (lowest >= 0 and np.isfinite(highest)):
        wrong = highest if lowest >= 0 else lowest
        raise MapError(f"holds {wrong:g}, expected finite numbers of at least 0; export it again")
    return highest if highest > 1 or 0 < highest < FAINT else 1.0


# --- pictures and videos ----------------------------------------------------------------------------------------------


def _pictures_in(folder: Path, home: str | None) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() == ".png" and not path.name.startswith(".")]
    if not found:
        raise MapError("is a folder without a .png; correct the annotations")
    for path in found:
        _stay(path, home)
    return sorted(found, key=lambda path: ([int(p) if p.isdecimal() else p for p in _runs(path.stem)], path.name))


def _runs(name: str) -> list[str]:
    """Text and digits in turn, text first."""
    return re.split(r"(\d+)", name)


def _of_pictures(paths: Sequence[Path]) -> MapFile:
    height, width, channels = read_picture(paths[0]).shape

    def at(frames: np.ndarray) -> np.ndarray:
        pictures = [read_picture(paths[number]) for number in frames]
        for number, picture in zip(frames, pictures, strict=True):
            if picture.shape != (height, width, channels):
                raise MapError(
                    f"has pictures of {width} x {height} and {picture.shape[1]} x {picture.shape[0]} pixels "
                    f"({paths[0].name} and {paths[number].name}); export them at one size"
                )
        return np.stack(pictures)

    return MapFile(len(paths), height, width, channels, colours=True, unit=255.0, at=at)


def _of_video(path: Path) -> MapFile:
    facts = probe(path)
    starts = frame_starts(path, facts)
    return MapFile(
        *(facts.frames, facts.height, facts.width, 3),
        colours=True,
        unit=255.0,
        at=lambda frames: read_frames(path, starts[frames], facts=facts),
    )
