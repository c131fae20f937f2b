"""When each frame starts, in integers. Knows no decoder's pixels and no sampling.

A stream counts its times in ticks (`pts`) of its time base. The start of a frame is told from these integers, as whole
microseconds after the first frame, rounded down:

- where every tick lies on the grid of one constant rate, rounded to the tick, frame k starts at k / rate. So the same
  film starts its frames at the same times in a container that rounds to milliseconds (Matroska, WebM, FLV) and in one
  that does not (MP4, MPEG-TS);
- elsewhere (a variable rate) a frame starts at its own tick.

A time that is asked for is rounded to the nearest microsecond. The frame at a time is the last one that starts at or
before it; before the first, the first. So a time that was computed to be a frame's start is at that frame, whatever the
last bits of a float say, and no frame is shown before it starts.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

MICROSECONDS = 1_000_000
# With fewer ticks a frame than this, a tick of tolerance could hide a missing frame: none is given.
FINE = 8


def microseconds(seconds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Times as int64, to the nearest microsecond, an array of any shape."""
    return np.rint(np.asarray(seconds, np.float64) * MICROSECONDS).astype(np.int64)


def at_rate(number: int, rate: Fraction) -> int:
    """When frame `number` of a constant rate starts: microseconds, rounded down.

    >>> [at_rate(number, Fraction(30)) for number in range(4)]
    [0, 33333, 66666, 100000]
    """
    return number * MICROSECONDS * rate.denominator // rate.numerator


def at_tick(ticks: int, time_base: Fraction) -> int:
    """When a frame starts that comes so many ticks after the first: microseconds, rounded down."""
    return ticks * MICROSECONDS * time_base.numerator // time_base.denominator


def constant_rate(ticks: Sequence[int], time_base: Fraction, said: Iterable[Fraction | None]) -> Fraction | None:
    """The rate on whose grid all frames lie; None of a variable rate.

    Tried are the rates that the container says, and those next to the mean that are round (n, or n * 1000 / 1001);
    round ones first, since FLV says 989/33 of 30000/1001. None is believed before each frame lies within a tick of its
    place, or, where a tick is longer than 1/8 of a frame, at it; the mean itself before all are at their places.

    Args:
        ticks: of each frame, ascending.
        time_base: seconds a tick.
        said: by the container.

    >>> constant_rate([0, 33, 67, 100], Fraction(1, 1000), [None])
    Fraction(30, 1)
    >>> constant_rate([0, 33, 67, 167], Fraction(1, 1000), [Fraction(30)]) is None
    True
    """
    given = [rate for rate in said if rate]
    tried = [rate for rate in given if rate.denominator in (1, 1001)]
    mean = None
    if len(ticks) > 1 and ticks[-1] > ticks[0]:
        mean = (len(ticks) - 1) / ((ticks[-1] - ticks[0]) * time_base)
        tried += [Fraction(round(mean)), Fraction(round(mean * 1001 / 1000) * 1000, 1001)]
    for rate in filter(None, (*tried, *given)):
        if _spread(ticks, rate * time_base) <= (0 if rate * time_base * FINE > 1 else 1):
            return rate
    return mean if mean and not _spread(ticks, mean * time_base) else None


def _spread(ticks: Sequence[int], rate: Fraction) -> Fraction:
    """How far apart, in ticks, frames lie from their places on the grid of so many frames a tick."""
    # In integers: ticks times the numerator.
    off = [rate.numerator * own - rate.denominator * number for number, own in enumerate(ticks)]
    return Fraction(max(off) - min(off), rate.numerator)


class Clock:
    """Tells the tick of each decoded frame. Must see each packet before its frames.

    AVI holds no presentation times: its ticks are the numbers of its chunks, empty ones included, which show the
    picture before them on. The i-th frame to be shown is shown from the i-th chunk that is not empty.

    Of Matroska libavformat reads no time below zero: it gives none, or a guess.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._counts = container.format.name == "avi" and bool(stream.average_rate)
        self._from_zero = "matroska" in container.format.name
        self._chunks: deque[int] = deque()
        self._next = 0

    def saw(self, packet: av.Packet) -> None:
        """Notes a packet that goes to the decoder."""
        if self._counts and packet.size:
            self._chunks.append(packet.dts)

    def tick(self, frame: av.VideoFrame) -> int | None:
        """When a frame is shown; None where the file does not say."""
        if self._counts:
            return self._chunks.popleft() if self._chunks else None
        return None if self._from_zero and frame.pts is not None and frame.pts < 0 else frame.pts

    def covered(self, packet: av.Packet) -> Iterable[int]:
        """The ticks for which a packet says what is shown: in AVI those of the empty chunks before it too."""
        if not self._counts:
            return (packet.pts,)
        first, self._next = min(self._next, packet.dts), packet.dts + 1
        return range(first, packet.dts + 1)

    @property
    def unshown(self) -> int | None:
        """Of AVI, how many chunks no frame came of so far."""
        return len(self._chunks) if self._counts else None

    def reset(self) -> None:
        """Forgets the packets before a seek."""
        self._chunks.clear()
