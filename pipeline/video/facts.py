"""What is said of a video: its facts, or why it cannot be used. Knows no decoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from pipeline.memory import refuse_shortage

Reason = Literal[
    "missing", "empty", "unreadable", "unsupported", "no_video", "short", "decode_error", "unproved", "replaced"
]

# Of a file that decord may be able to read: whether it does costs more than the manifest would pay for each.
UNTRIED = "not tried"

PICTURES = ("jpeg", "png", "webp", "bmp", "gif", "tiff")


class VideoError(ValueError):
    """A video that cannot be used. `reason` is one word for tables, the message one sentence that names the file."""

    def __init__(self, path: Path | str, reason: Reason, detail: str):
        super().__init__(path, reason, detail)  # all three, so that it survives pickling on its way out of a worker
        self.path, self.reason, self.detail = Path(path), reason, detail

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}: {self.detail}"

    @property
    def as_failure(self) -> str:
        """What a store says of its sample: the reason first, by which tables group."""
        return f"{self.reason}: {self.path}: {self.detail}"


@dataclass(frozen=True)
class VideoFacts:
    """The facts of a whole, readable video, or of a still picture, which is a video of one frame.

    With a `start` they are those of a clip within it: times count from there, and none shows a frame of before the clip
    or after it. All but `duration` stay the file's.

    Attributes:
        duration: seconds from the start of the first shown frame to the end of the last; 0 for a picture.
        frames: number of shown frames, counted by decoding.
        fps: frames a second as the container states it, else the mean; 0 where neither is known, and for a picture.
        width: in pixels as shown, that is after rotation; height likewise.
        codec: its canonical name, such as "vp9"; a picture's format, such as "jpeg"; "gif" and "apng" of animations.
        rotation: degrees counter-clockwise by which decoded frames are turned to be shown: 0, 90, 180 or 270. Pictures
            are turned as they are read: 0.
        edit_list: some packets are to be decoded but not shown.
        mirrored: decoded frames are mirrored, left to right, before they are turned. Pictures are as they are read.
        video_streams: how many there are in the file; the best one is read.
        grid: the constant rate on whose grid all frames lie, as a fraction such as "30000/1001"; "" where they are
            shown for unequal times, and for a picture. See `pipeline.video.timing`.
        key_frames: where decoding may begin, as `pipeline.video.landings` writes it; "" for a picture.
        decord_doubt: why decord is not to be believed on this file; `UNTRIED` where only a trial can tell; "" where its
            frames are proved to be the same (`probe(path, decord=True)`).
        start: of a clip, seconds into the file; None of a whole file.
    """

    duration: float
    frames: int
    fps: float
    width: int
    height: int
    codec: str
    rotation: int
    edit_list: bool
    mirrored: bool = False
    video_streams: int = 1
    grid: str = ""
    key_frames: str = ""
    decord_doubt: str = UNTRIED
    start: float | None = None

    @property
    def decord_exact(self) -> bool:
        """Whether decord is proved to give the same frames at the same times."""
        return self.decord_doubt == ""

    @property
    def rate(self) -> Fraction | None:
        """`grid` as a number; None where there is none."""
        return Fraction(self.grid) if self.grid else None

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

    Raises:
        Shortage: the machine is at fault.
    """
    try:
        yield
    except (VideoError, *passing):
        raise
    except Exception as error:  # which kinds there are, only the libraries know
        refuse_shortage(error, path)
        cause = f"{type(error).__name__}: {cause_of(error)}".removesuffix(": ")
        raise VideoError(path, "decode_error", f"{cause}; fetch it again, or encode it anew") from error


def cause_of(error: Exception) -> str:
    """What an error says, without the name of the file, which stands in front of it already."""
    return getattr(error, "strerror", None) or str(error)


def must_hold_bytes(path: Path) -> None:
    """Raises VideoError where there is no file (missing), or nothing in it (empty)."""
    if not path.is_file():
        raise VideoError(path, "missing", "there is no such file; correct the annotations, the root or the extension")
    if path.stat().st_size == 0:
        raise VideoError(path, "empty", "the file has no bytes; fetch it again")
