"""Runs the writes of a pass in a thread of their own, in order. Knows no store."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

TASKS_AHEAD = 2  # computed batches or pieces that may wait to be written


class Writes:
    """Tasks, one after the other, while the next batch is computed; none after one that failed. A context manager.

    What a task raises is raised by one of the next calls, or by `end`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "store-writer")
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown()

    def __call__(self, task: Callable[[], None]) -> None:
        """Adds a task; waits where more than `TASKS_AHEAD` are not done."""
        self._waiting.append(self._thread.submit(self._run, task))
        while len(self._waiting) > TASKS_AHEAD or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def end(self) -> None:
        """Waits for all tasks."""
        while self._waiting:
            self._waiting.popleft().result()

    def _run(self, task: Callable[[], None]) -> None:
        if self._failed:  # of a batch that follows one that is lacking, nothing is kept
            return
        try:
            task()
        except BaseException:
            self._failed = True
            raise
