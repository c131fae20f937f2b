"""What every backbone shares: the protocol, the error, exact arithmetic. Knows no architecture, no store and no video.

Shape suffixes: B videos, T sampled frames, C colours (3), H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
Fields = Mapping[str, tuple[tuple[int, ...], str]]
Preprocessor = Callable[[np.ndarray], np.ndarray]

# ImageNet's mean and standard deviation, used for random weights only: real ones bring their own.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BackboneError(ValueError):
    """A backbone that cannot be loaded or cannot take these pixels; the message gives the remedy."""


class Backbone(Protocol):
    """A frozen, pure function of a batch of samples, each a fixed number of frames.

    Attributes:
        fields: name -> (shape of one sample, dtype in which it is stored).
        grid: (T', H', W') of the token field: steps, rows and columns of tokens; None where there is no such field.
    """

    fields: Fields
    grid: tuple[int, int, int] | None

    def token_times(self, times: Sequence[float]) -> list[float]:
        """The time, in seconds, of each of the T' steps, given the times of the T sampled frames."""
        ...

    def __call__(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """Features of a batch, as its preprocessor made it. float32, on the backbone's device, one entry a field."""
        ...


class FrameBackbone(Protocol):
    """A frozen, pure function from the frames of a video to one row a frame, each row from a window around its frame.

    Attributes:
        fields: name -> (shape of one sample, its first entry None, dtype in which it is stored).
        context: frames before and after its own that a row needs.
        stream_sizes: name of a stream of pixels, "rgb" or "flow" -> (channels, height, width).
        runs_in_worker: whether `rows` is plain CPU code that a decode process may run.
    """

    fields: Fields
    context: tuple[int, int]
    stream_sizes: Mapping[str, tuple[int, int, int]]
    runs_in_worker: bool

    def rows(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of n frames.

        Args:
            streams: name -> (before + n + after, C, H, W) uint8; where a video ends, its edge frame is repeated.

        Returns:
            name of a field -> (n, ...).
        """
        ...


class TextBackbone(Protocol):
    """A frozen, pure function of texts. `fields` as for Backbone."""

    fields: Fields

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """name of a field -> (B, ...) float32."""
        ...


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything drawn inside follows from `seed`; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """Inference in the asked precision, repeatable.

    bf16 and fp16 autocast: weights and the residual stream stay in fp32. fp32 is really fp32: cuDNN's convolutions
    would otherwise round their inputs to TF32's 10 bits of mantissa.
    """
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"),
    ):
        yield


def per_colour(values: Sequence[float], device: torch.device) -> Tensor:
    """(3, 1, 1) float32, to be broadcast over rows and columns."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


def centre_crop(pixels_XHW: Tensor, crop: tuple[int, int] | None) -> Tensor:
    """(..., H, W) -> (..., *crop), a view; None leaves it whole. Where what is cut off is odd, less of it is in front.

    Rounded down, as transformers does: torchvision's own centre crop rounds halves to even, so that of 59 pixels it
    cuts 30 in front and of 57, 28. One rule for all, so that streams of one geometry see the same pixels.

    >>> centre_crop(torch.arange(7).view(1, 7), (1, 4)).tolist()
    [[1, 2, 3, 4]]
    """
    if crop is None:
        return pixels_XHW
    top, left = (pixels_XHW.shape[-2] - crop[0]) // 2, (pixels_XHW.shape[-1] - crop[1]) // 2
    return pixels_XHW[..., top : top + crop[0], left : left + crop[1]]


def check_pixels(pixels_BTCHW: Tensor, frames: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Raises BackboneError where the batch is not what the backbone's own preprocessor makes."""
    wanted = (frames, 3, *size)
    if pixels_BTCHW.ndim != 5 or tuple(pixels_BTCHW.shape[1:]) != wanted or pixels_BTCHW.dtype != dtype:
        raise BackboneError(
            f"got pixels {tuple(pixels_BTCHW.shape)} {pixels_BTCHW.dtype}, expected (B, {', '.join(map(str, wanted))}) "
            f"{dtype}; make them with preprocessor(feature) of the same feature"
        )
