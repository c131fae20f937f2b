"""Which module a head's name stands for, and how a batch reaches it. Knows no store and no trainer.

Adding a head is one entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.heads.clip_align import ClipAlign
from pipeline.heads.fact import Fact, FactClip, Parts, TimeMask, blocks
from pipeline.heads.gasm_cast import GasmCast
from pipeline.training.clips import Clips
from pipeline.training.dataset import Samples
from pipeline.training.frames import Videos


class HeadError(ValueError):
    """A head's params that do not fit each other or the features."""


class TooLarge(HeadError):
    """A head with more trainable parameters than it may have."""


@dataclass(frozen=True)
class Kind:
    """How to make one kind of head, and, of a classifier, how to call it with a batch's float streams.

    Attributes:
        build: (the head's params, the joined samples) -> module.
        roles: the streams that a classifier reads; each is a key of the batch.
        forward: of a classifier, (module, batch) -> logits (B, C).
    """

    build: Callable[[Any, Any], nn.Module]
    roles: tuple[str, ...] = ()
    forward: Callable[[nn.Module, Mapping[str, Tensor]], Tensor] | None = None


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


def _fact(config: Any, samples: Videos) -> Fact:
    model = config.model
    head = Fact(
        feature_dim=samples.streams["frames"].width,
        n_classes=len(samples.classes),
        tokens=model.tokens,
        blocks=blocks(model.blocks, *(getattr(model, name).model_dump() for name in ("Bi", "Bu", "BU"))),
        fpos=model.frame_positions,
        transcript=model.transcript,
        cmr=model.channel_dropout,
        time_mask=None if model.time_mask is None else TimeMask(**model.time_mask.model_dump()),
        parts=verbs_and_nouns(samples),
    )
    head.seen.copy_(torch.from_numpy(samples.seen))
    return head


def verbs_and_nouns(samples: Videos) -> Parts | None:
    """How the classes are made of verbs and nouns, if they are."""
    return None if samples.pairs is None else Parts(*samples.n_parts, torch.from_numpy(samples.pairs))


def _fact_clip(config: Any, samples: Videos) -> FactClip:
    chosen, (_, text_dim) = config.alignment, samples.text.shape
    return FactClip(_fact(config, samples), text_dim, chosen.target, chosen.hidden, chosen.dropout, chosen.temperature)


def _clip_align(config: Any, samples: Clips) -> ClipAlign:
    tokens, maps, chosen = samples.streams["tokens"], samples.streams["maps"], config.model.model_dump()
    guided, kind, sigmoid = (chosen.pop(name) for name in ("map_guided", "map_guided_type", "sigmoid_gate"))
    head = ClipAlign(
        tokens.width,
        tokens.grid,
        len(samples.classes),
        maps.channels,
        maps.scale,
        guidance=kind if guided else "none",
        gate="sigmoid" if sigmoid else "linear",
        compat=config.compat,
        **chosen,
    )
    head.mean_map_CTHW.copy_(samples.mean_map)
    # What no loss reaches is not trained: weight decay would change it, and several devices would wait for it.
    if not config.loss.clip_weight:
        idle = [head.project_video, head.project_attn, *([head.maps] if head.source == "video" else [])]
        for module in idle:
            module.requires_grad_(False)
        head.log_scale.requires_grad_(False)
    return head


KINDS = {
    "gasm_cast": Kind(
        build=_gasm_cast,
        roles=("semantic", "motion"),
        forward=lambda module, batch: module(batch["semantic"], batch["motion"], batch["times"]),
    ),
    "clip_align": Kind(build=_clip_align),
    "fact": Kind(build=_fact),
    "fact_clip": Kind(build=_fact_clip),
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
        TooLarge: more trainable parameters than its `max_trainable`.
    """
    try:
        module = KINDS[head].build(config, samples)
    except ValueError as error:
        raise HeadError(f"heads.{head}.model: {error}") from error
    trainable = count(module, trainable=True)
    if trainable > config.max_trainable:
        raise TooLarge(
            f"{head} has {trainable:,} trainable parameters, and max_trainable allows {config.max_trainable:,}; choose "
            "fewer layers or a narrower bottleneck in params, or raise it where a comparison is larger on purpose"
        )
    return module


def predict(head: str, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, C) of a batch whose streams may still be in the stored half precision."""
    streams = {role: batch[role].float() for role in KINDS[head].roles}
    return KINDS[head].forward(module, {**batch, **streams})


def count(module: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, of all or of the trainable ones."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
