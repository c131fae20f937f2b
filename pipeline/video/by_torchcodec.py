"""torchcodec, which is believed only where it was proved. Everything that calls it. Knows no sampling.

An optional library: it is imported when a feature asks for it, and not before. It decodes with the FFmpeg of the
machine, or with the decoder of an NVIDIA GPU, so what was proved of one machine's libraries is not proved of another's.

Like decord it finds frames by number: it sorts the times of all packets, goes to the key frame before the frame wanted
and decodes up to that frame's time. Seen to be wrong: groups of pictures that are open or refreshed bit by bit, begun
at a key frame in the middle; 10-bit colours, which its converter rounds otherwise than PyAV's; AVI whose frames have no
times.
"""

import importlib
import re
from collections.abc import Iterable, Iterator
from ctypes.util import find_library
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from pipeline.memory import first_line, refuse_shortage
from pipeline.video.facts import VideoError, VideoFacts
from pipeline.video.sampling import ROUNDING

# The names of its ways to decode in params -> torch's name of the device.
DEVICES = {"torchcodec": "cpu", "torchcodec_cuda": "cuda"}
# Native frames at once in a trial.
TRIED_BYTES = 64 << 20
# A GPU converts colours by other arithmetic. Its frames are told by the means of so many rows and columns of cells,
# which may be so many grey levels apart.
CELLS, GREYS = 12, 3.0
INSTALL = "pip install 'torchcodec>=0.17,<0.18'"
FFMPEG = "install FFmpeg's shared libraries, of a version from 4 to 9 (apt-get install ffmpeg, or conda install ffmpeg)"
INSTEAD = "or set decoder: auto"
# What it puts before a message: a function and a line of its sources.
PLACE = re.compile(r"^\w+, \S+:\d+, ")


class DecoderMissing(RuntimeError):
    """A decoder that params ask for is not on this machine; the message gives the remedy."""


def expect(decoder: str) -> dict[str, str]:
    """Refuses a machine that lacks what a decoder needs, before any file is opened.

    Returns:
        name -> version of the libraries that decode; nothing of a decoder that is no torchcodec.

    Raises:
        DecoderMissing: torchcodec, its FFmpeg or the GPU is not there.

    >>> expect("auto")
    {}
    """
    if decoder not in DEVICES:
        return {}
    try:
        torchcodec, core, _ = map(importlib.import_module, ("torchcodec", "torchcodec._core", "torchcodec.decoders"))
    except ModuleNotFoundError:
        raise DecoderMissing(f"decoder {decoder}: torchcodec is not installed; {INSTALL}, {INSTEAD}") from None
    except (ImportError, OSError, RuntimeError) as error:
        raise DecoderMissing(
            f"decoder {decoder}: torchcodec cannot be loaded ({first_line(error)}); install the torchcodec that is "
            f"built for this torch, {INSTEAD}"
        ) from None
    if torchcodec.ffmpeg_major_version is None:
        there = find_library("avcodec")
        said = f"finds FFmpeg ({there}) and cannot load it" if there else "finds no FFmpeg"
        built = "install the torchcodec that is built for this torch (a CPU build of torch takes its CPU build), or "
        raise DecoderMissing(f"decoder {decoder}: torchcodec {said}; {built if there else ''}{FFMPEG}, {INSTEAD}")
    if DEVICES[decoder] == "cuda":
        torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            raise DecoderMissing(
                f"decoder {decoder}: torch finds no CUDA device here; set decoder: torchcodec, which decodes on the "
                f"CPU, {INSTEAD}"
            )
    return {"torchcodec": torchcodec.__version__, "ffmpeg": core.get_ffmpeg_library_versions()["ffmpeg_version"]}


def doubt(path: Path, decoder: str, facts: VideoFacts, starts: np.ndarray, frames: Iterable[np.ndarray]) -> str:
    """Why torchcodec is not to be believed on a file; "" where every frame of it is proved.

    Every frame is compared, read as an extraction may read it: from the last key frame to the first, so that each group
    of pictures begins with a seek. On the CPU frames must be PyAV's bit for bit; on a GPU, whose colours are rounded
    otherwise, nearly so.

    Args:
        path: the video.
        decoder: "torchcodec" or "torchcodec_cuda".
        facts: of the whole file.
        starts: (n,) seconds at which PyAV says that each frame starts, from the first.
        frames: PyAV's, all of them in order, in pieces (k, H, W, 3) uint8.

    Raises:
        Shortage: memory of the machine or of its GPU does not suffice.
    """
    told = [_told(frame, decoder) for piece in frames for frame in piece]
    try:
        film = _Film(path, decoder, facts, starts)
        at_once = max(1, TRIED_BYTES // (3 * facts.height * facts.width))
        begins = [*film.key_frames(), len(starts)]
        for begin, end in reversed([*pairwise(begins)]):
            for first in range(begin, end, at_once):
                numbers = range(first, min(first + at_once, end))
                for number, frame in zip(numbers, film.at(list(numbers)), strict=True):
                    if not _same(told[number], _told(frame, decoder)):
                        return f"it gives another picture than frame {number}"
    except VideoError as error:
        return error.detail.partition(", but its facts")[0]
    return ""


def iterate(
    path: Path, decoder: str, numbers: np.ndarray, facts: VideoFacts, starts: np.ndarray, piece: int
) -> Iterator[np.ndarray]:
    """The frames of these numbers, ascending, repeats allowed, in pieces: (piece, H, W, 3) uint8.

    Args:
        path, decoder, facts, starts: as for `doubt`.

    Raises:
        VideoError: torchcodec fails, or gives frames of other times or of another size than `facts` and `starts`.
    """
    film = _Film(path, decoder, facts, starts)
    for start in range(0, len(numbers), piece):
        indices, places = np.unique(numbers[start : start + piece], return_inverse=True)
        frames = film.at(indices.tolist())
        yield frames if len(frames) == len(places) else frames[places]


class _Film:
    """An opened video whose frames must have the times that PyAV says."""

    def __init__(self, path: Path, decoder: str, facts: VideoFacts, starts: np.ndarray) -> None:
        from torchcodec.decoders import VideoDecoder

        self.path, self.facts, self.starts = path, facts, starts
        options = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "device": DEVICES[decoder]}
        # A path from the root is no address, whatever the file is called.
        self._decoder = self._asked(lambda: VideoDecoder(str(path.absolute()), **options))
        if len(self._decoder) != len(starts):
            raise self._other(f"{len(self._decoder)} frames")
        if DEVICES[decoder] != "cpu" and self._decoder.cpu_fallback:
            raise VideoError(path, "unproved", f"the GPU does not decode it ({self._decoder.cpu_fallback})")
        self._first = self._decoder.metadata.begin_stream_seconds

    def key_frames(self) -> list[int]:
        """The numbers of the frames that it may seek to, the first frame first."""
        found = self._asked(self._decoder._get_key_frame_indices).tolist()
        return sorted({0, *(number for number in found if number < len(self.starts))})

    def at(self, numbers: list[int]) -> np.ndarray:
        """(n, H, W, 3) uint8. Each frame must start when PyAV says."""
        batch = self._asked(lambda: self._decoder.get_frames_at(numbers))
        off = np.abs(batch.pts_seconds.numpy() - self._first - self.starts[numbers])
        # A container that rounds to milliseconds is that far from the grid of a constant rate.
        if off.max(initial=0.0) > ROUNDING + 1e-6:
            raise self._other(f"frame {numbers[int(off.argmax())]} at another time")
        frames = batch.data.cpu().numpy()
        if frames.shape[1:] != (self.facts.height, self.facts.width, 3):
            raise self._other(f"frames of {frames.shape[2]} x {frames.shape[1]}")
        return frames

    def _asked(self, ask: Any) -> Any:
        try:
            return ask()
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            refuse_shortage(error, self.path)
            said = PLACE.sub("", first_line(error))
            raise VideoError(self.path, "decode_error", f"torchcodec fails: {said}") from error

    def _other(self, got: str) -> VideoError:
        said = f"{self.facts.frames} frames of {self.facts.width} x {self.facts.height}"
        return VideoError(
            self.path, "decode_error", f"torchcodec gives {got}, but its facts say {said}; make the manifest again"
        )


def _told(frame: np.ndarray, decoder: str) -> Any:
    """What a frame is told by: on the CPU its every bit."""
    if DEVICES[decoder] == "cpu":
        return crc32(np.ascontiguousarray(frame))
    height, width = (max(1, side // CELLS) for side in frame.shape[:2])
    whole = frame[: frame.shape[0] // height * height, : frame.shape[1] // width * width].astype(np.float32)
    cells = whole.reshape(whole.shape[0] // height, height, whole.shape[1] // width, width, 3)
    return cells.mean(axis=(1, 3)).round(1).astype(np.float16)


def _same(one: Any, other: Any) -> bool:
    return bool(np.all(np.abs(np.subtract(one, other, dtype=np.float64)) <= (0 if isinstance(one, int) else GREYS)))
