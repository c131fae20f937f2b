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
    place, or, where a tick is longer than 1/8 of a frame, at it.

    Args:
        ticks: of each frame, ascending.
        time_base: seconds a tick.
        said: by the container.

    >>> constant_rate([0, 33, 67, 100], Fraction(1, 1000), [None])
    Fraction(30, 1)
    >>> constant_rate([0, 33, 67, 167], Fraction(1, 1000), [Fraction(30)]) is None
    True
    """
    candidates = [rate for rate in said if rate]
    odd = [rate for rate in candidates if rate.denominator not in (1, 1001)]
    candidates = [rate for rate in candidates if rate not in odd]
    if len(ticks) > 1 and ticks[-1] > ticks[0]:
        mean = float((len(ticks) - 1) / ((ticks[-1] - ticks[0]) * time_base))
        candidates += [Fraction(round(mean)), Fraction(round(mean * 1.001) * 1000, 1001)]
    for rate in (*filter(None, candidates), *odd):
        # In units of 1 / (denominators) of a tick, so that all are integers.
        step, tick = (rate * time_base).denominator, (rate * time_base).numerator
        off = [tick * own - step * number for number, own in enumerate(ticks)]
        if max(off) - min(off) <= (0 if rate * time_base * FINE > 1 else tick):
            return rate
    return None


class Clock:
    """Tells the tick of each decoded frame. Must see each packet before its frames.

    AVI holds no presentation times: its ticks are the numbers of its chunks, empty ones included, which show the
    picture before them on. The i-th frame to be shown is shown from the i-th chunk that is not empty.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._counts = container.format.name == "avi" and bool(stream.average_rate)
        self._chunks: deque[int] = deque()

    def saw(self, packet: av.Packet) -> None:
        """Notes a packet that goes to the decoder."""
        if self._counts and packet.size:
            self._chunks.append(packet.dts)

    def tick(self, frame: av.VideoFrame) -> int | None:
        """When a frame is shown; None where the file does not say."""
        if not self._counts:
            return frame.pts
        return self._chunks.popleft() if self._chunks else None

    @property
    def unshown(self) -> int:
        """Chunks that no frame came of so far."""
        return len(self._chunks)

    def reset(self) -> None:
        """Forgets the packets before a seek."""
        self._chunks.clear()
