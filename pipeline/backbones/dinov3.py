"""DINOv3 ViT patch tokens, from any checkpoint in transformers' format. Knows no store, no video and no other backbone.

Shape suffixes: B videos, T frames, C colours (3), H W pixels, N patches, D embedding width, h w the token grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as pixelwise
from transformers import DINOv3ViTConfig, DINOv3ViTModel

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
from pipeline.config import DinoV3Feature, Weights

# facebook/dinov3-vitb16-pretrain-lvd1689m's architecture; what is not named here is transformers' default.
VIT_B16: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_register_tokens": 4,
    "patch_size": 16,
    "image_size": 224,
}
# What the published preprocessor files say, and the only arithmetic implemented here (resample 2 is bilinear).
PUBLISHED_PIXELS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 2}


def build_dinov3(**sizes: Any) -> DINOv3ViTModel:
    """A DINOv3 ViT with freshly drawn weights, ViT-B/16 unless `sizes` says otherwise.

    `build_dinov3(...).save_pretrained(folder)` plus `DINOv3ViTImageProcessor(...).save_pretrained(folder)` make a
    folder that `weights: {path: folder}` reads.

    Args:
        sizes: fields of transformers' DINOv3ViTConfig.
    """
    return DINOv3ViTModel(DINOv3ViTConfig(**{**VIT_B16, **sizes}))


@dataclass(frozen=True)
class DinoV3Pixels:
    """Resize and centre crop as transformers' DINOv3ViTImageProcessor does, bit for bit: /255 first, then antialias.

    Float32 and not uint8, since the resize after /255 gives values between grey levels. Mean and standard deviation
    belong to the checkpoint, so they are applied by the backbone.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) float32 in [0, 1]."""
        pixels_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).contiguous() * (1 / 255)
        pixels_TCHW = pixelwise.resize(pixels_TCHW, self.resize, antialias=True)
        return centre_crop(pixels_TCHW, self.crop).contiguous().numpy()


class DinoV3:
    """Frozen DINOv3: patch tokens after the final norm, without CLS and register tokens, and CLS beside them."""

    def __init__(self, feature: DinoV3Feature, device: torch.device):
        self.device, self.precision, self.pool = device, feature.precision, feature.pool
        self.model, mean, std = _load(feature.weights)
        self.model.requires_grad_(False).eval().to(device)
        self.mean_C11, self.std_C11 = per_colour(mean, device), per_colour(std, device)

        self.frames, self.size = feature.sampling.count, feature.preprocess.size
        config = self.model.config
        self.prefix = 1 + config.num_register_tokens
        step = config.patch_size * self.pool
        if self.size[0] % step or self.size[1] % step:
            raise BackboneError(
                f"DINOv3 with patches of {config.patch_size} and pool {self.pool} cannot tile {list(self.size)}: "
                f"make both sides of preprocess.crop (or resize) multiples of {step}"
            )
        self.grid = (self.frames, self.size[0] // step, self.size[1] // step)
        self.fields = {
            "patch_tokens": ((self.frames, self.grid[1] * self.grid[2], config.hidden_size), "float16"),
            "cls": ((self.frames, config.hidden_size), "float16"),
        }

    def token_times(self, times: Sequence[float]) -> list[float]:
        """One step a frame: the frames' own times."""
        return [float(time) for time in times]

    def __call__(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """Patch and CLS tokens.

        Args:
            pixels_BTCHW: float32 in [0, 1], from DinoV3Pixels.

        Returns:
            patch_tokens (B, T, N, D) and cls (B, T, D), float32.

        Raises:
            BackboneError: pixels of another shape or dtype.
        """
        check_pixels(pixels_BTCHW, self.frames, self.size, torch.float32)
        with arithmetic(self.device, self.precision):
            images = (pixels_BTCHW.flatten(0, 1).to(self.device) - self.mean_C11) / self.std_C11
            tokens = self.model(images).last_hidden_state.float()
            patches_BTND = _pool(tokens[:, self.prefix :], self.grid[1:], self.pool)
            return {
                "patch_tokens": patches_BTND.unflatten(0, (-1, self.frames)),
                "cls": tokens[:, 0].unflatten(0, (-1, self.frames)),
            }


def _pool(tokens_BND: Tensor, grid: tuple[int, int], pool: int) -> Tensor:
    """Means of pool x pool neighbouring patches; `grid` is (h, w) after pooling."""
    if pool == 1:
        return tokens_BND
    return tokens_BND.unflatten(1, (grid[0], pool, grid[1], pool)).mean(dim=(2, 4)).flatten(1, 2)


# --- weights ----------------------------------------------------------------------------------------------------------


def _load(weights: Weights) -> tuple[DINOv3ViTModel, Sequence[float], Sequence[float]]:
    """(model, mean, std) of any of the three kinds of weights."""
    if weights.random is not None:
        with seeded(weights.random):
            return build_dinov3(), IMAGENET_MEAN, IMAGENET_STD
    checkpoint = open_checkpoint(weights, "DINOv3", {"dinov3_vit": DINOv3ViTModel})
    mean, std = checkpoint.normalisation(PUBLISHED_PIXELS)
    return checkpoint.model(), mean, std
