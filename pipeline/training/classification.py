"""What one step of training a classifier does: cross entropy, mixup. Knows no store, no file.

Shape suffixes: B samples, C classes.
"""

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from pipeline.training.accumulation import Part
from pipeline.training.dataset import Samples
from pipeline.training.registry import HeadError, predict
from pipeline.training.step import Step, adamw_and_cosine
from pipeline.training.table import Batch


class ClassificationStep(Step):
    """A classifier in training.

    Args:
        samples: decide the number of classes.
    """

    def __init__(self, head: str, model: nn.Module, config: Any, samples: Samples, steps: int) -> None:
        super().__init__(head, model, config, samples, steps)
        self.roles, self.classes = tuple(samples.streams), len(samples.classes)
        self.accuracy = MulticlassAccuracy(len(samples.classes), average="micro")
        self.share = 1.0

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C). Raises HeadError: those of the head have another shape."""
        logits_BC, expected = predict(self.model, batch, self.roles), (len(batch["label"]), self.classes)
        if (found := tuple(getattr(logits_BC, "shape", ()))) != expected:
            said = f"the logits of {type(self.model).__name__} are {found or type(logits_BC).__name__}"
            raise HeadError(f"heads.{self.head}: {said}, expected {expected}: a row a sample, a column a class")
        return logits_BC

    def on_train_batch_start(self, batch: Batch, step: int) -> None:
        """The draws of a step, those of mixup among them."""
        super().on_train_batch_start(batch, step)
        if alpha := self.config.mixup:
            self.share = np.random.default_rng(self.place(step)).beta(alpha, alpha)

    def outputs(self, batch: Batch) -> tuple[Tensor]:
        """The logits, of mixed samples where mixup is on."""
        return (self(mix(batch, self.roles, self.share) if self.config.mixup else batch),)

    def loss_of(self, outputs: tuple[Tensor], batch: Batch) -> Tensor:
        """Cross entropy with label smoothing, of both samples' labels where they are mixed."""
        (logits_BC,), label, smoothing = outputs, batch["label"], self.config.label_smoothing
        if not self.config.mixup:
            return F.cross_entropy(logits_BC, label, label_smoothing=smoothing)
        other = batch["other.label"] if "other.label" in batch else label.roll(1)
        own, other = (F.cross_entropy(logits_BC, y, label_smoothing=smoothing) for y in (label, other))
        return self.share * own + (1 - self.share) * other

    def rows(self, batch: Batch, part: Part) -> Batch:
        """A part, and where samples are mixed what each of its own is mixed with."""
        own = super().rows(batch, part)
        if not self.config.mixup:
            return own
        before = [row - 1 for row in range(part.start, part.stop)]  # of the first the last
        return own | {f"other.{name}": batch[name][before] for name in (*self.roles, "times", "label")}

    def validation_step(self, batch: Batch, _: int) -> None:
        """Plain cross entropy and accuracy of the holdout, each sample once over all devices."""
        logits_BC, label = self(batch), batch["label"]
        self.accuracy.update(logits_BC, label)
        loss = F.cross_entropy(logits_BC.float(), label)
        self.log("holdout_loss", loss, on_epoch=True, logger=False, batch_size=len(label), sync_dist=True)
        self.log("holdout_accuracy", self.accuracy, on_epoch=True, logger=False, batch_size=len(label))

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and a cosine per optimiser step."""
        return adamw_and_cosine(self.model, self.config, self.batch, self.steps)


def mix(batch: Batch, roles: tuple[str, ...], share: float) -> Batch:
    """Mixup: every stream, and its times, as `share` of each sample and the rest of its neighbour in the batch.

    Args:
        batch: streams (B, T, N, D) of any float dtype and times (B, T); of a part of a batch their neighbours, too, as
            other.<role> and other.times.
        roles: the keys of the streams.
        share: λ, one for all streams, so that they stay pictures of the same mixture.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018. A batch is already in random order,
    so its roll by one is as good a pairing as another shuffle.
    """
    mixed = {}
    for key in (*roles, "times"):
        own, other = batch[key].float(), batch.get(f"other.{key}")
        mixed[key] = own.roll(1, 0).lerp_(own, share) if other is None else other.float().lerp(own, share)
    return {**batch, **mixed}
