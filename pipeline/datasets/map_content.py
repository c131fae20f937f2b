"""Reads files of maps: arrays, a picture, a folder of pictures, a video. Knows no store and not what a map belongs to.

Nothing in the files is trusted: no pickle is opened, no link followed out of the data set, every number looked at.

What the numbers of a file are divided by follows from that file alone, all of its frames, whatever its kind: a sample
in a store is what its own files say, and one clinician may write 0 and 1 where another writes 0 and 255. Whole numbers
are of as many bits as the largest needs, of 1, 8, 10, 12, 14 or 16: a file whose largest is 1 is a mask of 0 and 1. So
a faint map of bytes that nowhere exceeds 1 of 255 is taken for a mask; the report of the data set tells how many maps
have which unit, so that one that differs is seen. Floats that exceed 1, or stay far below, are divided by the largest.
"""

import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from pipeline.datasets.folders import followed
from pipeline.datasets.names import DatasetError
from pipeline.limits import MOST_PIXELS, MOST_UNPACKED
from pipeline.memory import refuse_shortage
from pipeline.video import VideoError, frame_starts, iterate_frames, probe, read_frames
from pipeline.video.map_pictures import read_map_picture
from pipeline.video.pictures import is_picture

ARRAYS = (".npy", ".npz")
# What the largest number of so many bits is: that which whole numbers may be divided by.
FULL = tuple(float(2**bits - 1) for bits in (1, 8, 10, 12, 14, 16))
# What float16 still holds in full precision is 6e-5: maps that stay far below 1, such as those that sum to 1, are
# divided by their largest number as those above 1 are.
FAINT = 1e-3
DECODED = 64 << 20  # bytes of a video's frames at once


class MapError(ValueError):
    """A map that cannot be used; the message is the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class MapFile:
    """The frames of one map.

    Attributes:
        frames: T; 1 of a still map.
        height, width, channels: of each frame.
        colours: the channels are those of a picture, and their mean is a map of one channel.
        unit: what its numbers are to be divided by to lie in [0, 1]. largest: of them all.
        at: ascending numbers of K frames -> (K, H, W, C) as the file has them.
    """

    frames: int
    height: int
    width: int
    channels: int
    colours: bool
    unit: float
    largest: float
    at: Callable[[np.ndarray], np.ndarray]


def open_map(path: Path, home: str | None) -> MapFile:
    """A map of any kind.

    Args:
        path: .npy or .npz of shape (T, H, W), (T, H, W, C) or (H, W) and uint8, uint16, bool or floats, an .npz of one
            array; a picture; a folder of pictures of one size, .png, in the order of their names, in which 10 comes
            after 9; or a video.
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
        refuse_shortage(error, path)
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
    if (numbers := prod(values_THWC.shape[1:])) > MOST_PIXELS:
        raise MapError(f"has {numbers} numbers a frame, and {MOST_PIXELS} are read at most; make it smaller")
    lowest, largest = (float(pick([pick(frame) for frame in values_THWC])) for pick in (np.min, np.max))
    if not (lowest >= 0 and np.isfinite(largest)):
        wrong = largest if lowest >= 0 else lowest
        raise MapError(f"holds {wrong:g}, expected finite numbers of at least 0; export it again")
    unit = _of_floats(largest) if values.dtype.kind == "f" else _full(largest)
    return MapFile(*values_THWC.shape, False, unit, largest, at=lambda frames: values_THWC[frames])


def _load(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found as archive:
                if len(archive.files) != 1:
                    raise MapError(f"holds the arrays {archive.files}, expected one; save it alone")
                _refuse_large(archive.zip)
                found = archive[archive.files[0]]
    except MapError:
        raise
    except FileNotFoundError:
        raise MapError("does not exist; correct the annotations") from None
    except Exception as error:  # archives and headers of any kind: which errors there are, only the libraries know
        refuse_shortage(error, path)
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MapError(f"cannot be read: no array of numbers in a whole .npy or .npz ({cause})") from None
    dtype = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
    if not isinstance(found, np.ndarray) or not (found.dtype.kind in "bf" or found.dtype in (np.uint8, np.uint16)):
        raise MapError(f"holds {dtype}, expected uint8, uint16, bool or floats; save it as one of these")
    return found


def _refuse_large(archive: zipfile.ZipFile) -> None:
    """Raises MapError where the one member of an .npz declares, to the archive or in its header, more than is read."""
    (member,) = archive.infolist()
    declared = member.file_size
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version in headers:
            shape, _, dtype = headers[version](stream)
            declared = max(declared, prod(shape) * dtype.itemsize)
    if declared > MOST_UNPACKED:
        raise MapError(
            f"unpacks to {declared} bytes, and {MOST_UNPACKED} are read at most; save it as .npy, which is not unpacked"
        )


def _of_floats(largest: float) -> float:
    return largest if largest > 1 or 0 < largest < FAINT else 1.0


def _full(largest: float) -> float:
    """What whole numbers are to be divided by.

    >>> [_full(largest) for largest in (0, 1, 2, 255, 4000, 65535)]
    [1.0, 1.0, 255.0, 255.0, 4095.0, 65535.0]
    """
    return next(full for full in FULL if largest <= full)


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
    first, largest = read_map_picture(paths[0]), 0.0
    height, width, channels = first.shape
    for path in paths:
        picture = read_map_picture(path)
        if picture.shape != first.shape or picture.dtype != first.dtype:
            this, that = (f"{of.shape[1]} x {of.shape[0]} pixels, {of.dtype}" for of in (first, picture))
            raise MapError(
                f"has pictures of {this}, and of {that} ({paths[0].name} and {path.name}); export them at one size and "
                "depth"
            )
        largest = max(largest, float(picture.max()))
    return MapFile(
        *(len(paths), height, width, channels),
        colours=True,
        unit=_full(largest),
        largest=largest,
        at=lambda frames: np.stack([read_map_picture(paths[number]) for number in frames]),
    )


def _of_video(path: Path) -> MapFile:
    facts = probe(path)
    starts = frame_starts(path, facts)
    piece = max(1, DECODED // (3 * facts.height * facts.width))
    largest = float(max(frames.max() for frames in iterate_frames(path, starts, facts=facts, piece=piece)))
    return MapFile(
        *(facts.frames, facts.height, facts.width, 3),
        colours=True,
        unit=_full(largest),
        largest=largest,
        at=lambda frames: read_frames(path, starts[frames], facts=facts),
    )
