"""Viterbi with one cost for every change of class, against the best of all paths."""

from itertools import pairwise, product

import numpy as np
import pytest

from pipeline.heads.fact.decoding import decode


def value(scores, path, switch):
    """What is maximised."""
    changes = sum(one != other for one, other in pairwise(path))
    return sum(scores[t, c] for t, c in enumerate(path)) - switch * changes


def by_loops(scores, switch):
    """The textbook's Viterbi, every class against every class of the frame before."""
    best, back = list(scores[0]), []
    for row in scores[1:]:
        came = [max(range(len(row)), key=lambda k: best[k] - switch * (k != c)) for c in range(len(row))]
        best = [best[k] - switch * (k != c) + row[c] for c, k in enumerate(came)]
        back.append(came)
    path = [int(np.argmax(best))]
    for came in reversed(back):
        path.append(came[path[-1]])
    return path[::-1]


@pytest.mark.parametrize("switch", [0.0, 0.1, 0.4, 1.0, 7.0])
def test_no_path_of_all_is_better(switch):
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores = rng.random((6, 3))
        paths = [value(scores, path, switch) for path in product(range(3), repeat=6)]
        assert value(scores, decode(scores, switch).tolist(), switch) == pytest.approx(max(paths), abs=1e-12)


@pytest.mark.parametrize("switch", [0.0, 0.2, 0.7, 3.0])
def test_long_videos_get_the_path_of_loops_over_pairs_of_classes(switch):
    scores = np.random.default_rng(0).random((300, 11)) - 0.3 * (np.arange(11) < 4)
    assert decode(scores, switch).tolist() == by_loops(scores, switch)


def test_a_change_costs_nothing_or_too_much():
    scores = np.random.default_rng(1).random((40, 7))
    assert decode(scores, 0.0).tolist() == scores.argmax(1).tolist()
    assert set(decode(scores, 1e6).tolist()) == {int(scores.sum(0).argmax())}


def test_of_equals_the_first_class_is_taken_and_staying_is_preferred():
    assert decode(np.zeros((5, 3)), 0.5).tolist() == [0] * 5
    # Changing gains exactly what it costs.
    assert decode(np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 0.0]]), 0.5).tolist() == [0, 0, 0]


def test_a_video_of_one_frame_or_none_or_of_one_class_is_decoded():
    assert decode(np.array([[0.1, 0.9]]), 5.0).tolist() == [1]
    assert decode(np.zeros((0, 4)), 5.0).tolist() == []
    assert decode(np.zeros((3, 1)), 5.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "scores, switch, said",
    [
        (np.zeros((3, 2)), -1.0, "a cost of 0 or more"),
        (np.zeros((3, 2)), float("nan"), "a cost of 0 or more"),
        (np.zeros((3, 0)), 1.0, "a class at least"),
        (np.zeros(3), 1.0, r"\(frames, classes\)"),
        (np.array([[0.0, np.nan]]), 1.0, "not finite"),
    ],
)
def test_what_cannot_be_decoded_is_refused(scores, switch, said):
    with pytest.raises(ValueError, match=said):
        decode(scores, switch)
