"""Frozen backbones: pure functions of a batch of pixels. Knows no store, no head and no data set.

`preprocessor(feature)` runs in decode workers and only changes the geometry; `load(feature, device)` holds the weights
and everything the checkpoint knows, normalisation included.
"""

import torch

from pipeline.backbones import dinov3, r3d18
from pipeline.backbones.base import Backbone, BackboneError, Fields, Preprocessor
from pipeline.config import AnyFeature, DinoV3Feature

__all__ = ["Backbone", "BackboneError", "Fields", "Preprocessor", "load", "preprocessor"]


def load(feature: AnyFeature, device: torch.device | str = "cpu") -> Backbone:
    """The backbone of a feature, with its weights, on `device`, in eval mode.

    Raises:
        BackboneError: weights that are absent, gated, of another architecture or incomplete, or a geometry that the
            architecture cannot take; the message gives the remedy.
    """
    backbone = dinov3.DinoV3 if isinstance(feature, DinoV3Feature) else r3d18.R3D18
    return backbone(feature, torch.device(device))


def preprocessor(feature: AnyFeature) -> Preprocessor:
    """A picklable function: native RGB (n, H, W, 3) uint8 -> (n, 3, h, w), float32 in [0, 1] or uint8."""
    pixels = dinov3.DinoV3Pixels if isinstance(feature, DinoV3Feature) else r3d18.R3D18Pixels
    return pixels(feature.preprocess.resize, feature.preprocess.crop)
