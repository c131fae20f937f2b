"""Claims about clips within longer videos: their times count from their start, and no frame around them is shown."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.video import frame_starts, frames_at, iterate_frames, probe, read_frames, sampling_times
from tests.video.conftest import encode, numbers


class Windows:
    frames, fps, windows = 12, 12.0, 2


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """24 numbered frames in 2 s."""
    return encode(tmp_path_factory.mktemp("clips") / "film.mp4")


def clip(film, start: float, stop: float):
    return replace(probe(film, decord=True), start=start, duration=stop - start)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_times_of_a_clip_count_from_its_start(film, decoder):
    facts = clip(film, 0.5, 1.0)
    assert numbers(read_frames(film, [0.0, 0.04, 0.25, 0.45], decoder, facts)) == [6, 6, 9, 11]


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_what_is_asked_of_beyond_a_clip_is_its_own_first_or_last_frame(film, decoder):
    facts = clip(film, 0.5, 1.0)
    assert numbers(read_frames(film, [-1.0, 0.5, 0.7, 9.0], decoder, facts)) == [6, 11, 11, 11]
    times = sampling_times(Windows, facts.duration)
    assert set(numbers(read_frames(film, times, decoder, facts))) == set(range(6, 12))


def test_a_clip_up_to_the_end_has_the_last_frame(film):
    facts = clip(film, 1.75, 2.0)
    assert numbers(read_frames(film, [0.0, 0.1, 0.24, 0.25], facts=facts)) == [21, 22, 23, 23]


def test_a_clip_is_read_in_pieces_as_at_once(film):
    facts = clip(film, 0.25, 1.5)
    times = np.arange(0, 1.25, 0.05)
    assert np.array_equal(
        np.concatenate(list(iterate_frames(film, times, facts=facts, piece=4))), read_frames(film, times, facts=facts)
    )


def test_the_frames_of_a_file_stand_around_the_start_of_a_clip(film):
    facts = clip(film, 0.5, 1.0)
    assert frames_at(frame_starts(film, facts), np.array([0.0, 0.25])).tolist() == [6, 9]
