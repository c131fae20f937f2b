"""How fast a shard is written with its checksums: ours against zarrs, zarr-python and tensorstore.

    python -m benchmarks.write [--json FILE] [--rounds N] [--folder DIR]

128 samples of 2.4 MB (8 frames of 196 tokens of 768 channels, float16) as one shard of crc32c-checked chunks. Ours
appends them in eight batches, each with its journal line and sync; the others get all samples at once, which is their
best case, and sync nothing. `write()` is the plain system call without any checksum.
"""

import os
import shutil
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks._harness import interleaved, main, ratio, scratch, table
from benchmarks._zarr_clients import clients, created
from pipeline.store import ShardWriter

SHAPE, SAMPLES, BATCH = (8, 196, 768), 128, 16


def run(rounds: int, folder: str) -> dict:
    """Times each writer on the same samples."""
    data = np.random.default_rng(0).normal(size=(SAMPLES, *SHAPE)).astype(np.float16)
    versions = clients()
    with scratch(folder) as place:
        target = place / "target"

        def afresh() -> None:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()

        cases = {
            "ours": lambda: ours(target, data, "float16"),
            "ours, int8_scaled": lambda: ours(target, data, "int8_scaled"),
            "write()": lambda: plain(target, data),
        }
        for client in (name for name, version in versions.items() if version):
            cases[client] = lambda client=client: created(client, target / "array", data)
        seconds = interleaved(cases, rounds, between=afresh)
    writers = {
        name: {"mb_per_s": data.nbytes / 1e6 / median(times), "ours_is_faster_by": ratio(times, seconds["ours"])}
        for name, times in seconds.items()
    }
    table(f"Writing {SAMPLES} samples of 2.4 MB", [{"writer": name, **row} for name, row in writers.items()])
    return {
        "mb_per_s": writers["ours"]["mb_per_s"],
        **{f"vs_{name.replace('-', '_')}": writers.get(name, {}).get("ours_is_faster_by") for name in versions},
        "writers": writers,
        "versions": versions,
        "rounds": rounds,
    }


def ours(target: Path, data: np.ndarray, dtype: str) -> None:
    ids = [(f"sample{number}", "digest") for number in range(len(data))]
    with ShardWriter(target / "shard-000", ids, {"x": (data.shape[1:], dtype)}, {"key": "benchmark"}) as writer:
        for number, sample in enumerate(writer.pending, start=1):
            writer.put(sample, {"x": data[number - 1]}, {})
            if number % BATCH == 0:
                writer.commit()
        writer.finish()


def plain(target: Path, data: np.ndarray) -> None:
    with (target / "plain").open("wb", buffering=0) as stream:
        for sample in data:
            stream.write(sample)
        os.fsync(stream.fileno())


if __name__ == "__main__":
    main(run, {"rounds": 7}, rounds=3, folder="")
