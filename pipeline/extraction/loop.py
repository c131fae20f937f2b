"""Decode processes -> batches across videos -> frozen forward -> writer thread, resumable at the batch. Knows no head.

Several features may share one pass: each video is decoded once, at the union of their times.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from pipeline import backbones
from pipeline.config import (
    AnyFeature,
    I3DFeature,
    Imported,
    Params,
    PixelFeature,
    TextFeature,
    feature_dir,
)
from pipeline.datasets import ShardSample, read_shard_samples, video_folder
from pipeline.extraction.clips import Clips, ClipSource, TextSource, View
from pipeline.extraction.device import Device
from pipeline.extraction.imports import ImportedFields, ImportLane, ImportSource, with_file_digests
from pipeline.extraction.lanes import ClipLane, RowLane, TextLane
from pipeline.extraction.progress import ExtractionError, ExtractionFailed, Progress, refuse_too_many_failures
from pipeline.extraction.provenance import environment, provenance, refuse_mixing, stored_fields
from pipeline.extraction.rows import FlowRows, Piece, RowSource, RowView
from pipeline.extraction.shards import refuse_stale
from pipeline.extraction.stream import Source, Stream
from pipeline.store import FeatureStore, ShardWriter

TASKS_AHEAD = 2  # computed batches or pieces that may wait to be written

AnyLane = ClipLane | RowLane


def extract(
    params: Params,
    dataset: str,
    features: Sequence[str] | str,
    shard: int,
    root: Path,
    progress: Callable[[str], None] = print,
    max_failed: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Extracts one shard of one or more features: only the batches that are not in its store yet are computed.

    Args:
        params: declare the dataset and the features.
        dataset: its name.
        features: one name, or the names of features that share one decode. Their stores are the same, byte for byte, as
            when each is extracted alone.
        shard: its number.
        root: the features' folder, which also holds the dataset's manifest.
        progress: called with one line, every few seconds and at the end.
        max_failed: the share of samples that may fail; by default each feature's own.

    Returns:
        feature -> the shard's manifest.

    Raises:
        ExtractionFailed: more than `max_failed` of a feature's samples failed; the other features are complete.
        ExtractionError: features that cannot share a pass, or do not fit the dataset; a decode process died; a sample
            does not fit the device. StoreError, BackboneError, DatasetError: with the remedy.
    """
    names = [features] if isinstance(features, str) else list(features)
    _expect_one_pass(params, dataset, names)
    torch.set_num_threads(params.compute.extract_threads)
    device = Device(params.compute)
    rows = read_shard_samples(root / dataset / "manifest.parquet", shard)
    with ExitStack() as stack:
        lanes = [_lane(params, dataset, name, shard, root, rows, device, stack) for name in names]
        settled = {lane.name: len(rows) - len(lane.pending) for lane in lanes}
        log = Progress(dataset, shard, len(rows), settled, progress)
        wanted = frozenset().union(*(lane.wanted for lane in lanes))
        if wanted:
            source = _source(params, dataset, shard, root, [row for row in rows if row.sample in wanted], lanes)
            workers = params.compute.decode_workers if isinstance(lanes[0].feature, PixelFeature) else 0
            with Stream(source, workers) as messages:
                _run(messages, lanes, log)
        return _finished(lanes, log, max_failed)


def _expect_one_pass(params: Params, dataset: str, names: Sequence[str]) -> None:
    """Raises ExtractionError for features that one pass over the dataset cannot compute."""
    chosen = {name: params.features[name] for name in names}
    text = params.datasets[dataset].kind == "text"
    for name, feature in chosen.items():
        if feature.derived:
            raise ExtractionError(f"{name} is derived from {feature.source}: run `derive {dataset} {name}` instead")
        if isinstance(feature, TextFeature) != text and not isinstance(feature, Imported):
            holds, reads = ("texts", "pictures") if text else ("no texts", "texts")
            raise ExtractionError(f"{dataset} holds {holds}, and {name} reads {reads}; name another dataset")
    if len(chosen) < len(names) or not names:
        raise ExtractionError(f"got the features {list(names)}, expected one or more, each once")
    ways = {(isinstance(f, PixelFeature), f.ragged, getattr(f, "decoder", "")) for f in chosen.values()}
    if len(names) > 1 and (len(ways) > 1 or not isinstance(chosen[names[0]], PixelFeature)):
        raise ExtractionError(
            f"{', '.join(names)} cannot share a decode: all must decode, by one decoder, and either all or none have a "
            "row a frame; extract them one by one"
        )


# --- the parts of a pass -------------------------------------------------------------------------------------------


def _lane(
    params: Params,
    dataset: str,
    name: str,
    shard: int,
    root: Path,
    rows: Sequence[ShardSample],
    device: Device,
    stack: ExitStack,
) -> AnyLane:
    """A feature's lane, with its writer open as long as `stack`."""
    feature = params.features[name]
    if isinstance(feature, Imported):
        store = feature_dir(params, dataset, name, root).name
        rows, backbone = with_file_digests(store, rows), ImportedFields(feature)
    else:
        backbone = backbones.load(feature, device.device)
    grid = getattr(backbone, "grid", None)  # frames and texts have none
    reads = {other: _read(params, dataset, other, shard, root).provenance for other in feature.reads}
    writer = ShardWriter(
        feature_dir(params, dataset, name, root) / f"shard-{shard:03d}",
        [(row.sample, row.digest) for row in rows],
        stored_fields(backbone.fields, grid, getattr(feature, "storage", "float16")),
        provenance(params, name, grid, reads, getattr(backbone, "geometry", None)),
        here := environment(device.type, getattr(backbone, "libraries", ())),
    )
    stack.enter_context(writer)
    refuse_mixing(params.compute, writer, here)
    shared = name, feature, backbone, writer, rows
    if isinstance(feature, Imported):
        return ImportLane(*shared)
    if feature.ragged:
        return RowLane(*shared)
    return (TextLane if isinstance(feature, TextFeature) else ClipLane)(device, *shared)


def _read(params: Params, dataset: str, name: str, shard: int, root: Path) -> FeatureStore:
    return FeatureStore(feature_dir(params, dataset, name, root), shard, verify=True)


def _source(
    params: Params, dataset: str, shard: int, root: Path, rows: Sequence[ShardSample], lanes: Sequence[AnyLane]
) -> Source:
    """The source of the lanes' messages."""
    first = lanes[0].feature
    if isinstance(first, Imported):
        return ImportSource(feature_dir(params, dataset, lanes[0].name, root).name, first, rows)
    if isinstance(first, TextFeature):
        return TextSource(rows)
    folder = video_folder(params.datasets[dataset])
    if not first.ragged:
        views = [View(lane.feature, backbones.preprocessor(lane.feature), lane.wanted) for lane in lanes]
        return ClipSource(folder, rows, views)
    flows = {lane.name: _flow(params, dataset, shard, root, rows, lane.feature) for lane in lanes}
    return RowSource(folder, rows, [_row_view(lane, flows[lane.name]) for lane in lanes])


def _row_view(lane: AnyLane, flow: FlowRows | None) -> RowView:
    backbone = lane.backbone
    return RowView(
        feature=lane.feature,
        preprocess=backbones.preprocessor(lane.feature) if "rgb" in backbone.stream_sizes else None,
        wanted=lane.wanted,
        context=backbone.context,
        stream_sizes=backbone.stream_sizes,
        flow=flow,
        itemsize=getattr(backbone, "itemsize", 1),
        compute=backbone.rows if getattr(backbone, "runs_in_worker", False) else None,
    )


def _flow(
    params: Params, dataset: str, shard: int, root: Path, rows: Sequence[ShardSample], feature: AnyFeature
) -> FlowRows | None:
    """The flow that a feature reads; raises StoreError where it is of other videos than the manifest's."""
    if not isinstance(feature, I3DFeature) or feature.flow is None:
        return None
    name = feature.flow.feature
    store = _read(params, dataset, name, shard, root)
    refuse_stale(store, rows, f"{dataset}/{name}")
    return FlowRows(name, store)


# --- running it -------------------------------------------------------------------------------------------------------


def _run(messages: Iterable[Clips | Piece], lanes: Sequence[AnyLane], log: Progress) -> None:
    """Computes in this thread and writes in another; computing waits only while the disk is behind."""
    with ThreadPoolExecutor(1, "store-writer") as thread:
        writes: deque[Future[tuple[int, int]]] = deque()
        for message in messages:
            for task in lanes[message.lane].take(message):
                writes.append(thread.submit(task))
                while len(writes) > TASKS_AHEAD or (writes and writes[0].done()):
                    log(*writes.popleft().result())
        for write in writes:
            log(*write.result())


def _finished(lanes: Sequence[AnyLane], log: Progress, max_failed: float | None) -> dict[str, dict[str, Any]]:
    """The manifests. Where one feature has too many failures, the others are completed all the same."""
    manifests, refusals = {}, []
    for lane in lanes:
        failed = lane.writer.failed
        try:
            allowed = lane.feature.max_failed if max_failed is None else max_failed
            refuse_too_many_failures(lane.writer.base, failed, log.total, allowed)
        except ExtractionFailed as refusal:
            refusals.append(str(refusal))
            continue
        manifests[lane.name] = lane.writer.finish()
        for line in getattr(lane, "told", list)():
            log.write(f"{lane.name}: {line}")
        log.end(lane.name, failed, lane.writer.base)
    if refusals:
        raise ExtractionFailed("\n".join(refusals))
    return manifests
