"""torchcodec: refused with its remedy where it is absent, proved frame by frame where it is there, or not believed."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from pipeline.video import (
    DecoderMissing,
    VideoError,
    by_torchcodec,
    expect_decoder,
    frame_starts,
    iterate_frames,
    probe,
    read_frames,
    segment_centres,
)
from pipeline.video import frames as module
from tests.video.conftest import encode, numbers
from tests.video.films import numbers as film_numbers
from tests.video.films import write_film
from tests.video.test_same_frames import UNEQUAL, asked

# Of the shared clips, those of a kind that the films here have not; and those that are not believed.
SHARED = ("cve_vid1.mp4", "decord_unordered.mov", "decord_video_90.mov", "made/pancake_vp8.webm", "made/demo_h264.mp4")
UNPROVED = {"mmaction2_test.avi": "torchcodec fails", "torchcodec_h264_10bits.mp4": "another picture than frame 0"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user's cache without proofs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.video.proofs._read", {})
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def there():
    """Skips what needs torchcodec where it is not there, and says why."""
    try:
        return expect_decoder("torchcodec")
    except DecoderMissing as error:
        pytest.skip(str(error))


# --- a machine without it ---------------------------------------------------------------------------------------------


def installed(monkeypatch, major=5):
    """A torchcodec that is installed, whatever this machine has."""
    made = {name: ModuleType(name) for name in ("torchcodec", "torchcodec._core", "torchcodec.decoders")}
    made["torchcodec"].__version__, made["torchcodec"].ffmpeg_major_version = "0.17.0", major
    made["torchcodec._core"].get_ffmpeg_library_versions = lambda: {"ffmpeg_version": "5.1"}
    for name, of in made.items():
        monkeypatch.setitem(sys.modules, name, of)


def test_a_machine_without_torchcodec_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(DecoderMissing, match=r"not installed; pip install 'torchcodec>=0.17,<0.18', or set decoder:"):
        expect_decoder("torchcodec")


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (None, "finds no FFmpeg; install FFmpeg's shared"),
        ("libavcodec.so.59", "cannot load it; install the torchcodec"),
    ],
)
def test_a_machine_without_ffmpeg_is_told_from_one_of_another_torch(monkeypatch, library, said):
    installed(monkeypatch, major=None)
    monkeypatch.setattr(by_torchcodec, "find_library", lambda name: library)
    with pytest.raises(DecoderMissing, match=f"{said}.*apt-get install ffmpeg.*decoder: auto"):
        expect_decoder("torchcodec")


def test_a_library_that_cannot_be_loaded_is_one_line(monkeypatch):
    installed(monkeypatch)

    def broken(name):
        raise OSError("libtorch_cuda.so: cannot open shared object file\nmore")

    monkeypatch.setattr(by_torchcodec.importlib, "import_module", broken)
    with pytest.raises(DecoderMissing, match=r"cannot be loaded \(libtorch_cuda.so: cannot open shared object file\);"):
        expect_decoder("torchcodec")


def test_decoding_on_a_gpu_is_refused_where_there_is_none(monkeypatch):
    import torch

    installed(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert expect_decoder("torchcodec") == {"torchcodec": "0.17.0", "ffmpeg": "5.1"}
    with pytest.raises(DecoderMissing, match="no CUDA device here; set decoder: torchcodec, which decodes on the CPU"):
        expect_decoder("torchcodec_cuda")


def test_nobody_else_pays_for_it(made, monkeypatch):
    monkeypatch.setattr(by_torchcodec, "expect", None)
    for decoder in ("auto", "pyav", "decord"):
        read_frames(made / "vp9.webm", [0.1], decoder)


# --- the same frames, or none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "kind", "doubt"),
    [
        ("mp4", "closed", ""), ("mp4", "long", ""), ("mp4", "av1", ""), ("mkv", "scenes", ""), ("mkv", "vp9alt", ""),
        ("webm", "vp8", ""), ("avi", "mjpeg", ""), ("nut", "open", ""), ("mp4", "mpeg4b", ""),
        ("mp4", "open", "fails"), ("mkv", "refresh", "fails"), ("ts", "closed", "fails"), ("avi", "closed", "fails"),
        ("nut", "refresh", "at another time"),
    ],
)  # fmt: skip
def test_frames_are_those_of_pyav_bit_for_bit_or_the_file_is_not_proved(there, tmp_path, container, kind, doubt):
    path = write_film(tmp_path / f"{kind}.{container}", kind)
    facts, middles = probe(path), (np.arange(50) + 0.5) / 25
    if doubt:
        with pytest.raises(VideoError, match=f"unproved: torchcodec is not .*{doubt}.*; use decoder: auto$") as error:
            read_frames(path, [0.5], "torchcodec", facts)
        assert "make the manifest again" not in str(error.value)
        return
    for wanted in asked(50):
        frames = read_frames(path, middles[wanted], "torchcodec", facts)
        assert film_numbers(frames) == wanted
        np.testing.assert_array_equal(frames, read_frames(path, middles[wanted], "auto", facts))


@pytest.mark.parametrize(("container", "kind"), [("mp4", "closed"), ("webm", "vp9")])
def test_unequal_times_are_kept(there, tmp_path, container, kind):
    path = write_film(tmp_path / f"a.{container}", kind, starts=UNEQUAL)
    facts, starts = probe(path), np.subtract(UNEQUAL, UNEQUAL[0]) / 1000
    for times in (starts, starts + 0.015):
        assert film_numbers(read_frames(path, times, "torchcodec", facts)) == list(range(50))


@pytest.mark.parametrize("name", ["edited.mp4", "turned.mp4", "late.webm", "one.mp4", "varying.webm", "h265.mp4"])
def test_edit_lists_turns_and_odd_times_are_as_with_pyav(there, made, name):
    times = np.linspace(-0.1, 2.1, 9)
    np.testing.assert_array_equal(read_frames(made / name, times, "torchcodec"), read_frames(made / name, times))


@pytest.mark.parametrize("name", [*SHARED, *UNPROVED])
def test_shared_clips_are_read_alike(there, shared_clips, name):
    path = shared_clips / name
    facts = probe(path)
    times = segment_centres(5, facts.duration)
    if name in UNPROVED:
        with pytest.raises(VideoError, match=f"unproved: .*{UNPROVED[name]}"):
            read_frames(path, times, "torchcodec", facts)
    else:
        np.testing.assert_array_equal(
            read_frames(path, times, "torchcodec", facts), read_frames(path, times, "auto", facts)
        )


@pytest.mark.parametrize("piece", [1, 5, 100])
def test_pieces_are_the_frames_of_read_frames_cut(there, made, piece):
    times = (np.arange(40) + 0.5) / 20
    pieces = list(iterate_frames(made / "vp9.webm", times, "torchcodec", piece=piece))
    assert [len(frames) for frames in pieces[:-1]] == [piece] * (len(pieces) - 1)
    np.testing.assert_array_equal(np.concatenate(pieces), read_frames(made / "vp9.webm", times))


def test_a_clip_of_a_file_shares_its_proof_and_has_its_own_times(there, made, proofs):
    facts = probe(made / "h264.mp4")
    for start in (0.5, 1.0):
        clip = replace(facts, start=start, duration=0.5)
        frames = read_frames(made / "h264.mp4", [0.0, 0.25, 9.0], "torchcodec", clip)
        assert numbers(frames) == [start * 12, start * 12 + 3, start * 12 + 5]
    assert len(proofs) == 1


def test_facts_of_another_file_are_noticed(there, made):
    facts = replace(probe(made / "vp9.webm"), frames=99)
    with pytest.raises(VideoError, match=r"got 24 frames, but its facts say 99 frames.*; make the manifest again"):
        read_frames(made / "vp9.webm", [0.1], "torchcodec", facts)


def test_a_file_that_was_cut_since_is_an_error_of_its_own(there, made, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes((made / "h264.mp4").read_bytes())
    facts, starts = probe(path), np.arange(24) / 12
    path.write_bytes(b"nothing")
    with pytest.raises(VideoError, match=r"cut.mp4: decode_error: torchcodec fails: Could not open input file"):
        next(by_torchcodec.iterate(path, "torchcodec", np.arange(3), facts, starts, 3))


# --- the proof --------------------------------------------------------------------------------------------------------


@pytest.fixture
def proofs(monkeypatch):
    """Grows by one at each trial."""
    made, doubt = [], by_torchcodec.doubt
    monkeypatch.setattr(by_torchcodec, "doubt", lambda *given: made.append(given) or doubt(*given))
    return made


@pytest.mark.parametrize("name", ["vp9.webm", "deep.mp4"])
def test_a_file_is_tried_once_and_the_outcome_is_kept_for_other_processes(there, made, proofs, name, monkeypatch):
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(read_frames(made / name, [0.3], "torchcodec").tobytes())
        except VideoError as error:
            outcomes.append(str(error))
        monkeypatch.setattr("pipeline.video.proofs._read", {})  # as another process begins
    assert len(proofs) == 1 and outcomes[0] == outcomes[1]


def test_a_file_that_changes_is_tried_again(there, tmp_path, proofs):
    for count in (24, 30):
        path = encode(tmp_path / "a.mp4", n=count)
        assert numbers(read_frames(path, [0.5], "torchcodec")) == [6]
    assert len(proofs) == 2


@pytest.mark.parametrize("wrong", [0, 11, 12, 23])
def test_one_other_picture_of_a_file_is_enough_to_doubt_it(there, made, wrong):
    facts = probe(made / "h264.mp4")
    starts = frame_starts(made / "h264.mp4", facts)
    frames = read_frames(made / "h264.mp4", starts)
    assert by_torchcodec.doubt(made / "h264.mp4", "torchcodec", facts, starts, [frames[:10], frames[10:]]) == ""
    frames[wrong, 5, 5, 1] ^= 1
    said = by_torchcodec.doubt(made / "h264.mp4", "torchcodec", facts, starts, [frames])
    assert said == f"it gives another picture than frame {wrong}"


def test_memory_that_does_not_suffice_proves_nothing(there, made, cache, monkeypatch):
    def full(*given):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(by_torchcodec._Film, "key_frames", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        read_frames(made / "vp9.webm", [0.3], "torchcodec")
    assert not list(cache.rglob("*.txt"))


def test_a_gpu_may_round_colours_otherwise_but_may_show_no_other_frame(made):
    frames = read_frames(made / "vp9.webm", [0.0, 1 / 12]).astype(int)
    off = (frames + np.random.default_rng(0).integers(-2, 3, frames.shape)).clip(0, 255).astype(np.uint8)
    one, other = (by_torchcodec._told(frame.astype(np.uint8), "torchcodec_cuda") for frame in frames)
    assert by_torchcodec._same(one, by_torchcodec._told(off[0], "torchcodec_cuda"))
    assert not by_torchcodec._same(one, other)


def test_the_proof_of_a_gpu_is_not_that_of_the_cpu(there, made, proofs, monkeypatch):
    monkeypatch.setitem(by_torchcodec.DEVICES, "torchcodec_cuda", "cpu")
    for decoder in ("torchcodec", "torchcodec_cuda"):
        read_frames(made / "vp9.webm", [0.3], decoder)
    assert [given[1] for given in proofs] == ["torchcodec", "torchcodec_cuda"]
    assert module.Decoder.__args__[-2:] == ("torchcodec", "torchcodec_cuda")
