"""Data sets: real layouts in, one manifest table out. Knows no store, no backbone and no head."""

from pipeline.datasets.annotations import LABELLED, annotation_files, label_files, read_annotations
from pipeline.datasets.build import build_manifest
from pipeline.datasets.digests import changed, unchanged
from pipeline.datasets.folders import video_folder
from pipeline.datasets.imported import npy_path
from pipeline.datasets.looks import Look, looks
from pipeline.datasets.manifest import (
    NO_MAP,
    NoSuchShard,
    ShardSample,
    classes,
    imported_digest_of,
    imported_record,
    map_digest_of,
    read_looked_at,
    read_manifest,
    read_shards,
    samples_by_name,
    shard_contents,
    shard_digest,
    shard_digests,
    shard_samples,
    write_manifest,
)
from pipeline.datasets.names import DatasetError
from pipeline.datasets.quality import quality_markdown
from pipeline.datasets.segments import frame_labels
from pipeline.datasets.shards import assign_shards

__all__ = [
    "LABELLED",
    "NO_MAP",
    "DatasetError",
    "Look",
    "NoSuchShard",
    "ShardSample",
    "annotation_files",
    "assign_shards",
    "build_manifest",
    "changed",
    "classes",
    "frame_labels",
    "imported_digest_of",
    "imported_record",
    "label_files",
    "looks",
    "map_digest_of",
    "npy_path",
    "quality_markdown",
    "read_annotations",
    "read_looked_at",
    "read_manifest",
    "read_shards",
    "samples_by_name",
    "shard_contents",
    "shard_digest",
    "shard_digests",
    "shard_samples",
    "unchanged",
    "video_folder",
    "write_manifest",
]
