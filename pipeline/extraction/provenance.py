"""What the bytes of a store rest on, and which of its fields are kept small. Reads no video."""

import importlib.metadata
from collections.abc import Mapping
from math import prod
from typing import Any

from pipeline.backbones import Fields
from pipeline.config import Params, PixelFeature, feature_key, weights_digests

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "decord",
    "av",
    "pillow",
    "opencv-contrib-python-headless",
    "numpy",
)

Grid = tuple[int, int, int]


def provenance(
    params: Params, feature: str, grid: Grid | None, device: str, reads: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Where a feature comes from. Holds no time and no machine's path, so equal work gives equal bytes.

    Args:
        params: holds the feature.
        feature: its name.
        grid: (steps, rows, columns) of its tokens; None where it has no such thing.
        device: "cpu" or "cuda".
        reads: name -> provenance of each feature that it is made from, which makes a chain.
    """
    chosen = params.features[feature]
    box = chosen.preprocess.box if isinstance(chosen, PixelFeature) else None
    return {
        "key": feature_key(params, feature),
        "feature": feature,
        "config": chosen.keyed,
        "weights": weights_digests(chosen),
        "reads": {name: dict(source) for name, source in reads.items()},
        "grid": None if grid is None else list(grid),
        "box": None if box is None else list(box),
        "device": device,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def stored_fields(fields: Fields, grid: Grid | None, storage: str) -> dict[str, Any]:
    """Fields as the store is to keep them: with storage int8, those that hold a whole token grid become `int8_scaled`.

    >>> stored_fields({"tokens": ((8, 49, 512), "float16"), "cls": ((8, 512), "float16")}, (8, 7, 7), "int8")
    {'tokens': ((8, 49, 512), 'int8_scaled'), 'cls': ((8, 512), 'float16')}
    """
    if storage != "int8" or grid is None:
        return dict(fields)
    return {
        name: (shape, "int8_scaled" if prod(shape[:-1]) >= prod(grid) else dtype)
        for name, (shape, dtype) in fields.items()
    }
