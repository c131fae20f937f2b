"""A head's module, from its params, the samples that it reads and the weights of its run. Knows no head."""

from collections.abc import Collection, Mapping
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.accelerator import device
from pipeline.plugins import load
from pipeline.runs import WEIGHTS, Run
from pipeline.training.dataset import Samples


class HeadError(ValueError):
    """A head's params that do not fit each other or the features."""


class TooLarge(HeadError):
    """A head with more trainable parameters than it may have."""


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


def trained(run: Run) -> nn.Module:
    """The head with the run's weights, ready to predict on its samples; of any task. Raises as `build`."""
    module = build(run.head, run.config, run.samples)
    module.load_state_dict(load_file(run.folder / WEIGHTS))
    return module.to(device(run.params.compute)).eval()


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
