"""What a batch costs between its decode and its forward, and between its forward and the disk: CPU ms a video.

Side by side with the plain way: messages that bring their samples in shared memory of their own, a stack of them a
batch, and float32 back, which the store rounds. Nothing is decoded or computed: samples of real size lie ready in the
processes, results of real size in this one.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from pipeline.extraction.clips import samples_of_job
from pipeline.extraction.device import narrowed
from pipeline.extraction.ring import Ring, Slots
from pipeline.extraction.stream import Stream
from pipeline.store import ShardWriter, chunks

STEPS = ("receive", "stack", "write", "hash")
# Of both real features: what their preprocessors give, and what their backbones do.
SLOTS = ((8, 3, 224, 224), torch.float32), ((32, 3, 112, 112), torch.uint8)
FIELDS = {"patch_tokens": (8, 196, 768), "clip_tokens": (8, 49, 512)}


class Ready:
    """Both features of samples that lie ready: a job is a run of them, and writes them into the ring."""

    message_bytes = 1

    def __init__(self, slots: Sequence[Slots], videos: int) -> None:
        self.samples = [torch.ones(of.shape, dtype=of.dtype) for of in slots]
        batch, run = slots[0].batch, samples_of_job(slots)
        self.jobs = [range(start, min(start + run, videos)) for start in range(0, videos, run)]
        self.batch = batch

    def __len__(self) -> int:
        return len(self.jobs)

    def describe(self, job: int) -> str:
        return f"job {job}"

    def messages(self, job: int, ring: Ring) -> Iterator[tuple[int, int]]:
        for lane, sample in enumerate(self.samples):
            for number in self.jobs[job]:
                ring.room(lane, number // self.batch)[number % self.batch].copy_(sample)
            yield lane, len(self.jobs[job])


class Collated(Dataset):
    """The same samples, each job's as one tensor in a message."""

    def __init__(self, ready: Ready) -> None:
        self.ready = ready

    def __len__(self) -> int:
        return len(self.ready.jobs) * len(self.ready.samples)

    def __getitem__(self, message: int) -> torch.Tensor:
        job, lane = divmod(message, len(self.ready.samples))
        return default_collate([self.ready.samples[lane]] * len(self.ready.jobs[job]))


def by_ring(ready: Ready, slots: Sequence[Slots], videos: int) -> dict[str, float]:
    """CPU seconds of this thread, from the processes to whole batches."""
    spent, ring = dict.fromkeys(("receive", "stack"), 0.0), Ring(slots, samples_of_job(slots), pinned=False)
    held = [0] * len(slots)
    with Stream([ready], 1, ring) as stream:
        messages = iter(stream)
        message = next(messages)[1]  # with the first one, processes start and memory is taken: once a job
        while message is not None:
            lane, count = message
            with timed(spent, "stack"):
                held[lane] += count
                if held[lane] % ready.batch == 0 or held[lane] == videos:
                    ring.batch(lane, (held[lane] - 1) // ready.batch)
                    ring.release(lane)
            with timed(spent, "receive"):
                message = next(messages)[1]
    return spent


def by_messages(ready: Ready, slots: Sequence[Slots], videos: int) -> dict[str, float]:
    spent = dict.fromkeys(("receive", "stack"), 0.0)
    held: list[list[torch.Tensor]] = [[] for _ in slots]
    messages = iter(DataLoader(Collated(ready), batch_size=None, num_workers=1, prefetch_factor=4, collate_fn=as_it_is))
    message = next(messages)
    for number in range(len(messages)):
        if number:
            with timed(spent, "receive"):
                message = next(messages)
        with timed(spent, "stack"):
            lane = held[number % len(slots)]
            lane.extend(message)
            if len(lane) >= ready.batch:
                torch.stack(lane[: ready.batch])
                del lane[: ready.batch]
    return spent


def as_it_is(message: Any) -> Any:
    return message


def stored(results: Mapping[str, Sequence[np.ndarray]], folder: Path, batch: int) -> dict[str, float]:
    """CPU seconds of this thread to put samples into a store, with the checksums apart."""
    spent, count = dict.fromkeys(("write", "hash"), 0.0), len(next(iter(results.values())))
    with hashing_timed(spent), timed(spent, "write"):
        for name, arrays in results.items():
            ids, fields = [(str(number), "") for number in range(count)], {name: (arrays[0].shape, "float16")}
            with ShardWriter(folder / name / "shard-000", ids, fields, {"key": "0"}) as writer:
                for number, array in enumerate(arrays, 1):
                    writer.put(str(number - 1), {name: array}, {})
                    if number % batch == 0:
                        writer.commit()
                writer.finish()
    shutil.rmtree(folder)
    spent["write"] -= spent["hash"]
    return spent


def measured(folder: Path, videos: int, batch: int, rounds: int) -> dict[str, Any]:
    """Medians of CPU ms a video, both features together, of this path and of the plain one."""
    slots = [Slots(shape, dtype, batch) for shape, dtype in SLOTS]
    ready, rng = Ready(slots, videos), np.random.default_rng(0)
    whole = {name: torch.from_numpy(rng.normal(size=(1, *shape)).astype(np.float32)) for name, shape in FIELDS.items()}
    halves = {name: narrowed(of, "float16")[0] for name, of in whole.items()}

    def many(fields: Mapping[str, torch.Tensor]) -> dict[str, list[np.ndarray]]:
        return {name: [of[0].numpy()] * videos for name, of in fields.items()}

    ways: dict[str, Callable[[], dict[str, float]]] = {
        "now": lambda: by_ring(ready, slots, videos) | stored(many(halves), folder / "now", batch),
        "plain": lambda: by_messages(ready, slots, videos) | stored(many(whole), folder / "plain", batch),
    }
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            spent = run()
            if number:  # the first loads libraries
                found[way].append(spent)
    ms = {way: {s: 1000 * median(one[s] for one in of) / videos for s in STEPS} for way, of in found.items()}
    totals = {way: sum(of.values()) for way, of in ms.items()}
    return {"share_of_plain": totals["now"] / totals["plain"], "cpu_ms_a_video": ms, "total_ms": totals}


@contextmanager
def timed(spent: dict[str, float], step: str) -> Iterator[None]:
    began = time.thread_time()
    try:
        yield
    finally:
        spent[step] += time.thread_time() - began


@contextmanager
def hashing_timed(spent: dict[str, float]) -> Iterator[None]:
    """Inside, the checksums of a store's data are timed."""
    honest = chunks.crc32c

    def timing(*given: Any) -> int:
        with timed(spent, "hash"):
            return honest(*given)

    chunks.crc32c = timing
    try:
        yield
    finally:
        chunks.crc32c = honest
