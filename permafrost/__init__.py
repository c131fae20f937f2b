"""Permafrost's public face for notebooks and other programs: open, dataset, loader, manifest, extract.

    import permafrost as pf

    store = pf.open("features/ucf/dinov3_patches")
    x = store["v_001"]
    data = pf.dataset("ucf", ["dinov3_patches", "r3d18_clips"], split="train")

Thin over the package `pipeline`, whose modules may change; these names do not. Importing it loads neither torch nor
pandas. docs/using-the-stores.md has examples.
"""

import importlib.metadata
from typing import Any

from permafrost.data import dataset, loader, manifest
from permafrost.extraction import extract
from permafrost.stores import NoSample, Store
from permafrost.stores import open_store as open
from pipeline.store import StoreCorrupt, StoreError, StoreMissing

__all__ = [
    "NoSample",
    "Store",
    "StoreCorrupt",
    "StoreError",
    "StoreMissing",
    "dataset",
    "extract",
    "loader",
    "manifest",
    "open",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # that of the installed package; a source tree that is not installed has none
        return importlib.metadata.version("permafrost")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
