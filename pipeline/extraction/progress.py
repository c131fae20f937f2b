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


class Progress:
    """One line every few seconds for all features of a pass: done, failed, rate, time left.

    Args:
        dataset, shard: named in each line.
        total: samples of the shard.
        settled: feature -> how many samples its store already holds.
        write: called with each line.
    """

    def __init__(
        self, dataset: str, shard: int, total: int, settled: Mapping[str, int], write: Callable[[str], None]
    ) -> None:
        self.dataset, self.shard, self.total, self.write = dataset, shard, total, write
        self.settled, self.everything = dict(settled), total * len(settled)
        self.done = self.resumed = sum(settled.values())
        self.failed = 0
        self.start = self.last = time.monotonic()
        for name, count in settled.items():
            write(f"{self._place(name)}: {count} of {total} samples are there, {total - count} to compute")

    def __call__(self, done: int = 0, failed: int = 0) -> None:
        """Counts samples that were settled in a store, `failed` of them without data; prints a line now and then."""
        self.done += done
        self.failed += failed
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last, rate = now, (self.done - self.resumed) / (now - self.start)
            left = f"{(self.everything - self.done) / rate:.0f} s left" if rate else "none done yet"
            place = self._place("+".join(self.settled))
            self.write(f"{place}: {self.done}/{self.everything}, {self.failed} failed, {rate:.1f}/s, {left}")

    def end(self, name: str, failed: Mapping[str, str], base: Path) -> None:
        """Prints the last lines of one feature, whose shard is at `base`."""
        seconds, computed = time.monotonic() - self.start, self.total - self.settled[name]
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
