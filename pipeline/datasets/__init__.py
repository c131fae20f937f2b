"""Data sets: real layouts in, one manifest table out. Knows no store, no backbone and no head.

What is named here is imported where it is asked for: a layout is read when params are, and params need no pandas.
"""

from pipeline.lazily import passed_on

_MODULES = {
    ".annotations": ["annotation_files", "label_files", "read_annotations"],
    ".build": ["build_manifest"],
    ".digests": ["changed", "unchanged"],
    ".folders": ["video_folder"],
    ".manifest": [
        "NO_MAP",
        "NoSuchShard",
        "ShardSample",
        "classes",
        "imported_digest_of",
        "imported_record",
        "map_digest_of",
        "read_looked_at",
        "read_manifest",
        "shard_reader",
        "read_shards",
        "samples_by_name",
        "shard_contents",
        "shard_digest",
        "shard_digests",
        "shard_samples",
        "write_manifest",
    ],
    ".names": ["DatasetError"],
    ".quality_page": ["quality_markdown"],
    ".segments": ["frame_labels"],
    ".shards": ["assign_shards"],
}

__all__ = sorted(name for names in _MODULES.values() for name in names)
__getattr__ = passed_on(__name__, _MODULES)
