"""read_frames: the right frame at each time, the same from every decoder."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.video import (
    VideoError,
    by_decord,
    frame_starts,
    frames_at,
    iterate_frames,
    probe,
    read_frames,
    segment_centres,
)
from tests.video.conftest import DAMAGED, encode, numbers, picture

DECODERS = ["auto", "pyav", "decord"]
# Of the clips made here, those that decord is proved on.
PROVED = {"h264.mp4", "vp9.webm", "vp8.webm", "late.webm", "varying.webm"}


def decoders(*names):
    """(name, decoder) of every decoder that reads the clip."""
    return [(name, decoder) for name in names for decoder in DECODERS if decoder != "decord" or name in PROVED]


# --- which frame ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "decoder"),
    decoders("h264.mp4", "vp9.webm", "vp8.webm", "h265.mp4", "mpeg4.avi", "deep.mp4", "late.webm"),
)
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


def test_frames_that_an_edit_list_hides_are_never_given(made):
    assert numbers(read_frames(made / "edited.mp4", [0.0, 0.1, 1.55])) == [5, 6, 23]


def test_a_turned_video_comes_upright(made):
    frames = read_frames(made / "turned.mp4", [0.5])
    assert frames.shape == (1, 128, 96, 3)
    assert numbers(np.rot90(frames, -1, axes=(1, 2))) == [6]


@pytest.mark.parametrize(("name", "first"), [("vp9.webm", 0), ("h265.mp4", 0), ("varying.webm", 0), ("edited.mp4", 5)])
def test_the_number_of_the_frame_at_a_time_is_that_of_the_frame_that_is_read(made, name, first):
    facts = probe(made / name)
    times = np.linspace(-0.1, facts.duration + 0.1, 60)
    starts = frame_starts(made / name, facts)
    assert len(starts) == facts.frames and starts[0] == 0
    assert numbers(read_frames(made / name, times)) == (frames_at(starts, times) + first).tolist()
    assert frames_at(starts, times.reshape(4, 15)).shape == (4, 15)


@pytest.mark.parametrize("name", ["varying.webm"])
def test_a_video_that_was_replaced_or_is_gone_has_no_frame_starts(made, tmp_path, name):
    facts = probe(made / name)
    with pytest.raises(VideoError, match="got 24 frames, but its facts say 23 frames"):
        frame_starts(made / name, replace(facts, frames=23))
    with pytest.raises(VideoError, match="missing"):
        frame_starts(tmp_path / name, facts)


def test_a_single_frame_is_every_frame(made):
    assert numbers(read_frames(made / "one.mp4", segment_centres(4, 0.083))) == [0, 0, 0, 0]


# --- which pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "vp8.webm"])
def test_all_decoders_give_the_same_pixels(made, name):
    auto, pyav, decord = (read_frames(made / name, segment_centres(7, 2.0), decoder) for decoder in DECODERS)
    np.testing.assert_array_equal(auto, pyav)
    np.testing.assert_array_equal(auto, decord)


def test_pixels_are_rgb_as_encoded(made):
    frame = read_frames(made / "h264.mp4", [0.25])[0].astype(int)
    assert np.abs(frame[40:] - picture(3)[40:]).mean() < 6


# --- in pieces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("piece", [1, 3, 5, 24, 100])
@pytest.mark.parametrize("rate", [4, 12, 40])  # fewer than the video has, each once, many of them repeated
def test_pieces_are_the_frames_of_read_frames_cut(made, decoder, piece, rate):
    times = (np.arange(2 * rate) + 0.5) / rate
    pieces = list(iterate_frames(made / "vp9.webm", times, decoder, piece=piece))
    assert [len(frames) for frames in pieces[:-1]] == [piece] * (len(pieces) - 1) and 0 < len(pieces[-1]) <= piece
    np.testing.assert_array_equal(np.concatenate(pieces), read_frames(made / "vp9.webm", times, decoder))


@pytest.mark.parametrize("decoder", DECODERS)
def test_pieces_stay_as_they_were_given_while_later_ones_are_made(made, decoder):
    pieces = list(iterate_frames(made / "vp9.webm", np.repeat(np.arange(24) / 12, 3), decoder, piece=4))
    assert numbers(np.concatenate(pieces)) == np.repeat(np.arange(24), 3).tolist()
    for frames in iterate_frames(made / "vp9.webm", np.repeat(np.arange(24) / 12, 3), decoder, piece=4):
        frames[:] = 0  # the caller's own
    assert numbers(np.concatenate(pieces)) == np.repeat(np.arange(24), 3).tolist()


@pytest.mark.parametrize("decoder", DECODERS)
def test_pieces_take_one_pass_over_the_video_and_the_memory_of_one(tmp_path, decoder, monkeypatch):
    from pipeline.video import frames as module

    clip = encode(tmp_path / "long.mp4", n=200)
    facts, opened, made_room = probe(clip, decord=True), [], []
    for target, name in ((by_decord.decord, "VideoReader"), (module, "opened")):
        call = getattr(target, name)
        monkeypatch.setattr(target, name, lambda *a, call=call, **k: opened.append(1) or call(*a, **k))
    room = module._room
    monkeypatch.setattr(module, "_room", lambda n, facts: made_room.append(n) or room(n, facts))
    pieces = iterate_frames(clip, np.arange(200) / 12, decoder, facts, piece=16)
    assert [number for piece in pieces for number in numbers(piece)] == list(range(200))
    assert len(opened) == 1 and max(made_room, default=0) <= 16


def test_no_times_are_no_pieces_and_no_frames(made):
    assert list(iterate_frames(made / "vp9.webm", [])) == []
    assert read_frames(made / "vp9.webm", []).shape == (0, 96, 128, 3)


def test_times_that_descend_cannot_be_read_in_one_pass(made):
    with pytest.raises(ValueError, match=r"vp9.webm descend.*sort them, or use read_frames"):
        next(iterate_frames(made / "vp9.webm", [1.0, 0.5]))


# --- the decoder's choice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [("h265.mp4", "codec hevc"), ("edited.mp4", "an edit list"), ("turned.mp4", "turned or mirrored")],
)
def test_decord_where_it_is_not_proved_is_an_error_that_says_why(made, name, why):
    with pytest.raises(VideoError, match=f"{name}: unproved: .*{why}.*use decoder: auto"):
        read_frames(made / name, [0.1], "decord")


def test_decord_is_asked_only_by_name(made, monkeypatch):
    facts = probe(made / "vp9.webm")
    monkeypatch.setattr(by_decord.decord, "VideoReader", None)
    for decoder in ("auto", "pyav"):
        read_frames(made / "vp9.webm", [0.1], decoder, facts)
    with pytest.raises(TypeError):
        read_frames(made / "vp9.webm", [0.1], "decord", facts)


@pytest.mark.parametrize("decoder", DECODERS)
def test_facts_of_another_file_are_noticed(made, decoder):
    facts = replace(probe(made / "vp9.webm"), frames=99, width=64)
    with pytest.raises(VideoError, match=r"its facts say 99 frames.*; make the manifest again"):
        read_frames(made / "vp9.webm", [0.1], decoder, facts)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_file_that_was_cut_after_its_probe_gives_no_repeated_last_frame(made, tmp_path, decoder):
    facts = probe(made / "vp9.webm")
    content = (made / "vp9.webm").read_bytes()
    (tmp_path / "cut.webm").write_bytes(content[: len(content) * 7 // 10])
    with pytest.raises(VideoError, match=r"make the manifest again|fetch the file again"):
        read_frames(tmp_path / "cut.webm", segment_centres(8, 2.0), decoder, facts)


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


@pytest.mark.parametrize("decoder", ["auto", "decord"])
@pytest.mark.parametrize(("name", "wanted"), DAMAGED.items())
def test_no_decoder_gives_a_frame_of_a_damaged_shared_clip(shared_clips, name, wanted, decoder):
    with pytest.raises(VideoError) as caught:
        read_frames(shared_clips / name, [0.0], decoder)
    assert caught.value.reason == wanted


def test_the_shared_clip_of_one_frame_is_a_video(shared_clips):
    assert read_frames(shared_clips / "corrupt/one_frame.webm", [0.0, 1.0]).shape == (2, 240, 320, 3)


def test_the_edit_listed_shared_clip_runs_forwards(shared_clips):
    """decord says 74 frames and lets time run backwards; 56 are shown."""
    path = shared_clips / "cve_vid1.mp4"
    every = read_frames(path, (np.arange(56) + 0.5) / 25, "pyav")[:, ::6, ::6].astype(int)
    sparse = read_frames(path, segment_centres(8, 2.24))[:, ::6, ::6].astype(int)
    nearest = [int(np.abs(every - frame).mean(axis=(1, 2, 3)).argmin()) for frame in sparse]
    assert nearest == [int(time * 25) for time in segment_centres(8, 2.24)]
