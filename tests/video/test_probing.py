"""probe: true facts of whole files, a true reason for every other file."""

import pickle

import av
import numpy as np
import pytest

from pipeline.video import VideoError, VideoFacts, frame_starts, probe, read_frames
from pipeline.video.probing import _missing
from tests.video.conftest import CLIPS, DAMAGED, WHOLE, encode, numbers

FAULTS = CLIPS.parent / "faults" / "video"


@pytest.mark.parametrize(
    ("name", "codec", "frames", "duration", "decord_exact"),
    [
        ("h264.mp4", "h264", 24, 2.0, True),
        ("vp9.webm", "vp9", 24, 2.0, True),
        ("vp8.webm", "vp8", 24, 2.0, True),
        ("h265.mp4", "hevc", 24, 2.0, False),
        ("mpeg4.avi", "mpeg4", 24, 2.0, False),
        ("deep.mp4", "h264", 24, 2.0, False),
        ("edited.mp4", "h264", 19, 19 / 12, False),
        ("one.mp4", "h264", 1, 1 / 12, False),
        ("late.webm", "vp9", 24, 2.0, True),
    ],
)
def test_facts_are_those_of_the_frames_shown(made, name, codec, frames, duration, decord_exact):
    facts = probe(made / name, decord=True)
    assert (facts.codec, facts.frames, facts.decord_exact) == (codec, frames, decord_exact)
    assert facts.duration == pytest.approx(duration, abs=0.002) and facts.fps == pytest.approx(12, rel=0.01)
    assert (facts.width, facts.height, facts.rotation) == (128, 96, 0)
    assert facts.edit_list == (name == "edited.mp4")


def test_width_and_height_are_those_after_rotation(made):
    facts = probe(made / "turned.mp4")
    assert (facts.width, facts.height, facts.rotation, facts.decord_exact) == (96, 128, 90, False)


def test_a_variable_frame_rate_is_not_mistaken_for_missing_frames(made):
    facts = probe(made / "varying.webm")
    assert facts.frames == 24 and facts.frames < 0.5 * facts.duration * facts.fps


def test_the_last_frame_s_own_duration_belongs_to_the_video(tmp_path):
    lasts = [83] * 23 + [3000]
    facts = probe(encode(tmp_path / "recorded.mp4", pts=[83 * number for number in range(24)], lasts=lasts))
    assert (facts.frames, facts.duration) == (24, pytest.approx(sum(lasts) / 1000, abs=0.002))


def test_a_pause_that_a_frame_states_as_its_own_duration_is_no_hole(tmp_path):
    lasts = [83] * 20 + [2000] + [83] * 19
    facts = probe(encode(tmp_path / "paused.mp4", n=40, pts=[sum(lasts[:number]) for number in range(40)], lasts=lasts))
    assert (facts.frames, facts.duration) == (40, pytest.approx(sum(lasts) / 1000, abs=0.002))


def without_tags(path):
    """A Matroska file that no longer says how long each of its streams is."""
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"DURATIOX"))
    return path


@pytest.fixture(scope="module")
def sounding(tmp_path_factory):
    """Clips of 2 s with 4 s of sound, in containers that state the length of the whole file alone, and in others."""
    folder = tmp_path_factory.mktemp("sounding")
    encode(folder / "flash.flv", "flv1", sound=4.0)
    encode(folder / "h264.flv", sound=4.0)
    encode(folder / "windows.wmv", "wmv2", sound=4.0, sound_codec="libmp3lame")
    without_tags(encode(folder / "untagged.mkv", sound=4.0))
    encode(folder / "tagged.mkv", sound=4.0)
    encode(folder / "plain.mp4", sound=4.0)
    encode(folder / "plain.nut", sound=4.0)
    encode(folder / "program.mpg", "mpeg2video", fps=25, sound=4.0, sound_codec="mp2")
    return folder


LONGER = ["flash.flv", "h264.flv", "windows.wmv", "untagged.mkv", "tagged.mkv", "plain.mp4", "plain.nut", "program.mpg"]


@pytest.mark.parametrize("name", LONGER)
def test_sound_that_is_longer_than_the_video_does_not_make_it_short(sounding, name):
    facts = probe(sounding / name)
    assert (facts.frames, facts.duration) == (24, pytest.approx(0.96 if name == "program.mpg" else 2.0, abs=0.005))


@pytest.mark.parametrize("name", ["flash.flv", "h264.flv", "untagged.mkv"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_a_file_that_was_cut_is_no_shorter_video_with_sound_either_since_no_stream_reaches_what_its_header_states(
    sounding, tmp_path, name, share
):
    assert reason(damaged(sounding / name, tmp_path / name, share, 1, cut)) in ("short", "decode_error")


@pytest.mark.parametrize("container", ["nut", "mkv", "mp4", "ts", "flv"])
def test_a_video_that_starts_late_is_whole_whatever_its_header_counts_from(tmp_path, container):
    path = encode(tmp_path / f"late.{container}", pts=[round(3000 + number * 1000 / 12) for number in range(24)])
    facts = probe(path)
    assert (facts.frames, facts.duration) == (24, pytest.approx(2.0, abs=0.1))  # MPEG-TS tells no last frame's end
    assert numbers(read_frames(path, (np.arange(24) + 0.5) / 12, facts=facts)) == list(range(24))


@pytest.mark.parametrize("name", ["early.mkv", "early.webm"])
def test_times_below_zero_are_times(tmp_path, name):
    path = encode(tmp_path / name, "libvpx-vp9" if name.endswith("webm") else "libx264", cut=9)
    facts = probe(path)
    assert (facts.frames, facts.duration) == (24, pytest.approx(2.0, abs=0.004))
    np.testing.assert_allclose(frame_starts(path, facts), np.arange(24) / 12, atol=0.002)
    centres = (np.arange(24) + 0.5) / 12
    assert numbers(read_frames(path, centres, "pyav", facts)) == list(range(24))


@pytest.mark.parametrize("matrix", [8, 10, 14], ids=["YCgCo", "BT.2020 of constant luminance", "ICtCp"])
def test_colours_that_have_no_way_to_rgb_are_unsupported(tmp_path, matrix):
    path = encode(tmp_path / "odd.mkv", n=3, matrix=matrix)
    with pytest.raises(VideoError, match=f"matrix coefficients {matrix}.*encode it anew") as caught:
        probe(path)
    assert caught.value.reason == "unsupported"


def test_colours_that_change_to_such_within_a_video_are_its_error_when_it_is_read(made, monkeypatch):
    facts = probe(made / "h265.mp4")

    def refuses(self, frame, **_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("pipeline.video.frames.VideoReformatter", type("Refuses", (), {"reformat": refuses}))
    with pytest.raises(VideoError, match="cannot become RGB"):
        read_frames(made / "h265.mp4", [0.1], "pyav", facts)


def test_facts_rebuild_from_plain_values(made):
    facts = probe(made / "vp9.webm")
    assert VideoFacts(**vars(facts)) == facts
    assert {type(value) for value in vars(facts).values()} <= {int, float, str, bool, type(None)}


# --- files that are not whole -----------------------------------------------------------------------------------------


def reason(path):
    with pytest.raises(VideoError) as caught:
        probe(path)
    assert path.name in str(caught.value) and caught.value.reason in str(caught.value)
    return caught.value.reason


def damaged(source, path, start, stop, filler):
    """A copy of `source` whose bytes between two fractions of its length are replaced."""
    content = bytearray(source.read_bytes())
    a, b = int(start * len(content)), int(stop * len(content))
    content[a:b] = filler(content[a:b])
    path.write_bytes(content)
    return path


def zeros(part):
    return bytes(len(part))


def flipped(part):
    noise = np.random.default_rng(0).choice([0, 1, 64], len(part), p=[0.96, 0.02, 0.02]).astype(np.uint8)
    return (np.frombuffer(bytes(part), np.uint8) ^ noise).tobytes()


def cut(part):
    return b""


def test_no_file_no_bytes_and_no_container_have_their_own_reasons(tmp_path):
    assert reason(tmp_path / "absent.webm") == "missing"
    assert reason(tmp_path) == "missing"
    for name, content, wanted in [
        ("empty.webm", b"", "empty"),
        ("page.webm", b"<html><body>404</body></html>" * 50, "unreadable"),
        ("noise.mp4", np.random.default_rng(0).bytes(5000), "unreadable"),
        ("zeros.webm", bytes(5000), "unreadable"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert reason(tmp_path / name) == wanted


def test_a_frame_that_no_memory_could_hold_is_refused_before_it_is_decoded(made, monkeypatch):
    monkeypatch.setattr("pipeline.video.probing.MOST_PIXELS", 128 * 96 - 1)
    assert reason(made / "h264.mp4") == "unsupported"


def test_a_codec_that_no_decoder_knows_is_unsupported(made, tmp_path):
    content = encode(tmp_path / "known.mkv", n=3).read_bytes()
    assert content.count(b"V_MPEG4/ISO/AVC") == 1
    (tmp_path / "unknown.mkv").write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))
    assert reason(tmp_path / "unknown.mkv") == "unsupported"


def test_a_playlist_in_disguise_reaches_no_network(tmp_path):
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    assert reason(tmp_path / "list.mp4") in ("unreadable", "no_video")


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert reason(tmp_path / "sound.mp4") == "no_video"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_webm_cut_anywhere_is_short_although_it_decodes_without_an_error(made, tmp_path, share):
    assert reason(damaged(made / "vp9.webm", tmp_path / "cut.webm", share, 1, cut)) in ("short", "unreadable")


def test_a_cut_webm_of_varying_rate_is_short(made, tmp_path):
    assert reason(damaged(made / "varying.webm", tmp_path / "cut.webm", 0.6, 1, cut)) == "short"


def test_an_mp4_that_lost_its_index_is_unreadable(made, tmp_path):
    assert reason(damaged(made / "h264.mp4", tmp_path / "cut.mp4", 0.6, 1, cut)) == "unreadable"


@pytest.mark.parametrize("damage", [zeros, flipped], ids=["zeros", "flips"])
def test_h264_damage_that_the_decoder_conceals_is_seen(made, tmp_path, damage):
    assert reason(damaged(made / "h264.mp4", tmp_path / "broken.mp4", 0.4, 0.6, damage)) == "decode_error"


def test_a_hole_in_a_constant_rate_is_short_and_a_pause_in_a_variable_one_is_not():
    times = [number / 12 for number in range(48)]
    assert _missing(times, 0.0, 4.0, 12.0) is None
    assert "frames are missing" in _missing(times[:10] + times[14:], 0.0, 4.0, 12.0)
    assert _missing(times[:10:3] + times[14::3], 0.0, 4.0, 12.0) is None
    assert "ends at" in _missing(times[:44], 0.0, 4.0, 12.0)
    assert _missing(times, 0.0, None, 12.0) is None
    assert _missing([time + 1 for time in times], 0.0, 5.0, 12.0) is None
    assert "no frame" in _missing([], 0.0, 4.0, 12.0)


def test_a_video_error_survives_the_way_back_from_a_worker(tmp_path):
    error = VideoError(tmp_path / "a.webm", "short", "it ends at 1 s")
    back = pickle.loads(pickle.dumps(error))
    assert (back.path, back.reason, str(back)) == (error.path, error.reason, str(error))


@pytest.mark.parametrize(
    ("name", "frames", "duration"),
    [
        ("d_lastlong.mp4", 48, 6.917),
        ("d_audiolong_notags.mkv", 60, 5.0),
        ("e_neg.mkv", 60, 5.0),
        ("p_anim.gif", 24, 2.0),
    ],
)
def test_a_whole_shared_fault_is_whole(name, frames, duration):
    if not FAULTS.is_dir():
        pytest.skip("the shared faults are not here")
    facts = probe(FAULTS / name)
    assert (facts.frames, facts.duration) == (frames, pytest.approx(duration, abs=0.002))


@pytest.mark.parametrize("name", ["e_hevc_ycgco.mp4", "c_col_ycgco_tv.mp4"])
def test_a_shared_fault_of_colours_is_unsupported(name):
    if not FAULTS.is_dir():
        pytest.skip("the shared faults are not here")
    assert reason(FAULTS / name) == "unsupported"


# --- the shared clips -------------------------------------------------------------------------------------------------


def test_every_shared_clip_has_a_verdict(shared_clips):
    found = {path.relative_to(shared_clips).as_posix() for path in shared_clips.rglob("*.*") if path.is_file()}
    assert found == WHOLE | DAMAGED.keys()
    assert sum(name.startswith("corrupt/") for name in DAMAGED) == 20  # 21 in all: one of them only looks damaged
    assert "corrupt/one_frame.webm" in WHOLE


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_whole_shared_clip_is_let_through(shared_clips, name):
    probe(shared_clips / name)


@pytest.mark.parametrize(("name", "wanted"), DAMAGED.items())
def test_a_damaged_shared_clip_has_a_true_reason(shared_clips, name, wanted):
    assert reason(shared_clips / name) == wanted


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cve_vid1.mp4", "an edit list"),
        ("decord_video_90.mov", "turned"),
        ("torchcodec_av1_video.mkv", "codec av1"),
        ("torchcodec_h264_10bits.mp4", "pixels yuv420p10le"),
        ("torchcodec_h265_video.mp4", "codec hevc"),
        ("mmaction2_test.avi", "codec mpeg4"),
    ],
)
def test_decord_is_kept_away_from_what_it_gets_wrong(shared_clips, name, why):
    assert why in probe(shared_clips / name).decord_doubt
