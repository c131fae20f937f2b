"""Samples of a fixed number of frames, and texts, as a backbone takes them: runs in decode processes. Knows no weights.

One decode serves several features; each gets the frames at its own times, through its own preprocessor.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from pipeline.backbones import Preprocessor
from pipeline.config import PixelFeature
from pipeline.datasets import ShardSample, unchanged
from pipeline.video import VideoError, VideoFacts, blaming, read_frames, sampling_times

MESSAGE_BYTES = 16 << 20
MOST_SAMPLES = 32  # in a message: a batch of small pictures should not wait for a message of thousands


@dataclass(frozen=True)
class Clip:
    """One sample of one feature: the times of its frames, or the reason why it failed."""

    sample: str
    times: tuple[float, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Clips:
    """Consecutive samples of feature number `lane`, and the inputs of those that did not fail, in order."""

    lane: int
    clips: tuple[Clip, ...]
    inputs: Tensor | Sequence[Tensor] | Sequence[str]


@dataclass(frozen=True)
class View:
    """How one feature samples and preprocesses a video, and which samples it still needs."""

    feature: PixelFeature
    preprocess: Preprocessor
    wanted: frozenset[str]

    @property
    def native(self) -> bool:
        """Whether frames are handed over as decoded, to be resized on the device."""
        return getattr(self.feature, "resize", "") == "device"

    def sample_bytes(self, frame_bytes: int) -> int:
        """The most bytes that a sample's pixels can take: float32, or frames as decoded, of so many bytes each."""
        frame = frame_bytes if self.native else 4 * 3 * prod(self.size)
        return frame * (self.feature.sampling.count or 0)

    def pixels(self, frames_THWC: np.ndarray) -> Tensor:
        """(T, 3, h, w) of a sample's native frames; (T, 3, H, W) uint8 where the device resizes them."""
        if self.native:
            return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
        return torch.from_numpy(self.preprocess(frames_THWC))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a frame, as the backbone sees it."""
        geometry = self.feature.geometry
        return self.preprocess.size if geometry is None else geometry.size

    def times(self, facts: VideoFacts) -> np.ndarray:
        return sampling_times(self.feature.sampling, facts.duration)


class ClipSource:
    """Decodes runs of consecutive samples. All features use the same decoder.

    Args:
        folder: of the videos or pictures.
        samples: those of the shard that any feature needs.
        views: one a feature.
    """

    def __init__(self, folder: Path, samples: Sequence[ShardSample], views: Sequence[View]) -> None:
        self.folder, self.views = folder, views
        self.decoder = views[0].feature.decoder
        sizes = [3 * row.facts["height"] * row.facts["width"] for row in samples if row.facts is not None]
        self.frame_bytes = max(sizes, default=0)  # of the largest native frame
        most = max(1, sum(view.sample_bytes(self.frame_bytes) for view in views))
        self.size = size = max(1, min(MOST_SAMPLES, MESSAGE_BYTES // most))
        self.jobs = [samples[start : start + size] for start in range(0, len(samples), size)]

    def __len__(self) -> int:
        return len(self.jobs)

    @cached_property
    def message_bytes(self) -> int:
        """Of a full job: the sources that follow in the same processes may have one."""
        return self.size * max(view.sample_bytes(self.frame_bytes) for view in self.views)

    def describe(self, job: int) -> str:
        return f"one of the samples {self.jobs[job][0].sample} to {self.jobs[job][-1].sample}"

    def messages(self, job: int) -> Iterator[Clips]:
        """One message for each feature that needs any of the job's samples."""
        decoded = [self._sample(row) for row in self.jobs[job]]
        for lane in range(len(self.views)):
            own = [clips[lane] for clips in decoded if lane in clips]
            pixels = [taken for _, taken in own if taken is not None]
            if own:
                # In a decode process, torch collates straight into shared memory.
                inputs = _collated(pixels)
                yield Clips(lane, tuple(clip for clip, _ in own), inputs)

    def _sample(self, row: ShardSample) -> dict[int, tuple[Clip, Tensor | None]]:
        """By lane, for each feature that needs the sample: its clip and its pixels."""
        lanes = {lane: view for lane, view in enumerate(self.views) if row.sample in view.wanted}
        if row.facts is None:
            return {lane: (Clip(row.sample, reason=row.status), None) for lane in lanes}
        facts = VideoFacts(**row.facts)
        try:
            return self._decoded(row, facts, lanes)
        except VideoError as error:
            if len(lanes) > 1:
                # A video may break after the last frame that one of them needs: decode for each alone.
                alone = [self._sample_alone(row, facts, lane) for lane in lanes]
                return dict(zip(lanes, alone, strict=True))
            return {lane: (_failed(row, error), None) for lane in lanes}

    def _sample_alone(self, row: ShardSample, facts: VideoFacts, lane: int) -> tuple[Clip, Tensor | None]:
        try:
            return self._decoded(row, facts, {lane: self.views[lane]})[lane]
        except VideoError as error:
            return _failed(row, error), None

    def _decoded(
        self, row: ShardSample, facts: VideoFacts, lanes: Mapping[int, View]
    ) -> dict[int, tuple[Clip, Tensor | None]]:
        """Decodes once for all of `lanes`."""
        path = unchanged(self.folder, row)
        with blaming(path):
            times = {lane: view.times(facts) for lane, view in lanes.items()}
            union = np.unique(np.concatenate(list(times.values())))
            frames = read_frames(path, union, self.decoder, facts)
            seen = {}
            for lane, view in lanes.items():
                places = np.searchsorted(union, times[lane])
                own = frames if np.array_equal(places, np.arange(len(union))) else frames[places]
                seen[lane] = Clip(row.sample, tuple(times[lane].tolist())), view.pixels(own)
            return seen


def _collated(pixels: Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
    """One tensor of samples of one shape; native frames of several videos may have several."""
    if len({of.shape for of in pixels}) > 1:
        return tuple(pixels)
    return default_collate(list(pixels)) if pixels else torch.empty(0)


def _failed(row: ShardSample, error: VideoError) -> Clip:
    return Clip(row.sample, reason=f"{error.reason}: {error}")


class TextSource:
    """Texts: a sample's id is its text."""

    message_bytes = 0

    def __init__(self, samples: Sequence[ShardSample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return int(bool(self.samples))

    def describe(self, job: int) -> str:
        return "the texts"

    def messages(self, job: int) -> Iterator[Clips]:
        clips = tuple(Clip(row.sample, reason="" if row.status == "ok" else row.status) for row in self.samples)
        yield Clips(0, clips, [clip.sample for clip in clips if not clip.reason])
