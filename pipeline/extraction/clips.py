"""Samples of a fixed number of frames, and texts, as a backbone takes them: runs in decode processes. Knows no weights.

What is decoded and preprocessed is written into the ring; a message says which samples are there.

One decode serves several features; each gets the frames at its own times, through its own preprocessor.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import Preprocessor
from pipeline.config import PixelFeature
from pipeline.datasets import ShardSample, unchanged
from pipeline.extraction.progress import ExtractionError
from pipeline.extraction.ring import Ring, Slots
from pipeline.video import VideoError, VideoFacts, blaming, read_frames, sampling_times

JOB_BYTES = 16 << 20
MOST_SAMPLES = 32  # of a job: a batch of small pictures should not wait for a job of thousands
MESSAGE_BYTES = 64 << 10  # of a job's samples: their names and times


@dataclass(frozen=True)
class Clip:
    """One sample of one feature: the times of its frames, or the reason why it failed.

    `native` is the shape of frames that lie in the ring as decoded, (T, H, W, 3); they fill the beginning of their row.
    """

    sample: str
    times: tuple[float, ...] = ()
    reason: str = ""
    native: tuple[int, ...] = ()


@dataclass(frozen=True)
class Clips:
    """Consecutive samples of feature number `lane`. What was decoded lies in their batch's place of the ring."""

    lane: int
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class View:
    """How one feature samples and preprocesses a video, and which samples it still needs.

    Attributes:
        batches: those samples, by the batches that they are computed in.
        first: the number of the first batch in its lane of the ring.
    """

    feature: PixelFeature
    preprocess: Preprocessor
    batches: Sequence[Sequence[str]]
    first: int = 0

    def pixels(self, frames_THWC: np.ndarray) -> Tensor:
        """(T, 3, h, w) of a sample's native frames; themselves, (T, H, W, 3) uint8, where the device resizes them."""
        return torch.from_numpy(frames_THWC if self.feature.resized_there else self.preprocess(frames_THWC))

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Sample -> the number of its batch, and its row there."""
        return {
            sample: (number, row)
            for number, batch in enumerate(self.batches, self.first)
            for row, sample in enumerate(batch)
        }

    def times(self, facts: VideoFacts) -> np.ndarray:
        return sampling_times(self.feature.sampling, facts.duration)


def slots_of(
    name: str, feature: PixelFeature, preprocess: Preprocessor, frame_bytes: int = 0, most: int | None = None
) -> Slots:
    """What a feature's samples look like once they are preprocessed, found with a black frame.

    Args:
        name, feature, preprocess: of it.
        frame_bytes: of the largest native frame, for a feature whose frames come as they were decoded.
        most: samples that a batch can have, where it is known.

    Raises:
        ExtractionError: its preprocessor cannot take a frame.
    """
    batch = feature.batch if most is None else min(feature.batch, most)
    if feature.resized_there:
        return Slots((feature.sampling.count * frame_bytes,), torch.uint8, batch)
    size = preprocess.size if feature.geometry is None else feature.geometry.size
    try:
        frames = torch.from_numpy(preprocess(np.zeros((1, *size, 3), np.uint8)))
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ExtractionError(
            f"{name}: its preprocessor takes no black frame of {size[1]} x {size[0]} pixels ({cause}); correct it"
        ) from error
    return Slots((feature.sampling.count, *frames.shape[1:]), frames.dtype, batch)


def largest_frame(samples: Iterable[ShardSample]) -> int:
    """Bytes of the largest native frame of samples, by the facts of their files; 0 without any."""
    return max((3 * row.facts["height"] * row.facts["width"] for row in samples if row.facts is not None), default=0)


def samples_of_job(slots: Sequence[Slots]) -> int:
    """How many samples a process decodes at once."""
    return max(1, min(MOST_SAMPLES, JOB_BYTES // max(1, sum(of.sample_bytes for of in slots))))


class ClipSource:
    """Decodes runs of consecutive samples, none of which is of two batches. All features use the same decoder.

    Args:
        folder: of the videos or pictures.
        samples: those of the shard that any feature needs.
        views: one a feature.
        most: samples of a run.
    """

    message_bytes = MESSAGE_BYTES

    def __init__(self, folder: Path, samples: Sequence[ShardSample], views: Sequence[View], most: int) -> None:
        self.folder, self.views = folder, views
        self.decoder = views[0].feature.decoder
        self.jobs = list(self._runs(samples, most))

    def _runs(self, samples: Sequence[ShardSample], most: int) -> Iterator[list[ShardSample]]:
        """A place of the ring is waited for at the start of a run, so that its samples share one in each lane."""
        last = {batch[-1] for view in self.views for batch in view.batches}
        run: list[ShardSample] = []
        for sample in samples:
            run.append(sample)
            if len(run) == most or sample.sample in last:
                yield run
                run = []
        if run:
            yield run

    def __len__(self) -> int:
        return len(self.jobs)

    def describe(self, job: int) -> str:
        return f"one of the samples {self.jobs[job][0].sample} to {self.jobs[job][-1].sample}"

    def messages(self, job: int, ring: Ring) -> Iterator[Clips]:
        """One message for each feature that needs any of the job's samples."""
        told: list[list[Clip]] = [[] for _ in self.views]
        for row in self.jobs[job]:
            for lane, (clip, pixels) in self._sample(row).items():
                told[lane].append(clip)
                if pixels is not None:
                    self._keep(ring, lane, row.sample, pixels)
        for lane, clips in enumerate(told):
            if clips:
                yield Clips(lane, tuple(clips))

    def _keep(self, ring: Ring, lane: int, sample: str, pixels: Tensor) -> None:
        view = self.views[lane]
        number, row = view.places[sample]
        place = ring.room(lane, number)[row]
        if view.feature.resized_there and pixels.numel() <= place.numel():
            place = place[: pixels.numel()].view(pixels.shape)
        if view.feature.resized_there and pixels.shape != place.shape:
            raise ExtractionError(
                f"sample {sample!r} decodes to frames of {tuple(pixels.shape[1:3])}, more than any video of these "
                "shards has by the manifest; run `python -m pipeline manifest` again with --afresh"
            )
        if (pixels.shape, pixels.dtype) != (place.shape, place.dtype):
            raise ExtractionError(
                f"the preprocessor of {view.feature.backbone} made {pixels.dtype} {tuple(pixels.shape)} of sample "
                f"{sample!r} and {place.dtype} {tuple(place.shape)} of a black frame; correct it: a backbone's samples "
                "have one shape and dtype"
            )
        place.copy_(pixels)

    def _sample(self, row: ShardSample) -> dict[int, tuple[Clip, Tensor | None]]:
        """By lane, for each feature that needs the sample: its clip and its pixels."""
        lanes = {lane: view for lane, view in enumerate(self.views) if row.sample in view.places}
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
                pixels = view.pixels(own)
                native = tuple(pixels.shape) if view.feature.resized_there else ()
                seen[lane] = Clip(row.sample, tuple(times[lane].tolist()), native=native), pixels
            return seen


def _failed(row: ShardSample, error: VideoError) -> Clip:
    return Clip(row.sample, reason=error.as_failure)


class TextSource:
    """Texts: a sample's id is its text."""

    message_bytes = 0

    def __init__(self, samples: Sequence[ShardSample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return int(bool(self.samples))

    def describe(self, job: int) -> str:
        return "the texts"

    def messages(self, job: int, ring: Ring | None = None) -> Iterator[Clips]:
        yield Clips(0, tuple(Clip(row.sample, reason="" if row.status == "ok" else row.status) for row in self.samples))
