"""Frozen backbones: pure functions of a batch of pixels, or of texts. Knows no store, no head and no dataset.

`preprocessor(feature)` runs in decode workers and only changes the geometry; `load(feature, device)` holds the weights
and everything the checkpoint knows, normalisation included. What a backbone is, `base` says.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.backbones.base import (
    Backbone,
    BackboneError,
    Fields,
    FrameBackbone,
    Preprocessor,
    TextBackbone,
    expect_declared,
)
from pipeline.compiling import compiled
from pipeline.config import AnyFeature, PixelFeature, TowerFeature, Weights, backbone_class, foreign_code

__all__ = [
    "Backbone",
    "BackboneError",
    "Fields",
    "FrameBackbone",
    "Preprocessor",
    "TextBackbone",
    "expect_declared",
    "expect_fits",
    "load",
    "preprocessor",
    "resized_there",
]


def load(feature: AnyFeature, device: torch.device | str = "cpu") -> Any:
    """The backbone of a feature, with its weights, on `device`, in eval mode.

    Another package's is first tried on noise, before any sample is decoded for it.

    Returns:
        A Backbone, a FrameBackbone for ragged features, or a TextBackbone.

    Raises:
        BackboneError: weights that are absent, gated, of another architecture or incomplete, a geometry that the
            architecture cannot take, or a class that is no backbone; the message gives the remedy.
        ParamsError: `compile` is true, and torch cannot compile here.
    """
    # Imported when asked for: a decode process has no use for every architecture.
    backbone = backbone_class(feature.backbone)(feature, torch.device(device))
    if isinstance(feature, TowerFeature) and feature.compile:
        compiled(backbone.network, torch.device(device))
    if foreign_code(feature) is not None:
        from pipeline.backbones.trial import try_out

        try_out(backbone, feature, torch.device(device))
    return backbone


def expect_fits(feature: AnyFeature, here: Mapping[Weights, Path]) -> None:
    """Refuses checkpoints that `load` would refuse, of another architecture or for another geometry, asking no hub.

    Of folders in the formats of transformers and timm only what they say of themselves is read, no weight; a state dict
    is read. Another package's backbone is not asked: what its code does with a device without numbers is its own.

    Args:
        here: each of the feature's weights -> where on this disk it lies.

    Raises:
        BackboneError: as `load`.
    """
    if foreign_code(feature) is not None:
        return
    own = {role: getattr(feature, role, None) for role in feature.sources}
    local = {role: Weights(path=str(here[of])) for role, of in own.items() if isinstance(of, Weights) and of.hub}
    backbone_class(feature.backbone)(feature.model_copy(update=local), torch.device("meta"))


def resized_there(feature: AnyFeature) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What resizes a sample's frames on the device, of a feature with `resize: device`; None of any other.

    Returns:
        (T, 3, H, W) uint8 native RGB -> (T, 3, h, w) on the same device, what `preprocessor(feature)` gives.
    """
    return preprocessor(feature).resized if feature.resized_there else None


def preprocessor(feature: PixelFeature) -> Preprocessor:
    """A picklable function: native RGB (n, H, W, 3) uint8 -> (n, 3, h, w), float32 in [0, 1] or uint8."""
    return backbone_class(feature.backbone).preprocessor(feature)
