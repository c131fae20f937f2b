"""Permafrost's public face for notebooks and other programs: open, dataset, loader, manifest, extract.

    import permafrost as pf

    store = pf.open("features/ucf/dinov3_patches")
    x = store["v_001"]
    data = pf.dataset("ucf", ["dinov3_patches", "r3d18_clips"], split="train")

Thin over the package `pipeline`, whose modules may change; these names do not. Importing it loads neither torch nor
pandas, nor anything else before a name is used. docs/using-the-stores.md has examples.
"""

import importlib.metadata
from typing import TYPE_CHECKING, Any

from pipeline.lazily import passed_on

if TYPE_CHECKING:
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

_find = passed_on(
    __name__,
    {
        ".data": ["dataset", "loader", "manifest"],
        ".extraction": ["extract"],
        ".stores": ["NoSample", "Store", "open_store"],
        "pipeline.store": ["StoreCorrupt", "StoreError", "StoreMissing"],
    },
)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # that of the installed package; a source tree that is not installed has none
        return importlib.metadata.version("permafrost")
    return _find("open_store" if name == "open" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
