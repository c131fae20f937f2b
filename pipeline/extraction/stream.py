"""Runs decode processes and yields their messages in order. Knows no video, no backbone and no store.

The processes outlive a source: the jobs of the next one are handed over while the last of this one are taken. Tensors
pass between processes in shared memory: samples of one shape by way of a ring, others with their message. The bytes
that wait there are bounded.
"""

import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from torch.utils.data import DataLoader, Dataset

from pipeline.extraction.progress import ExtractionError, TooMuch
from pipeline.extraction.ring import JOBS_AHEAD, Ring
from pipeline.memory import DECODED_AHEAD, SHARED_MEMORY, Shortage, refuse_shortage, shared_memory_left

MOST_AHEAD = 64  # messages of one process


class Source(Protocol):
    """Jobs for decode processes, each of which yields messages. Picklable: holds paths and no open file."""

    def __len__(self) -> int:
        """Number of jobs; 0 where there is nothing to do."""
        ...

    @property
    def message_bytes(self) -> int:
        """Approximate bytes of a message, at most; without what goes by way of the ring."""
        ...

    def messages(self, job: int, ring: Ring | None) -> Iterator[Any]: ...

    def describe(self, job: int) -> str:
        """The samples of a job, for messages."""
        ...


class _Job(NamedTuple):
    """A job for one process; with its source, pickled or not, where the process does not have it yet."""

    number: int
    source: Source | bytes | None


def _messages(source: Source, job: int, ring: Ring | None) -> Iterator[Any]:
    """The messages of a job. Raises Shortage where this machine's means do not suffice for it."""
    try:
        yield from source.messages(job, ring)
    except Exception as error:
        refuse_shortage(error, source.describe(job))
        raise


class _Share(Dataset):
    """The jobs of one process, as its DataLoader asks for them: each request brings new jobs, and gets one message.

    Answers with None at the end of a job, with an error of ours, and with `...` where it has no job: it never waits for
    one, so that it notices the end of the process that it works for.
    """

    def __init__(self, jobs: Iterable[_Job], ring: Ring | None) -> None:
        self._jobs, self._ring = deque(jobs), ring
        self._answers: Iterator[Any] | None = None

    def __getitem__(self, jobs: tuple[_Job, ...]) -> Any:
        self._jobs.extend(jobs)
        if self._answers is None:
            self._answers = self._all()
        return next(self._answers)

    def _all(self) -> Iterator[Any]:
        source: Source | None = None
        while True:
            if not self._jobs:
                yield ...
                continue
            job = self._jobs.popleft()
            if job.source is not None:
                source = pickle.loads(job.source) if isinstance(job.source, bytes) else job.source
            try:
                yield from _messages(source, job.number, self._ring)
            except Exception as error:
                # Torch would put a traceback into its message: right for a bug, wrong for a user's mistake.
                if not type(error).__module__.startswith("pipeline."):
                    raise
                yield error
            yield None


class _Requests:
    """What a process is asked for, without end: each request hands over the jobs that it has not got yet."""

    def __init__(self) -> None:
        self.jobs: list[_Job] = []

    def handed_over(self) -> tuple[_Job, ...]:
        jobs, self.jobs = self.jobs, []
        return tuple(jobs)

    def __iter__(self) -> Iterator[tuple[_Job, ...]]:
        while True:
            yield self.handed_over()


class _Process:
    """A decode process, seen from this one. In no cycle of references, so that it ends where it is let go."""

    def __init__(self, ring: Ring | None) -> None:
        self._requests, self._ring = _Requests(), ring
        self._source: Source | None = None
        self._answers: Iterator[Any] | None = None

    def give(self, source: Source, job: int) -> None:
        """Jobs of before its start it has from then on; what comes later is pickled here, where an error is told."""
        new = source if source is not self._source else None
        self._requests.jobs.append(_Job(job, new if self._answers is None or new is None else _pickled(new)))
        self._source = source

    def messages(self, ahead: int) -> Iterator[Any]:
        """Those of the earliest job that was given and whose messages were not taken yet."""
        if self._answers is None:
            options = {"batch_size": None, "num_workers": 1, "prefetch_factor": ahead, "collate_fn": _as_it_is}
            share = _Share(self._requests.handed_over(), self._ring)
            self._answers = iter(DataLoader(share, sampler=self._requests, **options))
        for message in iter(self._next, None):
            if isinstance(message, Exception):
                raise message
            if message is not ...:
                yield message

    def _next(self) -> Any:
        if self._ring is not None:
            self._ring.look()
        return next(self._answers)

    def end(self) -> None:
        self._answers = None


def _pickled(source: Source) -> bytes:
    try:
        return pickle.dumps(source)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ExtractionError(
            f"{source.describe(0)} cannot be handed to a decode process: {error}; let the backbone's preprocessor be "
            "picklable, or set compute.decode_workers: 0"
        ) from error


class Stream:
    """The messages of all jobs of all sources, job after job, whatever the number of processes. A context manager.

    The n-th job is that of process n modulo their number: the order needs no sorting, and no process runs further ahead
    than memory allows, however long a video is.

    Args:
        sources: what to run. The next one is asked for while processes still work at those before it; without
            processes, once all before it is done.
        workers: processes; 0 works in this one.
        ring: where the sources leave samples; opened with the first job, closed at the end.

    Raises:
        Shortage: shared memory is too small (on iterating), or the machine's means do not suffice for a job.
        TooMuch: a process died (on leaving the context, since torch reports it by a signal, at any point of this
            process). What a job raises is raised unchanged.
    """

    def __init__(self, sources: Iterable[Source], workers: int, ring: Ring | None = None) -> None:
        self._sources, self.workers, self._ring = iter(sources), workers, ring
        self._next = 0  # jobs that were given
        self._waiting: deque[tuple[Source, int | None]] = deque()  # jobs to be taken, and None at a source's end
        self._jobs = 0  # in `_waiting`
        self._now = "the first sample"  # what is decoded, for messages
        self._processes = [_Process(ring) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ring is not None:
            self._ring.close()
        for process in self._processes:
            process.end()
        # Noticed by torch's signal handler, or while a tensor was being received from it.
        if _reports_a_death(error) or isinstance(error, ConnectionError | EOFError):
            raise TooMuch(
                f"a decode process died (out of memory, or a crash in the decoder) at {self._now}"
                " or a sample soon after; run again with compute.decode_workers: 0 to see which, and remove that file"
            ) from error

    def __iter__(self) -> Iterator[tuple[Source, Any]]:
        """(source, message) in order, and (source, None) at the end of each source."""
        taken, ahead = 0, 0
        while self._give() or self._waiting:
            source, job = self._waiting.popleft()
            if job is None:
                yield source, None
                continue
            self._jobs -= 1
            self._now = source.describe(job)
            if self._ring is not None:
                self._ring.open(self.workers)
            if self.workers:
                ahead = ahead or messages_ahead(source.message_bytes, min(self.workers, self._next))
                messages = self._processes[taken % self.workers].messages(ahead)
            else:
                messages = _messages(source, job, self._ring)
            for message in messages:
                yield source, message
            taken += 1

    def _give(self) -> None:
        """Gives the jobs of further sources to the processes, until each has enough to go on with."""
        while self._jobs < max(1, JOBS_AHEAD * self.workers) and (self.workers or not self._waiting):
            if (source := next(self._sources, None)) is None:
                return
            for job in range(len(source)):
                if self.workers:
                    self._processes[self._next % self.workers].give(source, job)
                self._next += 1
                self._waiting.append((source, job))
            self._jobs += len(source)
            self._waiting.append((source, None))


def _reports_a_death(error: BaseException | None) -> bool:
    """Whether an error is the one that torch raises on the signal, or follows from it."""
    while error is not None:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
            return True
        error = error.__context__
    return False


def messages_ahead(size: int, workers: int) -> int:
    """How many messages of `size` bytes each process may prepare ahead.

    Raises:
        Shortage: not even one a process fits into half of the shared memory that is free.
    """
    left = shared_memory_left(SHARED_MEMORY)
    free = 2 * DECODED_AHEAD if left is None else left
    if workers * size > free // 2:
        raise Shortage(
            f"{SHARED_MEMORY} has {free >> 20} MB left, and {workers} decode processes want {2 * workers * size >> 20} "
            "MB; give the container more (--shm-size=2g), or set fewer compute.decode_workers (0 needs none)"
        )
    return max(1, min(MOST_AHEAD, min(DECODED_AHEAD, free // 2) // (workers * size)))


def _as_it_is(message: Any) -> Any:
    return message
