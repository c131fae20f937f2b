"""Kills writers at random moments and counts what that breaks: nothing, or the exit code is 1.

    python -m benchmarks.soak [--kills N] [--json FILE] [--seed N] [--folder DIR]

A process writes a shard batch by batch, as extraction does; another kills it (SIGKILL) at a random moment, again and
again until it gets through. Formats take turns, from nothing first, then from an earlier version of the shard with
another sample list, whose data it takes over. Counted over all kills:

    torn        shards that a reader took for whole and that were not, or that in the end differ from one undisturbed
    lost        samples computed again although a commit had confirmed them
    duplicates  samples that a journal or a manifest holds twice
"""

import json
import logging
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks._harness import main, scratch, table
from pipeline.store import FeatureStore, ShardWriter, StoreMissing, verify
from pipeline.store.journal import read_journal

FORMATS = {
    "zarr float16": {"x": ((16, 32), "float16")},
    "zarr int8_scaled": {"x": ((16, 32), "int8_scaled")},
    "HDF5 ragged": {"x": ((None, 32), "float16"), "y": ((None, 8), "int8_scaled")},
}
SAMPLES, BATCH, PAUSE = 48, 4, 0.002


class Job:
    """What is to be written, and a log of what happened: a line for each sample computed, and each confirmed."""

    def __init__(self, folder: Path, fields: dict, taking_over: bool) -> None:
        self.base, self.fields, self.log = folder / "feature" / "shard-000", fields, folder / "log"
        self.samples = [(f"v{number}", "first") for number in range(SAMPLES)]
        folder.mkdir(parents=True)
        if taking_over:  # a whole shard is there, and now a sample less, one more and one changed are asked for
            self.run()
            self.log.unlink()
            self.samples = [*self.samples[1:10], ("v10", "second"), *self.samples[11:], ("new", "first")]

    def values(self, sample: str, digest: str) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(list(f"{sample} {digest}".encode()))
        length = int(rng.integers(1, 40))
        shapes = {name: tuple(length if side is None else side for side in of) for name, (of, _) in self.fields.items()}
        return {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}

    def run(self) -> None:
        with (
            ShardWriter(self.base, self.samples, self.fields, {"key": "soak"}) as writer,
            self.log.open("a", encoding="utf-8") as log,
        ):
            pending = set(writer.pending)
            for start in range(0, SAMPLES, BATCH):
                batch = [pair for pair in self.samples[start : start + BATCH] if pair[0] in pending]
                for sample, digest in batch:
                    log.write(f"computed {sample} {digest}\n")
                    log.flush()
                    writer.put(sample, self.values(sample, digest), {"times": [0.5]})
                    time.sleep(PAUSE)
                writer.commit()
                log.writelines(f"confirmed {sample} {digest}\n" for sample, digest in batch)
                log.flush()
            writer.finish()

    def lost(self) -> int:
        """How often a sample was computed after it had been confirmed."""
        confirmed, lost = set(), 0
        for line in self.log.read_text(encoding="utf-8").splitlines():
            what, _, sample = line.partition(" ")
            if what == "confirmed":
                confirmed.add(sample)
            lost += what == "computed" and sample in confirmed
        return lost

    def contents(self) -> dict[str, bytes]:
        root = self.base.parent
        paths = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}

    def torn(self) -> bool:
        """Whether a reader would take for whole what is not."""
        try:
            held = len(FeatureStore(self.base.parent, verify=True).samples)
        except StoreMissing:
            return False
        return held != SAMPLES or verify(self.base.parent) != []

    def duplicates(self) -> int:
        names = [row["sample"] for batch in read_journal(self.base.with_suffix(".journal")).batches for row in batch]
        if (manifest := self.base.with_suffix(".json")).exists():
            names += [
                f"manifest's {row['sample']}" for row in json.loads(manifest.read_text(encoding="utf-8"))["samples"]
            ]
        return sum(count - 1 for count in Counter(names).values())


def run(kills: int, seed: int, folder: str) -> dict:
    """Kills until there were `kills`, and to the end of the run that is under way."""
    # Before the processes part: each of them would need a second for it.
    import h5py  # noqa: F401
    import torch  # noqa: F401
    import zarr  # noqa: F401

    logging.disable(logging.WARNING)  # what a resumed writer finds is the point here
    rng = random.Random(seed)
    counts = {name: dict.fromkeys(("runs", "kills", "torn", "lost", "duplicates"), 0) for name in FORMATS}
    with scratch(folder) as place:
        kinds = [(name, taking_over) for taking_over in (False, True) for name in FORMATS]
        references = {kind: undisturbed(place / f"reference{number}", *kind) for number, kind in enumerate(kinds)}
        for number, kind in enumerate(cycle(kinds)):
            if sum(count["kills"] for count in counts.values()) >= kills:
                break
            job = Job(place / f"run{number}", FORMATS[kind[0]], kind[1])
            disturbed(job, *references[kind], rng, counts[kind[0]])
            shutil.rmtree(place / f"run{number}")
    table("Killed at random moments", [{"format": name, **count} for name, count in counts.items()])
    totals = {what: sum(count[what] for count in counts.values()) for what in ("kills", "torn", "lost", "duplicates")}
    return {**totals, "formats": counts, "seed": seed}


def undisturbed(folder: Path, name: str, taking_over: bool) -> tuple[dict[str, bytes], float]:
    """What a run leaves that nobody kills, and how many seconds it takes."""
    job = Job(folder, FORMATS[name], taking_over)
    started = time.monotonic()
    job.run()
    return job.contents(), time.monotonic() - started


def disturbed(job: Job, expected: dict[str, bytes], seconds: float, rng: random.Random, count: dict[str, int]) -> None:
    """Kills the job until it gets through, later and later if it makes no headway, and counts what that broke."""
    count["runs"] += 1
    longest = seconds / 2
    while killed(job, rng.uniform(0, longest)):
        count["kills"] += 1
        count["torn"] += job.torn()
        count["duplicates"] += job.duplicates()
        longest *= 1.05
    count["torn"] += job.contents() != expected or job.torn()
    count["duplicates"] += job.duplicates()
    count["lost"] += job.lost()


def killed(job: Job, after: float) -> bool:
    """Runs the job in a process of its own and ends it after so many seconds; whether it was the kill that ended it.

    Raises:
        RuntimeError: the job failed by itself.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            job.run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status > 0:
        raise RuntimeError(f"{job.base}: the writer failed, its traceback is above")
    return status < 0


if __name__ == "__main__":
    found = main(run, {"kills": 100}, kills=30, seed=0, folder="")
    sys.exit(any(found[what] for what in ("torn", "lost", "duplicates")))
