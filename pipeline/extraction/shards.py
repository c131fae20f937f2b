"""Whether a store is still of the files that the manifest names. Knows no backbone."""

from collections.abc import Sequence

from pipeline.datasets import ShardSample
from pipeline.store import FeatureStore, StoreError


def refuse_stale(store: FeatureStore, rows: Sequence[ShardSample], name: str) -> None:
    """Raises StoreError where the store was made from other files than the manifest now names."""
    for row in rows:
        then, now = (digest[:12] or "none" for digest in (store.digest(row.sample), row.digest))
        if then != now:
            raise StoreError(
                f"{store.directory}: sample {row.sample!r} was made from a file with sha256 {then}, now it has {now}; "
                f"extract {name} again first"
            )
