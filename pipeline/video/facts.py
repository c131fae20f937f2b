"""What is said of a video: its facts, or why it cannot be used. Knows no decoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Reason = Literal["missing", "empty", "unreadable", "unsupported", "no_video", "short", "decode_error"]

PICTURES = ("jpeg", "png", "webp", "bmp", "gif", "tiff")


class VideoError(ValueError):
    """A video that cannot be used. `reason` is one word for tables, the message one sentence that names the file."""

    def __init__(self, path: Path | str, reason: Reason, detail: str):
        super().__init__(path, reason, detail)  # all three, so that it survives pickling on its way out of a worker
        self.path, self.reason, self.detail = Path(path), reason, detail

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}: {self.detail}"


@dataclass(frozen=True)
class VideoFacts:
    """The facts of a whole, readable video, or of a still picture, which is a video of one frame.

    Attributes:
        duration: seconds from the start of the first shown frame to the end of the last; 0 for a picture.
        frames: number of shown frames, counted by decoding.
        fps: frames a second as the container states it, else the mean; 0 where neither is known, and for a picture.
        width: in pixels as shown, that is after rotation; height likewise.
        codec: its canonical name, such as "vp9"; a picture's format, such as "jpeg"; "gif" and "apng" of animations.
        rotation: degrees counter-clockwise by which decoded frames are turned to be shown: 0, 90, 180 or 270. Pictures
            are turned as they are read: 0.
        edit_list: some packets are to be decoded but not shown.
        decord_exact: decord gives the same frames at the same times.
    """

    duration: float
    frames: int
    fps: float
    width: int
    height: int
    codec: str
    rotation: int
    edit_list: bool
    decord_exact: bool

    @property
    def still(self) -> bool:
        """Whether it is a picture file."""
        return self.codec in PICTURES and not self.duration


@contextmanager
def blaming(path: Path, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever one file's bytes make a library raise becomes that file's VideoError, so that no other pays for it.

    Args:
        path: the file.
        passing: errors that are not of its making, such as those of a store that is read beside it.
    """
    try:
        yield
    except (VideoError, *passing):
        raise
    except Exception as error:  # which kinds there are, only the libraries know
        cause = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise VideoError(path, "decode_error", f"{cause}; fetch it again, or encode it anew") from error


def must_hold_bytes(path: Path) -> None:
    """Raises VideoError where there is no file (missing), or nothing in it (empty)."""
    if not path.is_file():
        raise VideoError(path, "missing", "there is no such file; correct the annotations, the root or the extension")
    if path.stat().st_size == 0:
        raise VideoError(path, "empty", "the file has no bytes; fetch it again")
