"""From the scores of frames the classes of a whole video, where a change of class has a cost. Knows no head.

Shape suffixes: T frames, C classes.
"""

from collections.abc import Callable
from functools import cache

import numpy as np


def decode(scores_TC: np.ndarray, switch: float) -> np.ndarray:
    """The classes y that maximise the sum over frames of scores[t, y_t] less `switch` for each change of class.

    Viterbi for a chain all of whose changes cost the same, so that a frame's best change comes from the best class of
    the frame before: exact in O(T * C). Where staying is as good as changing, it stays; of equal classes the first is
    taken. A cost of 0 gives each frame its own best class.

    Args:
        scores_TC: finite; the more, the likelier.
        switch: in units of the scores, at least 0.

    Returns:
        (T,) int64.

    Raises:
        ValueError: a negative cost, or scores that are not (T, C) with a class at least, or not finite.

    Source: Viterbi, "Error bounds for convolutional codes and an asymptotically optimum decoding algorithm", 1967;
    the linear-time step: Felzenszwalb & Huttenlocher, "Efficient Belief Propagation for Early Vision", IJCV 2006,
    section 3.1 (the Potts model).

    >>> decode(np.array([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1]]), switch=0.2).tolist()
    [0, 0, 0]
    """
    scores_TC = np.ascontiguousarray(scores_TC, dtype=np.float64)
    if not switch >= 0 or scores_TC.ndim != 2 or not scores_TC.shape[1]:
        raise ValueError(
            f"scores of shape {scores_TC.shape} and a cost of {switch}; expected (frames, classes), a class at least, "
            "and a cost of 0 or more"
        )
    if not np.isfinite(scores_TC).all():
        raise ValueError("some scores are not finite; a sum over frames cannot be weighed against them")
    return _compiled()(scores_TC, float(switch))


@cache
def _compiled() -> Callable[[np.ndarray, float], np.ndarray]:
    # Imported and compiled, in 1.4 s, by those who decode.
    from numba import njit

    return njit(_decoded)


def _decoded(scores_TC: np.ndarray, switch: float) -> np.ndarray:
    frames, classes = scores_TC.shape
    came_from_TC = np.empty((frames, classes), np.int32)  # the class of the frame before
    best_C = np.zeros(classes)  # of all that ends in each class, the best sum
    top = 0
    for t in range(frames):
        changed, before = best_C[top] - switch, top
        for c in range(classes):
            stays = best_C[c] >= changed
            came_from_TC[t, c] = c if stays else before
            best_C[c] = (best_C[c] if stays else changed) + scores_TC[t, c]
        top = 0
        for c in range(1, classes):
            if best_C[c] > best_C[top]:
                top = c
    label_T = np.empty(frames, np.int64)
    label = top
    for t in range(frames - 1, -1, -1):
        label_T[t] = label
        label = came_from_TC[t, label]
    return label_T
