"""sampling_times: which moments a sampling asks for, worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import Sampling
from pipeline.video import sampling_times, segment_centres


def times(duration, **kind):
    found = sampling_times(Sampling(**kind), duration)
    assert found.dtype == np.float64 and found.ndim == 1
    return found.tolist()


def test_segment_centres_are_the_middles_of_equal_parts():
    centres = segment_centres(8, 4.0)
    assert centres.dtype == np.float64
    np.testing.assert_allclose(centres, [0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75])
    assert times(4.0, frames=8) == centres.tolist()


@pytest.mark.parametrize(
    ("duration", "fps", "wanted"),
    [
        (2.0, 2.0, [0.25, 0.75, 1.25, 1.75]),
        (2.4, 2.0, [0.25, 0.75, 1.25, 1.75]),  # the rest is no whole step
        (2.5, 2.0, [0.25, 0.75, 1.25, 1.75, 2.25]),
        (0.1, 2.0, [0.25]),  # one row at least; it shows the last frame
        (3.0, 0.5, [1.0]),
    ],
)
def test_a_rate_alone_asks_for_every_whole_step(duration, fps, wanted):
    assert times(duration, fps=fps) == pytest.approx(wanted)


def test_a_duration_that_matroska_rounded_down_loses_no_step():
    assert len(times(1.9995, fps=12.0)) == len(times(2.0, fps=12.0)) == 24
    assert len(times(19 / 12, fps=12.0)) == 19


@pytest.mark.parametrize(
    ("duration", "kind", "wanted"),
    [
        # 4 windows of 1 s in 4 s: starts 0, 1, 2, 3.
        (4.0, (2, 2.0, 4), [0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75]),
        # 3 windows of 1 s in 2 s overlap: starts 0, 0.5, 1.
        (2.0, (2, 2.0, 3), [0.25, 0.75, 0.75, 1.25, 1.25, 1.75]),
        # 2 windows of 0.5 s in 3 s leave a gap: starts 0 and 2.5.
        (3.0, (2, 4.0, 2), [0.125, 0.375, 2.625, 2.875]),
        # One window starts with the video.
        (3.0, (2, 2.0, 1), [0.25, 0.75]),
        # Longer than the video: all start at 0 and reach beyond the end.
        (0.6, (4, 2.0, 2), [0.25, 0.75, 1.25, 1.75, 0.25, 0.75, 1.25, 1.75]),
    ],
)
def test_windows_are_spread_from_the_start_to_the_end(duration, kind, wanted):
    frames, fps, windows = kind
    assert times(duration, frames=frames, fps=fps, windows=windows) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("kind", "count"),
    [({"frames": 1}, 1), ({"frames": 8}, 8), ({"fps": 25.0}, 1), ({"frames": 4, "fps": 15.0, "windows": 3}, 12)],
)
def test_a_picture_is_looked_at_at_time_zero_however_often(kind, count):
    assert times(0.0, **kind) == [0.0] * count


def test_half_a_window_is_refused():
    with pytest.raises(ValueError, match=r"got \(frames, fps, windows\) \(4, 15.0, None\), expected frames, or fps"):
        sampling_times(SimpleNamespace(frames=4, fps=15.0, windows=None), 2.0)
