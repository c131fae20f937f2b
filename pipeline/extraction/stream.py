"""Runs decode processes and yields their messages in order. Knows no video, no backbone and no store.

Tensors pass between processes in shared memory; the bytes that wait there are bounded.
"""

from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from torch.utils.data import DataLoader, IterableDataset

from pipeline.extraction.progress import ExtractionError, TooMuch
from pipeline.memory import SHARED_MEMORY, shared_memory_left

BYTES_AHEAD = 256 << 20  # decoded and not yet taken, over all processes
MOST_AHEAD = 64  # messages of one process


class Source(Protocol):
    """The jobs of the decode processes, each of which yields messages. Holds paths and no open file."""

    def __len__(self) -> int:
        """Number of jobs."""
        ...

    @property
    def message_bytes(self) -> int:
        """Approximate bytes of a message."""
        ...

    def messages(self, job: int) -> Iterator[Any]: ...

    def describe(self, job: int) -> str:
        """The samples of a job, for messages."""
        ...


class _Share(IterableDataset):
    """The jobs of one process; a None marks the end of a job."""

    def __init__(self, source: Source, jobs: range) -> None:
        self.source, self.jobs = source, jobs

    def __iter__(self) -> Iterator[Any]:
        for job in self.jobs:
            try:
                yield from self.source.messages(job)
            except Exception as error:
                # Torch would put a traceback into its message: right for a bug, wrong for a user's mistake.
                if not type(error).__module__.startswith("pipeline."):
                    raise
                yield error
                return
            yield None


class Stream:
    """The messages of all jobs, job after job, whatever the number of processes. A context manager.

    Process w has the jobs w, w + workers, ...: the order needs no sorting, and no process runs further ahead than
    memory allows, however long a video is.

    Args:
        source: what to run.
        workers: processes; 0 works in this one.

    Raises:
        ExtractionError: shared memory is too small (on iterating), or a process died (on leaving the context, since
            torch reports it by a signal, at any point of this process). What a job raises is raised unchanged.
    """

    def __init__(self, source: Source, workers: int) -> None:
        self.source, self.workers = source, min(workers, len(source))
        self._job = 0
        self._shares: list[Iterator[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shares.clear()  # ends the processes
        # Noticed by torch's signal handler, or while a tensor was being received from it.
        if _reports_a_death(error) or isinstance(error, ConnectionError | EOFError):
            raise TooMuch(
                f"a decode process died (out of memory, or a crash in the decoder) at {self.source.describe(self._job)}"
                " or a sample soon after; run again with compute.decode_workers: 0 to see which, and remove that file"
            ) from error

    def __iter__(self) -> Iterator[Any]:
        jobs = len(self.source)
        if self.workers == 0:
            for job in range(jobs):
                yield from self.source.messages(job)
            return
        ahead = messages_ahead(self.source.message_bytes, self.workers)
        shares = [_process(self.source, range(first, jobs, self.workers), ahead) for first in range(self.workers)]
        self._shares = [iter(share) for share in shares]
        for self._job in range(jobs):
            for message in iter(partial(next, self._shares[self._job % self.workers]), None):
                if isinstance(message, Exception):
                    raise message
                yield message


def _reports_a_death(error: BaseException | None) -> bool:
    """Whether an error is the one that torch raises on the signal, or follows from it."""
    while error is not None:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
            return True
        error = error.__context__
    return False


def _process(source: Source, jobs: range, ahead: int) -> DataLoader:
    share = _Share(source, jobs)
    return DataLoader(share, batch_size=None, num_workers=1, prefetch_factor=ahead, collate_fn=_as_it_is)


def messages_ahead(size: int, workers: int) -> int:
    """How many messages of `size` bytes each process may prepare ahead.

    Raises:
        ExtractionError: not even one a process fits into half of the shared memory that is free.
    """
    left = shared_memory_left(SHARED_MEMORY)
    free = 2 * BYTES_AHEAD if left is None else left
    if workers * size > free // 2:
        raise ExtractionError(
            f"{SHARED_MEMORY} has {free >> 20} MB left, and {workers} decode processes want {2 * workers * size >> 20} "
            "MB; give the container more (--shm-size=2g), or set fewer compute.decode_workers (0 needs none)"
        )
    return max(1, min(MOST_AHEAD, min(BYTES_AHEAD, free // 2) // (workers * size)))


def _as_it_is(message: Any) -> Any:
    return message
