"""When a frame starts: integers, whatever the container writes of it."""

from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.video import VideoError, frame_starts, frames_at, probe, read_frames
from pipeline.video.timing import at_rate, at_tick, constant_rate, microseconds
from tests.video.conftest import encode
from tests.video.conftest import numbers as numbers_of_encoded
from tests.video.films import HEIGHT, WIDTH, numbers, pictures, write_film


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)])
@pytest.mark.parametrize("base", [Fraction(1, 1000), Fraction(1, 90_000), Fraction(1, 10**9)])
def test_a_constant_rate_is_found_behind_rounded_ticks_whatever_the_container_says(rate, base):
    for rounding in (round, int):
        ticks = [rounding(number / rate / base) + 7 for number in range(500)]
        for said in ([rate], [None], [Fraction(90_000), Fraction(1000)]):
            assert constant_rate(ticks, base, said) == rate


def test_a_hole_and_a_pause_make_no_constant_rate():
    ticks = [round(number * 40) for number in range(50)]
    assert constant_rate(ticks, Fraction(1, 1000), [Fraction(25)]) == 25
    assert constant_rate(ticks[:20] + ticks[21:], Fraction(1, 1000), [Fraction(25)]) is None
    # A tick as long as a frame, as in AVI: one frame too late is a whole tick, and no rounding.
    assert constant_rate([0, 1, 2, 4, 5], Fraction(1, 25), [Fraction(25)]) is None
    assert constant_rate([0, 2, 4, 6], Fraction(1, 24), [Fraction(24)]) == 12


def test_a_computed_start_is_at_its_frame_and_nothing_before_it_is():
    random = np.random.default_rng(0)
    for rate in (Fraction(30000, 1001), Fraction(25), Fraction(144), Fraction(1000, 7)):
        numbers = random.integers(0, 1_000_000, 1000)
        starts = np.array([at_rate(int(number), rate) for number in numbers])
        computed = numbers / float(rate)
        assert np.all(starts <= microseconds(computed)) and np.all(microseconds(computed - 2e-6) < starts)
    assert at_tick(3003, Fraction(1, 90_000)) == at_rate(1, Fraction(30000, 1001)) == 33_366


def test_a_frame_that_is_not_reached_by_half_a_millisecond_is_not_shown():
    starts = np.arange(25) / 25
    assert frames_at(starts, np.array([0.0399, 0.0395, 0.04, 0.0400001])).tolist() == [0, 0, 1, 1]


# --- AVI: chunks ------------------------------------------------------------------------------------------------------


def write_avi(path, chunks, encoder="mpeg4"):
    """An AVI of 25 chunks a second; the frames are in these chunks, the others are empty."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for chunk, rgb in zip(chunks, pictures(len(chunks)), strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = chunk, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("encoder", ["mpeg4", "libx264"])
def test_an_empty_chunk_of_an_avi_shows_the_frame_before_it_on(tmp_path, encoder):
    chunks = [chunk for chunk in range(60) if chunk not in (13, 20, 21, 22, 41)]
    path = write_avi(tmp_path / "a.avi", chunks, encoder)
    facts = probe(path)
    assert facts.frames == 55 and facts.grid == ""
    times = (np.arange(60) + 0.5) / 25
    shown = np.searchsorted(chunks, np.arange(60), side="right") - 1
    assert numbers(read_frames(path, times, facts=facts)) == shown.tolist()
    assert frames_at(frame_starts(path, facts), times).tolist() == shown.tolist()


def test_an_avi_with_every_other_chunk_empty_has_half_the_rate(tmp_path):
    path = write_avi(tmp_path / "a.avi", range(0, 100, 2))
    facts = probe(path)
    assert facts.rate == Fraction(25, 2)
    assert numbers(read_frames(path, (np.arange(50) + 0.5) * 0.08, facts=facts)) == list(range(50))


# --- below zero -------------------------------------------------------------------------------------------------------


def test_frames_before_time_zero_are_frames_though_matroska_does_not_tell_their_times(tmp_path):
    path = encode(tmp_path / "below.mkv", cut=5)
    facts = probe(path)
    assert facts.frames == 24 and facts.rate == 12
    assert numbers_of_encoded(read_frames(path, (np.arange(24) + 0.5) / 12, facts=facts)) == list(range(24))


def test_frames_before_time_zero_at_a_variable_rate_are_refused_with_the_reason(tmp_path):
    pts = (np.cumsum(np.random.default_rng(0).choice([40, 80, 120], 24)) - 400).tolist()
    with av.open(str(tmp_path / "a.mkv"), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for tick, rgb in zip(pts, pictures(24), strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = tick + 400, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.pts, packet.dts = packet.pts - 400, packet.dts - 400
                container.mux(packet)
        for packet in stream.encode(None):
            packet.pts, packet.dts = packet.pts - 400, packet.dts - 400
            container.mux(packet)
    with pytest.raises(VideoError, match=r"unreadable: \d frames have no times; remux it"):
        probe(tmp_path / "a.mkv")


def test_a_first_frame_that_comes_late_is_at_time_zero(tmp_path):
    path = write_film(tmp_path / "late.mkv", "closed", starts=[1000 + 40 * number for number in range(50)])
    assert numbers(read_frames(path, (np.arange(50) + 0.5) / 25)) == list(range(50))
