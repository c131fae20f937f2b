"""Data sets: real layouts in, one manifest table out. Knows no store, no backbone and no head.

What is named here is imported where it is asked for: a layout is read when params are, and params need no pandas.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "annotations": ["annotation_files", "label_files", "read_annotations"],
    "build": ["build_manifest"],
    "digests": ["changed", "unchanged"],
    "folders": ["video_folder"],
    "manifest": [
        "NO_MAP",
        "NoSuchShard",
        "ShardSample",
        "classes",
        "imported_digest_of",
        "imported_record",
        "map_digest_of",
        "read_looked_at",
        "read_manifest",
        "read_shards",
        "samples_by_name",
        "shard_contents",
        "shard_digest",
        "shard_digests",
        "shard_samples",
        "write_manifest",
    ],
    "names": ["DatasetError"],
    "quality_page": ["quality_markdown"],
    "segments": ["frame_labels"],
    "shards": ["assign_shards"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
