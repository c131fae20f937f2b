"""How much of the headline a head owes to each of its inputs: by ablation, and by permutation. Knows no head.

Shape suffixes: N samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

REPEATS = 5  # permutations
RESAMPLES = 200  # of the samples, for the deviation of an ablation


class Change(NamedTuple):
    """What is done to one stream: its values replaced by their mean over the samples, or, with a seed, permuted."""

    stream: str
    seed: tuple[int, ...] | None = None


class Streams(Protocol):
    """A head's inputs, and what is measured.

    Attributes:
        streams: name -> what it is, in words.
        metric: of the result, its headline.
        published: what the result says of it, in percent.
        strata: (N,) int64; samples are drawn anew within each.
    """

    streams: Mapping[str, str]
    metric: str
    published: float
    strata: np.ndarray

    def answers(self, changes: Sequence[Change | None]) -> list[Any]:
        """What the head says with each of the changes."""

    def score(self, answer: Any, rows: np.ndarray) -> float:
        """The metric of some samples, in percent; rows may repeat."""


def importance(task: Streams, seed: int, repeats: int = REPEATS, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The drop of the metric when a stream says nothing any more of the sample at hand.

    Ablation: all samples have the stream's mean. Its deviation is that of the drop over bootstrap resamples of the
    samples. Permutation: each sample has the stream of another. Its deviation is that over permutations.

    Returns:
        metric, base and samples; streams: name -> feature, ablation and permutation, each with drop, deviation and
        repeats, in percentage points.

    Source: Breiman, "Random Forests", 2001, section 10; Fisher, Rudin & Dominici, JMLR 2019.
    """
    names = list(task.streams)
    permuted = {
        name: [Change(name, (seed % 2**64, number, n)) for n in range(repeats)] for number, name in enumerate(names)
    }
    changes = [None, *map(Change, names), *(change for name in names for change in permuted[name])]
    base, *answers = task.answers(changes)
    found = dict(zip(changes[1:], answers, strict=True))
    everything = np.arange(len(task.strata))
    whole = task.score(base, everything)
    draws = [drawn(task.strata, [seed % 2**64, n]) for n in range(resamples)]
    before = [task.score(base, rows) for rows in draws]

    def measured(name: str) -> dict[str, Any]:
        ablated = found[Change(name)]
        again = [own - task.score(ablated, rows) for own, rows in zip(before, draws, strict=True)]
        drops = [whole - task.score(found[change], everything) for change in permuted[name]]
        return {
            "feature": task.streams[name],
            "ablation": _entry(whole - task.score(ablated, everything), again),
            "permutation": _entry(float(np.mean(drops)), drops),
        }

    return {
        "metric": task.metric,
        "base": whole,
        "samples": len(everything),
        "streams": {name: measured(name) for name in names},
    }


def drawn(strata: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """(N,) rows drawn with replacement, as many of each stratum as it has."""
    random = np.random.default_rng(seed)
    own = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    return np.concatenate([random.choice(rows, len(rows)) for rows in own])


def order(change: Change, n: int) -> np.ndarray:
    """(n,) the row whose stream each row gets."""
    return np.random.default_rng(change.seed).permutation(n)


def _entry(drop: float, repeated: Sequence[float]) -> dict[str, Any]:
    return {"drop": drop, "deviation": float(np.std(repeated, ddof=1)), "repeats": len(repeated)}
