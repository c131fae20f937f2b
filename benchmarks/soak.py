"""Kills writers at random moments and counts what that breaks: nothing, or the exit code is 1.

    python -m benchmarks.soak [--kills N] [--json FILE] [--seed N] [--folder DIR]

A process writes a shard batch by batch, as extraction does; another kills it (SIGKILL) at a random moment, again and
again until it gets through; formats take turns, and so do the kinds of run: from nothing, resuming, and taking over an
earlier version with another sample list. Counted over all kills:

    torn        shards that a reader took for whole and that were not, or that differ in the end from one never disturbed
    lost        samples computed again although a commit had confirmed them
    duplicates  samples that a journal or a manifest holds twice
"""

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
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

    def __init__(self, folder: Path, fields: dict) -> None:
        self.base, self.fields, self.log = folder / "feature" / "shard-000", fields, folder / "log"
        self.samples = [(f"v{number}", "first") for number in range(SAMPLES)]
        folder.mkdir(parents=True)

    def another_list(self) -> None:
        """A sample less, one more, one changed: the others are to be taken over."""
        self.samples = [*self.samples[1:10], ("v10", "second"), *self.samples[11:], ("new", "first")]

    def values(self, sample: str, digest: str) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(list(f"{sample} {digest}".encode()))
        length = int(rng.integers(1, 40))
        shapes = {name: tuple(length if side is None else side for side in of) for name, (of, _) in self.fields.items()}
        return {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}

    def run(self) -> None:
        with ShardWriter(self.base, self.samples, self.fields, {"key": "soak"}) as writer, self.log.open("a") as log:
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
        for line in self.log.read_text().splitlines():
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
        rows = [row["sample"] for of in (".journal", ".donor.journal") for row in self._rows(of)]
        manifest = self.base.with_suffix(".json")
        held = FeatureStore(self.base.parent).samples if manifest.exists() else []
        return sum(count - 1 for names in (rows, held) for count in Counter(names).values())

    def _rows(self, suffix: str) -> list[dict]:
        batches = read_journal(self.base.with_name(self.base.name + suffix)).batches
        return [row for batch in batches for row in batch]


def run(kills: int, seed: int, folder: str) -> dict:
    """Kills until there were `kills`, and to the end of the run that is under way."""
    chance, counts = random.Random(seed), {name: Counter() for name in FORMATS}
    with scratch(folder) as place:
        formats = list(FORMATS)
        spans = {name: reference(place / name, FORMATS[name]) for name in formats}
        number = 0
        while sum(count["kills"] for count in counts.values()) < kills:
            name = formats[number % len(formats)]
            again(place, name, number // len(formats) % 2 == 1, spans[name] / 2, chance, counts[name])
            number += 1
    table("Killed at random moments", [{"format": name, **of} for name, of in counts.items()])
    total = sum(counts.values(), Counter())
    return {**{what: total[what] for what in ("kills", "torn", "lost", "duplicates")}, "formats": counts, "seed": seed}


def reference(folder: Path, fields: dict) -> float:
    """Writes a shard of each kind of run that nobody disturbs; returns how many seconds one takes."""
    import h5py  # noqa: F401  # imported before the processes part: each of them would need a second for it
    import zarr  # noqa: F401

    job = Job(folder / "plain", fields)
    started = time.monotonic()
    job.run()
    seconds = time.monotonic() - started
    shutil.copytree(folder / "plain", folder / "changed")
    changed = Job.__new__(Job)
    changed.__dict__ = {**vars(job), "base": folder / "changed" / "feature" / "shard-000", "log": folder / "changed/log"}
    changed.another_list()
    changed.run()
    return seconds


if __name__ == "__main__":
    found = main(run, kills=100, seed=0, folder="")
    sys.exit(any(found[what] for what in ("torn", "lost", "duplicates")))
