"""What one step of training does, of every head: draws, optimiser, schedule. Knows no store, no file."""

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import LR_BATCH
from pipeline.training.accumulation import Draws, Given, Outputs, Part, of_means, of_outputs, parts
from pipeline.training.dataset import Samples
from pipeline.training.registry import HeadError
from pipeline.training.table import Batch


class Step(LightningModule):
    """A head in training, whatever its task.

    Args:
        head: its name.
        model: its module.
        config: its sub-tree of params.
        samples: that it learns from.
        steps: optimiser steps an epoch.

    Attributes:
        accumulate: parts that a batch is computed in; of params, and more where these do not fit the memory.
        is_mean: whether the loss is a mean over samples, of which each has its own part.
        compared: what `loss_of` reads of a batch, where the loss is no such mean.
    """

    is_mean = True
    compared: tuple[str, ...] = ()

    def __init__(self, head: str, model: nn.Module, config: Any, samples: Samples, steps: int) -> None:
        super().__init__()
        self.head, self.model, self.config, self.steps = head, model, config, steps
        self.batch = min(config.batch_size, len(samples.parts["train"]))
        self.accumulate, self.drawn = config.accumulate, 0

    def divide(self, accumulate: int) -> None:
        """Has batches computed in so many parts. Raises HeadError: a module needs the whole batch at once."""
        norms = [name for name, module in self.model.named_modules() if isinstance(module, _BatchNorm)]
        if accumulate > 1 and norms:
            raise HeadError(
                f"heads.{self.head}.accumulate is {accumulate}, but {norms[0]} of its model is a batch norm, which "
                "takes its statistics of the whole batch; leave it at 1, or take a norm of each sample"
            )
        self.accumulate = accumulate

    def outputs(self, batch: Batch) -> Outputs:
        """What the model says of a batch: tensors, a row a sample, and what is no sample's."""
        raise NotImplementedError

    def loss_of(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The loss of what the model says of a batch."""
        raise NotImplementedError

    def rows(self, batch: Batch, part: Part) -> Batch:
        """A part of a batch, still where it is."""
        return {name: of[part.start : part.stop] for name, of in batch.items()}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss, of the batch at once or of its parts; its backward gives the gradients of the whole batch."""
        size = len(next(iter(batch.values())))
        if self.accumulate == 1:
            loss = self.loss_of(self.outputs(batch), batch)
        else:
            learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            loss = self._in_parts(batch, parts(size, self.accumulate), learned).as_loss(learned)
        self.log("train_loss", loss, on_step=False, on_epoch=True, logger=False, batch_size=size, sync_dist=True)
        return loss

    def _in_parts(self, batch: Batch, divided: list[Part], learned: list[nn.Parameter]) -> Given:
        scaler = getattr(self._trainer.precision_plugin, "scaler", None) if self._trainer else None
        scale = 1.0 if scaler is None else float(scaler.get_scale())

        def there(part: Part) -> Batch:
            return {name: of.to(self.device, non_blocking=True) for name, of in self.rows(batch, part).items()}

        def outputs(part: Part, rows: Batch | None = None) -> Outputs:
            torch.manual_seed(self.drawn)  # all parts draw what the whole batch draws
            with Draws(part):
                return self.outputs(there(part) if rows is None else rows)

        if self.is_mean:
            return of_means(
                divided,
                lambda part: self.loss_of(outputs(part, rows := there(part)), rows),
                learned,
                scale,
            )
        slight = {name: of.to(self.device) for name, of in batch.items() if name in self.compared}
        return of_outputs(divided, outputs, lambda joined: self.loss_of(joined, slight), learned, scale)

    def on_train_batch_start(self, _: Batch, step: int) -> None:
        """Draws follow from seed, epoch, step and process, so that a resumed training repeats them.

        Not once an epoch: Lightning leaves out the hook of the epoch that a resumed training starts with.
        """
        place = [*self.place(step), self.global_rank]
        self.drawn = int(np.random.default_rng(place).integers(2**63))
        torch.manual_seed(self.drawn)

    def place(self, step: int) -> list[int]:
        """Where the training is, the same on every device."""
        return [self.config.seed % 2**64, self.current_epoch, step]


def adamw_and_cosine(model: nn.Module, config: Any, batch: int, steps: int) -> dict[str, Any]:
    """AdamW, and a cosine per optimiser step after a linear warm-up, as Lightning takes them.

    Args:
        model: what is trained.
        config: of a head: lr per 256 samples of batch, weight_decay, warmup_epochs, epochs.
        batch: samples that a step sees: no more than there are, whatever params allow.
        steps: optimiser steps an epoch.
    """
    peak = config.lr * batch / LR_BATCH
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=peak, betas=(0.9, 0.999))
    warmup, total = round(config.warmup_epochs * steps), config.epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, warmup, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Learning rate of an optimiser step, as a share of its peak: linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for the matrices of layers only: none for biases, norms, positions, embeddings and scalars."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            matrix = name.endswith("weight") and parameter.ndim >= 2 and not isinstance(module, nn.Embedding)
            if parameter.requires_grad:
                groups[matrix].append(parameter)
    decays = ((True, weight_decay), (False, 0.0))
    return [{"params": groups[matrix], "weight_decay": decay} for matrix, decay in decays if groups[matrix]]
