"""Frozen backbones: pure functions of a batch of pixels, or of texts. Knows no store, no head and no data set.

`preprocessor(feature)` runs in decode workers and only changes the geometry; `load(feature, device)` holds the weights
and everything the checkpoint knows, normalisation included.
"""

from importlib import import_module
from typing import Any

import torch

from pipeline.backbones.base import Backbone, BackboneError, Fields, FrameBackbone, Preprocessor, TextBackbone
from pipeline.config import AnyFeature, PixelFeature

__all__ = [
    "Backbone",
    "BackboneError",
    "Fields",
    "FrameBackbone",
    "Preprocessor",
    "TextBackbone",
    "load",
    "preprocessor",
]

# `backbone` in params -> the class with the weights and the one with the geometry. Imported when asked for: a decode
# process has no use for every architecture.
_KINDS = {
    "dinov3": ("dinov3", "DinoV3", "DinoV3Pixels"),
    "r3d18": ("r3d18", "R3D18", "R3D18Pixels"),
    "vjepa2": ("vjepa2", "VJepa2", "VJepa2Pixels"),
    "clip": ("clip", "Clip", "ClipPixels"),
    "clip_text": ("clip_text", "ClipText", ""),
    "flow": ("flow", "Flow", "FlowPixels"),
    "i3d": ("i3d", "I3DFrames", "I3DPixels"),
}


def load(feature: AnyFeature, device: torch.device | str = "cpu") -> Any:
    """The backbone of a feature, with its weights, on `device`, in eval mode.

    Returns:
        A Backbone, a FrameBackbone for ragged features, or a TextBackbone.

    Raises:
        BackboneError: weights that are absent, gated, of another architecture or incomplete, or a geometry that the
            architecture cannot take; the message gives the remedy.
    """
    module, name, _ = _KINDS[feature.backbone]
    return getattr(import_module(f"pipeline.backbones.{module}"), name)(feature, torch.device(device))


def preprocessor(feature: PixelFeature) -> Preprocessor:
    """A picklable function: native RGB (n, H, W, 3) uint8 -> (n, 3, h, w), float32 in [0, 1] or uint8."""
    module, _, name = _KINDS[feature.backbone]
    pixels = getattr(import_module(f"pipeline.backbones.{module}"), name)
    if feature.backbone == "flow":  # flow sees the whole resized frame, and crops what it found
        return pixels(feature.preprocess.resize)
    return pixels(feature.preprocess.resize, feature.preprocess.crop)
