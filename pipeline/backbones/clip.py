"""CLIP's picture tower: the projected embedding, or the tokens that enter its last block. Knows no store and no video.

Shape suffixes: B samples, T frames, C colours (3), H W pixels, N patches, D width, E embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pixelwise
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pipeline.backbones.base import BackboneError, arithmetic, centre_crop, check_pixels, per_colour, seeded
from pipeline.backbones.checkpoints import open_checkpoint
from pipeline.config import ClipFeature, Weights

# openai/clip-vit-base-patch16's architecture, where it differs from transformers' defaults.
VIT_B16: dict[str, Any] = {"vision": {"patch_size": 16}, "text": {}, "projection_dim": 512}
# What the published preprocessor files say, and the only arithmetic implemented here (resample 3 is bicubic).
PUBLISHED_PIXELS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3}


def build_clip(
    *, vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None, projection_dim: int | None = None
) -> CLIPModel:
    """A CLIP of both towers with freshly drawn weights, ViT-B/16 unless the arguments say otherwise.

    `build_clip(...).save_pretrained(folder)` plus a CLIPImageProcessor and a CLIPTokenizer saved there make a folder
    that `weights: {path: folder}` reads.

    Args:
        vision: fields of transformers' CLIPVisionConfig.
        text: fields of transformers' CLIPTextConfig.
        projection_dim: E, of both towers.
    """
    width = projection_dim or VIT_B16["projection_dim"]
    towers = {"vision": {**VIT_B16["vision"], **(vision or {})}, "text": {**VIT_B16["text"], **(text or {})}}
    return CLIPModel(
        CLIPConfig(
            projection_dim=width,
            vision_config={**towers["vision"], "projection_dim": width},
            text_config={**towers["text"], "projection_dim": width},
        )
    )


def unit(vectors: Tensor) -> Tensor:
    """Vectors of L2 norm 1 along the last axis. One of norm 0 becomes NaN, which no store takes: it is not hidden."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class ClipPixels:
    """Resize and centre crop as transformers' CLIPImageProcessor does, bit for bit: bicubic on uint8, antialias on.

    Pillow's bicubic, which CLIP was trained with, differs on smooth pictures in fewer than 1 % of the values, by 2 grey
    levels at most; on noise by up to 25 where Pillow 13 takes the vertical pass first and clips between the passes.
    uint8 out, a quarter of the bytes between processes; /255, mean and deviation are the backbone's.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) uint8. An integer `resize` is the shorter side."""
        # Left in the decoder's channels-last order: torch resizes that 5 times faster than planes.
        frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
        pixels_TCHW = pixelwise.resize(
            frames_TCHW, self.resize, interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        return centre_crop(pixels_TCHW, self.crop).contiguous().numpy()


class Clip:
    """Frozen CLIP picture tower.

    `image_embed` is the projected embedding as a unit vector; `cam_tokens` are transformers' hidden_states[block - 1],
    CLS first: what that block reads, by default the last one (-1). The blocks from there on are dropped, not run.
    """

    def __init__(self, feature: ClipFeature, device: torch.device):
        self.device, self.precision, self.output = device, feature.precision, feature.output
        self.frames, self.size = feature.sampling.count, feature.preprocess.size
        model, mean, std = _load(feature.weights)
        self.tower = model.vision_model.requires_grad_(False).eval().to(device)
        self.projection = model.visual_projection.requires_grad_(False).to(device)
        # On grey levels instead of [0, 1], where transformers' processor normalises.
        self.mean_C11, self.std_C11 = per_colour(mean, device) * 255, per_colour(std, device) * 255

        config = self.tower.config
        side = config.image_size
        if self.size != (side, side):
            raise BackboneError(
                f"this CLIP sees {side} x {side} pixels, got {list(self.size)}: make preprocess.crop (or resize) "
                f"[{side}, {side}], or name a checkpoint trained at that size"
            )
        if self.output == "cam_tokens":
            layers = self.tower.encoder.layers
            if -feature.block > len(layers):
                raise BackboneError(f"block {feature.block} of a CLIP of {len(layers)} blocks; choose a later one")
            self.tower.encoder.layers = layers[: feature.block]
            cells = side // config.patch_size
            self.grid = (self.frames, cells, cells)
            shape = (cells * cells + 1, config.hidden_size)
        else:
            self.grid = None
            shape = (self.projection.out_features,)
        self.fields = {self.output: ((self.frames, *shape) if self.frames > 1 else shape, "float16")}

    def token_times(self, times: Sequence[float]) -> list[float]:
        """One step a frame: the frames' own times."""
        return [float(time) for time in times]

    def __call__(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """Embeddings or tokens of a batch.

        Args:
            pixels_BTCHW: uint8, from ClipPixels.

        Returns:
            image_embed (B, T, E), unit vectors, or cam_tokens (B, T, N + 1, D), float32; one frame has no T.

        Raises:
            BackboneError: pixels of another shape or dtype.
        """
        check_pixels(pixels_BTCHW, self.frames, self.size, torch.uint8)
        with arithmetic(self.device, self.precision):
            images = (pixels_BTCHW.flatten(0, 1).to(self.device).float() - self.mean_C11) / self.std_C11
            states = self.tower(images)
            if self.output == "cam_tokens":
                rows = states.last_hidden_state.float()
            else:
                rows = unit(self.projection(states.pooler_output).float())
            return {self.output: rows.unflatten(0, (-1, self.frames)) if self.frames > 1 else rows}


def _load(
    weights: Weights,
) -> tuple[CLIPModel | CLIPVisionModelWithProjection, Sequence[float], Sequence[float]]:
    """(model, mean, std) of any of the three kinds of weights."""
    if weights.random is not None:
        with seeded(weights.random):
            return build_clip(), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    checkpoint = open_checkpoint(
        weights, "CLIP", {"clip": CLIPModel, "clip_vision_model": CLIPVisionModelWithProjection}
    )
    mean, std = checkpoint.normalisation(PUBLISHED_PIXELS)
    return checkpoint.model(), mean, std
