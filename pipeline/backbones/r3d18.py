"""R3D-18's token grids and pooled vectors, with torchvision's modules and key names. Knows no store, no other backbone.

Shape suffixes: B videos, T frames, C channels (colours first), H W pixels, P steps, N cells of the token grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.video import R3D_18_Weights
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet
from torchvision.transforms import functional as pixelwise

from pipeline.backbones.base import (
    BackboneError,
    arithmetic,
    centre_crop,
    check_pixels,
    layout_3d,
    per_colour,
    seeded,
    step_times,
    to_grey_levels,
)
from pipeline.backbones.states import open_state, revision_of
from pipeline.config import R3D18Feature, Weights

KINETICS = R3D_18_Weights.KINETICS400_V1
KINETICS_HUB = f"torchvision/{KINETICS}"
KINETICS_REVISION = revision_of(KINETICS)
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class R3D18Layers(VideoResNet):
    """torchvision's R3D-18 at any width, up to layer 4: the same modules, key names and initial distribution."""

    def __init__(self, width: int):
        nn.Module.__init__(self)
        self.inplanes = width
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, kernel_size=(3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        self.layer1 = self._make_layer(BasicBlock, Conv3DSimple, width, 2)
        self.layer2 = self._make_layer(BasicBlock, Conv3DSimple, 2 * width, 2, stride=2)
        self.layer3 = self._make_layer(BasicBlock, Conv3DSimple, 4 * width, 2, stride=2)
        self.layer4 = self._make_layer(BasicBlock, Conv3DSimple, 8 * width, 2, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) normalised -> layer 4's (B, 8 * width, P, h, w)."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clips_BCTHW)))))


def build_r3d18(width: int = 64) -> R3D18Layers:
    """R3D-18 with freshly drawn weights and `8 * width` output channels; 64 is torchvision's width."""
    return R3D18Layers(width)


def make_atrous(model: R3D18Layers) -> R3D18Layers:
    """Turns layer 4's temporal stride into dilation, in place, weights unchanged: twice the steps.

    The first convolution and the shortcut keep every step; each later convolution of the layer then looks two steps
    away. Even steps equal the original network's.

    Source: Chen et al., DeepLab (2018), the a trous algorithm, along time.
    """
    first, second = model.layer4
    for convolution in (first.conv1[0], first.downsample[0]):
        convolution.stride = (1, *convolution.stride[1:])
    for convolution in (first.conv2[0], second.conv1[0], second.conv2[0]):
        convolution.dilation, convolution.padding = (2, 1, 1), (2, 1, 1)
    return model


@dataclass(frozen=True)
class R3D18Pixels:
    """torchvision's video preset, bit for bit, up to its centre crop: bilinear on uint8, antialias off. The crop of
    171 to 112 starts at 29, where the preset's starts at 30, so that both streams see the same pixels.

    uint8 out, a quarter of the bytes between processes; /255 and Kinetics' mean and deviation are the backbone's.
    `on_device`: by the arithmetic of `resized`, which differs by a grey level at most.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None
    on_device: bool = False

    def resized(self, pixels_TCHW: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 on any device -> (T, 3, h, w) uint8 there, in floating point."""
        found = pixelwise.resize(pixels_TCHW.float(), self.resize, antialias=False)
        return to_grey_levels(centre_crop(found, self.crop)).contiguous()

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) uint8. An integer `resize` is the shorter side."""
        # One frame at a time: torchvision resizes uint8 by way of float32, and a frame's copy of that stays in cache
        # (32 frames of 240p in 25 ms, 72 ms all at once).
        frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
        if self.on_device:
            return self.resized(frames_TCHW).numpy()
        resized = [pixelwise.resize(frame_CHW, self.resize, antialias=False) for frame_CHW in frames_TCHW]
        pixels_TCHW = torch.stack(resized)
        return centre_crop(pixels_TCHW, self.crop).contiguous().numpy()


class R3D18:
    """Frozen R3D-18: layer 4 or 3 as a grid of tokens in time and space, or (`pooled`) layer 4's mean over both.

    With `sampling.windows`, each window goes through the network by itself, and their steps follow each other.
    """

    def __init__(self, feature: R3D18Feature, device: torch.device):
        self.device, self.precision, self.pooled = device, feature.precision, feature.pooled
        self.frames, self.windows = feature.sampling.frames, feature.sampling.windows or 1
        self.size = feature.preprocess.size
        # Frames of a step and pixels of a cell: every layer after the first halves each, unless it is dilated in time.
        span, reach = (4, 8) if feature.layer == 3 else (4 if feature.atrous else 8, 16)
        if self.frames % span and not self.pooled:
            raise BackboneError(
                f"R3D-18 with layer {feature.layer} and atrous {feature.atrous} makes one step of {span} frames, got "
                f"sampling.frames {self.frames}; make it a multiple of {span}"
            )
        self.span = self.frames if self.pooled else span
        model = _load(feature.weights).requires_grad_(False).eval()
        self.layout = layout_3d(device, self.precision, on_cpu=torch.contiguous_format)
        self.model = (make_atrous(model) if feature.atrous else model).to(device, memory_format=self.layout)
        channels = self.model.layer4[1].conv2[0].out_channels
        if feature.layer == 3:
            self.model.layer4, channels = nn.Identity(), channels // 2
        self.mean_C11, self.std_C11 = per_colour(KINETICS_MEAN, device), per_colour(KINETICS_STD, device)

        steps = self.windows * self.frames // self.span
        if self.pooled:
            self.grid = None
            shape = (steps, channels) if feature.sampling.windows else (channels,)
            self.fields = {"clip_embed": (shape, "float16")}
        else:
            rows, columns = (-(-side // reach) for side in self.size)
            self.grid = (steps, rows, columns)
            self.fields = {"clip_tokens": ((steps, rows * columns, channels), "float16")}

    @property
    def network(self) -> nn.Module:
        """What `compile` compiles."""
        return self.model

    @staticmethod
    def preprocessor(feature: R3D18Feature) -> R3D18Pixels:
        return R3D18Pixels(feature.preprocess.resize, feature.preprocess.crop, feature.resize == "device")

    def token_times(self, times: Sequence[float]) -> list[float]:
        """The mean time of each step's frames: 8 of them, 4 with `atrous` or layer 3, a whole window if `pooled`."""
        return step_times(times, self.windows * self.frames, self.span)

    def __call__(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """Motion tokens, or one vector a window.

        Args:
            pixels_BTCHW: uint8, from R3D18Pixels; T counts the frames of all windows.

        Returns:
            clip_tokens (B, P, N, C), P over all windows, or clip_embed (B, C), or (B, windows, C) where the sampling
            has windows; float32.

        Raises:
            BackboneError: pixels of another shape or dtype.
        """
        check_pixels(pixels_BTCHW, self.windows * self.frames, self.size, torch.uint8)
        with arithmetic(self.device, self.precision):
            clips = (pixels_BTCHW.to(self.device).float() / 255 - self.mean_C11) / self.std_C11
            clips = clips.unflatten(1, (self.windows, self.frames)).flatten(0, 1)
            clips_BCTHW = clips.transpose(1, 2).contiguous(memory_format=self.layout)
            tokens_BCPHW = self.model(clips_BCTHW).float()
            if self.pooled:
                vectors = nn.functional.adaptive_avg_pool3d(tokens_BCPHW, 1).flatten(1)
                return {"clip_embed": vectors.reshape(-1, *self.fields["clip_embed"][0])}
            tokens_BPNC = tokens_BCPHW.flatten(3).permute(0, 2, 3, 1)
            return {"clip_tokens": tokens_BPNC.reshape(-1, self.grid[0], *tokens_BPNC.shape[2:])}


# --- weights ----------------------------------------------------------------------------------------------------------


def _load(weights: Weights) -> R3D18Layers:
    if weights.random is not None:
        with seeded(weights.random):
            return build_r3d18()
    return _fill(*open_state(weights, {KINETICS_HUB: KINETICS}, "R3D-18 with torchvision's key names"))


def _fill(state: Mapping[str, Tensor], origin: str) -> R3D18Layers:
    """The network whose width the state dict implies, with its weights. The classifier `fc` is dropped."""
    stem = state.get("stem.0.weight")
    if stem is None or stem.ndim != 5:
        raise BackboneError(
            f"{origin} is not a state dict of R3D-18: it has no stem.0.weight of five dimensions, but keys such as "
            f"{sorted(state)[:3]}; give a state dict with torchvision's key names"
        )
    with seeded(0):
        model = build_r3d18(stem.shape[0])
    try:
        model.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    except RuntimeError as error:
        raise BackboneError(f"{origin} does not fit R3D-18 of width {stem.shape[0]}: {error}; save it again") from None
    return model
