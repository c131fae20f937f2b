"""A head's samples and its module, as its params ask for them. Knows no head and no trainer."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pipeline.config import Params
from pipeline.plugins import load
from pipeline.tasks import TASKS
from pipeline.training.dataset import IGNORE, SHOWN, DataError, Samples, refuse_mixed


class HeadError(ValueError):
    """A head's params that do not fit each other or the features."""


class TooLarge(HeadError):
    """A head with more trainable parameters than it may have."""


def head_samples(params: Params, head: str, manifest: Path, features: Mapping[str, Path]) -> Samples:
    """The samples of a head as its params ask for them.

    Raises:
        DataError: as the samples of its task say, and `refuse_mixed`; or all that can be learned from is
            of one class.
    """
    samples = TASKS[params.head(head).task].code("samples")(params, head, manifest, features)
    refuse_mixed(params.compute, (stream.store for stream in samples.streams.values()))
    learned = {int(label) for sample in samples.parts["train"] for label in np.unique(samples.labels[sample])}
    if len(learned - {IGNORE}) < 2:
        held_out = f", or the list {unseen} of unseen" if (unseen := getattr(params.head(head), "unseen", None)) else ""
        raise DataError(
            f"{manifest}: what {head} can learn from is of fewer than two classes, and the data set has "
            f"{samples.classes[:SHOWN]}; correct the labels, or train_split in params{held_out}"
        )
    return samples


def build(head: str, config: Any, samples: Samples) -> nn.Module:
    """A new head for these samples.

    Args:
        head: its name in params.
        config: its sub-tree of params, which says of what class it is.
        samples: decide widths, grids and classes.

    Raises:
        HeadError: widths, heads or grids that do not fit each other.
        TooLarge: more trainable parameters than its `max_trainable`.
    """
    try:
        module = load(config.implementation).of(config, samples)
    except ValueError as error:
        raise HeadError(f"heads.{head}.model: {error}") from error
    trainable = count(module, trainable=True)
    if trainable > config.max_trainable:
        raise TooLarge(
            f"{head} has {trainable:,} trainable parameters, and max_trainable allows {config.max_trainable:,}; choose "
            "fewer layers or a narrower bottleneck in params, or raise it where a comparison is larger on purpose"
        )
    return module


def predict(module: nn.Module, batch: Mapping[str, Tensor], roles: Collection[str]) -> Tensor:
    """Logits (B, C) of a batch whose streams may still be in the stored half precision.

    Args:
        module: a head with `logits`.
        batch: by role, and what else a table gives.
        roles: of the streams.
    """
    return module.logits({**batch, **{role: batch[role].float() for role in roles}})


def count(module: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, of all or of the trainable ones."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
