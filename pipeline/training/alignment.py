"""What one step of training clip_align does: its losses, and the accuracy that stops it early. Knows no file."""

from typing import Any

from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from pipeline.heads.clip_align.losses import LossSettings, align_loss
from pipeline.training.clips import Clips
from pipeline.training.step import Step, adamw_and_cosine
from pipeline.training.table import Batch


class AlignmentStep(Step):
    """clip_align in training.

    Args:
        model: heads.clip_align.ClipAlign.
        samples: decide classes and their weights.
    """

    def __init__(self, head: str, model: nn.Module, config: Any, samples: Clips, steps: int) -> None:
        super().__init__(head, model, config, samples, steps)
        loss = config.loss
        self.settings = LossSettings(loss.clip_weight, loss.lambda_token, config.label_smoothing, config.compat)
        weights = samples.class_weights if loss.class_weights else None
        self.register_buffer("class_weight_K", weights, persistent=False)
        self.accuracy = MulticlassAccuracy(len(samples.classes), average="micro")

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Classification, contrast and token energy, as params weigh them."""
        loss = self._loss(batch)[0]
        size = len(batch["label"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, logger=False, batch_size=size, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """The loss and the accuracy of other patients, each under its own map."""
        loss, logits_BK = self._loss(batch)
        self.accuracy.update(logits_BK, batch["label"])
        size = len(batch["label"])
        self.log("holdout_loss", loss, on_epoch=True, logger=False, batch_size=size, sync_dist=True)
        self.log("holdout_accuracy", self.accuracy, on_epoch=True, logger=False, batch_size=size)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        output = self.model(batch["tokens"], batch["maps"], batch["has_map"])
        losses = align_loss(output, batch["label"], batch["map"], batch["group"], self.settings, self.class_weight_K)
        return losses["loss"], output.logits

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and a cosine per optimiser step."""
        return adamw_and_cosine(self.model, self.config, self.batch, self.steps)
