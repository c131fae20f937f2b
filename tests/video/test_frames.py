"""read_frames: the right frame at each time, the same from both decoders."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.video import VideoError, probe, read_frames, segment_centres
from tests.video.conftest import encode, numbers, picture

DECODERS = ["decord", "pyav"]


def test_segment_centres_are_the_middles_of_equal_parts():
    centres = segment_centres(8, 4.0)
    assert centres.dtype == np.float64
    np.testing.assert_allclose(centres, [0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75])


# --- which frame ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "vp8.webm", "h265.mp4", "mpeg4.avi", "deep.mp4", "late.webm"])
def test_the_frame_at_a_time_is_the_last_that_started(made, name, decoder):
    times = (np.arange(24) + 0.5) / 12
    assert numbers(read_frames(made / name, times, decoder)) == list(range(24))
    assert numbers(read_frames(made / name, [0.0, 0.08, 0.085, 1.9, 1.999], decoder)) == [0, 0, 1, 22, 23]


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_time_on_the_edge_belongs_to_the_frame_that_starts_there_whatever_the_container_rounds(made, decoder):
    edges = np.arange(24) / 12
    assert numbers(read_frames(made / "h264.mp4", edges, decoder)) == list(range(24))
    assert numbers(read_frames(made / "vp9.webm", edges, decoder)) == list(range(24))


@pytest.mark.parametrize("decoder", DECODERS)
def test_times_may_repeat_run_backwards_and_lie_outside(made, decoder):
    frames = read_frames(made / "vp9.webm", [1.5, 0.5, 0.5, -3.0, 99.0], decoder)
    assert numbers(frames) == [18, 6, 6, 0, 23]
    assert frames.shape == (5, 96, 128, 3) and frames.dtype == np.uint8 and frames.flags.c_contiguous


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_variable_rate_is_sampled_by_time_and_not_by_count(made, decoder):
    pauses = np.random.default_rng(0).choice([33, 33, 200, 500], 24)
    starts = (np.cumsum(pauses) - pauses[0]) / 1000
    assert numbers(read_frames(made / "varying.webm", starts + 0.015, decoder)) == list(range(24))
    middle = (starts[10] + starts[11]) / 2
    assert numbers(read_frames(made / "varying.webm", [middle], decoder)) == [10]


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_that_an_edit_list_hides_are_never_given(made, decoder):
    assert numbers(read_frames(made / "edited.mp4", [0.0, 0.1, 1.55], decoder)) == [5, 6, 23]


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_turned_video_comes_upright(made, decoder):
    frames = read_frames(made / "turned.mp4", [0.5], decoder)
    assert frames.shape == (1, 128, 96, 3)
    assert numbers(np.rot90(frames, -1, axes=(1, 2))) == [6]


def test_a_single_frame_is_every_frame(made):
    assert numbers(read_frames(made / "one.mp4", segment_centres(4, 0.083))) == [0, 0, 0, 0]


# --- which pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "vp8.webm"])
def test_both_decoders_give_the_same_pixels(made, name):
    times = segment_centres(7, 2.0)
    np.testing.assert_array_equal(*(read_frames(made / name, times, decoder) for decoder in DECODERS))


def test_pixels_are_rgb_as_encoded(made):
    frame = read_frames(made / "h264.mp4", [0.25])[0].astype(int)
    assert np.abs(frame[40:] - picture(3)[40:]).mean() < 6


# --- the decoder's choice ---------------------------------------------------------------------------------------------


def test_decord_is_used_only_where_it_is_exact(made, monkeypatch):
    from pipeline.video import frames as module

    used = []
    for name in ("_with_decord", "_with_pyav"):
        read = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, read=read, name=name: used.append(name) or read(*given))
    for clip, decoder in [
        ("vp9.webm", "decord"),
        ("vp9.webm", "pyav"),
        ("edited.mp4", "decord"),
        ("h265.mp4", "decord"),
    ]:
        read_frames(made / clip, [0.1], decoder)
    assert used == ["_with_decord", "_with_pyav", "_with_pyav", "_with_pyav"]


@pytest.mark.parametrize("decoder", DECODERS)
def test_facts_of_another_file_are_noticed(made, decoder):
    facts = replace(probe(made / "vp9.webm"), frames=99, width=64)
    with pytest.raises(VideoError, match="its facts say 99 frames of 64 x 96; make the manifest again"):
        read_frames(made / "vp9.webm", [0.1], decoder, facts)


def test_a_damaged_file_gives_no_frames_even_where_they_would_look_whole(made, tmp_path):
    content = (made / "vp9.webm").read_bytes()
    (tmp_path / "cut.webm").write_bytes(content[: len(content) * 7 // 10])
    for decoder in DECODERS:
        with pytest.raises(VideoError, match="short"):
            read_frames(tmp_path / "cut.webm", [0.1], decoder)


def test_reading_is_repeatable(made, tmp_path):
    clip = encode(tmp_path / "clip.mp4", n=60)
    times = segment_centres(16, 5.0)
    np.testing.assert_array_equal(read_frames(clip, times), read_frames(clip, times))


# --- the shared clips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "name",
    [
        "demo_h264.mp4",
        "demo_vp9.webm",
        "pancake_h264.mp4",
        "pancake_h264g12.mp4",
        "pancake_vp8.webm",
        "pancake_vp9.webm",
    ],
)
def test_shared_clips_say_the_number_of_the_frame_that_was_asked_for(shared_clips, name, decoder):
    path = shared_clips / "made" / name
    for times in ((np.arange(48) + 0.5) / 12, segment_centres(8, 4.0), [3.5, 0.01, 3.5]):
        frames = read_frames(path, times, decoder)
        assert numbers(frames, left=4, top=6, step=20) == [int(time * 12 + 1e-6) for time in times]


def test_the_edit_listed_shared_clip_runs_forwards(shared_clips):
    """decord says 74 frames and lets time run backwards; 56 are shown."""
    path = shared_clips / "cve_vid1.mp4"
    every = read_frames(path, (np.arange(56) + 0.5) / 25, "pyav")[:, ::6, ::6].astype(int)
    sparse = read_frames(path, segment_centres(8, 2.24), "decord")[:, ::6, ::6].astype(int)
    nearest = [int(np.abs(every - frame).mean(axis=(1, 2, 3)).argmin()) for frame in sparse]
    assert nearest == [int(time * 25) for time in segment_centres(8, 2.24)]
