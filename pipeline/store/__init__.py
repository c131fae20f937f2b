"""The contract between the stages: a shard writer, a reader, verify. Knows no backbone, no head and no label."""

from .environments import Environment, apart, by_feature, listed
from .errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreMissing
from .inspection import Finding, describe, verify
from .manifest import stores_below
from .reader import FeatureStore
from .removal import leftovers, remove
from .writer import ShardWriter

__all__ = [
    "Environment",
    "FeatureStore",
    "Finding",
    "ShardWriter",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreMissing",
    "apart",
    "by_feature",
    "describe",
    "leftovers",
    "listed",
    "remove",
    "stores_below",
    "verify",
]
