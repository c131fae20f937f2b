"""Claims about importance, on a head small enough to be written as loops."""

import numpy as np
import pytest

from pipeline.explanation.importance import Change, drawn, importance, order


class Sum:
    """Recognises a sample where its two streams add up to its label; the second says nothing."""

    metric, streams = "top1", {"tells": "a", "silent": "b"}

    def __init__(self, samples: int = 40) -> None:
        random = np.random.default_rng(0)
        self.values = {"tells": random.integers(0, 4, samples), "silent": np.zeros(samples, int)}
        self.labels = self.values["tells"].copy()
        self.labels[:5] += 1
        self.strata = np.zeros(samples, int)
        self.asked: list[Change | None] = []

    def answers(self, changes):
        self.asked = list(changes)
        found = []
        for change in changes:
            values = dict(self.values)
            if change is not None:
                own = values[change.stream]
                values[change.stream] = own[order(change, len(own))] if change.seed else np.full_like(own, own.mean())
            found.append(values["tells"] + values["silent"] == self.labels)
        return found

    def score(self, answer, rows):
        return 100 * float(answer[rows].mean())


def test_the_drops_are_those_of_loops():
    task = Sum()
    found = importance(task, seed=7, repeats=3, resamples=50)
    right = sum(int(a == b) for a, b in zip(task.values["tells"], task.labels, strict=True))
    assert found["base"] == pytest.approx(100 * right / 40) and found["samples"] == 40
    drops = []
    for change in task.asked:
        if change is not None and change.stream == "tells" and change.seed:
            places = order(change, 40)
            kept = sum(int(task.values["tells"][places[i]] == task.labels[i]) for i in range(40))
            drops.append(100 * (right - kept) / 40)
    told = found["streams"]["tells"]["permutation"]
    assert told["drop"] == pytest.approx(np.mean(drops)) and told["deviation"] == pytest.approx(np.std(drops, ddof=1))
    mean = int(task.values["tells"].mean())
    kept = sum(int(mean == label) for label in task.labels)
    assert found["streams"]["tells"]["ablation"]["drop"] == pytest.approx(100 * (right - kept) / 40)


def test_a_stream_that_says_nothing_has_no_importance_and_no_deviation():
    silent = importance(Sum(), seed=1)["streams"]["silent"]
    assert all(silent[kind]["drop"] == silent[kind]["deviation"] == 0 for kind in ("ablation", "permutation"))


def test_seeds_decide_everything():
    assert importance(Sum(), seed=1) == importance(Sum(), seed=1)
    assert importance(Sum(), seed=1) != importance(Sum(), seed=2)


def test_streams_are_permuted_independently_and_anew_each_time():
    task = Sum()
    importance(task, seed=1, repeats=3)
    orders = [tuple(order(change, 40)) for change in task.asked if change is not None and change.seed]
    assert len(set(orders)) == len(orders) == 6


def test_resamples_keep_the_size_of_each_stratum():
    strata = np.array([0, 0, 0, 1, 1, 2])
    rows = drawn(strata, [3])
    assert strata[rows].tolist() == strata.tolist()
