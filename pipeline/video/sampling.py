"""The moments at which a video is looked at. Pure arithmetic on seconds: knows no file and no decoder."""

from typing import Protocol

import numpy as np

# Matroska rounds times, and so durations, to a millisecond: what is nearer than that is the same moment.
ROUNDING = 0.001


class Sampling(Protocol):
    """What params.yaml says of moments: `frames`, or `fps`, or `frames`, `fps` and `windows`; the others are None."""

    @property
    def frames(self) -> int | None: ...

    @property
    def fps(self) -> float | None: ...

    @property
    def windows(self) -> int | None: ...


def segment_centres(n: int, duration: float) -> np.ndarray:
    """The centres of n equal segments.

    Args:
        n: number of segments, at least 1.
        duration: seconds.

    Returns:
        (n,) float64 seconds, t_i = (i + 0.5) / n * duration.

    >>> segment_centres(4, 2.0).tolist()
    [0.25, 0.75, 1.25, 1.75]
    """
    return (np.arange(n) + 0.5) / n * duration


def steps(fps: float, duration: float) -> np.ndarray:
    """The centres of as many whole steps of 1/fps as fit, and one at least.

    >>> steps(2.0, 1.7).tolist()
    [0.25, 0.75, 1.25]
    """
    return (np.arange(max(1, int((duration + ROUNDING) * fps))) + 0.5) / fps


def windows(n: int, fps: float, count: int, duration: float) -> np.ndarray:
    """Windows of n steps of 1/fps: the first starts with the video, the last ends with it, the others evenly between.

    A window longer than the video starts with it and reaches beyond its end, where the last frame is shown.

    Returns:
        (count, n) float64 seconds, the centres of the steps.

    >>> windows(2, 4.0, 3, 1.0).tolist()
    [[0.125, 0.375], [0.375, 0.625], [0.625, 0.875]]
    """
    starts = np.linspace(0, max(0.0, duration - n / fps), count)
    return starts[:, None] + (np.arange(n) + 0.5) / fps


def sampling_times(sampling: Sampling, duration: float) -> np.ndarray:
    """The moments that `sampling` asks of a video.

    Args:
        sampling: of one of the three kinds; its own model has checked it.
        duration: seconds; 0 for a still picture, which is the same at every moment.

    Returns:
        (k,) float64 seconds, ascending within each window: k = frames, or windows * frames, window after window, or,
        for a rate alone, as many as the video is long.

    Raises:
        ValueError: another combination of the three.
    """
    match sampling.frames, sampling.fps, sampling.windows:
        case int(n), None, None:
            times = segment_centres(n, duration)
        case None, float(fps), None:
            times = steps(fps, duration)
        case int(n), float(fps), int(count):
            times = windows(n, fps, count, duration).ravel()
        case kind:
            raise ValueError(f"got (frames, fps, windows) {kind}, expected frames, or fps, or all three")
    return times if duration else np.zeros_like(times)
