"""What a sample shows, cropped as its feature saw it. Opens videos and pictures; knows no store and no head."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.backbones import preprocessor
from pipeline.config import Params, PixelFeature
from pipeline.datasets import DatasetError, samples_by_name, unchanged, video_folder
from pipeline.runs import Run
from pipeline.video import VideoError, VideoFacts, read_frames

THUMBNAIL, QUALITY = 80, 70  # pixels of the longer side, of JPEG: 2 kB


class NotShown(Exception):
    """A sample whose file is not there, or cannot be read any more; the message says which and why."""


class Pictures:
    """The frames of a data set's samples.

    Args:
        params: hold the data set and the feature.
        dataset: its name.
        feature: through whose preprocessing frames go; of one that is made from others, that of the first of these;
            where nothing ever saw pixels here (imported features), whole frames are shown.
        frame: the data set's manifest.
        samples: that may be asked for.
    """

    def __init__(self, params: Params, dataset: str, feature: str, frame: pd.DataFrame, samples: Iterable[str]) -> None:
        self.dataset, self.chosen = dataset, params.datasets[dataset]
        self.cropped = cropped(params, feature)
        wanted = frame[frame["sample"].isin(set(samples))]
        self.rows = samples_by_name(wanted)

    def middle(self, sample: str) -> float:
        """Seconds, of the middle of a sample."""
        facts = self.rows[sample].facts
        return 0.0 if facts is None else facts["duration"] / 2

    def frames(self, sample: str, times: Sequence[float]) -> np.ndarray:
        """(n, H, W, 3) uint8, at seconds from the start.

        Raises:
            NotShown: the file is not there or cannot be read.
        """
        row = self.rows[sample]
        try:
            folder = video_folder(self.chosen)
        except DatasetError:
            raise NotShown(f"{self.dataset} has no videos, only labels") from None
        if row.facts is None or not (folder / str(row.path)).is_file():
            raise NotShown(f"{folder / str(row.path)} is not there")
        try:
            frames = read_frames(unchanged(folder, row), times, facts=VideoFacts(**row.facts))
        except VideoError as error:
            raise NotShown(str(error)) from None
        return self.cropped(frames)


def cropped(params: Params, feature: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function: frames (n, H, W, 3) uint8 -> as a feature sees them; whole, where nothing saw pixels here."""
    pixels = pixel_feature(params, feature)
    if pixels is None:
        return lambda frames: frames
    prepare = preprocessor(pixels)
    # A library's own preprocessing normalises too, and has the picture before that for people.
    shown = getattr(prepare, "shown", prepare)
    return lambda frames: _bytes(shown(frames)).transpose(0, 2, 3, 1)


def seen_by(run: Run) -> str:
    """The feature whose crop a run's pictures are shown in: what its first role reads."""
    return next(iter(run.config.inputs.values())).feature


def pixel_feature(params: Params, feature: str) -> PixelFeature | None:
    """The feature that saw the pixels from which a feature is made; None where none did."""
    chosen: Any = params.features[feature]
    while not isinstance(chosen, PixelFeature):
        if not chosen.reads:
            return None
        chosen = params.features[chosen.reads[0]]
    return chosen


def thumbnail(picture_HWC: np.ndarray) -> str:
    """A small JPEG as a data URI."""
    image, stream = Image.fromarray(picture_HWC), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(stream, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """uint8 of what a preprocessor gives, which is that or floats in [0, 1]."""
    return pixels if pixels.dtype == np.uint8 else np.round(pixels.clip(0, 1) * 255).astype(np.uint8)
