"""Decodes videos of any length, piece by piece, for frame-level backbones; runs in decode processes. Knows no weights.

A piece is a fixed number of rows with the frames that they need around them, so that memory does not grow with the
video. Beyond its ends, a video's first and last frame are repeated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import Preprocessor
from pipeline.config import PixelFeature
from pipeline.datasets import ShardSample, unchanged
from pipeline.extraction.ring import Ring
from pipeline.limits import MOST_ROWS
from pipeline.store import FeatureStore, StoreError
from pipeline.video import VideoError, VideoFacts, blaming, iterate_frames, sampling_times

# Fixed, since a row's last bits may depend on which windows share its batch.
PIECE = 64
DECODED_BYTES = 64 << 20  # native frames at once in a process

Streams = dict[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """A piece's streams, (before + n + after, C, H, W) each, as a batch of n rows that can be sliced."""

    streams: Streams
    context: tuple[int, int]

    def __len__(self) -> int:
        return len(next(iter(self.streams.values()))) - sum(self.context)

    def __getitem__(self, rows: slice) -> "Rows":
        start, stop, _ = rows.indices(len(self))
        around = slice(start, stop + sum(self.context))
        return Rows({name: stream[around] for name, stream in self.streams.items()}, self.context)


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one sample of feature number `lane`, or the reason why the sample failed.

    Attributes:
        total: rows of the whole sample.
        start: the number of the first of these rows.
        fps: rows a second.
        rows: their input; None where the decode process computed them: they are then in `fields`.
    """

    lane: int
    sample: str
    total: int = 0
    start: int = 0
    fps: float = 0.0
    rows: Rows | None = None
    fields: Mapping[str, Tensor | np.ndarray] | None = None
    reason: str = ""


@dataclass(frozen=True)
class FlowRows:
    """The store of the flow feature that another feature reads."""

    name: str
    store: FeatureStore

    def reason(self, sample: str, frames: int) -> str:
        """Why a video of so many sampled frames has no flow; empty where it has one."""
        if sample in self.store.failed:
            return f"{self.name}: {self.store.failed[sample]}"
        found = self.store.lengths("flow")[sample]
        return "" if found == frames else f"{self.name}: {found} rows for {frames} frames; extract it again"

    def at(self, sample: str, frames: np.ndarray) -> Tensor:
        """(len(frames), 2, H, W) uint8, of ascending frames with repeats."""
        found = self.store.read_rows(sample, "flow", int(frames[0]), int(frames[-1]) + 1)
        return torch.from_numpy(np.asarray(found)[frames - frames[0]])


@dataclass(frozen=True)
class RowView:
    """How one frame-level feature samples and preprocesses a video, and which samples it still needs.

    Attributes:
        preprocess: None for a feature that reads no pixels.
        context: frames before and after its own that a row needs.
        stream_sizes: name -> (channels, height, width), None for a side that depends on the video.
        flow: the source of its flow stream.
        itemsize: bytes of one value of its pixels.
        compute: the backbone's `rows`, where it is plain CPU code; otherwise None.
    """

    feature: PixelFeature
    preprocess: Preprocessor | None
    wanted: frozenset[str]
    context: tuple[int, int]
    stream_sizes: Mapping[str, tuple[int | None, ...]]
    flow: FlowRows | None = None
    itemsize: int = 1
    compute: Callable[[Streams], Streams] | None = None

    @property
    def piece_bytes(self) -> int:
        frames = PIECE + sum(self.context)
        return sum(self.itemsize * frames * prod(side or 512 for side in sizes) for sizes in self.stream_sizes.values())

    def around(self, start: int, total: int) -> np.ndarray:
        """Numbers of the frames that the piece from row `start` needs, the ends repeated."""
        stop = min(start + PIECE, total)
        return np.arange(start - self.context[0], stop + self.context[1]).clip(0, total - 1)


class Cutter:
    """Cuts the preprocessed frames of one video, as they arrive, into the pieces of one feature.

    Args:
        view: the feature.
        total: frames of the video, each of which is a row.
    """

    def __init__(self, view: RowView, total: int) -> None:
        self.view, self.total = view, total
        self.start = self._first = 0
        self._held: Tensor | None = None

    @property
    def done(self) -> bool:
        return self.start >= self.total

    def feed(self, frames_TCHW: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(first row, frames around) of each piece that these frames complete."""
        held = frames_TCHW if self._held is None else torch.cat([self._held, frames_TCHW])
        while not self.done:
            around = self.view.around(self.start, self.total)
            if around[-1] >= self._first + len(held):
                break
            yield self.start, held[around - self._first]
            self.start += PIECE
            passed = max(0, self.start - self.view.context[0] - self._first)
            held, self._first = held[passed:], self._first + passed
        self._held = held.clone()


class RowSource:
    """Decodes one sample a job, each frame once for all features. All features use the same decoder.

    Args:
        folder: of the videos or pictures.
        samples: those of the shard that any feature needs.
        views: one a feature.
    """

    def __init__(self, folder: Path, samples: Sequence[ShardSample], views: Sequence[RowView]) -> None:
        self.folder, self.samples, self.views = folder, samples, views

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def message_bytes(self) -> int:
        return max(view.piece_bytes for view in self.views)

    def describe(self, job: int) -> str:
        return f"sample {self.samples[job].sample}"

    def messages(self, job: int, ring: Ring | None = None) -> Iterator[Piece]:
        row = self.samples[job]
        lanes = [lane for lane, view in enumerate(self.views) if row.sample in view.wanted]
        if row.facts is None:
            yield from (Piece(lane, row.sample, reason=row.status) for lane in lanes)
            return
        facts = VideoFacts(**row.facts)
        times = {}
        for lane in lanes:
            view = self.views[lane]
            fps = view.feature.sampling.fps
            if facts.duration * fps > MOST_ROWS:
                reason = f"unsupported: its time stamps span {facts.duration:g} s, too long at {fps:g} rows a second"
                yield Piece(lane, row.sample, reason=f"{reason}; write it again with correct ones")
                continue
            own = sampling_times(view.feature.sampling, facts.duration)
            if reason := view.flow and view.flow.reason(row.sample, len(own)):
                yield Piece(lane, row.sample, reason=reason)
            else:
                times[lane] = own
        blind = [lane for lane in times if self.views[lane].preprocess is None]
        for lane in blind:
            for start in range(0, len(times[lane]), PIECE):
                yield self._piece(row.sample, lane, start, len(times[lane]))
        if seeing := {lane: own for lane, own in times.items() if lane not in blind}:
            yield from self._decoded(row, facts, seeing, dict.fromkeys(seeing, 0))

    def _decoded(
        self, row: ShardSample, facts: VideoFacts, times: Mapping[int, np.ndarray], begin: Mapping[int, int]
    ) -> Iterator[Piece]:
        """The pieces of each lane from its row `begin` on, from one decode for all of them."""
        cutters = {lane: Cutter(self.views[lane], len(own)) for lane, own in times.items()}
        try:
            path = unchanged(self.folder, row)
            with blaming(path, passing=(StoreError,)):  # that of its flow
                for lane, frames in self._frames(path, facts, times):
                    pixels = torch.from_numpy(self.views[lane].preprocess(frames))
                    for start, around in cutters[lane].feed(pixels):
                        if start >= begin[lane]:
                            yield self._piece(row.sample, lane, start, len(times[lane]), around)
        except VideoError as error:
            for lane, start in [(lane, cutter.start) for lane, cutter in cutters.items() if not cutter.done]:
                if len(times) == 1:
                    yield Piece(lane, row.sample, reason=error.as_failure)
                else:  # it may break after the last frame that this feature needs
                    yield from self._decoded(row, facts, {lane: times[lane]}, {lane: max(start, begin[lane])})

    def _frames(
        self, path: Path, facts: VideoFacts, times: Mapping[int, np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(lane, the next of its frames), from one pass over the video."""
        union = np.unique(np.concatenate(list(times.values())))
        places = {lane: np.searchsorted(union, own) for lane, own in times.items()}
        at_once = max(1, min(PIECE, DECODED_BYTES // (3 * facts.height * facts.width)))
        decoder = self.views[0].feature.decoder
        first = 0
        for frames in iterate_frames(path, union, decoder, facts, at_once):
            for lane, own in places.items():
                due = own[(own >= first) & (own < first + len(frames))] - first
                if len(due):
                    yield lane, frames if len(due) == len(frames) else frames[due]
            first += len(frames)

    def _piece(self, sample: str, lane: int, start: int, total: int, pixels: Tensor | None = None) -> Piece:
        view = self.views[lane]
        streams = {} if pixels is None else {"rgb": pixels}
        if view.flow is not None:
            streams["flow"] = view.flow.at(sample, view.around(start, total))
        rows = Rows(streams, view.context)
        fps = view.feature.sampling.fps
        if view.compute is None:
            return Piece(lane, sample, total, start, fps, rows=rows)
        return Piece(lane, sample, total, start, fps, fields=view.compute(rows.streams))
