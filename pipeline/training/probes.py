"""What one step of training a probe does: cross entropy of one label or of each class, squared errors. Knows no store.

Shape suffixes: B samples, N samples, C classes or numbers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from pipeline.training.probed import ProbedSamples
from pipeline.training.registry import predict
from pipeline.training.step import Step, adamw_and_cosine
from pipeline.training.table import Batch


class ProbeStep(Step):
    """A probe in training. What its holdout is judged by, `holdout_accuracy`, is top-1, mAP or R².

    Args:
        samples: say what is learned.
    """

    def __init__(self, head: str, model: nn.Module, config: Any, samples: ProbedSamples, steps: int) -> None:
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

    def outputs(self, batch: Batch) -> tuple[Tensor]:
        """The scores."""
        return (self(batch),)

    def loss_of(self, outputs: tuple[Tensor], batch: Batch) -> Tensor:
        """The loss of a batch."""
        return self.loss(outputs[0], batch, self.config.label_smoothing)

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
        from pipeline.heads.probe.figures import figure

        both = (torch.cat(of) if isinstance(of, list) else of for of in (self.scores, self.targets))
        return torch.tensor(figure(self.learns, *(of.cpu().double().numpy() for of in both)))
