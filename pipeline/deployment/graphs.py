"""A finished head as one function of tensors: its inputs, its output, and what the run answered. Knows no file format.

Shape suffixes: B samples of a batch, N samples, C classes or numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.evaluation.classification import softmax
from pipeline.heads.probe.model import MASK
from pipeline.runs import Run

ROWS = [0, 1, 2]  # of an example: an axis of one would be taken for fixed


@dataclass(frozen=True)
class Graph:
    """A head and its inputs.

    Attributes:
        module: `forward(*inputs)` gives (B, C) float32.
        names: of the inputs, in order.
        free: of each input, its axes that may have any length, and what they count; the others are as in the example.
        gives: what the output is: logits, or numbers.
        rows: (row numbers) -> the inputs of these evaluated samples.
        answers: outputs (N, C) -> probabilities, or numbers, (N, C) float64.
        told: rows of the run's predictions -> the same, NaN where a table does not tell it.
    """

    module: nn.Module
    names: tuple[str, ...]
    free: Mapping[str, Mapping[int, str]]
    gives: str
    rows: Callable[[Sequence[int]], tuple[Tensor, ...]]
    answers: Callable[[np.ndarray], np.ndarray]
    told: Callable[[pd.DataFrame], np.ndarray]


class _Asked(dict):
    """A batch that remembers which of it was read."""

    def __init__(self, batch: Mapping[str, Tensor]) -> None:
        super().__init__(batch)
        self.read: dict[str, None] = {}

    def __getitem__(self, name: str) -> Tensor:
        self.read[name] = None
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read |= {name: None} if name in self else {}
        return super().get(name, default)


class ByName(nn.Module):
    """A head with `logits(batch)` as a function of tensors in order."""

    def __init__(self, head: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.head, self.names = head, tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        """(B, C)."""
        return self.head.logits(dict(zip(self.names, tensors, strict=True)))


def of_classifier(run: Run) -> Graph:
    """The graph of a head whose `logits` read a batch: features by role, as float32, and what else it asks for."""
    samples = run.samples
    table, head = run.table(samples.parts["evaluated"]), run.model.cpu().float().eval()

    def batch(rows: Sequence[int]) -> dict[str, Tensor]:
        found = table[list(rows)]
        return {name: of.float() if of.is_floating_point() else of for name, of in found.items()}

    asked = _Asked(batch(ROWS[: len(table)]))
    with torch.inference_mode():
        head.logits(asked)
    names = tuple(name for name in asked.read if not name.endswith(MASK))
    names += tuple(f"{name}{MASK}" for name in names if f"{name}{MASK}" in asked.read)
    ragged = {name for name in names if f"{name}{MASK}" in names}
    free = {
        name: {0: "batch", **({1: f"{name.removesuffix(MASK)}_length"} if name.removesuffix(MASK) in ragged else {})}
        for name in names
    }
    learns = getattr(samples, "learns", "label")
    return Graph(
        ByName(head, names),
        names,
        free,
        "numbers" if learns == "target" else "logits",
        lambda rows: tuple(map(batch(rows).__getitem__, names)),
        ANSWERS[learns],
        lambda predictions: _told(learns, samples.classes, predictions),
    )


ANSWERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "label": softmax,
    "labels": lambda outputs_NC: torch.from_numpy(outputs_NC).double().sigmoid().numpy(),
    "target": lambda outputs_NC: outputs_NC.astype(np.float64),
}


def _told(learns: str, classes: Sequence[str], predictions: pd.DataFrame) -> np.ndarray:
    if learns != "label":
        return np.stack([*predictions["prediction" if learns == "target" else "probabilities"]])
    index, told_NC = (
        {name: number for number, name in enumerate(classes)},
        np.full((len(predictions), len(classes)), np.nan),
    )
    for row, (names, of) in enumerate(zip(predictions["top"], predictions["probabilities"], strict=True)):
        told_NC[row, [index[name] for name in names]] = of
    return told_NC
