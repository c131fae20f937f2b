"""Where in a result a figure lies, and in a training the best epoch. Knows no file and no picture."""

from collections.abc import Mapping
from typing import Any

import pandas as pd


def figure_at(result: Any, dotted: str) -> Any:
    """What lies at a dotted path of a result, which may be None. Raises KeyError where nothing does.

    >>> figure_at({"patient": {"accuracy": 90.0}}, "patient.accuracy")
    90.0
    >>> figure_at({"recall": {"St. Vitus": 90.0}}, "recall.St. Vitus")  # names may have dots of their own
    90.0
    """
    if isinstance(result, Mapping):
        if dotted in result:
            return result[dotted]
        first, _, rest = dotted.partition(".")
        if rest and first in result:
            return figure_at(result[first], rest)
    raise KeyError(dotted)


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch whose weights were kept: of those with the highest holdout accuracy, that with the lowest holdout loss.

    >>> losses, accuracies = [0.9, 0.7, 0.8, 0.6], [0.5, 1.0, 1.0, 0.9]
    >>> best_epoch(pd.DataFrame({"epoch": [1, 2, 3, 4], "holdout_loss": losses, "holdout_accuracy": accuracies}))
    2
    """
    by_worth = history.sort_values(["holdout_accuracy", "holdout_loss"], ascending=[False, True], kind="stable")
    return int(by_worth["epoch"].iloc[0])
