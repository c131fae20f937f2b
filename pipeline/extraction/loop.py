"""Decode processes -> batches across videos -> frozen forward -> writer thread, resumable at the batch. Knows no head.

Which samples share a batch follows from the manifest alone, so a killed and resumed shard is byte for byte the one that
was never killed.
"""

import importlib.metadata
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline import backbones
from pipeline.config import AnyFeature, Params, feature_dir, feature_key, weights_digest
from pipeline.datasets import ShardSample, read_manifest, shard_samples, video_folder
from pipeline.store import ShardWriter, StoreError
from pipeline.video import VideoError, VideoFacts, read_frames, segment_centres

BATCHES_AHEAD = 2  # computed batches that may wait for the disk
SECONDS_BETWEEN_LINES = 5.0
LISTED_FAILURES = 20

TokenTimes = Callable[[Sequence[float]], list[float]]


class ExtractionFailed(RuntimeError):
    """More samples of a shard failed than `max_failed` allows; what was computed is kept."""


@dataclass(frozen=True)
class Clip:
    """One decoded sample: its pixels and the times of its frames, or the reason why there are none."""

    sample: str
    pixels: np.ndarray | None = None
    times: tuple[float, ...] = ()
    reason: str = ""


class Clips(Dataset):
    """Decodes one batch an item, in a worker process. Holds paths only."""

    def __init__(self, feature: AnyFeature, folder: Path, batches: Sequence[Sequence[ShardSample]]) -> None:
        self.feature, self.folder, self.batches = feature, folder, batches
        self.preprocess = backbones.preprocessor(feature)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Clip]:
        torch.set_num_threads(1)
        return [self.clip(row) for row in self.batches[index]]

    def clip(self, row: ShardSample) -> Clip:
        """Decodes and preprocesses one sample; whatever is wrong with the video becomes its reason."""
        if row.facts is None:
            return Clip(row.sample, reason=row.status)
        facts = VideoFacts(**row.facts)
        times = segment_centres(self.feature.sampling.frames, facts.duration)
        try:
            frames = read_frames(self.folder / row.path, times, self.feature.decoder, facts)
        except VideoError as error:
            return Clip(row.sample, reason=f"{error.reason}: {error}")
        return Clip(row.sample, self.preprocess(frames), tuple(times.tolist()))


def extract(
    params: Params, dataset: str, feature: str, shard: int, root: Path, progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Brings one shard of one feature to its end, computing only the batches that are not in the store yet.

    Args:
        params: holds the data set and the feature.
        dataset, feature: their names.
        shard: which one.
        root: the features' folder, where the manifest of the data set lies too.
        progress: called with one line, every few seconds and at the end.

    Returns:
        The shard's manifest.

    Raises:
        ExtractionFailed: more than `max_failed` of the samples failed.
        StoreError, BackboneError, DatasetError: with the remedy.
    """
    chosen = params.features[feature]
    torch.set_num_threads(params.compute.extract_threads)
    device = torch.device(_device(params.compute.device))
    rows = shard_samples(read_manifest(root / dataset / "manifest.parquet"), shard)
    backbone = backbones.load(chosen, device)
    base = feature_dir(params, dataset, feature, root) / f"shard-{shard:03d}"
    with ShardWriter(
        base, [(row.sample, row.digest) for row in rows], backbone.fields, provenance(params, feature, backbone)
    ) as writer:
        pending = set(writer.pending)
        batches = [rows[start : start + chosen.batch] for start in range(0, len(rows), chosen.batch)]
        batches = [batch for batch in batches if pending.intersection(row.sample for row in batch)]
        log = _Progress(f"{dataset}/{feature} shard {shard:03d}", len(rows), len(rows) - len(pending), progress)
        decoding = Clips(chosen, video_folder(params.datasets[dataset]), batches)
        loader = DataLoader(decoding, batch_size=None, num_workers=min(params.compute.decode_workers, len(batches)))
        with ThreadPoolExecutor(1, "store-writer") as thread:
            writes: deque[Future[None]] = deque()
            for clips in loader:
                fields = _features(backbone, [clip for clip in clips if clip.pixels is not None], device)
                writes.append(thread.submit(_write, writer, pending, clips, fields, backbone.token_times))
                if len(writes) > BATCHES_AHEAD:
                    writes.popleft().result()
                log(clips)
            for write in writes:
                write.result()
        _refuse_too_many_failures(base, writer.failed, len(rows), chosen.max_failed)
        manifest = writer.finish()
    log.end(len(pending), writer.failed)
    return manifest


def provenance(params: Params, feature: str, backbone: backbones.Backbone) -> dict[str, Any]:
    """What the bytes of a feature rest on. Holds no time and no machine's path, so equal work gives equal bytes."""
    chosen = params.features[feature]
    libraries = ("torch", "torchvision", "transformers", "decord", "av", "numpy")
    return {
        "key": feature_key(chosen),
        "feature": feature,
        "config": chosen.model_dump(mode="json", exclude={"max_failed"}),
        "weights": weights_digest(chosen.weights),
        "grid": list(backbone.grid),
        "box": list(chosen.preprocess.box),
        "device": _device(params.compute.device),
        "versions": {name: importlib.metadata.version(name) for name in libraries},
    }


def _device(asked: str) -> str:
    return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _features(backbone: backbones.Backbone, clips: Sequence[Clip], device: torch.device) -> dict[str, np.ndarray]:
    """The fields of a batch, on the CPU. A batch that does not fit the device's memory is halved."""
    if not clips:
        return {}
    try:
        pixels: Tensor = torch.from_numpy(np.stack([clip.pixels for clip in clips]))
        return {name: field.float().cpu().numpy() for name, field in backbone(pixels.to(device)).items()}
    except torch.OutOfMemoryError:
        if len(clips) == 1:
            raise
        torch.cuda.empty_cache()
        halves = [_features(backbone, part, device) for part in (clips[: len(clips) // 2], clips[len(clips) // 2 :])]
        return {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}


def _write(
    writer: ShardWriter,
    pending: set[str],
    clips: Sequence[Clip],
    fields: dict[str, np.ndarray],
    token_times: TokenTimes,
) -> None:
    """Puts one batch into the store and commits it: runs in the writer thread."""
    rows = iter(range(len(clips)))
    for clip in clips:
        row = next(rows) if clip.pixels is not None else None
        if clip.sample not in pending:
            continue
        if row is None:
            writer.fail(clip.sample, clip.reason)
            continue
        try:
            writer.put(
                clip.sample, {name: field[row] for name, field in fields.items()}, {"times": token_times(clip.times)}
            )
        except StoreError:
            raise
        except ValueError as error:  # a value that the store cannot hold: that sample's fault, not the store's
            writer.fail(clip.sample, str(error))
    writer.commit()


class _Progress:
    """One line every few seconds: done, failed, rate, time left."""

    def __init__(self, name: str, total: int, done: int, write: Callable[[str], None]) -> None:
        self.name, self.total, self.done, self.resumed, self.write = name, total, done, done, write
        self.failed = 0
        self.start = self.last = time.monotonic()
        write(f"{name}: {done} of {total} samples are there, {total - done} to compute")

    def __call__(self, clips: Sequence[Clip]) -> None:
        self.done = min(self.done + len(clips), self.total)
        self.failed += sum(clip.pixels is None for clip in clips)
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last, rate = now, (self.done - self.resumed) / (now - self.start)
            left = (self.total - self.done) / rate
            self.write(f"{self.name}: {self.done}/{self.total}, {self.failed} failed, {rate:.1f}/s, {left:.0f} s left")

    def end(self, computed: int, failed: dict[str, str]) -> None:
        seconds = time.monotonic() - self.start
        self.write(f"{self.name}: computed {computed} of {self.total} in {seconds:.1f} s, {len(failed)} failed")
        for line in failure_table(failed):
            self.write(line)


def failure_table(failed: dict[str, str]) -> list[str]:
    """A line a failed sample, the first of them."""
    lines = [f"  {sample}: {reason}" for sample, reason in list(failed.items())[:LISTED_FAILURES]]
    hidden = len(failed) - len(lines)
    return [*lines, f"  and {hidden} more"] if hidden else lines


def _refuse_too_many_failures(base: Path, failed: dict[str, str], total: int, allowed: float) -> None:
    if len(failed) > allowed * total:
        raise ExtractionFailed(
            f"{base}: {len(failed)} of {total} samples failed, more than max_failed = {allowed:g} allows:\n"
            + "\n".join(failure_table(failed))
            + "\nReplace the files, or raise max_failed in params.yaml; what was computed is kept."
        )
