"""Which module a head's name stands for, and how a batch reaches it. Knows no store and no trainer.

Adding a head is one entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.heads.gasm_cast import GasmCast
from pipeline.training.dataset import Samples


class HeadError(ValueError):
    """A head's params that do not fit each other or the features."""


class TooLarge(HeadError):
    """A head with more trainable parameters than it may have."""


@dataclass(frozen=True)
class Kind:
    """How to make one kind of head, and how to call it with a batch's float streams.

    Attributes:
        roles: the streams that it reads; each is a key of the batch.
        build: (the head's params, the joined samples) -> module.
        forward: (module, batch) -> logits (B, C).
        limit: trainable parameters must be fewer.
    """

    roles: tuple[str, ...]
    build: Callable[[Any, Samples], nn.Module]
    forward: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    limit: int


def _gasm_cast(config: Any, samples: Samples) -> nn.Module:
    semantic, motion = samples.streams["semantic"], samples.streams["motion"]
    return GasmCast(
        semantic_dim=semantic.width,
        motion_dim=motion.width,
        steps=semantic.grid[0],
        semantic_grid=semantic.grid[1:],
        motion_grid=motion.grid[1:],
        n_classes=len(samples.classes),
        **config.model.model_dump(),
    )


KINDS = {
    "gasm_cast": Kind(
        roles=("semantic", "motion"),
        build=_gasm_cast,
        forward=lambda module, batch: module(batch["semantic"], batch["motion"], batch["times"]),
        limit=20_000_000,
    ),
}


def build(head: str, config: Any, samples: Samples) -> nn.Module:
    """A new head for these samples.

    Args:
        head: its name in params.
        config: its sub-tree of params.
        samples: decide widths, grids and classes.

    Raises:
        KeyError: a head that is not registered.
        HeadError: widths, heads or grids that do not fit each other.
        TooLarge: as many trainable parameters as its kind's limit, or more.
    """
    try:
        module = KINDS[head].build(config, samples)
    except ValueError as error:
        raise HeadError(f"heads.{head}.model: {error}") from error
    trainable = count(module, trainable=True)
    if trainable >= KINDS[head].limit:
        raise TooLarge(
            f"{head} has {trainable:,} trainable parameters and must have fewer than {KINDS[head].limit:,}; "
            "choose fewer layers or a narrower bottleneck in params.yaml"
        )
    return module


def predict(head: str, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, C) of a batch whose streams may still be in the stored half precision."""
    streams = {role: batch[role].float() for role in KINDS[head].roles}
    return KINDS[head].forward(module, {**batch, **streams})


def count(module: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, of all or of the trainable ones."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
