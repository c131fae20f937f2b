"""V-JEPA 2's token grid, from any checkpoint in transformers' format. Knows no store, no video and no other backbone.

Shape suffixes: B videos, T frames, C colours (3), H W pixels, P steps, N cells of the token grid, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as pixelwise
from transformers import VJEPA2Config, VJEPA2Model

from pipeline.backbones.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneError,
    arithmetic,
    centre_crop,
    check_pixels,
    per_colour,
    seeded,
)
from pipeline.backbones.checkpoints import open_checkpoint
from pipeline.config import VJepa2Feature, Weights

# facebook/vjepa2-vitl-fpc64-256's architecture; what is not named here is transformers' default.
VIT_L: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 16,
    "crop_size": 256,
    "tubelet_size": 2,
    "frames_per_clip": 64,
}
# What the published preprocessor files say, and the only arithmetic implemented here (resample 2 is bilinear).
PUBLISHED_PIXELS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 2}
# transformers' own name today, and the one before it told videos from images.
PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")


def build_vjepa2(**sizes: Any) -> VJEPA2Model:
    """A V-JEPA 2 with freshly drawn weights, ViT-L at 256 pixels unless `sizes` says otherwise.

    `build_vjepa2(...).save_pretrained(folder)` plus `VJEPA2VideoProcessor(...).save_pretrained(folder)` make a folder
    that `weights: {path: folder}` reads.

    Args:
        sizes: fields of transformers' VJEPA2Config.
    """
    return VJEPA2Model(VJEPA2Config(**{**VIT_L, **sizes}))


@dataclass(frozen=True)
class VJepa2Pixels:
    """Resize and centre crop as transformers' VJEPA2VideoProcessor does, bit for bit: bilinear on uint8, antialias on.

    That processor resizes the shorter side to crop * 256 / 224, rounded down: 292 for 256, 438 for 384. uint8 out, a
    quarter of the bytes between processes; /255, mean and deviation are the backbone's.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) uint8. An integer `resize` is the shorter side."""
        pixels_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
        pixels_TCHW = pixelwise.resize(pixels_TCHW, self.resize, antialias=True)
        return centre_crop(pixels_TCHW, self.crop).contiguous().numpy()


class VJepa2:
    """Frozen V-JEPA 2 encoder: its tokens after the final norm, as a grid in time and space. The predictor is dropped.

    With `sampling.windows`, each window goes through the network by itself, and their steps follow each other.
    """

    def __init__(self, feature: VJepa2Feature, device: torch.device):
        self.device, self.precision = device, feature.precision
        self.frames, self.windows = feature.sampling.frames, feature.sampling.windows or 1
        self.size = feature.preprocess.size
        model, mean, std = _load(feature.weights)
        self.encoder = model.encoder.requires_grad_(False).eval().to(device)
        # On grey levels instead of [0, 1], where transformers' processor normalises.
        self.mean_C11, self.std_C11 = per_colour(mean, device) * 255, per_colour(std, device) * 255

        config = model.config
        side = config.crop_size
        if self.size != (side, side):
            # Its rotary positions come from the token's number and this side: at another they would be wrong, silently.
            raise BackboneError(
                f"this V-JEPA 2 sees {side} x {side} pixels, got {list(self.size)}: make preprocess.crop [{side}, "
                f"{side}] and preprocess.resize {side * 256 // 224}, or name a checkpoint trained at that size"
            )
        self.span = config.tubelet_size
        if self.frames % self.span:
            raise BackboneError(
                f"this V-JEPA 2 makes one step of {self.span} frames, got sampling.frames {self.frames}; make it a "
                f"multiple of {self.span}"
            )
        cells = side // config.patch_size
        self.grid = (self.windows * self.frames // self.span, cells, cells)
        self.fields = {"clip_tokens": ((self.grid[0], cells * cells, config.hidden_size), "float16")}

    def token_times(self, times: Sequence[float]) -> list[float]:
        """The mean time of each tubelet's frames."""
        if len(times) != self.windows * self.frames:
            raise BackboneError(
                f"got {len(times)} times, expected {self.windows * self.frames}, one a sampled frame of each window"
            )
        return np.asarray(times, dtype=np.float64).reshape(-1, self.span).mean(axis=1).tolist()

    def __call__(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """Motion tokens.

        Args:
            pixels_BTCHW: uint8, from VJepa2Pixels; T counts the frames of all windows.

        Returns:
            clip_tokens (B, P, N, D), P over all windows, float32.

        Raises:
            BackboneError: pixels of another shape or dtype.
        """
        check_pixels(pixels_BTCHW, self.windows * self.frames, self.size, torch.uint8)
        with arithmetic(self.device, self.precision):
            clips = (pixels_BTCHW.to(self.device).float() - self.mean_C11) / self.std_C11
            clips = clips.unflatten(1, (self.windows, self.frames)).flatten(0, 1)
            tokens = self.encoder(pixel_values_videos=clips).last_hidden_state.float()
            return {"clip_tokens": tokens.reshape(-1, *self.fields["clip_tokens"][0])}


def _load(weights: Weights) -> tuple[VJEPA2Model, Sequence[float], Sequence[float]]:
    """(model, mean, std) of any of the three kinds of weights."""
    if weights.random is not None:
        with seeded(weights.random):
            return build_vjepa2(), IMAGENET_MEAN, IMAGENET_STD
    checkpoint = open_checkpoint(weights, "V-JEPA 2", {"vjepa2": VJEPA2Model})
    present = [name for name in PREPROCESSORS if (checkpoint.folder / name).exists()]
    mean, std = checkpoint.normalisation(PUBLISHED_PIXELS, present[0] if present else PREPROCESSORS[0])
    return checkpoint.model(), mean, std
