"""Derives features from features: tokens pooled over their grid or kept as int8, class-activation maps, and maps on the
grid of a feature's tokens. Runs no backbone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.accelerator import deterministic
from pipeline.config import ClipCamFeature, MapsFeature, Params, feature_dir
from pipeline.datasets import NO_MAP, ShardSample, map_digest_of, shard_reader
from pipeline.extraction.made import Made, Maker
from pipeline.extraction.maps import Maps
from pipeline.extraction.progress import ExtractionError, Progress, refuse_too_many_failures
from pipeline.extraction.provenance import Grid, environment, provenance, refuse_mixing, stored_fields
from pipeline.extraction.ranges import OURS, Range
from pipeline.extraction.shards import refuse_stale
from pipeline.extraction.writing import Writes
from pipeline.store import FeatureStore, ShardWriter, StoreBusy, StoreError


def derive(
    params: Params,
    dataset: str,
    feature: str,
    shard: int,
    root: Path,
    progress: Callable[[str], None] = print,
    max_failed: float | None = None,
) -> dict[str, Any]:
    """Derives one shard of a feature from the same shard of its source.

    A sample that failed in the source fails here for the same reason, and does not count towards `max_failed` again. A
    sample without a map does not count either.

    Args:
        params: declare the dataset, the feature and its source.
        dataset, feature: their names.
        shard: its number.
        root: the features' folder, which also holds the dataset's manifest.
        progress: called with one line, every few seconds and at the end.
        max_failed: the share of samples that may fail; by default the feature's own.

    Returns:
        The shard's manifest.

    Raises:
        ExtractionError: not a derived feature, or its source has no token grid that `pool` divides.
        StoreMissing: the source's shard is not there. StoreError: it is stale. DatasetError: no manifest.
        StoreBusy: another process has the shard.
    """
    return derive_range(params, dataset, feature, [shard], root, progress, max_failed, waits=False)[shard]


def derive_range(
    params: Params,
    dataset: str,
    feature: str,
    shards: Sequence[int],
    root: Path,
    progress: Callable[[str], None] = print,
    max_failed: float | None = None,
    waits: bool = True,
) -> dict[int, dict[str, Any]]:
    """Derives shards in one process, each as `derive` does. Waits and fails as `extract_range`.

    Returns:
        shard -> its manifest.
    """
    chosen = params.features[feature]
    if not chosen.derived:
        raise ExtractionError(f"{feature} is computed by {chosen.backbone}: run `extract {dataset} {feature}` instead")
    derivation = _Derivation(params, dataset, feature, root, progress, max_failed)
    with deterministic():
        return Range(shards, derivation.run, f"{dataset}/{feature}", progress, waits).results()


class _Derivation:
    """What all shards of a range share. Arguments: as of `derive`."""

    def __init__(
        self,
        params: Params,
        dataset: str,
        feature: str,
        root: Path,
        progress: Callable[[str], None],
        max_failed: float | None,
    ) -> None:
        self.params, self.dataset, self.feature, self.root = params, dataset, feature, root
        self.chosen, self.progress, self.max_failed = params.features[feature], progress, max_failed
        self.samples = shard_reader(root / dataset / "manifest.parquet")
        self._cams: Maker | None = None

    def run(self, shards: Sequence[int], turns: Range) -> None:
        for number in shards:
            turns.began(number)
            try:
                turns.done(number, self._derived(number, turns))
            except StoreBusy as error:
                turns.busy(number, error)
            except OURS as error:
                turns.failed(number, error)

    def _derived(self, shard: int, turns: Range) -> dict[str, Any]:
        params, dataset, feature, root, chosen = self.params, self.dataset, self.feature, self.root, self.chosen
        rows = self.samples(shard)
        source = FeatureStore(feature_dir(params, dataset, chosen.source, root), shard, verify=True)
        refuse_stale(source, rows, f"{dataset}/{chosen.source}")
        make = self._maker(source, rows)
        before = source.provenance
        origin = provenance(params, feature, make.grid, {chosen.source: before, **make.reads})
        here = environment(make.computed_on)
        base = feature_dir(params, dataset, feature, root) / f"shard-{shard:03d}"
        kept = {**origin, "weights": before["weights"], "box": before["box"]}
        of_maps = isinstance(chosen, MapsFeature)
        samples = [(row.sample, map_digest_of(row) if of_maps else row.digest) for row in rows]
        with ShardWriter(base, samples, make.fields, kept, here) as writer, Writes() as writes:
            refuse_mixing(params.compute, writer, here)
            pending = frozenset(writer.pending)
            settled = {feature: len(rows) - len(pending)}
            log = Progress(dataset, shard, len(rows), settled, self.progress, turns.whole)
            ids = [row.sample for row in rows]
            for start in range(0, len(ids), chosen.batch):
                batch = [sample for sample in ids[start : start + chosen.batch] if sample in pending]
                made = iter(make(source, [sample for sample in batch if sample not in source.failed]))
                writes(partial(_keep, log, writer, source, batch, made))
            writes.end()
            failed = writer.failed
            own = _own_failures(failed, source.failed)
            allowed = chosen.max_failed if self.max_failed is None else self.max_failed
            refuse_too_many_failures(base, own, len(rows), allowed)
            manifest = writer.finish()
        log.end(feature, failed, base)
        return manifest

    def _maker(self, source: FeatureStore, rows: Sequence[ShardSample]) -> Maker:
        if isinstance(self.chosen, MapsFeature):
            return Maps(self.params, self.dataset, self.feature, source, rows)
        if isinstance(self.chosen, ClipCamFeature):
            if self._cams is None:
                from pipeline.extraction.cams import Cams  # brings CLIP's architecture, which no other job should pay

                self._cams = Cams(self.params, self.feature, self.root)
            return self._cams
        return Pooling(self.params, self.feature, source)


def _own_failures(failed: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Failures of this derivation: neither the source's, nor samples without a map."""
    return {sample: reason for sample, reason in failed.items() if sample not in before and reason != NO_MAP}


class Pooling:
    """Every field of a store, token grids with means over `pool` x `pool` neighbours.

    Attributes:
        grid, fields: of the derived feature.
        computed_on: the type of the device, as torch names it.
        reads: name -> provenance of what it is made from beside its source.

    Raises:
        ExtractionError: the source has no token grid that `pool` divides.
    """

    computed_on = "cpu"

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

    def __call__(self, source: FeatureStore, samples: Sequence[str]) -> Iterator[Made]:
        """The fields of each sample, one at a time, since whole token grids are large."""
        for sample in samples:
            fields = {name: source.read([sample], name)[0] for name in source.fields}
            yield Made({name: pool_tokens(field, self.whole, self.pool) for name, field in fields.items()})


def _keep(log: Progress, writer: ShardWriter, source: FeatureStore, batch: Sequence[str], made: Iterator[Made]) -> None:
    """Puts and commits pending samples, and counts them."""
    failed = 0
    for sample in batch:
        one = Made(reason=source.failed[sample]) if sample in source.failed else next(made)
        if one.reason:
            writer.fail(sample, one.reason)
            failed += 1
            continue
        try:
            writer.put(sample, one.fields, {**source.meta(sample), **one.meta})
        except StoreError:
            raise
        except ValueError as error:
            writer.fail(sample, str(error))
            failed += 1
    writer.commit()
    log(len(batch), failed)


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
