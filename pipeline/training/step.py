"""What one step of training does, of every head: draws, optimiser, schedule. Knows no store, no file."""

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import nn

from pipeline.config import LR_BATCH
from pipeline.training.dataset import Samples
from pipeline.training.table import Batch


class Step(LightningModule):
    """A head in training, whatever its task.

    Args:
        head: its name.
        model: its module.
        config: its sub-tree of params.
        samples: that it learns from.
        steps: optimiser steps an epoch.
    """

    def __init__(self, head: str, model: nn.Module, config: Any, samples: Samples, steps: int) -> None:
        super().__init__()
        self.head, self.model, self.config, self.steps = head, model, config, steps
        self.batch = min(config.batch_size, len(samples.parts["train"]))

    def on_train_batch_start(self, _: Batch, step: int) -> None:
        """Draws follow from seed, epoch, step and process, so that a resumed training repeats them.

        Not once an epoch: Lightning leaves out the hook of the epoch that a resumed training starts with.
        """
        place = [*self.place(step), self.global_rank]
        torch.manual_seed(int(np.random.default_rng(place).integers(2**63)))

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
    """Learning rate of an optimiser step, as a share of its peak: linear warm-up, then half a cosine to zero.

    >>> [round(lr_factor(step, 2, 6), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
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
