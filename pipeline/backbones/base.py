"""What every backbone shares: the protocol, the error, exact arithmetic. Knows no architecture, no store and no video.

Shape suffixes: B videos, T sampled frames, C colours (3), H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
Fields = Mapping[str, tuple[tuple[int, ...], str]]
Grid = tuple[int, int, int]
Preprocessor = Callable[[np.ndarray], np.ndarray]

# ImageNet's mean and standard deviation, used for random weights only: real ones bring their own.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BackboneError(ValueError):
    """A backbone cannot be loaded, or cannot take its input; the message gives the remedy."""


class Backbone(Protocol):
    """A frozen, pure function of a batch of samples, each a fixed number of frames.

    One class, made from its feature (its part of params) and a device. Equal pixels give equal features, whatever was
    computed before: it keeps no state, draws no random number, and knows no sample, no label and no store.

    Attributes:
        fields: name -> (shape of one sample, dtype in which it is stored).
        grid: (T', H', W') of the token field: steps, rows and columns of tokens; None where there is no such field.

    A class of another package also has `Config`: the model of its feature, a subclass of `pipeline.config`'s
    BackboneFeature (with weights), PixelFeature, RowsFeature or TextFeature, whose further fields are its own options.
    Those of this repository have theirs in pipeline.config.networks. docs/adding-a-backbone.md has an example.
    """

    fields: Fields
    grid: Grid | None

    def __init__(self, feature: Any, device: torch.device) -> None:
        """Raises BackboneError: weights that cannot be loaded, or a geometry that the network cannot take."""
        ...

    @staticmethod
    def preprocessor(feature: Any) -> Preprocessor:
        """A picklable function of native RGB (n, H, W, 3) uint8 to (n, 3, h, w), uint8 or float32 in [0, 1].

        It runs in decode processes, which hold no weights: it resizes and crops. Mean and deviation are the backbone's.
        """
        ...

    def token_times(self, times: Sequence[float]) -> list[float]:
        """The time, in seconds, of each of the T' steps, given the times of the T sampled frames."""
        ...

    def __call__(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """Features of a batch of preprocessed samples: name -> (B, *shape) float32, an entry for each of `fields`.

        A sample's features do not depend on the others of its batch, beyond the last bits.
        """
        ...


class FrameBackbone(Protocol):
    """A frozen, pure function from the frames of a video to one row a frame, each row from a window around its frame.

    Made and preprocessed as a Backbone; another package's `Config` is a RowsFeature, and it reads "rgb".

    Attributes:
        fields: name -> (shape of one sample, its first entry None, dtype in which it is stored).
        context: frames before and after its own that a row needs.
        stream_sizes: name of a stream of pixels, "rgb" or "flow" -> (channels, height, width); None for a side that
            depends on the video.
        runs_in_worker: whether `rows` is plain CPU code that a decode process may run; False where it is absent.
    """

    fields: Fields
    context: tuple[int, int]
    stream_sizes: Mapping[str, tuple[int | None, ...]]
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
    """A frozen, pure function of texts, made as a Backbone; another package's `Config` is a TextFeature.

    Attributes:
        fields: as of a Backbone.
    """

    fields: Fields

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """name of a field -> (B, ...) float32. Raises BackboneError for texts that it cannot take: they fail alone."""
        ...


def expect_declared(features: Mapping[str, Any], fields: Fields, count: int, of: str) -> None:
    """Checks what a backbone returned against what it declared.

    Args:
        features: name -> tensor or array.
        fields: as the backbone declares them.
        count: samples of the batch, or rows of the piece.
        of: the backbone's class, named in errors.

    Raises:
        BackboneError: fields of other names or shapes.

    >>> expect_declared({"cls": torch.zeros(2, 3)}, {"cls": ((4,), "float16")}, 2, "Mine")
    Traceback (most recent call last):
    pipeline.backbones.base.BackboneError: Mine returned {'cls': (2, 3)} for 2 samples, and its fields declare \
{'cls': (2, 4)}; make the two agree
    """
    got = {name: tuple(feature.shape) for name, feature in features.items()}
    ragged = any(shape[:1] == (None,) for shape, _ in fields.values())
    wanted = {name: (count, *shape[1:]) if ragged else (count, *shape) for name, (shape, _) in fields.items()}
    if got != wanted:
        what = "rows" if ragged else "samples"
        raise BackboneError(
            f"{of} returned {got} for {count} {what}, and its fields declare {wanted}; make the two agree"
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds everything drawn inside; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """Deterministic inference in the given precision.

    bf16 and fp16 are autocast: weights and the residual stream stay in fp32. fp32 is exact: cuDNN's convolutions would
    otherwise round their inputs to TF32's 10 bits of mantissa.
    """
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"),
    ):
        yield


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, without a wait for it: from pinned memory, which torch keeps meanwhile."""
    if device.type != "cuda":
        return host.to(device)
    return (host if host.is_pinned() else host.pin_memory()).to(device, non_blocking=True)


def per_colour(values: Sequence[float], device: torch.device) -> Tensor:
    """(3, 1, 1) float32, to be broadcast over rows and columns."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


def centre_crop(pixels_XHW: Tensor, crop: tuple[int, int] | None) -> Tensor:
    """(..., H, W) -> (..., *crop), a view; None crops nothing. Of an odd difference the smaller half is cut in front.

    Rounded down, as transformers does: torchvision's own centre crop rounds halves to even, so that of 59 pixels it
    cuts 30 in front and of 57, 28. One rule for all, so that streams of one geometry see the same pixels.

    >>> centre_crop(torch.arange(7).view(1, 7), (1, 4)).tolist()
    [[1, 2, 3, 4]]
    """
    if crop is None:
        return pixels_XHW
    top, left = (pixels_XHW.shape[-2] - crop[0]) // 2, (pixels_XHW.shape[-1] - crop[1]) // 2
    return pixels_XHW[..., top : top + crop[0], left : left + crop[1]]


def step_times(times: Sequence[float], frames: int, span: int) -> list[float]:
    """The mean time, in seconds, of each step of `span` frames. Raises BackboneError for another number than `frames`.

    >>> step_times([0.0, 1.0, 2.0, 4.0], 4, 2)
    [0.5, 3.0]
    """
    if len(times) != frames:
        raise BackboneError(f"got {len(times)} times, expected {frames}, one a sampled frame of each window")
    return np.asarray(times, dtype=np.float64).reshape(-1, span).mean(axis=1).tolist()


def unit(vectors: Tensor) -> Tensor:
    """Vectors of L2 norm 1 along the last axis. One of norm 0 becomes NaN, which no store takes: it is not hidden."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def check_pixels(pixels_BTCHW: Tensor, frames: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Raises BackboneError for a batch that the backbone's own preprocessor would not make."""
    wanted = (frames, 3, *size)
    if pixels_BTCHW.ndim != 5 or tuple(pixels_BTCHW.shape[1:]) != wanted or pixels_BTCHW.dtype != dtype:
        raise BackboneError(
            f"got pixels {tuple(pixels_BTCHW.shape)} {pixels_BTCHW.dtype}, expected (B, {', '.join(map(str, wanted))}) "
            f"{dtype}; make them with preprocessor(feature) of the same feature"
        )
