"""What one step of training a segmentation head does: losses, optimiser, schedule. Knows no store and no file.

Shape suffixes: B videos, T rows, C classes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from pipeline.heads.fact.clip import Embeddings, clip_loss
from pipeline.heads.fact.losses import LossSettings, fact_loss, targets_of
from pipeline.heads.fact.outputs import BlockOutput
from pipeline.heads.fact.prediction import predict
from pipeline.training.answers import answer
from pipeline.training.frames import IGNORE, Videos
from pipeline.training.registry import HeadError
from pipeline.training.step import Step
from pipeline.training.table import Batch
from pipeline.transfers import Sending


class SegmentationStep(Step):
    """FACT or FACT_CLIP in training.

    Args:
        model: heads.fact.Fact or FactClip.
        samples: decide classes, background, what is seen, and the texts.
    """

    def __init__(self, head: str, model: nn.Module, config: Any, samples: Videos, steps: int) -> None:
        super().__init__(head, model, config, samples, steps)
        learned = [*samples.parts["train"], *samples.parts["holdout"]]
        segments = [len(samples.transcript(sample)) for sample in learned]
        self.n_segments = max(segments)
        self.settings = LossSettings(
            **config.loss.model_dump(), avg_segments=float(np.mean(segments)), background=samples.background
        )
        self.register_buffer("seen", torch.from_numpy(samples.seen), persistent=False)
        text = None if samples.text is None else torch.from_numpy(samples.text)
        self.register_buffer("text", text, persistent=False)
        self.accuracy = MulticlassAccuracy(len(samples.classes), average="micro", ignore_index=IGNORE)

    def outputs(self, batch: Batch) -> tuple[list[BlockOutput], Embeddings | None]:
        """What the blocks say, and the embeddings."""
        return answer(self.model, batch)

    def loss_of(self, outputs: tuple[list[BlockOutput], Embeddings | None], batch: Batch) -> Tensor:
        """The loss of the head; held-out classes are in none of its terms. Raises HeadError: it cannot be told, as
        where weights diverged."""
        mask_BT, labels_BT = batch["mask"], batch["labels"]
        blocks, embeddings = outputs
        try:
            # The host waits for the costs of the matching; what is matched goes back on its own.
            with Sending():
                targets = targets_of(blocks[-1], labels_BT, mask_BT, self.settings, self.n_segments)
            loss = fact_loss(blocks, targets, self.settings)["loss"]
        except ValueError as error:
            raise HeadError(f"heads.{self.head}.loss: {error}") from error
        if embeddings is not None:
            chosen = self.config.alignment
            contrast = clip_loss(embeddings, targets, self.text, self.seen, chosen.temperature)
            loss = chosen.w_fact * loss + chosen.w_con * contrast
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """The loss, and the share of frames that the classifier gets right: those of seen classes."""
        outputs = self.outputs(batch)
        loss = self.loss_of(outputs, batch)
        self.accuracy.update(
            predict(outputs[0][-1], batch["mask"], self.config.mwt).flatten(0, 1), batch["labels"].flatten()
        )
        size = len(batch["row"])
        self.log("holdout_loss", loss, on_epoch=True, logger=False, batch_size=size, sync_dist=True)
        self.log("holdout_accuracy", self.accuracy, on_epoch=True, logger=False, batch_size=size)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam; from decay_epoch on with a tenth of the rate."""
        config = self.config
        optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [config.decay_epoch])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
