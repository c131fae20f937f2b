"""Attention maps and masks on the grid of a feature's tokens, for the frames and the crop that the tokens saw.

Runs no backbone and decodes no sample; for a map that moves, the times of the video's frames are read.

Shape suffixes: K frames of a map, H W pixels, C channels, P steps, F frames a step, R rows and Q columns of cells.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.config import Params, PixelFeature
from pipeline.datasets import NO_MAP, ShardSample, unchanged, video_folder
from pipeline.datasets.folders import home_of
from pipeline.datasets.map_content import MapError, MapFile, open_map
from pipeline.datasets.map_files import map_digests
from pipeline.extraction.made import Made
from pipeline.extraction.progress import ExtractionError
from pipeline.memory import refuse_shortage
from pipeline.store import FeatureStore
from pipeline.video import VideoError, VideoFacts, frame_starts, frames_at, sampling_times
from pipeline.video.sampling import ROUNDING

Box = tuple[float, float, float, float]  # top, left, bottom, right, in fractions of the frame's height and width


class Maps:
    """Each sample's map, (C, P, R, Q) in [0, 1]: of each cell the mean over its part of the frame, and over the frames
    of its step.

    A sample's metadata also has `map_scale`: what the file's numbers were divided by, see `map_content`.

    Args:
        params: declare the dataset, the feature and its source.
        dataset, feature: their names.
        source: whose grid, times and crop the maps take.
        rows: the samples.

    Raises:
        ExtractionError: the source has no token grid; from a call, its times are not those of the manifest.
    """

    computed_on = "cpu"

    def __init__(
        self, params: Params, dataset: str, feature: str, source: FeatureStore, rows: Sequence[ShardSample]
    ) -> None:
        chosen, grid = params.features[feature], source.provenance["grid"]
        if grid is None:
            raise ExtractionError(
                f"{feature}: {chosen.source} has the fields {source.fields} and no token grid to lay maps on; name a "
                "source that has one"
            )
        self.feature, self.channels, self.reads = feature, chosen.channels, {}
        self.dataset, self.pixels = params.datasets[dataset], _pixels_of(params, chosen.source)
        if self.pixels.geometry is None:
            raise ExtractionError(
                f"{feature}: which part of a frame {chosen.source} sees is known to its checkpoint alone; declare its "
                "preprocess: {resize: ..., crop: ...}, then maps can be laid on it"
            )
        self.home = home_of(self.dataset)
        self.rows = {row.sample: row for row in rows}
        self.grid = (grid[0], grid[1] * chosen.scale, grid[2] * chosen.scale)
        self.fields = {"maps": ((self.channels, *self.grid), "float16")}

    def __call__(self, source: FeatureStore, samples: Sequence[str]) -> Iterator[Made]:
        """The map of each sample, one at a time, or why it has none: `NO_MAP`, or a message with the map's name."""
        for sample in samples:
            row = self.rows[sample]
            if row.map is None:
                yield Made(reason=NO_MAP)
                continue
            if row.facts is None:
                yield Made(reason=row.status)
                continue
            times_PF = self._times(row, source.meta(sample)["times"])
            try:
                made = self._made(row, VideoFacts(**row.facts), times_PF)
            except MapError as error:
                made = Made(reason=f"the map {row.map} of {row.path} {error}")
            except Exception as error:  # whatever the bytes of one map do, they end no shard
                refuse_shortage(error, row.map)
                cause = f"{type(error).__name__}: {error}"
                made = Made(reason=f"the map {row.map} of {row.path} cannot be read: {cause}; export it again")
            yield made

    def _made(self, row: ShardSample, facts: VideoFacts, times_PF: np.ndarray) -> Made:
        (now,) = map_digests(self.dataset, [row.map])
        if row.map_digest and now and now != row.map_digest:
            raise MapError("was replaced since the manifest was made; make the manifest again")
        found = open_map(Path(self.dataset.root, row.map), self.home)
        if not row.map_digest:
            raise MapError("could not be read when the manifest was made; make the manifest again")
        refuse_misfit(found, facts, self.channels)
        numbers_PF = np.zeros(times_PF.shape, int)
        if found.frames > 1:
            try:
                path = unchanged(video_folder(self.dataset), row)
                numbers_PF = frames_at(frame_starts(path, facts), times_PF)
            except VideoError as error:
                raise MapError(f"cannot be laid on its frames: {error.reason}: {error.detail}") from None
        box = self.pixels.geometry.seen(facts.height, facts.width)
        try:
            map_CPRQ = rendered(found, numbers_PF, box, self.grid[1:], self.channels)
        except VideoError as error:
            raise MapError(f"cannot be read: {error.reason}: {error.detail}") from None
        return Made({"maps": map_CPRQ}, {"map_scale": found.unit})

    def _times(self, row: ShardSample, said: Sequence[float]) -> np.ndarray:
        """(P, F) seconds of the frames that each step covers."""
        times_PF = sampling_times(self.pixels.sampling, row.facts["duration"]).reshape(self.grid[0], -1)
        if not np.allclose(times_PF.mean(axis=1), said, rtol=0, atol=ROUNDING):
            raise ExtractionError(
                f"{self.feature}: the tokens of sample {row.sample!r} are of other times ({said[0]:.3f} s and on) than "
                f"its manifest gives ({times_PF[0].mean():.3f} s and on); delete their store and extract them again"
            )
        return times_PF


def _pixels_of(params: Params, feature: str) -> PixelFeature:
    """The feature of pixels that the named one is derived from."""
    chosen = params.features[feature]
    return _pixels_of(params, chosen.source) if chosen.derived else chosen


def refuse_misfit(found: MapFile, facts: VideoFacts, channels: int) -> None:
    """Raises MapError where a map does not fit its video or picture, or has another number of channels.

    A map may be smaller than its video, but of the same aspect ratio: given one of its sides, the other is what the
    ratio asks for, rounded up or down.
    """
    height, width = found.height, found.width
    if min(abs(width - height * facts.width / facts.height), abs(height - width * facts.height / facts.width)) >= 1:
        raise MapError(
            f"is {width} x {height} pixels and its frames are {facts.width} x {facts.height}, another shape; export it "
            "over whole frames"
        )
    if found.frames not in (1, facts.frames):
        raise MapError(f"has {found.frames} frames and not its {facts.frames}; export one a frame, or a single one")
    if found.channels != channels and not (found.colours and channels == 1):
        raise MapError(f"has {found.channels} channels, expected {channels}; correct channels in params")


def rendered(found: MapFile, numbers_PF: np.ndarray, box: Box, cells: tuple[int, int], channels: int) -> np.ndarray:
    """A map on a grid.

    Args:
        found: the map, of `channels` channels or of colours.
        numbers_PF: the frames of each step.
        box: the part of the frame that the grid covers.
        cells: (R, Q), rows and columns.
        channels: C.

    Returns:
        (C, P, R, Q) float64 in [0, 1].
    """
    needed, places = np.unique(numbers_PF, return_inverse=True)
    cells_KRQC = area_means(found.at(needed), box, cells) / found.unit
    if found.channels != channels:
        cells_KRQC = cells_KRQC.mean(axis=3, keepdims=True)
    steps_PRQC = cells_KRQC[places.reshape(numbers_PF.shape)].mean(axis=1)
    return np.moveaxis(steps_PRQC, 3, 0)


def area_means(frames_KHWC: np.ndarray, box: Box, cells: tuple[int, int]) -> np.ndarray:
    """Means over cells of equal size that tile a box: a pixel that a cell covers in part counts in part.

    Args:
        frames_KHWC: numbers of any kind.
        box: (top, left, bottom, right) in fractions of H and W.
        cells: (R, Q), rows and columns; cells may be smaller than pixels.

    Returns:
        (K, R, Q, C) float64.

    >>> area_means(np.arange(6.0).reshape(1, 2, 3, 1), (0, 0, 1, 1), (1, 2))[0, 0, :, 0].round(3).tolist()
    [1.833, 3.167]
    """
    _, height, width, channels = frames_KHWC.shape
    top, left, bottom, right = box
    down_RH, across_QW = shares(height, top, bottom, cells[0]), shares(width, left, right, cells[1])
    means_KRQC = np.empty((len(frames_KHWC), *cells, channels))
    for means_RQC, frame_HWC in zip(means_KRQC, frames_KHWC, strict=True):  # one at a time: float64 is 8 times a byte
        np.einsum("rwc,qw->rqc", np.tensordot(down_RH, frame_HWC.astype(np.float64), 1), across_QW, out=means_RQC)
    return means_KRQC


def shares(pixels: int, start: float, stop: float, cells: int) -> np.ndarray:
    """(cells, pixels) float64: what share of each of the cells that tile [start, stop] is in each pixel.

    >>> shares(3, 0.0, 1.0, 2)[0].round(3).tolist()
    [0.667, 0.333, 0.0]
    """
    edges, left = np.linspace(start, stop, cells + 1) * pixels, np.arange(pixels)
    covered = np.minimum(edges[1:, None], left + 1) - np.maximum(edges[:-1, None], left)
    return covered.clip(min=0) / np.diff(edges)[:, None]
