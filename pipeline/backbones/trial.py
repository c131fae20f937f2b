"""Tries another package's backbone on noise: what it lacks is said before any sample is decoded. Knows no store."""

import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones.base import BackboneError, expect_declared
from pipeline.config import BaseFeature, PixelFeature, TextFeature

SIDES = (96, 128)  # height and width of the noise, in pixels
COUNT = 2  # samples, or rows


def try_out(backbone: Any, feature: BaseFeature, device: torch.device) -> None:
    """Runs a backbone once, as the extraction will.

    Raises:
        BackboneError: an attribute that is absent, a preprocessor that a decode process cannot use, or features of
            other names or shapes than `fields` declares; with the remedy. What the backbone itself raises comes as is.
    """
    name = type(backbone).__name__
    asked = ("fields", "context", "stream_sizes") if feature.ragged else ("fields",)
    if missing := [attribute for attribute in asked if not hasattr(backbone, attribute)]:
        raise BackboneError(f"{name} has no {', '.join(missing)}; set them in its __init__, as backbones/base.py says")
    for field, declared in backbone.fields.items():
        _expect_a_field(name, field, declared, feature.ragged)
    if isinstance(feature, TextFeature):
        return  # texts need no decode, so their first batch comes as early, and is checked
    if feature.ragged:
        _try_rows(name, backbone, feature, device)
    else:
        _try_clips(name, backbone, feature, device)


def _expect_a_field(name: str, field: str, declared: Any, ragged: bool) -> None:
    try:
        shape, dtype = declared
        sides = tuple(shape)[1:] if ragged else tuple(shape)
        fits = all(isinstance(side, int) and side > 0 for side in sides) and np.dtype(dtype)
        fits = fits and (not ragged or tuple(shape)[:1] == (None,))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        wanted = "((None, 512), 'float16'), None for the rows" if ragged else "((8, 49, 512), 'float16')"
        raise BackboneError(f"{name}: fields[{field!r}] is {declared!r}, expected a shape and a dtype such as {wanted}")


def _try_clips(name: str, backbone: Any, feature: PixelFeature, device: torch.device) -> None:
    count = feature.sampling.count
    pixels = _preprocessed(name, backbone, feature, count)
    features = backbone(torch.stack([pixels] * COUNT).to(device))
    expect_declared(features, backbone.fields, COUNT, name)
    grid = getattr(backbone, "grid", None)
    times = backbone.token_times([float(second) for second in range(count)])
    if grid is not None and len(times) != grid[0]:
        raise BackboneError(
            f"{name}: token_times gave {len(times)} times, and its grid has {grid[0]} steps; give one a step"
        )


def _try_rows(name: str, backbone: Any, feature: PixelFeature, device: torch.device) -> None:
    if set(backbone.stream_sizes) != {"rgb"}:
        raise BackboneError(
            f"{name}: stream_sizes has {sorted(backbone.stream_sizes)}, expected rgb alone: other streams come from "
            "features, which only this repository's i3d reads"
        )
    frames = sum(backbone.context) + COUNT
    pixels = _preprocessed(name, backbone, feature, frames)
    expect_declared(backbone.rows({"rgb": pixels}), backbone.fields, COUNT, name)


def _preprocessed(name: str, backbone: Any, feature: PixelFeature, frames: int) -> Tensor:
    """Noise as its preprocessor makes pixels of it."""
    prepare = type(backbone).preprocessor(feature)
    try:
        pickle.dumps(prepare)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BackboneError(
            f"{name}: its preprocessor cannot be sent to a decode process ({error}); return a function of a module, a "
            "functools.partial of one, or an instance of a class of a module"
        ) from None
    noise = np.random.default_rng(0).integers(0, 256, (frames, *SIDES, 3), dtype=np.uint8)
    try:
        pixels = prepare(noise)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise BackboneError(f"{name}: its preprocessor fails on frames of noise ({cause}); correct it") from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 4 or pixels.shape[:2] != (frames, 3):
        got = pixels.shape if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise BackboneError(
            f"{name}: its preprocessor made {got} of {frames} frames, expected a numpy array ({frames}, 3, h, w)"
        )
    return torch.from_numpy(np.ascontiguousarray(pixels))
