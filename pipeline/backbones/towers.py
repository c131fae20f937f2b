"""Vision towers in transformers' format: DINOv3, V-JEPA 2 and CLIP's picture tower. Knows no store and no video.

All of them load, resize, crop and normalise in one way; a `Kind` says in what they differ, and each class below says
which of its network's outputs are kept.

Shape suffixes: B samples, T frames, C colours (3), H W pixels, P steps, N patches or cells, D width, E embedding width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pixelwise
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModelWithProjection,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    VJEPA2Config,
    VJEPA2Model,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pipeline.backbones.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneError,
    Fields,
    Grid,
    arithmetic,
    centre_crop,
    check_pixels,
    per_colour,
    seeded,
    step_times,
    to_grey_levels,
    unit,
)
from pipeline.backbones.checkpoints import open_checkpoint
from pipeline.config import BackboneFeature, ClipFeature, DinoV3Feature, TowerFeature, VJepa2Feature, Weights

# --- architectures: the published sizes; what is not named here is transformers' default ------------------------------

# facebook/dinov3-vitb16-pretrain-lvd1689m
DINOV3_VIT_B16: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_register_tokens": 4,
    "patch_size": 16,
    "image_size": 224,
}
# facebook/vjepa2-vitl-fpc64-256
VJEPA2_VIT_L: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 16,
    "crop_size": 256,
    "tubelet_size": 2,
    "frames_per_clip": 64,
}
# openai/clip-vit-base-patch16
CLIP_VIT_B16: dict[str, Any] = {"vision": {"patch_size": 16}, "text": {}, "projection_dim": 512}


def build_dinov3(**sizes: Any) -> DINOv3ViTModel:
    """A DINOv3 ViT with freshly drawn weights, ViT-B/16 unless `sizes` (fields of DINOv3ViTConfig) says more.

    `build_dinov3(...).save_pretrained(folder)` plus `DINOv3ViTImageProcessor(...).save_pretrained(folder)` make a
    folder that `weights: {path: folder}` reads.
    """
    return DINOv3ViTModel(DINOv3ViTConfig(**{**DINOV3_VIT_B16, **sizes}))


def build_vjepa2(**sizes: Any) -> VJEPA2Model:
    """A V-JEPA 2 with freshly drawn weights, ViT-L at 256 pixels unless `sizes` (fields of VJEPA2Config) says more.

    A folder for `weights` needs `VJEPA2VideoProcessor(...).save_pretrained(folder)` beside it.
    """
    return VJEPA2Model(VJEPA2Config(**{**VJEPA2_VIT_L, **sizes}))


def build_clip(
    *, vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None, projection_dim: int | None = None
) -> CLIPModel:
    """A CLIP of both towers with freshly drawn weights, ViT-B/16 unless the arguments say otherwise.

    A folder for `weights` needs a CLIPImageProcessor and a CLIPTokenizer saved beside it.

    Args:
        vision: fields of transformers' CLIPVisionConfig.
        text: fields of transformers' CLIPTextConfig.
        projection_dim: E, of both towers.
    """
    width = projection_dim or CLIP_VIT_B16["projection_dim"]
    towers = {"vision": {**CLIP_VIT_B16["vision"], **(vision or {})}, "text": {**CLIP_VIT_B16["text"], **(text or {})}}
    return CLIPModel(
        CLIPConfig(
            projection_dim=width,
            vision_config={**towers["vision"], "projection_dim": width},
            text_config={**towers["text"], "projection_dim": width},
        )
    )


# --- in what they differ ----------------------------------------------------------------------------------------------

# What the published preprocessor files say, and the only arithmetic implemented here.
PUBLISHED_PIXELS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
# Pillow's numbers, as preprocessor files have them.
BILINEAR, BICUBIC = 2, 3
_MODES = {BILINEAR: InterpolationMode.BILINEAR, BICUBIC: InterpolationMode.BICUBIC}


@dataclass(frozen=True)
class Kind:
    """How one family of towers is told apart, loaded and fed.

    Attributes:
        family: named in errors, such as "DINOv3".
        architectures: `model_type` of config.json -> the class that reads it.
        build: the published architecture, with weights drawn from torch's generator.
        mean, std: of each colour on [0, 1], for random weights only: a checkpoint brings its own.
        resample: how pictures are resized, `BILINEAR` or `BICUBIC`.
        fractions: whether grey levels are divided by 255 before the resize (float32) or after it (uint8).
        files: names that the checkpoint's preprocessor file may have, the one to ask for first.
    """

    family: str
    architectures: Mapping[str, type[PreTrainedModel]]
    build: Callable[[], PreTrainedModel]
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    resample: int = BILINEAR
    fractions: bool = False
    files: tuple[str, ...] = ("preprocessor_config.json",)

    def model(self, weights: Weights) -> PreTrainedModel:
        """The network of any of the three kinds of weights, in float32. Raises BackboneError, as `open_checkpoint`."""
        if weights.random is None:
            return open_checkpoint(weights, self.family, self.architectures).model()
        with seeded(weights.random):
            return self.build()

    def load(
        self, weights: Weights, device: torch.device | None = None
    ) -> tuple[PreTrainedModel, Sequence[float], Sequence[float]]:
        """(network, mean, standard deviation); of a checkpoint for the `meta` device no weight is read.

        Raises:
            BackboneError: as `model`, and where the pixels need other arithmetic.
        """
        if weights.random is not None:
            return self.model(weights), self.mean, self.std
        checkpoint = open_checkpoint(weights, self.family, self.architectures)
        present = [name for name in self.files if (checkpoint.folder / name).exists()]
        mean, std = checkpoint.normalisation(
            {**PUBLISHED_PIXELS, "resample": self.resample}, (present or self.files)[0]
        )
        return checkpoint.model(device), mean, std

    def refuse_another_side(self, size: tuple[int, int], side: int, remedy: str) -> None:
        """Raises BackboneError where the backbone would see another size than its positions were trained at."""
        if size != (side, side):
            raise BackboneError(
                f"this {self.family} sees {side} x {side} pixels, got {list(size)}: make {remedy}, or name a "
                "checkpoint trained at that size"
            )


DINOV3 = Kind("DINOv3", {"dinov3_vit": DINOv3ViTModel}, build_dinov3, fractions=True)
VJEPA2 = Kind(
    "V-JEPA 2",
    {"vjepa2": VJEPA2Model},
    build_vjepa2,
    # transformers' own name today, and the one before it told videos from images.
    files=("video_preprocessor_config.json", "preprocessor_config.json"),
)
CLIP = Kind(
    "CLIP",
    {"clip": CLIPModel, "clip_vision_model": CLIPVisionModelWithProjection},
    build_clip,
    mean=OPENAI_CLIP_MEAN,
    std=OPENAI_CLIP_STD,
    resample=BICUBIC,
)


# --- pixels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """Resize and centre crop as transformers' image and video processors do, bit for bit, antialias on.

    Mean and standard deviation belong to the checkpoint, so the backbone applies them. Without `fractions` uint8 comes
    out, a quarter of the bytes between processes. With it float32, since a resize after /255 gives values between grey
    levels.

    V-JEPA 2's processor resizes the shorter side to crop * 256 / 224, rounded down: 292 for 256, 438 for 384. Pillow's
    bicubic, which CLIP was trained with, differs on smooth pictures in fewer than 1 % of the values, by 2 grey levels
    at most; on noise by up to 25 where Pillow 13 takes the vertical pass first and clips between the passes.

    `on_device`: by the arithmetic of `resized`, on smooth pictures a grey level from that of a decode process at most;
    of bicubic on noise up to 1.3 % of the values differ by more, since uint8 is cut between the passes.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None
    resample: int = BILINEAR
    fractions: bool = False
    on_device: bool = False

    def resized(self, pixels_TCHW: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 on any device -> (T, 3, h, w) there, uint8 or float32 in [0, 1], in floating point."""
        found = pixels_TCHW.float() * (1 / 255) if self.fractions else pixels_TCHW.float()
        found = pixelwise.resize(found, self.resize, interpolation=_MODES[self.resample], antialias=True)
        found = centre_crop(found, self.crop)
        return (found if self.fractions else to_grey_levels(found)).contiguous()

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w), uint8 or float32 in [0, 1]. An integer `resize` is the shorter side."""
        # Left in the decoder's channels-last order: torch resizes that 5 times faster than planes.
        pixels_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
        if self.on_device:
            return self.resized(pixels_TCHW).numpy()
        if self.fractions:
            pixels_TCHW = pixels_TCHW.contiguous() * (1 / 255)
        mode = _MODES[self.resample]
        pixels_TCHW = pixelwise.resize(pixels_TCHW, self.resize, interpolation=mode, antialias=True)
        return centre_crop(pixels_TCHW, self.crop).contiguous().numpy()


# --- towers -----------------------------------------------------------------------------------------------------------


class Tower(ABC):
    """A frozen tower: a `Backbone`. A subclass names its `kind`, keeps what it needs of the network, and runs it.

    Attributes:
        kind: in what it differs from the others.
        span: frames of one step.
        mean_C11, std_C11: in the terms of the pixels that its preprocessor gives.

    Raises:
        BackboneError: weights that cannot be loaded, or a geometry that the network cannot take; with the remedy.
    """

    kind: ClassVar[Kind]
    span = 1

    def __init__(self, feature: BackboneFeature, device: torch.device):
        self.device, self.precision = device, feature.precision
        self.frames, self.size = feature.sampling.count, feature.preprocess.size
        model, mean, std = self.kind.load(feature.weights, device)
        # Where pixels come as grey levels, they are normalised as such, as transformers' processors do.
        white = 1 if self.kind.fractions else 255
        self.mean_C11, self.std_C11 = per_colour(mean, device) * white, per_colour(std, device) * white
        self.fields, self.grid = self.keep(model.requires_grad_(False).eval(), feature)

    @classmethod
    def preprocessor(cls, feature: TowerFeature) -> Pixels:
        geometry, kind = feature.preprocess, cls.kind
        there = getattr(feature, "resize", "worker") == "device"  # another package's tower has no such choice
        return Pixels(geometry.resize, geometry.crop, kind.resample, kind.fractions, there)

    def token_times(self, times: Sequence[float]) -> list[float]:
        """The mean time of each step's frames."""
        return step_times(times, self.frames, self.span)

    def __call__(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """Features of a batch.

        Args:
            pixels_BTCHW: from this backbone's preprocessor: uint8, or float32 in [0, 1] where its kind has `fractions`.

        Returns:
            As `fields` says, float32.

        Raises:
            BackboneError: pixels of another shape or dtype.
        """
        check_pixels(pixels_BTCHW, self.frames, self.size, torch.float32 if self.kind.fractions else torch.uint8)
        with arithmetic(self.device, self.precision):
            return self.run((pixels_BTCHW.to(self.device).float() - self.mean_C11) / self.std_C11)

    @abstractmethod
    def keep(self, model: PreTrainedModel, feature: Any) -> tuple[Fields, Grid | None]:
        """Checks the geometry, moves what is needed of the network to the device; returns the fields and the grid."""

    @abstractmethod
    def run(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """The fields of a batch of normalised pixels."""


class DinoV3(Tower):
    """DINOv3: patch tokens after the final norm, without CLS and register tokens, and CLS beside them."""

    kind = DINOV3

    def keep(self, model: DINOv3ViTModel, feature: DinoV3Feature) -> tuple[Fields, Grid]:
        config, self.pool = model.config, feature.pool
        self.model, self.prefix = model.to(self.device), 1 + config.num_register_tokens
        step = config.patch_size * self.pool
        if self.size[0] % step or self.size[1] % step:
            raise BackboneError(
                f"DINOv3 with patches of {config.patch_size} and pool {self.pool} cannot tile {list(self.size)}: "
                f"make both sides of preprocess.crop (or resize) multiples of {step}"
            )
        grid = (self.frames, self.size[0] // step, self.size[1] // step)
        return {
            "patch_tokens": ((self.frames, grid[1] * grid[2], config.hidden_size), "float16"),
            "cls": ((self.frames, config.hidden_size), "float16"),
        }, grid

    @property
    def network(self) -> nn.Module:
        """What `compile` compiles."""
        return self.model

    def run(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """patch_tokens (B, T, N, D) and cls (B, T, D)."""
        tokens = self.model(pixels_BTCHW.flatten(0, 1)).last_hidden_state.float()
        patches = _pool(tokens[:, self.prefix :], self.grid[1:], self.pool)
        return {
            "patch_tokens": patches.unflatten(0, (-1, self.frames)),
            "cls": tokens[:, 0].unflatten(0, (-1, self.frames)),
        }


def _pool(tokens_BND: Tensor, grid: tuple[int, int], pool: int) -> Tensor:
    """Means of pool x pool neighbouring patches; `grid` is (h, w) after pooling."""
    if pool == 1:
        return tokens_BND
    return tokens_BND.unflatten(1, (grid[0], pool, grid[1], pool)).mean(dim=(2, 4)).flatten(1, 2)


class VJepa2(Tower):
    """V-JEPA 2's encoder: its tokens after the final norm, as a grid in time and space. The predictor is dropped.

    With `sampling.windows`, each window goes through the network by itself, and their steps follow each other.
    """

    kind = VJEPA2

    def keep(self, model: VJEPA2Model, feature: VJepa2Feature) -> tuple[Fields, Grid]:
        config, self.windows = model.config, feature.sampling.windows or 1
        side = config.crop_size
        # Its rotary positions come from the token's number and this side: at another they would be wrong, silently.
        sides = f"preprocess.crop [{side}, {side}] and preprocess.resize {side * 256 // 224}"
        self.kind.refuse_another_side(self.size, side, sides)
        self.span, frames = config.tubelet_size, feature.sampling.frames
        if frames % self.span:
            raise BackboneError(
                f"this V-JEPA 2 makes one step of {self.span} frames, got sampling.frames {frames}; make it a multiple "
                f"of {self.span}"
            )
        self.encoder = model.encoder.to(self.device)
        cells = side // config.patch_size
        grid = (self.frames // self.span, cells, cells)
        return {"clip_tokens": ((grid[0], cells * cells, config.hidden_size), "float16")}, grid

    @property
    def network(self) -> nn.Module:
        """What `compile` compiles."""
        return self.encoder

    def run(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """clip_tokens (B, P, N, D), P over all windows."""
        clips = pixels_BTCHW.unflatten(1, (self.windows, -1)).flatten(0, 1)
        tokens = self.encoder(pixel_values_videos=clips).last_hidden_state.float()
        return {"clip_tokens": tokens.reshape(-1, *self.fields["clip_tokens"][0])}


class Clip(Tower):
    """CLIP's picture tower: the projected embedding, or the tokens that enter one of its blocks.

    `image_embed` is a unit vector; `cam_tokens` are transformers' hidden_states[block - 1], CLS first: what that block
    reads, by default the last one (-1). The blocks from there on are dropped, not run.
    """

    kind = CLIP

    def keep(self, model: Any, feature: ClipFeature) -> tuple[Fields, Grid | None]:
        self.output, self.tower = feature.output, model.vision_model
        config, side = self.tower.config, self.tower.config.image_size
        self.kind.refuse_another_side(self.size, side, f"preprocess.crop (or resize) [{side}, {side}]")
        grid, shape = None, (model.visual_projection.out_features,)
        if self.output == "cam_tokens":
            layers = self.tower.encoder.layers
            if -feature.block > len(layers):
                raise BackboneError(f"block {feature.block} of a CLIP of {len(layers)} blocks; choose a later one")
            self.tower.encoder.layers = layers[: feature.block]
            cells = side // config.patch_size
            grid, shape = (self.frames, cells, cells), (cells * cells + 1, config.hidden_size)
        self.tower, self.projection = self.tower.to(self.device), model.visual_projection.to(self.device)
        return {self.output: ((self.frames, *shape) if self.frames > 1 else shape, "float16")}, grid

    @property
    def network(self) -> nn.Module:
        """What `compile` compiles."""
        return self.tower

    def run(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """image_embed (B, T, E), unit vectors, or cam_tokens (B, T, N + 1, D); one frame has no T."""
        states = self.tower(pixels_BTCHW.flatten(0, 1))
        if self.output == "cam_tokens":
            rows = states.last_hidden_state.float()
        else:
            rows = unit(self.projection(states.pooler_output).float())
        return {self.output: rows.unflatten(0, (-1, self.frames)) if self.frames > 1 else rows}
