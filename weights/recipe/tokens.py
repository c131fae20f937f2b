"""Pretraining of the mini DINOv3 and R3D-18 on improvised scenes. Knows no task: no template, no label, no store.

Both are taught by throw-away linear heads on their tokens, with fresh renderings in every step. The checkpoints have
the real ones' formats: a Hugging Face folder for DINOv3, a safetensors state dict of torchvision's names for R3D-18.
"""

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DINOv3ViTModel

from pipeline.backbones.r3d18 import build_r3d18, make_atrous
from pipeline.backbones.towers import build_dinov3
from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.shapes import COLOURS, SHAPES
from weights.recipe.improvise import ENOUGH, MOTIONS, Clip, Picture, clip, picture
from weights.recipe.mini import (
    DINOV3,
    DINOV3_CELLS,
    DINOV3_SIZE,
    R3D18_CELLS,
    R3D18_FRAMES,
    R3D18_SIZE,
    R3D18_WIDTH,
    dinov3_pixels,
    r3d18_pixels,
    save_dinov3,
    save_r3d18,
)
from weights.recipe.training import Note, note, optimise

# Second words of the seeds; data sets use 0 to 99 there, so no task ever sees a pretraining scene.
DINOV3_STREAM, R3D18_STREAM = 101, 102

STEPS_DINOV3, STEPS_R3D18 = 6500, 1400


def pretrain_dinov3(
    folder: Path, seed: int, steps: int, batch: int = 32, lr: float = 1e-3, start: Path | None = None
) -> Note:
    """DINOv3 mini: each patch names its object's shape, colour, share, centre and size; CLS names what is in view.

    Args:
        folder: of the Hugging Face checkpoint; written every SAVE_EVERY steps and at the end.
        seed: of weights and scenes.
        steps: optimiser steps.
        batch: pictures a step.
        lr: peak learning rate.
        start: weights to go on from, instead of random ones.
    """
    torch.manual_seed(seed)
    model = DINOv3ViTModel.from_pretrained(start) if start else build_dinov3(**DINOV3)
    width, looks = DINOV3["hidden_size"], len(SHAPES) + len(COLOURS)
    heads = nn.ModuleDict(
        {"patch": nn.Linear(width, looks + len(BACKGROUNDS) + 4), "cls": nn.Linear(width, looks + len(BACKGROUNDS))}
    )

    def loss(step: int) -> Tensor:
        rngs = (np.random.default_rng([seed, DINOV3_STREAM, step, i]) for i in range(batch))
        pictures = [picture(rng, DINOV3_SIZE, DINOV3_CELLS) for rng in rngs]
        tokens = model(dinov3_pixels(np.stack([p.pixels for p in pictures]))).last_hidden_state
        prefix = 1 + DINOV3["num_register_tokens"]
        return _picture_loss(heads["patch"](tokens[:, prefix:]), heads["cls"](tokens[:, 0]), pictures)

    started = time.monotonic()
    optimise("mini-dinov3", [model, heads], loss, steps, lr, weight_decay=0.05, save=lambda: save_dinov3(model, folder))
    return note("mini-dinov3", model, start, seed, steps, batch, lr, started)


def _picture_loss(patch_BNK: Tensor, cls_BK: Tensor, pictures: list[Picture]) -> Tensor:
    shape, colour, ground, cover, place = patch_BNK.flatten(0, 1).split(
        [len(SHAPES), len(COLOURS), len(BACKGROUNDS), 1, 3], dim=1
    )
    true_cover = _stack(pictures, "cover").flatten()
    known = true_cover >= ENOUGH
    background = torch.tensor([p.background for p in pictures])
    present, cls_ground = cls_BK.split([len(SHAPES) + len(COLOURS), len(BACKGROUNDS)], dim=1)
    return (
        F.cross_entropy(shape, _stack(pictures, "shape").flatten())
        + 0.5 * F.cross_entropy(colour, _stack(pictures, "colour").flatten())
        + 0.2 * F.cross_entropy(ground, background.repeat_interleave(patch_BNK.shape[1]))
        + F.binary_cross_entropy_with_logits(cover[:, 0], true_cover)
        + 2 * F.smooth_l1_loss(place[known], _stack(pictures, "place").flatten(0, 2)[known])
        + F.binary_cross_entropy_with_logits(present, _stack(pictures, "present"))
        + 0.2 * F.cross_entropy(cls_ground, background)
    )


def pretrain_r3d18(
    file: Path, seed: int, steps: int, batch: int = 16, lr: float = 2e-3, start: Path | None = None
) -> Note:
    """R3D-18 mini: each cell of layer 4 tells how its object moves, and lightly what colour it and the background are.

    It learns on half-length windows, which show twice as many scenes in the same time; the network is the same at any
    length. Shape is never asked for: the real network, trained to name actions, is poor at it too.

    Args:
        file: of the state dict; written every SAVE_EVERY steps and at the end.
        seed: of weights and scenes.
        steps: optimiser steps.
        batch: clips a step.
        lr: peak learning rate.
        start: weights to go on from, instead of random ones.
    """
    torch.manual_seed(seed)
    # Channels last and bfloat16 multiplications: 1.8 times faster here than float32; the weights stay float32.
    model = make_atrous(build_r3d18(R3D18_WIDTH)).to(memory_format=torch.channels_last_3d)
    if start:
        model.load_state_dict(load_file(start))
    else:
        _begin_with_differences(model.stem[0].weight)
    width, window = 8 * R3D18_WIDTH, R3D18_FRAMES // 2
    heads = nn.ModuleDict(
        {"cell": nn.Linear(width, 2 * len(MOTIONS) + 1 + len(COLOURS)), "clip": nn.Linear(width, len(BACKGROUNDS))}
    )

    def loss(step: int) -> Tensor:
        rngs = (np.random.default_rng([seed, R3D18_STREAM, step, i]) for i in range(batch))
        clips = [clip(rng, R3D18_FRAMES, R3D18_SIZE, window // 4, R3D18_CELLS, window) for rng in rngs]
        pixels = r3d18_pixels(np.stack([c.pixels for c in clips])).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            cells_BCPHW = model(pixels)
        tokens_BPHWC = cells_BCPHW.float().permute(0, 2, 3, 4, 1)
        return _clip_loss(heads["cell"](tokens_BPHWC), heads["clip"](tokens_BPHWC.mean(dim=(1, 2, 3))), clips)

    started = time.monotonic()
    optimise("mini-r3d18", [model, heads], loss, steps, lr, weight_decay=0.02, save=lambda: save_r3d18(model, file))
    return note("mini-r3d18", model, start, seed, steps, batch, lr, started)


@torch.no_grad()
def _begin_with_differences(stem_OCTHW: Tensor) -> None:
    """Turns two thirds of a stem's filters into smooth temporal differences of first and second order, in place.

    They come in pairs of either sign, so that after the first ReLU the change of a place, whatever its direction, is a
    plain sum. An earlier recipe, which began from random filters and also differed in scenes, losses and batch, found
    velocity (R2 0.86) but left shaking and pulsing at chance.
    """
    filters, colours, _, size, _ = stem_OCTHW.shape
    offset = torch.arange(size) - size // 2
    bell = torch.exp(-(offset**2) / (2 * 1.3**2))
    for index in range(filters // 3):
        temporal = torch.tensor([-1.0, 0.0, 1.0] if index % 2 else [-0.5, 1.0, -0.5])
        tint = 1 + 0.5 * torch.randn(colours)
        change = torch.einsum("c,t,h,w->cthw", tint, temporal, bell, bell)
        change *= stem_OCTHW[-1].norm() / change.norm()
        stem_OCTHW[2 * index], stem_OCTHW[2 * index + 1] = change, -change


def _clip_loss(cell_BPHWK: Tensor, clip_BK: Tensor, clips: list[Clip]) -> Tensor:
    parts = [len(MOTIONS), len(MOTIONS), 1, len(COLOURS)]
    motion, moves, cover, colour = cell_BPHWK.flatten(0, 3).split(parts, dim=1)
    true_cover, true_motion = _stack(clips, "cover").flatten(), _stack(clips, "motion").flatten(0, 3)
    known = true_cover >= ENOUGH
    weight = torch.where(known, 1.0, 0.1)
    distance = F.smooth_l1_loss(motion, true_motion, reduction="none", beta=0.5).sum(dim=1)
    # Whether it moves in some way at all is easier to learn than how much, and opens the way to it.
    doubt = F.binary_cross_entropy_with_logits(moves[known], (true_motion[known].abs() > 0.4).float(), reduction="none")
    # The fast ones together: the last four of MOTIONS.
    fast = F.binary_cross_entropy_with_logits(
        moves[known, -4:].logsumexp(dim=1), (true_motion[known, -4:] > 0.4).any(dim=1).float(), reduction="none"
    )
    return (
        (weight * distance).sum() / weight.sum()
        + 2 * (doubt.sum(dim=1) + fast).mean()
        + F.binary_cross_entropy_with_logits(cover[:, 0], true_cover)
        + 0.1 * F.cross_entropy(colour, _stack(clips, "colour").flatten())
        + 0.05 * F.cross_entropy(clip_BK, torch.tensor([c.background for c in clips]))
    )


def _stack(rows: list[Picture] | list[Clip], field: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(row, field) for row in rows]))
