"""Inception I3D, frame by frame, for RGB and for optical flow. Knows no store, no video and no other backbone.

Shape suffixes: B windows, N rows, C channels, T frames of a stream, W frames of a window, H Y pixels' rows and columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import functional as pixelwise

from pipeline.backbones.base import BackboneError, arithmetic, centre_crop, layout_3d, seeded
from pipeline.backbones.states import read_state
from pipeline.config import I3DFeature, Weights
from pipeline.transfers import sent

# Channels of each stream: colours, or displacement to the right and downwards.
STREAMS = {"rgb": 3, "flow": 2}
# The value of no motion in a uint8 flow stream, and its steps in either direction.
STILL, STEPS = 128, 127
PUBLIC = "Inception I3D with the key names of pytorch-i3d (Conv3d_1a_7x7.conv3d.weight and so on)"

# Output channels of the branches of each Inception module at the published width 64: 1x1x1; 1x1x1 then 3x3x3 (the
# wide one); 1x1x1 then 3x3x3 (the narrow one); pool then 1x1x1. Source: Szegedy et al., CVPR 2015, table 1.
INCEPTION = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


# --- the network ------------------------------------------------------------------------------------------------------


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side, so that ceil(size / stride) positions come out. The odd one goes behind.

    Source: TensorFlow's SAME padding, with which I3D was trained.

    >>> same_padding(224, 7, 2), same_padding(225, 7, 2), same_padding(7, 3, 1)
    ((2, 3), (3, 3), (1, 1))
    """
    total = max((ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _padded(x_BCTHY: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    pads = [same_padding(*side) for side in zip(x_BCTHY.shape[2:], kernel, stride, strict=True)]
    flat = [pad for pair in reversed(pads) for pad in pair]  # F.pad wants the last dimension first
    return F.pad(x_BCTHY, flat) if any(flat) else x_BCTHY


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x_BCTHY: Tensor) -> Tensor:
        padded = _padded(x_BCTHY, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(padded)), inplace=True)


class SamePool(nn.Module):
    """Max pooling with SAME padding. Zeros will do, since every input has passed a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x_BCTHY: Tensor) -> Tensor:
        return F.max_pool3d(_padded(x_BCTHY, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception module: four branches side by side."""

    def __init__(self, inputs: int, outputs: tuple[int, ...]):
        super().__init__()
        one, wide_in, wide, narrow_in, narrow, pooled = outputs
        self.b0 = Unit(inputs, one)
        self.b1a, self.b1b = Unit(inputs, wide_in), Unit(wide_in, wide, 3)
        self.b2a, self.b2b = Unit(inputs, narrow_in), Unit(narrow_in, narrow, 3)
        self.b3a, self.b3b = SamePool((3, 3, 3), (1, 1, 1)), Unit(inputs, pooled)
        self.outputs = one + wide + narrow + pooled

    def forward(self, x_BCTHY: Tensor) -> Tensor:
        x = x_BCTHY
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class I3D(nn.Sequential):
    """Inception I3D up to Mixed_5c; its children are the published end points, in order.

    Source: Carreira & Zisserman, CVPR 2017, figure 3.
    """

    def __init__(self, channels: int = 3, width: int = 64):
        """`channels` of the input; `width` of the stem, a multiple of 8, to which all others are proportional."""
        super().__init__()
        self.add_module("Conv3d_1a_7x7", Unit(channels, width, 7, 2))
        self.add_module("MaxPool3d_2a_3x3", SamePool((1, 3, 3), (1, 2, 2)))
        self.add_module("Conv3d_2b_1x1", Unit(width, width))
        self.add_module("Conv3d_2c_3x3", Unit(width, 3 * width, 3))
        self.add_module("MaxPool3d_3a_3x3", SamePool((1, 3, 3), (1, 2, 2)))
        last = 3 * width
        for name, outputs in INCEPTION.items():
            if name == "4b":
                self.add_module("MaxPool3d_4a_3x3", SamePool((3, 3, 3), (2, 2, 2)))
            if name == "5b":
                self.add_module("MaxPool3d_5a_2x2", SamePool((2, 2, 2), (2, 2, 2)))
            mixed = Mixed(last, tuple(count * width // 64 for count in outputs))
            self.add_module(f"Mixed_{name}", mixed)
            last = mixed.outputs
        self.outputs = last


# --- pixels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class I3DPixels:
    """Short side to `resize` (or both sides, for a pair), bilinear with antialias, as Pillow does; then a centre crop.

    uint8 out: the scale to [-1, 1] is the backbone's.
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int] | None = None

    def __call__(self, frames_THYC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) uint8."""
        pixels_TCHY = resized(frames_THYC, self.resize)
        return centre_crop(pixels_TCHY, self.crop).contiguous().numpy()


def resized(frames_THYC: np.ndarray, resize: tuple[int, int] | int) -> Tensor:
    """(T, H, W, 3) uint8 -> (T, 3, h, w) uint8: bilinear, antialias on; an int is the short side's.

    One grey level from Pillow's resize and torchvision's alike (tests hold it).
    """
    frames_TCHY = torch.from_numpy(frames_THYC).permute(0, 3, 1, 2)
    size = [resize] if isinstance(resize, int) else list(resize)
    return pixelwise.resize(frames_TCHY, size, antialias=True)


# --- the backbone -----------------------------------------------------------------------------------------------------


class I3DFrames:
    """Frozen I3D on a window around each frame: rgb, flow, or both side by side.

    Attributes:
        context: frames before and after that a row looks at; the window of row t is t - W // 2 to t - W // 2 + W - 1.
        stream_sizes: what `rows` wants: name -> (channels, height, width).
        fields: frames (rows, outputs of rgb, then of flow); 1024 each at the published width.
    """

    grid = None
    runs_in_worker = False

    def __init__(self, feature: I3DFeature, device: torch.device):
        self.device, self.precision, self.batch = device, feature.precision, feature.batch
        self.window, self.pooling = feature.window, feature.pooling
        self.context = (self.window // 2, self.window - 1 - self.window // 2)
        weights = {"rgb": feature.rgb, "flow": feature.flow and feature.flow.weights}
        self.layout = layout_3d(device, self.precision, on_cpu=torch.channels_last_3d)
        self.models = {
            name: _load(name, source).requires_grad_(False).eval().to(device, memory_format=self.layout)
            for name, source in weights.items()
            if source is not None
        }
        self.stream_sizes = {name: (STREAMS[name], *feature.preprocess.size) for name in self.models}
        outputs = sum(model.outputs for model in self.models.values())
        self.fields = {"frames": ((None, outputs), "float16")}

    @staticmethod
    def preprocessor(feature: I3DFeature) -> I3DPixels:
        return I3DPixels(feature.preprocess.resize, feature.preprocess.crop)

    def rows(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One row a frame.

        Args:
            streams: name -> (before + N + after, C, H, W) uint8, the edges already repeated; rgb from I3DPixels, flow
                as a flow feature stores it.

        Returns:
            frames (N, outputs), float32: Mixed_5c, `pooled`.

        Raises:
            BackboneError: a stream that is missing, or of another shape or dtype.
        """
        self._check(streams)
        there = {name: sent(stream, self.device) for name, stream in streams.items()}
        parts = [self._stream_rows(name, model, there[name]) for name, model in self.models.items()]
        return {"frames": torch.cat(parts, dim=1)}

    def _stream_rows(self, name: str, model: I3D, frames_TCHY: Tensor) -> Tensor:
        rows, count = [], len(frames_TCHY) - self.window + 1
        for start in range(0, count, self.batch):
            # The frames that a batch of windows covers, each once: windows are views of them until the first layer.
            covered = frames_TCHY[start : min(start + self.batch, count) + self.window - 1]
            with arithmetic(self.device, self.precision):
                scaled_TCHY = scaled_rgb(covered) if name == "rgb" else dequantised_flow(covered)
                windows_BCWHY = scaled_TCHY.unfold(0, self.window, 1).movedim(-1, 2)
                mixed_BCTHY = model(windows_BCWHY.contiguous(memory_format=self.layout))
                rows.append(pooled(mixed_BCTHY.float(), self.pooling))
        return torch.cat(rows)

    def _check(self, streams: Mapping[str, Tensor]) -> None:
        got = {name: (tuple(stream.shape), stream.dtype) for name, stream in streams.items()}
        lengths = {len(stream) for stream in streams.values()}
        fits = got.keys() == self.stream_sizes.keys() and all(
            shape[1:] == self.stream_sizes[name] and dtype == torch.uint8 for name, (shape, dtype) in got.items()
        )
        if not fits or len(lengths) != 1 or min(lengths) < self.window:
            raise BackboneError(
                f"got streams {got}, expected {{name: (T, C, H, W)}} uint8 with {self.stream_sizes} and one T of at "
                f"least the window {self.window}; make them with preprocessor(feature) and a flow feature of that crop"
            )


def pooled(x_BCTHY: Tensor, pooling: Literal["mean", "published"]) -> Tensor:
    """(B, C) of what Mixed_5c gives: its mean, or the published network's pool over (2, 7, 7), then the mean.

    They are the same for (2, 7, 7), that is for windows of 16 and crops of 224. Of a window of 64, which gives 8 steps,
    the published pool has 7 pairs: the first and the last step count half.
    """
    if pooling == "published":
        x_BCTHY = F.avg_pool3d(x_BCTHY, (2, 7, 7), stride=1)
    return x_BCTHY.mean(dim=(2, 3, 4))


def scaled_rgb(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.float() / 255 * 2 - 1


def dequantised_flow(stored: Tensor) -> Tensor:
    """uint8 flow, as a flow feature stores it, -> float32 in [-1, 1], where 1 is the feature's bound; 128 is 0."""
    return (stored.float() - STILL) / STEPS


# --- weights ----------------------------------------------------------------------------------------------------------


def _load(stream: str, weights: Weights) -> I3D:
    if weights.random is not None:
        with seeded(weights.random):
            return I3D(STREAMS[stream])
    if weights.hub is not None:
        raise BackboneError(
            f"I3D {stream} weights {weights.hub}@{weights.revision}: no hub is known to hold them; download the public "
            f"rgb_imagenet.pt or flow_imagenet.pt and give its path as weights.path"
        )
    file = Path(str(weights.path))
    return fill(read_state(file, PUBLIC), stream, str(file))


def fill(state: Mapping[str, Tensor], stream: str, origin: str) -> I3D:
    """The network whose width the stem implies, with its weights. The classifier `logits` is dropped.

    Raises:
        BackboneError: a state dict of anything but I3D for this stream, with the remedy.
    """
    stem = state.get("Conv3d_1a_7x7.conv3d.weight")
    if stem is None or stem.ndim != 5:
        prefixed = any(name.startswith("module.") for name in state)
        remedy = "save model.module.state_dict(), without DataParallel's prefix" if prefixed else f"give {PUBLIC}"
        raise BackboneError(
            f"{origin} is not a state dict of I3D: it has no Conv3d_1a_7x7.conv3d.weight of five dimensions, but keys "
            f"such as {sorted(state)[:3]}; {remedy}"
        )
    width, channels = stem.shape[:2]
    if channels != STREAMS[stream]:
        raise BackboneError(
            f"{origin} reads {channels} channels, expected {STREAMS[stream]} for {stream}; "
            "perhaps the weights of rgb (3 channels) and flow (2) are exchanged"
        )
    if width % 8:
        raise BackboneError(f"{origin} has a stem of width {width}, expected a multiple of 8 (published: 64)")
    with seeded(0):
        model = I3D(channels, width)
    try:
        model.load_state_dict({name: value for name, value in state.items() if not name.startswith("logits.")})
    except RuntimeError as error:
        raise BackboneError(f"{origin} does not fit I3D of width {width}: {error}; save it again") from None
    return model
