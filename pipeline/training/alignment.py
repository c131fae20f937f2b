"""What one step of training clip_align does: its losses, and by what its epoch is chosen. Knows no file."""

from dataclasses import fields
from typing import Any

from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from pipeline.heads.clip_align.losses import LossSettings, align_loss
from pipeline.heads.clip_align.model import AlignOutput
from pipeline.training.clips import Clips
from pipeline.training.step import Step, adamw_and_cosine
from pipeline.training.table import Batch


class AlignmentStep(Step):
    """clip_align in training.

    Args:
        model: heads.clip_align.ClipAlign.
        samples: decide classes and their weights.
    """

    is_mean = False  # each clip is compared with all others of its batch
    compared = ("label", "map", "group")

    def __init__(self, head: str, model: nn.Module, config: Any, samples: Clips, steps: int) -> None:
        super().__init__(head, model, config, samples, steps)
        loss = config.loss
        self.settings = LossSettings(
            loss.clip_weight, loss.lambda_token, config.label_smoothing, config.compat, loss.lambda_map
        )
        weights = samples.class_weights if loss.class_weights else None
        self.register_buffer("class_weight_K", weights, persistent=False)
        self.accuracy = MulticlassAccuracy(len(samples.classes), average="micro")

    def outputs(self, batch: Batch) -> tuple[Any, ...]:
        """The fields of `AlignOutput`, None for those that no loss reads."""
        return self._read(self.model(batch["tokens"], batch["maps"], batch["has_map"]))

    def _read(self, output: AlignOutput) -> tuple[Any, ...]:
        unread = {"video_feat", "attn_feat", "gate"}
        if not self.settings.lambda_token:
            unread |= {"video_tokens", "gated_tokens", "token_map"}
        if not self.settings.lambda_map:
            unread |= {"log_map", "step_map"}
        names = [field.name for field in fields(output)]
        return tuple(None if name in unread else getattr(output, name) for name in names)

    def loss_of(self, outputs: tuple[Any, ...], batch: Batch) -> Tensor:
        """Classification, contrast and token energy, as params weigh them."""
        output, targets = AlignOutput(*outputs), (batch["label"], batch["map"], batch["group"])
        return align_loss(output, *targets, self.settings, self.class_weight_K)["loss"]

    def validation_step(self, batch: Batch, _: int) -> None:
        """The loss and the accuracy of other patients without their maps, since in use there is no clinician.

        Chosen under the map, an epoch is good at what is not asked. What is classified by the map alone has its own.
        """
        given = ("tokens", "maps", "has_map") if self.config.model.classifier_source == "attn" else ("tokens",)
        outputs = self._read(self.model(*map(batch.get, given)))
        loss = self.loss_of(outputs, batch)
        self.accuracy.update(AlignOutput(*outputs).logits, batch["label"])
        size = len(batch["label"])
        self.log("holdout_loss", loss, on_epoch=True, logger=False, batch_size=size, sync_dist=True)
        self.log("holdout_accuracy", self.accuracy, on_epoch=True, logger=False, batch_size=size)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and a cosine per optimiser step."""
        return adamw_and_cosine(self.model, self.config, self.batch, self.steps)
