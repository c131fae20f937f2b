"""Pretraining of the mini backbones that the repository ships. Knows no task: no template, no downstream label."""

from collections.abc import Sequence
from pathlib import Path

from weights.recipe.card import update_card
from weights.recipe.clip import MUTE_CLIP, STEPS_CLIP, pretrain_clip
from weights.recipe.i3d import STEPS as STEPS_I3D
from weights.recipe.i3d import pretrain_i3d
from weights.recipe.spurious import STEPS_SPURIOUS, tune_spurious
from weights.recipe.tokens import STEPS_DINOV3, STEPS_R3D18, pretrain_dinov3, pretrain_r3d18
from weights.recipe.training import write_notes

__all__ = ["BACKBONES", "pretrain"]

BACKBONES = ("mini-dinov3", "mini-r3d18", "mini-i3d", "mini-clip", "mini-clip-spurious")


class PretrainingError(ValueError):
    """A backbone that cannot be pretrained; the message gives the remedy."""


def pretrain(out: Path, seed: int, only: Sequence[str] = BACKBONES, steps: int | None = None) -> None:
    """Trains mini backbones, writes them, measures all that are there and writes their model card.

    Deterministic for given libraries and a given kind of processor.

    Args:
        out: folder of the weights, of pretraining.json and of README.md.
        seed: of weights and scenes.
        only: which of BACKBONES; the others' files in `out` stay as they are.
        steps: optimiser steps, each recipe's own by default.

    Raises:
        PretrainingError: a name that is not among BACKBONES, or mini-clip-spurious without a mini-clip to go on from.
    """
    if unknown := [name for name in only if name not in BACKBONES]:
        raise PretrainingError(f"unknown mini backbone {unknown[0]!r}; known are {', '.join(BACKBONES)}")
    if "mini-clip-spurious" in only and "mini-clip" not in only and not (out / "mini-clip" / "config.json").exists():
        raise PretrainingError(
            f"mini-clip-spurious goes on from {out / 'mini-clip'}, which is not there; pretrain mini-clip first"
        )
    for name in only:
        if name == "mini-dinov3":
            notes = [pretrain_dinov3(out / name, seed, steps or STEPS_DINOV3)]
        elif name == "mini-r3d18":
            notes = [pretrain_r3d18(out / f"{name}.safetensors", seed, steps or STEPS_R3D18)]
        elif name == "mini-i3d":
            notes = pretrain_i3d(out, seed, steps or STEPS_I3D)
        elif name == "mini-clip-spurious":
            notes = [tune_spurious(out / name, out / "mini-clip", seed, steps or STEPS_SPURIOUS)]
        else:
            told = steps or STEPS_CLIP
            notes = [pretrain_clip(out / name, seed, told, mute=min(MUTE_CLIP, told // 3))]
        write_notes(out, notes)
    update_card(out)
