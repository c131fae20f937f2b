"""What one step of training a probe does: cross entropy of one label or of each class, squared errors. Knows no store.

Shape suffixes: B samples, N samples, C classes or numbers.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torchmetrics import Metric

from pipeline.training.probed import ProbedSamples
from pipeline.training.registry import HeadError, predict
from pipeline.training.step import Step, adamw_and_cosine
from pipeline.training.table import Batch


class ProbeStep(Step):
    """A probe in training. What its holdout is judged by, `holdout_accuracy`, is top-1, mAP or R².

    Args:
        samples: say what is learned.
    """

    def __init__(self, head: str, model: nn.Module, config: Any, samples: ProbedSamples, steps: int) -> None:
        if not config.trains:
            raise HeadError(f"{head} trains nothing; `python -m pipeline evaluate {head}` scores it from the caches")
        super().__init__(head, model, config, samples, steps)
        self.roles, self.learns = tuple(samples.streams), samples.learns
        self.judged = Judged(samples.learns)
        self.register_buffer("spread", torch.tensor(samples.spread, dtype=torch.float32), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, or numbers, (B, C)."""
        return predict(self.model, batch, self.roles)

    def loss(self, scores_BC: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
        """Of one label cross entropy; of several the mean over classes of theirs; of numbers the squared error in units
        of their variance."""
        if self.learns == "label":
            return F.cross_entropy(scores_BC, batch["label"], label_smoothing=smoothing)
        if self.learns == "labels":
            target_BC = batch["target"] * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(scores_BC, target_BC)
        return F.mse_loss(scores_BC / self.spread, batch["target"] / self.spread)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of a batch."""
        loss, count = self.loss(self(batch), batch, self.config.label_smoothing), len(batch["row"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, logger=False, batch_size=count, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """The loss and the figure of the holdout, each sample once over all devices."""
        scores_BC, count = self(batch).float(), len(batch["row"])
        self.judged.update(scores_BC, batch["target"])
        loss = self.loss(scores_BC, batch)
        self.log("holdout_loss", loss, on_epoch=True, logger=False, batch_size=count, sync_dist=True)
        self.log("holdout_accuracy", self.judged, on_epoch=True, logger=False, batch_size=count)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and a cosine per optimiser step."""
        return adamw_and_cosine(self.model, self.config, self.batch, self.steps)


class Judged(Metric):
    """Top-1, mAP or R² of all samples together, by `figure`: on the CPU, where sums have one order."""

    full_state_update = False

    def __init__(self, learns: str) -> None:
        super().__init__()
        self.learns = learns
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, scores_BC: Tensor, targets: Tensor) -> None:
        """Keeps them."""
        self.scores.append(scores_BC)
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """The figure."""
        both = (torch.cat(of) if isinstance(of, list) else of for of in (self.scores, self.targets))
        return torch.tensor(figure(self.learns, *(of.cpu().double().numpy() for of in both)))


def figure(learns: str, scores_NC: np.ndarray, targets: np.ndarray) -> float:
    """Top-1 of one label (N,); the mean average precision of several (N, C); R² of numbers (N, C). 1 is perfect."""
    if learns == "label":
        return float((scores_NC.argmax(axis=1) == targets).mean())
    found = average_precisions(scores_NC, targets) if learns == "labels" else r2(scores_NC, targets)
    known = found[np.isfinite(found)]
    return float(known.mean()) if len(known) else 0.0


def average_precisions(scores_NC: np.ndarray, targets_NC: np.ndarray) -> np.ndarray:
    """(C,) average precision of each class; NaN of one that no sample has.

    >>> average_precisions(np.array([[0.9], [0.8], [0.1]]), np.array([[1], [0], [1]])).round(4).tolist()
    [0.8333]
    """
    each = zip(targets_NC.T, scores_NC.T, strict=True)
    return np.array([average_precision_score(y, score) if y.any() else np.nan for y, score in each])


def r2(predicted_NC: np.ndarray, targets_NC: np.ndarray) -> np.ndarray:
    """(C,) coefficient of determination; NaN where all targets are the same.

    >>> r2(np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]])).tolist()
    [0.5]
    """
    missed = ((targets_NC - predicted_NC) ** 2).sum(axis=0)
    spread = ((targets_NC - targets_NC.mean(axis=0)) ** 2).sum(axis=0)
    return 1 - np.divide(missed, spread, out=np.full(len(spread), np.nan), where=spread > 0)
