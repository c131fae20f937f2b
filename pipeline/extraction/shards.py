"""One shard of another feature's store, as a source. Knows no backbone."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.datasets import ShardSample
from pipeline.store import FeatureStore, StoreError
from pipeline.store.shard import Shard


class OneShard(FeatureStore):
    """The samples of one shard of a store. The others are not opened: other jobs may be writing them.

    Args:
        directory: of the store.
        shard: its number.
        verify: check the crc32c of each sample that is read; a partial read then reads all of it.
    """

    def __init__(self, directory: Path, shard: int, verify: bool = False) -> None:
        super().__init__(directory, verify=verify)
        self._number = shard

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self._number, self._verify)

    @cached_property
    def _shards(self) -> list[Shard]:
        return [Shard(self.directory / f"shard-{self._number:03d}", check=self._verify)]


def refuse_stale(store: FeatureStore, rows: Sequence[ShardSample], name: str) -> None:
    """Raises StoreError where the store was made from other files than the manifest now names."""
    for row in rows:
        then, now = (digest[:12] or "none" for digest in (store.digest(row.sample), row.digest))
        if then != now:
            raise StoreError(
                f"{store.directory}: sample {row.sample!r} was made from a file with sha256 {then}, now it has {now}; "
                f"extract {name} again first"
            )
