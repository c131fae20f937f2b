"""Figures over resamples of the evaluated samples, kept with each result so that results can be compared in pairs.

A Poisson bootstrap: in each draw a unit counts Poisson(1) times, by a stream of random numbers that its name alone
decides. So a draw weighs a video alike in every result that has it, whatever the head, the seed and the other videos,
and the difference of two results in one draw is the difference on one resample. Of results that share no unit the draws
are independent.

Shape suffixes: D draws, N samples.
Source: Hanley & MacGibbon, "Creating non-parametric bootstrap samples using Poisson frequencies", Computer Methods and
Programs in Biomedicine, 2006.
"""

import hashlib
from collections.abc import Sequence

import numpy as np


class Draws:
    """Resamples of samples, and figures over them.

    Attributes:
        draws: D.
        units: how many are drawn.
        weights: (D, N) float64, how often each sample counts.
        figures: dotted path of a figure in the result -> (D,) float64, NaN where a draw has nothing to judge.
    """

    def __init__(self, units: Sequence[str], draws: int) -> None:
        """
        Args:
            units: of each sample, what is drawn: its dataset and its name, or its patient's, whose samples are drawn
                together.
            draws: D.
        """
        place = {name: number for number, name in enumerate(dict.fromkeys(units))}
        self.draws, self.units = draws, len(place)
        weights_DU = np.stack([_stream(name).poisson(1.0, draws).astype(np.uint8) for name in place], axis=1)
        self.weights = weights_DU[:, [place[name] for name in units]].astype(np.float64)
        self.figures: dict[str, np.ndarray] = {}

    def share(self, figure: str, values_N: np.ndarray, scale: float = 1.0, weights: np.ndarray | None = None) -> None:
        """Adds a figure that is `scale` times the mean of samples' values; a value that is NaN does not count.

        Args:
            figure: its path.
            values_N: bool or numbers.
            scale: such as 100.
            weights: (D, n) where the values are of other samples.
        """
        weights_DN = self.weights if weights is None else weights
        known_N = ~np.isnan(values_N := np.asarray(values_N, dtype=np.float64))
        total_D, summed_D = weights_DN @ known_N, weights_DN @ np.where(known_N, values_N, 0.0)
        self.figures[figure] = scale * np.divide(summed_D, total_D, out=np.full(self.draws, np.nan), where=total_D > 0)

    def constant(self, figure: str, value: float) -> None:
        """Adds a figure that does not depend on samples."""
        self.figures[figure] = np.full(self.draws, value, dtype=np.float64)


def units(dataset: str, names: Sequence[str]) -> list[str]:
    """What `Draws` draws of a dataset: equal names of other datasets are other units."""
    return [f"{dataset}/{name}" for name in names]


def _stream(name: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:16]))
