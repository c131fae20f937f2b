"""Memory into which decode processes write samples, and from which batches are taken as they lie: a ring of batches.

A lane has the samples of one feature, all of one shape and dtype: its batch n lies at place n modulo the number of
places, sample beside sample, so that a batch is a view and nothing is received or stacked. A process waits until the
batch that had the place before is released. Knows no video and no backbone.
"""

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.extraction.progress import ExtractionError
from pipeline.memory import DECODED_AHEAD, SHARED_MEMORY, Shortage, shared_memory_left

LEAST = 2  # batches of a lane: one that is filled, and one that the device still copies
JOBS_AHEAD = 2  # of each process: one that it runs, and one that it goes on with
SECONDS_BETWEEN_LOOKS = 0.001
_PAGE = 4096  # bytes


class Slots(NamedTuple):
    """What a lane holds: batches of `batch` samples, each of this shape and dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    batch: int

    @property
    def sample_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class Ring:
    """One piece of memory for all lanes of a pass, shared with its processes, and pinned for a CUDA device.

    One process takes batches, in order; any number of them write. Without processes the memory is this one's own.

    Args:
        slots: of each lane.
        run: samples that a process decodes at once.
        pinned: whether a CUDA device copies from it.
    """

    def __init__(self, slots: Sequence[Slots], run: int, pinned: bool) -> None:
        self.slots, self.run, self.pinned = tuple(slots), run, pinned
        self._memory: Tensor | None = None
        self._begun = [0] * len(self.slots)  # batches that were announced
        self._copied: list[deque[Any]] = [deque() for _ in self.slots]  # events of batches that a device copies
        self._taker = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is not forked; torch hands on the memory itself."""
        return {name: value for name, value in vars(self).items() if name not in ("_released", "_copied")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._released, self._taker = _counters(self._memory, len(self.slots)), os.getppid()

    # --- in the process that takes ------------------------------------------------------------------------------------

    def open(self, workers: int) -> None:
        """Takes the memory, where this was not done yet.

        Raises:
            Shortage: two batches a lane do not fit into half of the shared memory that is free, or cannot be
                pinned.
        """
        if self._memory is not None:
            return
        self.places = places_for(self.slots, self.run, workers)
        sizes = [_rounded(self.places * of.batch * of.sample_bytes) for of in self.slots]
        self._starts = [sum(sizes[:lane]) for lane in range(len(sizes))]
        nbytes = sum(sizes) + _PAGE
        storage = _shared(nbytes) if workers else torch.UntypedStorage(nbytes)
        memory = torch.empty(0, dtype=torch.uint8).set_(storage)
        if self.pinned:
            _pin(memory)
        self._memory, self._released = memory, _counters(memory, len(self.slots))
        self._released[:] = 0

    def close(self) -> None:
        """Lets processes that wait for a place end, and lets go of the memory."""
        if self._memory is None:
            return
        self._released[-1] = 1
        with suppress(RuntimeError):  # of a device that has failed, which was told where it did
            for lane in range(len(self.slots)):
                self._give_back(lane, 0)
            if self.pinned:
                torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr())
        self._memory = None

    def begin(self, lane: int, batches: int) -> int:
        """Announces batches, which all come and are all released; returns the number of the first."""
        first = self._begun[lane]
        self._begun[lane] += batches
        return first

    def batch(self, lane: int, number: int) -> Tensor:
        """(batch, *shape), what was written there."""
        of = self.slots[lane]
        nbytes = of.batch * of.sample_bytes
        start = self._starts[lane] + number % self.places * nbytes
        return self._memory[start : start + nbytes].view(of.dtype).view(of.batch, *of.shape)

    def release(self, lane: int, copied: Any = None) -> None:
        """Gives back the place of the earliest batch of a lane that was not released yet.

        Args:
            lane: its number.
            copied: a CUDA event after which the device reads it no more; None where nothing does.
        """
        self._copied[lane].append(copied)
        self._give_back(lane, LEAST - 1)

    def look(self) -> None:
        """Gives back what devices have copied meanwhile."""
        for lane, events in enumerate(self._copied):
            self._give_back(lane, len(events))

    def _give_back(self, lane: int, most: int) -> None:
        """Waits for the device where more than `most` batches wait for it: all but the last were copied long ago."""
        events = self._copied[lane]
        while events:
            passed = events[0] is None or events[0].query()
            if not passed and len(events) <= most:
                return
            if not passed:
                events[0].synchronize()
            events.popleft()
            self._released[lane] += 1

    # --- in a process that writes -------------------------------------------------------------------------------------

    def room(self, lane: int, number: int) -> Tensor:
        """The place of a batch, (batch, *shape), as soon as it may be written to.

        Raises:
            ExtractionError: the ring was closed, or the process that takes has ended.
        """
        while number >= self._released[lane] + self.places:
            if self._released[-1] or self._taker not in (os.getpid(), os.getppid()):
                raise ExtractionError("the process that takes what is decoded has ended")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return self.batch(lane, number)


def places_for(slots: Sequence[Slots], run: int, workers: int) -> int:
    """How many batches of each lane a ring holds.

    Args:
        slots: of each lane.
        run: samples that a process decodes at once.
        workers: processes; without any, a batch is taken before the next one is decoded.

    Raises:
        Shortage: two of each do not fit into half of the shared memory that is free.
    """
    if not workers:
        return LEAST
    size = sum(of.batch * of.sample_bytes for of in slots)
    left = shared_memory_left(SHARED_MEMORY)
    free = 2 * max(DECODED_AHEAD, LEAST * size) if left is None else left
    if LEAST * size > free // 2:
        raise Shortage(
            f"{SHARED_MEMORY} has {free >> 20} MB left, and decode processes want {2 * LEAST * size >> 20} MB for "
            f"batches of {', '.join(str(of.batch) for of in slots)} samples; give the container more (--shm-size=2g), "
            "set a smaller batch, or set compute.decode_workers: 0, which needs none"
        )
    wanted = max(-(-JOBS_AHEAD * workers * run // of.batch) for of in slots) + LEAST
    return max(LEAST, min(wanted, min(DECODED_AHEAD, free // 2) // max(1, size)))


def _counters(memory: Tensor, lanes: int) -> np.ndarray:
    """At the end: of each lane the batches that were released; then whether the ring is closed. int64."""
    return memory[-_PAGE:].view(torch.int64)[: lanes + 1].numpy()


def _rounded(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def _shared(nbytes: int) -> torch.UntypedStorage:
    """Memory as torch shares it, which the system reserves: a lack of it shows here, not where it is written to."""
    try:
        return torch.UntypedStorage._new_shared(nbytes)
    except RuntimeError as error:
        raise Shortage(
            f"{SHARED_MEMORY} gives no {nbytes >> 20} MB for decode processes ({error}); give the container more "
            "(--shm-size=2g), or set compute.decode_workers: 0, which needs none"
        ) from error


def _pin(memory: Tensor) -> None:
    """Locks the pages, so that the device copies from them beside its work."""
    status = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
    if int(status):
        raise Shortage(
            f"CUDA cannot pin the {memory.numel() >> 20} MB that decode processes write to (error {int(status)}); let "
            "the process lock more memory (ulimit -l unlimited; docker: --ulimit memlock=-1), or set a smaller batch"
        )
