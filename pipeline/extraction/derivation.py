"""Features from features: tokens pooled over their grid, kept as float16 or int8, and what a last block makes of its
input. Runs no backbone, opens no video."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import DerivedFeature, Params, feature_dir
from pipeline.datasets import read_manifest, shard_samples
from pipeline.extraction.cams import Cams
from pipeline.extraction.progress import ExtractionError, Progress, refuse_too_many_failures
from pipeline.extraction.provenance import Grid, provenance, stored_fields
from pipeline.extraction.shards import OneShard, refuse_stale
from pipeline.store import FeatureStore, ShardWriter, StoreError


def derive(
    params: Params, dataset: str, feature: str, shard: int, root: Path, progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Brings one shard of a derived feature to its end, from the same shard of the feature that it is made from.

    A sample that failed there fails here, for the same reason; that does not count towards `max_failed` a second time.

    Args:
        params: holds the data set, the feature and its source.
        dataset, feature: their names.
        shard: which one.
        root: the features' folder, where the manifest of the data set lies too.
        progress: called with one line, every few seconds and at the end.

    Returns:
        The shard's manifest.

    Raises:
        ExtractionError: not a derived feature, or its source has no token grid that `pool` divides.
        StoreMissing: the source's shard is not there. StoreError: it is stale. DatasetError: as ever.
    """
    chosen = params.features[feature]
    if not chosen.derived:
        raise ExtractionError(f"{feature} is computed by {chosen.backbone}: run `extract {dataset} {feature}` instead")
    rows = shard_samples(read_manifest(root / dataset / "manifest.parquet"), shard)
    source = OneShard(feature_dir(params, dataset, chosen.source, root), shard, verify=True)
    refuse_stale(source, rows, f"{dataset}/{chosen.source}")
    make = Pooling(params, feature, source) if isinstance(chosen, DerivedFeature) else Cams(params, feature, root)
    made = source.provenance
    origin = provenance(params, feature, make.grid, make.device, {chosen.source: made, **make.reads})
    base = feature_dir(params, dataset, feature, root) / f"shard-{shard:03d}"
    kept = {**origin, "weights": made["weights"], "box": made["box"]}
    with ShardWriter(base, [(row.sample, row.digest) for row in rows], make.fields, kept) as writer:
        pending = frozenset(writer.pending)
        log = Progress(dataset, shard, len(rows), {feature: len(rows) - len(pending)}, progress)
        ids = [row.sample for row in rows]
        for start in range(0, len(ids), chosen.batch):
            batch = [sample for sample in ids[start : start + chosen.batch] if sample in pending]
            log(len(batch), _derive_batch(writer, source, batch, make))
        failed = writer.failed
        own = {sample: reason for sample, reason in failed.items() if sample not in source.failed}
        refuse_too_many_failures(base, own, len(rows), chosen.max_failed)
        manifest = writer.finish()
    log.end(feature, failed)
    return manifest


class Pooling:
    """Every field of a store, token grids with means over `pool` x `pool` neighbours.

    Attributes:
        grid, fields: of what is made.
        device: on which it is made.
        reads: name -> provenance of what it rests on beside its source.

    Raises:
        ExtractionError: the source has no token grid that `pool` divides.
    """

    device = "cpu"

    def __init__(self, params: Params, feature: str, source: FeatureStore) -> None:
        chosen, self.whole, self.reads = params.features[feature], source.provenance["grid"], {}
        self.pool = chosen.pool
        pooled = {name: pooled_shape(shape, self.whole, chosen.pool) for name, (shape, _) in source.fields.items()}
        if chosen.pool > 1 and all(shape == source.fields[name][0] for name, shape in pooled.items()):
            raise ExtractionError(
                f"{feature}: {chosen.source} has the fields {source.fields} and the grid {self.whole}, nothing of the "
                "shape (steps, rows * columns, width) that could be pooled; set pool: 1"
            )
        steps, rows, columns = self.whole or (0, 0, 0)
        self.grid = None if self.whole is None else (steps, rows // chosen.pool, columns // chosen.pool)
        fields = {name: (pooled[name], dtype) for name, (_, dtype) in source.fields.items()}
        self.fields = stored_fields(fields, self.grid, chosen.storage)

    def __call__(self, source: FeatureStore, samples: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The fields of each sample, one at a time: whole token grids are large."""
        for sample in samples:
            yield {name: pool_tokens(source.read([sample], name)[0], self.whole, self.pool) for name in source.fields}


def _derive_batch(writer: ShardWriter, source: FeatureStore, batch: Sequence[str], make: Pooling | Cams) -> int:
    """Puts and commits pending samples; returns how many failed."""
    failed, made = 0, iter(make(source, [sample for sample in batch if sample not in source.failed]))
    for sample in batch:
        if sample in source.failed:
            writer.fail(sample, source.failed[sample])
            failed += 1
            continue
        arrays = next(made)
        try:
            writer.put(sample, arrays, source.meta(sample))
        except StoreError:
            raise
        except ValueError as error:
            writer.fail(sample, str(error))
            failed += 1
    writer.commit()
    return failed


def pooled_shape(shape: Sequence[int], grid: Grid | None, pool: int) -> tuple[int, ...]:
    """The shape of a field after `pool_tokens`.

    Raises:
        ExtractionError: rows or columns of the grid that `pool` does not divide.
    """
    if pool == 1 or not _is_token_field(shape, grid):
        return tuple(shape)
    steps, rows, columns = grid
    if rows % pool or columns % pool:
        raise ExtractionError(f"a grid of {rows} x {columns} tokens cannot be pooled by {pool} x {pool}; set pool: 1")
    return steps, (rows // pool) * (columns // pool), shape[2]


def pool_tokens(field: np.ndarray, grid: Grid | None, pool: int) -> np.ndarray:
    """Means of pool x pool neighbouring tokens; a field without the grid's shape stays as it is.

    Args:
        field: (steps, rows * columns, width) floats, or anything else.
        grid: (steps, rows, columns), of which `pool` divides rows and columns.
        pool: tokens a side.

    Returns:
        (steps, rows / pool * columns / pool, width) float32.

    >>> tokens = np.arange(8.0).reshape(1, 8, 1)  # 2 rows, 4 columns
    >>> pool_tokens(tokens, (1, 2, 4), 2).ravel().tolist()
    [2.5, 4.5]
    """
    if pool == 1 or not _is_token_field(field.shape, grid):
        return field
    steps, rows, columns = grid
    width = field.shape[2]
    cells = field.astype(np.float32).reshape(steps, rows // pool, pool, columns // pool, pool, width)
    return cells.mean(axis=(2, 4)).reshape(steps, -1, width)


def _is_token_field(shape: Sequence[int], grid: Grid | None) -> bool:
    return grid is not None and len(shape) == 3 and tuple(shape[:2]) == (grid[0], grid[1] * grid[2])
