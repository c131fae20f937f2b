"""One feature's part of a pass: takes messages, computes batches, commits samples. Knows no decoder.

Which samples share a batch and a commit follows from the manifest alone, so a shard that was killed and resumed is byte
for byte one that was never killed. A lane yields tasks; the loop runs them, in order, in its writer thread.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import BackboneError, Preprocessor, expect_declared, resized_there
from pipeline.config import AnyFeature
from pipeline.datasets import ShardSample
from pipeline.extraction.clips import Clip, Clips, View
from pipeline.extraction.device import Device, Fields, halving
from pipeline.extraction.progress import TooMuch
from pipeline.extraction.ring import Ring
from pipeline.extraction.rows import Piece
from pipeline.memory import refuse_shortage
from pipeline.store import ShardWriter, StoreError

# Rows of one sample beyond this grow in a file: ten minutes of flow at 25 fps and 224 x 224 are 1.5 GB.
ROWS_IN_MEMORY = 256 << 20

# Runs in the writer thread; returns how many samples it settled in the store, and how many of them failed.
Task = Callable[[], tuple[int, int]]


class _Lane:
    """The batches that hold pending samples.

    Attributes:
        name: of the feature.
        wanted: the samples whose messages it needs.
        stored: field -> the dtype that the store keeps.
    """

    def __init__(
        self, name: str, feature: AnyFeature, backbone: Any, writer: ShardWriter, samples: Sequence[ShardSample]
    ) -> None:
        self.name, self.feature, self.backbone, self.writer = name, feature, backbone, writer
        self.stored = {field: dtype for field, (_, dtype) in backbone.fields.items()}
        self.pending = frozenset(writer.pending)
        ids = [sample.sample for sample in samples]
        batches = [ids[start : start + feature.batch] for start in range(0, len(ids), feature.batch)]
        self.batches = [batch for batch in batches if self.pending.intersection(batch)]

    def _settle(self, sample: str, put: Callable[[], None]) -> int:
        """Puts a sample; returns 1 if it failed. A value that the store cannot hold fails the sample."""
        try:
            put()
        except StoreError:
            raise
        except ValueError as error:
            remedy = "" if "the first nan" in str(error) else getattr(self.feature, "TOO_LARGE", "")
            self.writer.fail(sample, f"{error}; {remedy}" if remedy else str(error))
            return 1
        return 0


class ClipLane(_Lane, ABC):
    """Samples of one shape, batched across videos. A batch with any pending sample is computed as a whole, so that its
    values are those of a run that was never interrupted."""

    def __init__(self, device: Device, *shared: Any) -> None:
        super().__init__(*shared)
        self.device = device
        self.wanted = frozenset(sample for batch in self.batches for sample in batch)
        self._full = iter([len(batch) for batch in self.batches])
        self._size = next(self._full, 0)
        self._clips: list[Clip] = []

    def take(self, message: Clips) -> Iterator[Task]:
        for clip in message.clips:
            self._clips.append(clip)
            if len(self._clips) == self._size:
                clips, self._clips, self._size = self._clips, [], next(self._full, 0)
                yield self._batch(clips)

    def _batch(self, clips: Sequence[Clip]) -> Task:
        inputs = self._inputs(clips)
        return partial(self._write, clips, self._computed(inputs) if len(inputs) else dict)

    @abstractmethod
    def _inputs(self, clips: Sequence[Clip]) -> Sequence[Any]:
        """What the backbone takes, of the samples that did not fail, in order; has slices that are batches."""

    @abstractmethod
    def _computed(self, inputs: Sequence[Any]) -> Callable[[], Fields]:
        """The fields of a batch, as soon as they are there."""

    def _write(self, clips: Sequence[Clip], computed: Callable[[], Fields]) -> tuple[int, int]:
        """Puts one batch into the store and commits it."""
        fields = computed()
        if fields:
            count = sum(not clip.reason for clip in clips)
            expect_declared(fields, self.backbone.fields, count, type(self.backbone).__name__)
        rows = iter(range(len(clips)))
        settled = failed = 0
        for clip in clips:
            row = None if clip.reason else next(rows)
            if clip.sample not in self.pending:
                continue
            settled += 1
            if row is None:
                self.writer.fail(clip.sample, clip.reason)
                failed += 1
            else:
                meta = {"times": self.backbone.token_times(clip.times)} if clip.times else {}
                own = {name: field[row] for name, field in fields.items()}
                failed += self._settle(clip.sample, partial(self.writer.put, clip.sample, own, meta))
        self.writer.commit()
        return settled, failed


class PixelLane(ClipLane):
    """Pictures and clips, which lie in the ring.

    Args:
        ring, number: the lane is the ring's of that number.
    """

    def __init__(self, ring: Ring, number: int, *shared: Any) -> None:
        super().__init__(*shared)
        self._ring, self._number, self._resized = ring, number, resized_there(self.feature)
        self._batches: Iterator[int] = iter(())

    def view(self, preprocess: Preprocessor) -> View:
        """What decode processes have to do for this lane: batches that the ring knows of from then on."""
        first = self._ring.begin(self._number, len(self.batches))
        self._batches = iter(range(first, first + len(self.batches)))
        return View(self.feature, preprocess, self.batches, first)

    def _batch(self, clips: Sequence[Clip]) -> Task:
        task = super()._batch(clips)
        self._ring.release(self._number, self.device.sent())
        return task

    def _inputs(self, clips: Sequence[Clip]) -> Sequence[Tensor]:
        place = self._ring.batch(self._number, next(self._batches))
        rows = [row for row, clip in enumerate(clips) if not clip.reason]
        if self._resized is not None:  # each of its own size
            return [place[row][: prod(clips[row].native)].view(clips[row].native) for row in rows]
        for to, row in enumerate(rows):
            if to < row:  # one before it failed: the batch closes up
                place[to].copy_(place[row])
        return place[: len(rows)]

    def _computed(self, inputs: Sequence[Tensor]) -> Callable[[], Fields]:
        return halving(lambda part: self.device.download(self._fields(part), self.stored), inputs)

    def _fields(self, part: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the backbone gives; none of it lies in the ring, where the next batch will."""
        taken = part[0].untyped_storage().data_ptr()
        fields = self.backbone(self._uploaded(part)).items()
        return {name: of.clone() if of.untyped_storage().data_ptr() == taken else of for name, of in fields}

    def _uploaded(self, samples: Sequence[Tensor]) -> Tensor:
        """(B, T, 3, h, w) on the device. Where that resizes, of one sample's native frames at a time: those of a batch
        may differ in size, and would take the memory of all."""
        if self._resized is None:
            return self.device.upload(samples)
        return torch.stack([self._resized(self.device.upload(of_THWC).permute(0, 3, 1, 2)) for of_THWC in samples])


class TextLane(ClipLane):
    """Texts. Those that the backbone refuses fail, each with its reason; the others of their batch do not."""

    def _inputs(self, clips: Sequence[Clip]) -> Sequence[str]:
        return [clip.sample for clip in clips if not clip.reason]

    def _computed(self, inputs: Sequence[str]) -> Callable[[], Fields]:
        return halving(lambda part: self.device.download(self.backbone(part), self.stored), inputs)

    def _batch(self, clips: Sequence[Clip]) -> Task:
        try:
            return super()._batch(clips)
        except BackboneError:
            refused = dict(self._refusals(self._inputs(clips)))
        return super()._batch([replace(clip, reason=clip.reason or refused.get(clip.sample, "")) for clip in clips])

    def _refusals(self, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(text, reason) of each text that is refused, found by halving: a batch only says that there is one."""
        try:
            self._computed(texts)
        except BackboneError as error:
            if len(texts) == 1:
                yield texts[0], str(error)
                return
            middle = len(texts) // 2
            yield from self._refusals(texts[:middle])
            yield from self._refusals(texts[middle:])


class RowLane(_Lane):
    """Samples of any length, computed piece by piece. A batch is what one commit holds; values do not depend on it."""

    def __init__(self, device: Device, *shared: Any) -> None:
        super().__init__(*shared)
        self.device = device
        self.wanted = self.pending
        self._left = [len(self.pending.intersection(batch)) for batch in self.batches]
        self._given_up = ""  # the sample that failed, whose further pieces are skipped
        self._held: Fields = {}
        sizes = getattr(self.backbone, "stream_sizes", {})
        self._varying = any(None in size for size in sizes.values())

    def take(self, piece: Piece) -> Iterator[Task]:
        if piece.sample == self._given_up:
            return
        try:
            rows = self._rows(piece)
        except TooMuch as error:  # another device might hold it
            raise TooMuch(f"sample {piece.sample}: {error}") from error
        except Exception as error:
            if not self._varying:
                raise
            refuse_shortage(error, f"sample {piece.sample}")
            # What is computed depends on the video's own shape, so the failure is this sample's.
            self._given_up, rows = piece.sample, dict
            piece = Piece(piece.lane, piece.sample, reason=f"{type(error).__name__}: {error}")
        yield partial(self._write, piece, rows)

    def _rows(self, piece: Piece) -> Callable[[], Mapping[str, Any]]:
        """The rows of each field, as soon as they are there; nothing for a sample that failed."""
        if piece.rows is None:
            return lambda: piece.fields or {}
        return halving(lambda part: self.device.download(self.backbone.rows(part.streams), self.stored), piece.rows)

    def _write(self, piece: Piece, computed: Callable[[], Mapping[str, Any]]) -> tuple[int, int]:
        """Keeps one piece; puts the sample with its last piece, and commits the batch with its last sample."""
        if piece.reason:
            self._held = {}
            self.writer.fail(piece.sample, piece.reason)
            return self._count(1)
        arrays = {name: np.asarray(field) for name, field in computed().items()}
        count = len(next(iter(arrays.values()))) if piece.rows is None else len(piece.rows)
        expect_declared(arrays, self.backbone.fields, count, type(self.backbone).__name__)
        stop = piece.start + count
        if stop - piece.start == piece.total:
            self._held = arrays
        else:
            if piece.start == 0:
                self._held = {name: self._room(name, piece.total) for name in arrays}
            for name, array in arrays.items():
                with np.errstate(over="ignore"):  # it becomes an infinity, which fails the sample
                    np.copyto(self._held[name][piece.start : stop], array, casting="same_kind")
            if stop < piece.total:
                return 0, 0
        held, self._held = self._held, {}
        return self._count(self._settle(piece.sample, partial(self.writer.put, piece.sample, held, {"fps": piece.fps})))

    def _room(self, name: str, total: int) -> np.ndarray:
        (_, *shape), dtype = self.backbone.fields[name]
        if total * prod(shape) * np.dtype(dtype).itemsize <= ROWS_IN_MEMORY:
            return np.empty((total, *shape), dtype)
        with tempfile.TemporaryFile(dir=self.writer.base.parent) as file:  # unnamed, so that a kill leaves none
            return np.memmap(file, dtype, "w+", shape=(total, *shape))

    def _count(self, failed: int) -> tuple[int, int]:
        self._left[0] -= 1
        if self._left[0] == 0:
            del self._left[0]
            self.writer.commit()
        return 1, failed
