"""Holds rates that somebody declared against the times of the videos themselves. Knows no feature and no store.

A rate that turns a number of a label or of a row into a time is true of a video or it is not: their number over the
rate is the video's duration. And numbers of frames have no rate where a video shows them for unequal times.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import Dataset
from pipeline.datasets.names import DatasetError

if TYPE_CHECKING:
    import pandas as pd

# What may be missing at a video's ends, as where windows need frames on both sides; and of a rate, 24 for 25 is more.
SECONDS, SHARE = 1.0, 0.02
LABELS = 2  # by which those of a video may differ anyway


def contradiction(count: int, rate: float, duration: float) -> str:
    """Why `count` rows at `rate` a second cannot be of a video of `duration` seconds; empty where they can.

    >>> contradiction(250, 25.0, 10.0), contradiction(238, 25.0, 10.0)
    ('', '')
    >>> contradiction(250, 25.0, 20.0)
    '250 rows at 25 a second are 10.0 s, but its video lasts 20.0 s, at which they would be 12.5 a second'
    """
    if not duration or abs(count / rate - duration) <= SECONDS + SHARE * duration:
        return ""
    return (
        f"{count} rows at {rate:g} a second are {count / rate:.1f} s, but its video lasts {duration:.1f} s, at which "
        f"they would be {count / duration:.4g} a second"
    )


def expect_label_rate(dataset: Dataset, frame: pd.DataFrame) -> None:
    """Of labels at `label_fps`, that most videos have as many as they have time for, or else at no other one rate.

    Single videos whose labels end early or late are the quality report's.

    Args:
        dataset: whose `label_fps` is held against `frame`, its manifest.

    Raises:
        DatasetError: most videos have labels at one and the same other rate.
    """
    both = frame[(frame["status"] == "ok") & frame["segments"].notna() & (frame["duration"].fillna(0) > 0)]
    if dataset.label_fps is None or both.empty:
        return
    labels = both["segments"].map(lambda runs: sum(run["frames"] for run in runs)).to_numpy(float)
    seconds = both["duration"].to_numpy(float)
    wrong = np.abs(labels - seconds * dataset.label_fps) > LABELS + SHARE * seconds * dataset.label_fps
    rate = float(np.median(labels / seconds))
    alike = np.abs(labels - seconds * rate) <= LABELS + SHARE * seconds * rate
    if 2 * (wrong & alike).sum() > len(both):
        first = int(np.flatnonzero(wrong & alike)[0])
        raise DatasetError(
            f"label_fps of the data set in {dataset.root} is {dataset.label_fps:g}, but {int((wrong & alike).sum())} "
            f"of its {len(both)} videos have about {rate:.4g} labels a second: {both['sample'].iloc[first]!r} has "
            f"{labels[first]:.0f} labels and lasts {seconds[first]:.2f} s; correct label_fps in params, or the labels"
        )


def unevenness(starts: Sequence[float] | np.ndarray) -> float:
    """By how many seconds the starts of a video's frames miss those of a constant rate at most.

    >>> unevenness([0.0, 0.5, 1.0, 1.5]), unevenness([0.0, 0.1, 0.2, 1.5])
    (0.0, 0.8)
    """
    starts = np.asarray(starts, np.float64)
    if len(starts) < 3:
        return 0.0
    return float(np.abs(starts - np.linspace(starts[0], starts[-1], len(starts))).max().round(6))


def time_frames(path: Path, facts: dict) -> float:
    """The `unevenness` of a video with these facts. Raises VideoError: it cannot be decoded as they say."""
    # Here and not at the top: the face of this package is imported at plan time, where no decoder should be loaded.
    from pipeline.video import VideoFacts, frame_starts

    return unevenness(frame_starts(path, VideoFacts(**facts)))
