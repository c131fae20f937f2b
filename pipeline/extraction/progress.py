"""The output of an extraction: progress lines, a table of failures, errors. Knows no store and no backbone."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

SECONDS_BETWEEN_LINES = 5.0
LISTED_FAILURES = 20


class ExtractionError(RuntimeError):
    """An extraction cannot go on; the message gives the remedy. What was committed is kept."""


class TooMuch(ExtractionError):
    """A sample that this machine cannot process: its decode process died, or it does not fit the memory."""


class ExtractionFailed(ExtractionError):
    """More samples of a shard failed than `max_failed` allows; what was computed is kept."""


class Whole:
    """The progress of a range of shards: every few seconds a line of all of it, and at the end one of idle shards.

    Args:
        name: of what is made.
        shards: how many there are.
        write: called with each line.
    """

    def __init__(self, name: str, shards: int, write: Callable[[str], None]) -> None:
        self.name, self.shards, self.write = name, shards, write
        self.start = self.last = self.ended = time.monotonic()
        self._opened: dict[int, Progress] = {}
        self._computed: dict[int, int] = {}

    def opened(self, shard: int, of: "Progress") -> None:
        """A shard's own progress; of one that is tried again, the new one."""
        self._opened[shard] = of

    def line(self, of: "Progress") -> None:
        """Now and then a line: where the range is, and how long all of it takes if other shards are like these."""
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last, found = now, self._opened.values()
        done, known = sum(one.done for one in found), sum(one.everything for one in found)
        computed = done - sum(one.resumed for one in found)
        total, failed = known * self.shards // len(found), sum(one.failed for one in found)
        rate = computed / (now - self.start)
        left = f"about {(total - done) / rate:.0f} s left" if rate else "none done yet"
        place = list(self._opened).index(of.shard) + 1
        self.write(
            f"{self.name} shard {of.shard:03d}, {place} of {self.shards}: {of.done}/{of.everything}; of all shards "
            f"{done}/{total}, {failed} failed, {rate:.1f}/s, {left}"
        )

    def lap(self) -> float:
        """The moment at which the shard before ended; from now on, now."""
        before, self.ended = self.ended, time.monotonic()
        return before

    def computed(self, shard: int, samples: int) -> None:
        """Counts what was computed of a shard that is complete."""
        self._computed[shard] = self._computed.get(shard, 0) + samples

    def end(self) -> None:
        """A line of the shards that had nothing to compute."""
        if idle := [f"{shard:03d}" for shard, samples in sorted(self._computed.items()) if not samples]:
            some = ", ".join(idle[:LISTED_FAILURES]) + (" ..." if len(idle) > LISTED_FAILURES else "")
            self.write(
                f"{self.name}: {len(idle)} of {self.shards} shards were complete already ({some}); to compute one "
                f"again, remove its files, as shard-{idle[0]}.*"
            )


class Progress:
    """One line every few seconds for all features of a pass: done, failed, rate, time left.

    Args:
        dataset, shard: named in each line.
        total: samples of the shard.
        settled: feature -> how many samples its store already holds.
        write: called with each line.
        whole: of the range that the shard is one of; it has the lines between, and of a shard without work all.
    """

    def __init__(
        self,
        dataset: str,
        shard: int,
        total: int,
        settled: Mapping[str, int],
        write: Callable[[str], None],
        whole: Whole | None = None,
    ) -> None:
        self.dataset, self.shard, self.total, self.write, self.whole = dataset, shard, total, write, whole
        self.settled, self.everything = dict(settled), total * len(settled)
        self.done = self.resumed = sum(settled.values())
        self.failed = 0
        self.start = self.last = time.monotonic()
        if whole:
            whole.opened(shard, self)
        for name, count in settled.items() if not whole or self.done < self.everything else ():
            write(f"{self._place(name)}: {count} of {total} samples are there, {total - count} to compute")

    def __call__(self, done: int = 0, failed: int = 0) -> None:
        """Counts samples that were settled in a store, `failed` of them without data; prints a line now and then."""
        self.done += done
        self.failed += failed
        if self.whole:
            self.whole.line(self)
            return
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last, rate = now, (self.done - self.resumed) / (now - self.start)
            left = f"{(self.everything - self.done) / rate:.0f} s left" if rate else "none done yet"
            place = self._place("+".join(self.settled))
            self.write(f"{place}: {self.done}/{self.everything}, {self.failed} failed, {rate:.1f}/s, {left}")

    def end(self, name: str, failed: Mapping[str, str], base: Path) -> None:
        """Prints the last lines of one feature, whose shard is at `base`."""
        computed = self.total - self.settled[name]
        start = self.start
        if self.whole:
            self.whole.computed(self.shard, computed)
            if not computed:
                return
            start = max(start, self.whole.lap())  # it was opened while the one before was computed
        seconds = time.monotonic() - start
        self.write(f"{self._place(name)}: computed {computed} of {self.total} in {seconds:.1f} s, {len(failed)} failed")
        if not computed:
            self.write(
                f"{base}: complete already; its folder's name says its content: to compute it again, rm -r {base}.*"
            )
        for line in failure_table(failed):
            self.write(line)

    def _place(self, name: str) -> str:
        return f"{self.dataset}/{name} shard {self.shard:03d}"


def failure_table(failed: Mapping[str, str]) -> list[str]:
    """A line for each of the first failed samples."""
    lines = [f"  {sample}: {reason}" for sample, reason in list(failed.items())[:LISTED_FAILURES]]
    hidden = len(failed) - len(lines)
    return [*lines, f"  and {hidden} more"] if hidden else lines


def refuse_too_many_failures(base: Path, failed: Mapping[str, str], total: int, allowed: float) -> None:
    """Raises ExtractionFailed when more than `allowed` (a share) of `total` samples failed."""
    if len(failed) > allowed * total:
        raise ExtractionFailed(
            f"{base}: {len(failed)} of {total} samples failed, more than max_failed = {allowed:g} allows:\n"
            + "\n".join(failure_table(failed))
            + "\nReplace the files, or raise max_failed in params; what was computed is kept."
        )
