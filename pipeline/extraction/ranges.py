"""The shards of one job, in turn: what another process has comes last, and what cannot be finished is told at the end.

Knows no backbone.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline.backbones import BackboneError
from pipeline.datasets import DatasetError
from pipeline.extraction.progress import ExtractionError, ExtractionFailed, Whole
from pipeline.store import StoreBusy, StoreError

SECONDS_BETWEEN_TRIES = 5.0
# What may be wrong with one shard and not with the next. A full disk is not among them, nor what else this machine is
# short of.
OURS = (ExtractionError, StoreError, DatasetError, BackboneError)


class Work(Protocol):
    """One pass over shards, in order. Reports to `turns` which it began, did, and could not do."""

    def __call__(self, shards: Sequence[int], turns: "Range") -> None: ...


class Range:
    """The shards of a job, and what became of each.

    No lock is held while another process is waited for, so two jobs never wait for each other.

    Args:
        shards: their numbers, in order.
        work: a pass. An error of ours that ends it is one of a shard that it had begun: if of several, each of these is
            tried again alone, so that the guilty one holds up no other.
        name: of what is made, for messages.
        say: called with a line where another process is waited for.
        waits: if not, a shard that another process has is an error.

    Attributes:
        whole: the progress of all of them; None of one alone.
    """

    def __init__(
        self, shards: Sequence[int], work: Work, name: str, say: Callable[[str], None], waits: bool = True
    ) -> None:
        self.shards, self.work, self.name, self.say, self.waits = list(dict.fromkeys(shards)), work, name, say, waits
        self.whole = Whole(name, len(self.shards), say) if len(self.shards) > 1 else None
        self._begun: list[int] = []
        self._busy: dict[int, StoreBusy] = {}
        self._done: dict[int, Any] = {}
        self._failed: dict[int, Exception] = {}

    def began(self, shard: int) -> None:
        self._begun.append(shard)

    def done(self, shard: int, made: Any) -> None:
        self._done[shard] = made

    def failed(self, shard: int, error: Exception) -> None:
        self._failed[shard] = error

    def busy(self, shard: int, error: StoreBusy) -> None:
        self._busy[shard] = error

    def results(self) -> dict[int, Any]:
        """Does the work. Returns what was made of each shard; raises as `extract_range`."""
        alone: list[int] = []
        left = self.shards
        while left:
            alone += self._pass(left)
            left = [shard for shard in left if self._open(shard) and shard not in alone and shard not in self._busy]
        for shard in alone:
            self._pass([shard])
        for shard in list(self._busy):
            self._wait_for(shard)
        if self.whole:
            self.whole.end()
        if self._failed:
            raise self._told()
        return {shard: self._done[shard] for shard in self.shards}

    def _open(self, shard: int) -> bool:
        return shard not in self._done and shard not in self._failed

    def _pass(self, shards: Sequence[int]) -> list[int]:
        """Tries shards. Returns those that an error ended of which it is not known whose it is."""
        self._begun = []
        try:
            self.work(shards, self)
        except OURS as error:
            suspects = [shard for shard in self._begun if self._open(shard)]
            if len(suspects) > 1:
                return suspects
            if not suspects:  # it is no shard's
                raise
            self._failed[suspects[0]] = error
        return []

    def _wait_for(self, shard: int) -> None:
        told = False
        while (error := self._busy.pop(shard, None)) is not None:
            if not self.waits:
                raise error
            if told:
                time.sleep(SECONDS_BETWEEN_TRIES)
            else:
                self.say(f"waiting: {error}")
                told = True
            self._pass([shard])

    def _told(self) -> Exception:
        """The error of the only shard, or one that names each."""
        errors = list(self._failed.values())
        if len(self.shards) == 1:
            return errors[0]
        kind = ExtractionFailed if all(isinstance(error, ExtractionFailed) for error in errors) else ExtractionError
        numbers = ", ".join(f"{shard:03d}" for shard in sorted(self._failed))
        reasons = "\n".join(f"shard {shard:03d}: {error}" for shard, error in sorted(self._failed.items()))
        others = "; the others are complete" if len(errors) < len(self.shards) else ""
        return kind(
            f"{self.name}: {len(errors)} of {len(self.shards)} shards could not be finished ({numbers})"
            f"{others}:\n{reasons}"
        )
