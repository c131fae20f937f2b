"""Labels of frames and their runs: the manifest's column `segments`. Opens no file and no video.

Light on purpose: stage 2 reads labels with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

Segment = dict[str, Any]  # {"label": name of a class, "frames": how many in a row have it}


def run_lengths(labels: Iterable[str]) -> list[Segment]:
    """The runs of equal labels.

    >>> run_lengths(["cut", "cut", "peel"])
    [{'label': 'cut', 'frames': 2}, {'label': 'peel', 'frames': 1}]
    """
    return [{"label": label, "frames": sum(1 for _ in run)} for label, run in groupby(labels)]


def frame_labels(segments: Sequence[Segment], classes: Sequence[str]) -> np.ndarray:
    """The label of each frame: the inverse of `run_lengths`, as indices.

    Args:
        segments: of one sample.
        classes: names; a label is an index into them.

    Returns:
        (T,) int64.

    Raises:
        KeyError: a segment's label is not among the classes.

    >>> frame_labels([{"label": "cut", "frames": 2}, {"label": "peel", "frames": 1}], ["peel", "cut"]).tolist()
    [1, 1, 0]
    """
    index: Mapping[str, int] = {name: number for number, name in enumerate(classes)}
    labels = np.array([index[segment["label"]] for segment in segments], np.int64)
    return np.repeat(labels, [segment["frames"] for segment in segments])
