"""Decode processes -> a ring of batches -> frozen forward -> writer thread, resumable at the batch. Knows no head.

Backbones, decode processes and the writer thread serve a range of shards: while the last batches of one are computed
and written, the videos of the next are decoded. Several features may share one pass: each video is decoded once, at the
union of their times.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline import backbones
from pipeline.accelerator import deterministic
from pipeline.config import (
    AnyFeature,
    I3DFeature,
    Imported,
    Params,
    PixelFeature,
    TextFeature,
    feature_dir,
)
from pipeline.datasets import ShardSample, shard_reader, video_folder
from pipeline.extraction.clips import (
    Clips,
    ClipSource,
    TextSource,
    largest_frame,
    samples_of_job,
    slots_of,
)
from pipeline.extraction.device import Device
from pipeline.extraction.imports import ImportedFields, ImportLane, ImportSource, with_file_digests
from pipeline.extraction.lanes import ClipLane, PixelLane, RowLane, Task, TextLane
from pipeline.extraction.progress import ExtractionError, ExtractionFailed, Progress, refuse_too_many_failures
from pipeline.extraction.provenance import environment, provenance, refuse_mixing, stored_fields
from pipeline.extraction.ranges import OURS, Range
from pipeline.extraction.ring import Ring
from pipeline.extraction.rows import FlowRows, Piece, RowSource, RowView
from pipeline.extraction.shards import refuse_stale
from pipeline.extraction.stream import Source, Stream
from pipeline.extraction.writing import Writes
from pipeline.store import FeatureStore, ShardWriter, StoreBusy
from pipeline.video import DecoderMissing, expect_decoder

AnyLane = ClipLane | RowLane
Manifests = dict[str, dict[str, Any]]


def extract(
    params: Params,
    dataset: str,
    features: Sequence[str] | str,
    shard: int,
    root: Path,
    progress: Callable[[str], None] = print,
    max_failed: float | None = None,
) -> Manifests:
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
            does not fit the device. Shortage: this machine lacks what it takes to read a sample. StoreBusy: another
            process has the shard. StoreError, BackboneError, DatasetError: with the remedy.
    """
    return extract_range(params, dataset, features, [shard], root, progress, max_failed, waits=False)[shard]


def extract_range(
    params: Params,
    dataset: str,
    features: Sequence[str] | str,
    shards: Sequence[int],
    root: Path,
    progress: Callable[[str], None] = print,
    max_failed: float | None = None,
    waits: bool = True,
) -> dict[int, Manifests]:
    """Extracts shards in one process, each byte for byte as `extract` does, and complete as soon as it is done.

    A shard that another process has comes last, and is waited for while no lock is held. A shard that cannot be
    finished holds up no other.

    Args:
        params, dataset, features, root, progress, max_failed: as of `extract`.
        shards: their numbers.
        waits: whether to wait for other processes.

    Returns:
        shard -> feature -> its manifest.

    Raises:
        ExtractionFailed, ExtractionError: as `extract`; of several shards one error that names each. All others are
            complete. What ends every shard alike, such as weights that are absent, a full disk or another `Shortage` of
            this machine, is raised at once.
    """
    names = [features] if isinstance(features, str) else list(features)
    _expect_one_pass(params, dataset, names)
    torch.set_num_threads(params.compute.extract_threads)
    extraction = _Extraction(params, dataset, names, root, progress, max_failed)
    with deterministic():
        return Range(shards, extraction.run, f"{dataset}/{'+'.join(names)}", progress, waits).results()


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
        try:
            expect_decoder(getattr(feature, "decoder", "auto"))
        except DecoderMissing as error:
            raise ExtractionError(f"{name}: {error}") from None
    if len(chosen) < len(names) or not names:
        raise ExtractionError(f"got the features {list(names)}, expected one or more, each once")
    ways = {(isinstance(f, PixelFeature), f.ragged, getattr(f, "decoder", "")) for f in chosen.values()}
    if len(names) > 1 and (len(ways) > 1 or not isinstance(chosen[names[0]], PixelFeature)):
        raise ExtractionError(
            f"{', '.join(names)} cannot share a decode: all must decode, by one decoder, and either all or none have a "
            "row a frame; extract them one by one"
        )


class _Extraction:
    """What all shards of a range share: backbones, the device, the manifest.

    Args:
        names: the features. The others: as of `extract`.
    """

    def __init__(
        self,
        params: Params,
        dataset: str,
        names: Sequence[str],
        root: Path,
        progress: Callable[[str], None],
        max_failed: float | None,
    ) -> None:
        self.params, self.dataset, self.root = params, dataset, root
        self.progress, self.max_failed = progress, max_failed
        self.device = Device(params.compute)
        self.samples = shard_reader(root / dataset / "manifest.parquet")
        chosen = {name: params.features[name] for name in names}
        self.backbones = {name: _backbone(feature, self.device) for name, feature in chosen.items()}
        self.environments = {
            name: environment(
                self.device.type, getattr(backbone, "libraries", ()), getattr(chosen[name], "decoder", "auto")
            )
            for name, backbone in self.backbones.items()
        }
        self.preprocessors = {
            name: backbones.preprocessor(feature)
            for name, feature in chosen.items()
            if isinstance(feature, PixelFeature) and not feature.ragged
        }

    def ring(self, shards: Sequence[int]) -> Ring | None:
        """Where the samples of one pass over shards are left; None where they are of any length, or are texts."""
        chosen, largest, most = self.params.features, 0, 0
        if any(chosen[name].resized_there for name in self.preprocessors):
            # Each place takes the largest frames, so there are none that no shard has a sample for.
            for number in shards:
                rows = self.samples(number)
                largest, most = max(largest, largest_frame(rows)), max(most, len(rows))
        slots = [slots_of(name, chosen[name], of, largest, most or None) for name, of in self.preprocessors.items()]
        return Ring(slots, samples_of_job(slots), self.device.type == "cuda") if slots else None

    def run(self, shards: Sequence[int], turns: Range) -> None:
        """One pass over shards, in order, with one set of decode processes."""
        first = self.params.features[next(iter(self.backbones))]
        workers = self.params.compute.decode_workers if isinstance(first, PixelFeature) else 0
        # The thread ends first: what it still writes needs the shards' locks.
        with ExitStack() as stack, Writes() as writes:
            opened: dict[int, _Shard] = {}  # by the identity of its source
            ring = self.ring(shards)

            def sources() -> Iterator[Source]:
                for number in shards:
                    if (shard := self._opened(number, ring, turns, stack)) is not None:
                        opened[id(shard.source)] = shard
                        yield shard.source

            with Stream(sources(), workers, ring) as messages:
                for source, message in messages:
                    shard = opened[id(source)] if message is not None else opened.pop(id(source))
                    for task in shard.tasks(message):
                        writes(task)
                writes.end()

    def _opened(self, number: int, ring: Ring | None, turns: Range, stack: ExitStack) -> "_Shard | None":
        """A shard of which this process has the lock; None, and why, where it cannot have it or cannot extract it."""
        try:
            return _Shard(self, number, ring, turns, stack)
        except StoreBusy as error:
            turns.busy(number, error)
        except OURS as error:
            turns.failed(number, error)
        return None


class _Shard:
    """One shard of a pass.

    Attributes:
        lanes: one a feature, with its writer open until the shard is finished or `stack` ends.
        source: of the lanes' messages; without jobs where nothing is pending.
        log: its progress.
    """

    def __init__(self, extraction: _Extraction, number: int, ring: Ring | None, turns: Range, stack: ExitStack) -> None:
        self.extraction, self.number, self.ring, self.turns = extraction, number, ring, turns
        rows = extraction.samples(number)
        with ExitStack() as own:
            self.lanes = [self._lane(name, rows, own) for name in extraction.backbones]
            settled = {lane.name: len(rows) - len(lane.pending) for lane in self.lanes}
            self.log = Progress(extraction.dataset, number, len(rows), settled, extraction.progress, turns.whole)
            wanted = frozenset().union(*(lane.wanted for lane in self.lanes))
            self.source = self._source([row for row in rows if row.sample in wanted])
            self._open = stack.enter_context(own.pop_all())
        turns.began(number)

    def tasks(self, message: Clips | Piece | None) -> Iterator[Callable[[], None]]:
        """What the writer thread has to do for a message; None is the last."""
        if message is None:
            yield self._finish
            return
        for task in self.lanes[message.lane].take(message):
            yield partial(self._settle, task)

    def _settle(self, task: Task) -> None:
        self.log(*task())

    def _finish(self) -> None:
        """Completes the shard, after all of its batches."""
        with self._open:
            try:
                self.turns.done(self.number, _finished(self.lanes, self.log, self.extraction.max_failed))
            except ExtractionFailed as error:
                self.turns.failed(self.number, error)

    def _lane(self, name: str, rows: Sequence[ShardSample], stack: ExitStack) -> AnyLane:
        """A feature's lane, with its writer open as long as `stack`."""
        of, backbone = self.extraction, self.extraction.backbones[name]
        feature, folder = of.params.features[name], feature_dir(of.params, of.dataset, name, of.root)
        if isinstance(feature, Imported):
            rows = with_file_digests(folder.name, rows)
        grid = getattr(backbone, "grid", None)  # frames and texts have none
        reads = {other: self._read(other).provenance for other in feature.reads}
        writer = ShardWriter(
            folder / f"shard-{self.number:03d}",
            [(row.sample, row.digest) for row in rows],
            stored_fields(backbone.fields, grid, getattr(feature, "storage", "float16")),
            provenance(of.params, name, grid, reads, getattr(backbone, "geometry", None)),
            of.environments[name],
        )
        stack.enter_context(writer)
        refuse_mixing(of.params.compute, writer, of.environments[name])
        shared = name, feature, backbone, writer, rows
        if isinstance(feature, Imported):
            return ImportLane(of.device, *shared)
        if feature.ragged:
            return RowLane(of.device, *shared)
        if isinstance(feature, TextFeature):
            return TextLane(of.device, *shared)
        return PixelLane(self.ring, list(of.backbones).index(name), of.device, *shared)

    def _read(self, name: str) -> FeatureStore:
        of = self.extraction
        return FeatureStore(feature_dir(of.params, of.dataset, name, of.root), self.number, verify=True)

    def _source(self, rows: Sequence[ShardSample]) -> Source:
        """The source of the lanes' messages, of the rows that any of them wants."""
        of, first = self.extraction, self.lanes[0].feature
        if isinstance(first, Imported):
            return ImportSource(feature_dir(of.params, of.dataset, self.lanes[0].name, of.root).name, first, rows)
        if isinstance(first, TextFeature):
            return TextSource(rows)
        folder = video_folder(of.params.datasets[of.dataset])
        if not first.ragged:
            # The last that may fail: from now on the ring waits for these batches.
            views = [lane.view(of.preprocessors[lane.name]) for lane in self.lanes]
            return ClipSource(folder, rows, views, self.ring.run)
        flows = {lane.name: self._flow(rows, lane.feature) for lane in self.lanes}
        return RowSource(folder, rows, [_row_view(lane, flows[lane.name]) for lane in self.lanes])

    def _flow(self, rows: Sequence[ShardSample], feature: AnyFeature) -> FlowRows | None:
        """The flow that a feature reads; raises StoreError where it is of other videos than the manifest's."""
        if not isinstance(feature, I3DFeature) or feature.flow is None or not rows:
            return None
        store = self._read(feature.flow.feature)
        refuse_stale(store, rows, f"{self.extraction.dataset}/{feature.flow.feature}")
        return FlowRows(feature.flow.feature, store)


def _backbone(feature: AnyFeature, device: Device) -> Any:
    return ImportedFields(feature) if isinstance(feature, Imported) else backbones.load(feature, device.device)


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


def _finished(lanes: Sequence[AnyLane], log: Progress, max_failed: float | None) -> Manifests:
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
