"""The same frames whatever the container, the groups of pictures, the times asked for and the decoder: or an error."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from pipeline.video import VideoError, VideoFacts, frame_starts, frames_at, probe, read_frames, segment_centres
from pipeline.video import frames as module
from tests.video.films import HOLDS, KINDS, numbers, write_film

FILMS = [(container, kind) for container, kinds in HOLDS.items() for kind in kinds]
# One of each container and of each kind, and what once was read wrong: the rest is swept where time is no matter.
QUICK = [
    ("mp4", "open"), ("mp4", "refresh"), ("mp4", "closed"), ("mov", "open"), ("mkv", "open"), ("mkv", "x265open"),
    ("webm", "vp9"), ("webm", "vp8"), ("avi", "closed"), ("avi", "mjpeg"), ("avi", "mpeg4b"), ("ts", "closed"),
    ("ts", "open"), ("ts", "x265open"), ("m2ts", "long"), ("flv", "open"), ("flv", "scenes"), ("nut", "open"),
    ("wmv", "wmv2"), ("mpg", "mpeg2"), ("mp4", "av1"), ("mp4", "x265"), ("mkv", "vp9alt"), ("nut", "intra"),
]  # fmt: skip
NTSC = Fraction(30000, 1001)
# Containers that hold a time a frame, and codecs that leave it to them.
TIMED = {"mp4", "mov", "mkv", "webm", "ts", "m2ts", "flv", "nut"}
UNEQUAL = np.cumsum(np.random.default_rng(0).choice([40, 40, 80, 120, 360], 50)).tolist()


def asked(n, seed=0):
    """Sets of frame numbers."""
    random = np.random.default_rng(seed)
    centres = [(segment_centres(k, n) // 1).astype(int).tolist() for k in (1, 3, 8)]
    subsets = [sorted(random.choice(n, k, replace=False).tolist()) for k in (2, 5, 12) if k <= n]
    return [list(range(n)), *centres, *subsets, [0, n - 1], [n - 1], random.permutation(n)[:6].tolist()]


def outcome(path, facts, middles, decoder):
    """Reads all of the sets: "right", "wrong", or the reason of the error."""
    try:
        for wanted in asked(len(middles)):
            if numbers(read_frames(path, middles[wanted], decoder, facts)) != wanted:
                return "wrong"
    except VideoError as error:
        return error.reason
    return "right"


def outcomes(path, facts, middles, monkeypatch):
    """By decoder; "leaps" is PyAV that goes to every key frame that it may."""
    found = {decoder: outcome(path, facts, middles, decoder) for decoder in ("auto", "pyav", "decord")}
    with monkeypatch.context() as patched:
        patched.setattr(module, "LEAP", 0)
        return found | {"leaps": outcome(path, facts, middles, "auto")}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """(container, kind) -> a film of 50 frames, 25 a second, written when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("films"), {}

    def film(container, kind):
        if (container, kind) not in made:
            made[container, kind] = write_film(folder / f"{kind}.{container}", kind)
        return made[container, kind]

    return film


@pytest.mark.parametrize(("container", "kind"), QUICK)
def test_frames_are_the_same_whatever_container_groups_times_and_decoder(films, container, kind, monkeypatch):
    path = films(container, kind)
    facts = probe(path, decord=True)
    assert facts.frames == 50 and facts.grid == "25"
    found = outcomes(path, facts, (np.arange(50) + 0.5) / 25, monkeypatch)
    proved = "right" if facts.decord_exact else "unproved"
    assert found == {"auto": "right", "pyav": "right", "leaps": "right", "decord": proved}


@pytest.mark.parametrize(
    ("container", "kind", "doubt"),
    [
        ("ts", "closed", "another picture than frame"),
        ("m2ts", "long", "another picture than frame"),
        *((container, "open", "open groups") for container in ("mp4", "mov", "mkv", "flv", "nut")),
        ("mp4", "refresh", "intra refresh"),
        ("mkv", "x265open", "codec hevc"),
    ],
)
def test_decord_is_not_believed_where_it_gives_other_frames(films, container, kind, doubt):
    assert doubt in probe(films(container, kind), decord=True).decord_doubt
    with pytest.raises(VideoError, match=f"unproved: .*{doubt}"):
        read_frames(films(container, kind), [0.5], "decord")


@pytest.mark.parametrize("kind", ["open", "refresh"])
def test_the_pictures_alone_would_show_what_the_kinds_of_key_frames_say(films, kind, monkeypatch):
    """Were every key frame taken for one that decoding may begin at, its checksum would still tell."""
    from pipeline.video import probing

    monkeypatch.setattr(probing, "is_closed", lambda codec, packet, header: True)
    assert "another picture" in probe(films("mp4", kind), decord=True).decord_doubt


@pytest.mark.parametrize("second", ["mp4", "mkv"])
def test_of_two_video_streams_one_is_read_and_decord_is_not_asked(tmp_path, second, monkeypatch):
    path = write_film(tmp_path / f"two.{second}", "closed", second=True)
    facts = probe(path)
    assert facts.video_streams == 2 and "2 video streams" in facts.decord_doubt
    found = outcomes(path, facts, (np.arange(50) + 0.5) / 25, monkeypatch)
    assert found == {"auto": "right", "pyav": "right", "leaps": "right", "decord": "unproved"}


@pytest.mark.parametrize(("container", "kind"), [("mp4", "closed"), ("webm", "vp9"), ("ts", "closed"), ("mkv", "open")])
def test_unequal_times_are_kept_by_every_decoder(tmp_path, container, kind, monkeypatch):
    path = write_film(tmp_path / f"a.{container}", kind, starts=UNEQUAL)
    facts, starts = probe(path, decord=True), np.subtract(UNEQUAL, UNEQUAL[0]) / 1000
    assert facts.grid == "" and facts.frames == 50
    found = outcomes(path, facts, starts + 0.015, monkeypatch)
    assert found == outcomes(path, facts, starts, monkeypatch)  # a frame begins at its own time
    assert found == {
        "auto": "right", "pyav": "right", "leaps": "right", "decord": "right" if facts.decord_exact else "unproved",
    }  # fmt: skip


# --- which frame a time on the edge belongs to ------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm", "ts", "flv", "avi", "nut"])
@pytest.mark.parametrize("rate", [Fraction(12), Fraction(30), NTSC])
def test_the_same_film_has_the_same_frames_at_the_same_times_from_every_container(tmp_path, container, rate):
    """At odd numbers of frames a centre of 32 segments lies 1/64 of a frame before an edge: 0.5 ms at 30 a second."""
    path = write_film(tmp_path / f"a.{container}", "vp9" if container == "webm" else "closed", n=75, rate=rate)
    facts = probe(path)
    assert facts.rate == rate and facts.duration == float(75 / rate)
    centres, edges = segment_centres(32, float(75 / rate)), np.arange(75) / float(rate)
    assert numbers(read_frames(path, centres, facts=facts)) == [(2 * i + 1) * 75 // 64 for i in range(32)]
    assert numbers(read_frames(path, edges, facts=facts)) == list(range(75))
    assert numbers(read_frames(path, edges[1:] - 2e-6, facts=facts)) == list(range(74))
    assert frames_at(frame_starts(path, facts), centres).tolist() == [(2 * i + 1) * 75 // 64 for i in range(32)]


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm", "ts", "flv", "avi"])
def test_a_centre_on_the_edge_of_a_frame_is_that_frame_whatever_the_container_rounds_lengths_to(tmp_path, container):
    path = write_film(tmp_path / f"a.{container}", "vp9" if container == "webm" else "closed", n=32, rate=Fraction(12))
    facts = probe(path)
    centres = segment_centres(8, facts.duration)
    assert numbers(read_frames(path, centres, facts=facts)) == [2, 6, 10, 14, 18, 22, 26, 30]


# --- what a leap costs, and what it rests on --------------------------------------------------------------------------


def decoded(monkeypatch, path, times, facts):
    """How many frames come from the decoder, and what they say."""
    count, frames = Counter(), module._Film.frames

    def counting(self):
        for item in frames(self):
            count["decoded"] += 1
            yield item

    with monkeypatch.context() as patched:
        patched.setattr(module._Film, "frames", counting)
        said = numbers(read_frames(path, times, "auto", facts))
    return count["decoded"], said


CLOSED = [
    ("mp4", "closed"), ("mkv", "x265open"), ("webm", "vp9"), ("avi", "closed"), ("avi", "mpeg4"), ("ts", "closed"),
    ("flv", "closed"), ("nut", "closed"), ("mp4", "av1"), ("mkv", "mpeg2"), ("ts", "x265open"),
]  # fmt: skip


@pytest.mark.parametrize(("container", "kind"), CLOSED)
def test_a_late_frame_of_a_long_video_costs_its_group_of_pictures(tmp_path, container, kind, monkeypatch):
    path = write_film(tmp_path / f"a.{container}", kind, n=250)
    facts = probe(path)
    times = (np.array([60, 130, 245]) + 0.5) / 25
    cost, said = decoded(monkeypatch, path, times, facts)
    assert said == [60, 130, 245] and cost < 100  # of 246; MPEG-TS lands late and begins one group earlier
    cost, said = decoded(monkeypatch, path, times, VideoFacts(**vars(facts) | {"key_frames": ""}))
    assert said == [60, 130, 245] and cost >= 246


def test_groups_of_pictures_that_are_open_in_h264_are_passed_over_from_the_start(films, monkeypatch):
    facts = probe(films("mp4", "open"))
    assert len(facts.key_frames.split()) == 1
    assert decoded(monkeypatch, films("mp4", "open"), [49.5 / 25], facts) == (50, [49])


@pytest.mark.parametrize("broken", ["crc", "tick"])
def test_a_landing_that_is_not_what_the_facts_say_is_not_believed(films, broken, monkeypatch):
    path = films("mp4", "closed")
    facts = probe(path)
    first, *others = (entry.split(":") for entry in facts.key_frames.split())
    for entry in others:
        entry[2 if broken == "crc" else 1] = "1"
    lie = VideoFacts(**vars(facts) | {"key_frames": " ".join(":".join(entry) for entry in [first, *others])})
    cost, said = decoded(monkeypatch, path, [49.5 / 25], lie)
    assert said == [49] and cost > 50  # once in vain, then from the start


def test_key_frames_are_kept_apart_and_few(films):
    kept = [int(entry.split(":")[0]) for entry in probe(films("nut", "intra")).key_frames.split()]
    assert kept[0] == 0 and min(after - before for before, after in pairwise(kept)) >= 12


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("which", ["one variant each", pytest.param("all variants", marks=pytest.mark.proof)])
def test_no_film_of_a_sweep_gives_a_wrong_frame(tmp_path, monkeypatch, capsys, which):
    """Every container and kind, in several lengths and rates, of unequal times too: each read is right or an error.

    Of one variant each, it is another from film to film, so that every container meets every variant that it can.
    """
    tally, doubts, wrong, files = Counter(), Counter(), [], 0
    for turn, (container, kind) in enumerate(FILMS):
        variants = {"plain": {"n": 50}, "ntsc": {"n": 61, "rate": NTSC}, "long": {"n": 140}}
        if container in TIMED and KINDS[kind][0] not in ("mpeg2video", "mpeg4", "flv"):
            variants["unequal"] = {"n": 50, "starts": UNEQUAL}
        if which != "all variants":
            taken = list(variants)[turn % len(variants)]
            variants = {taken: variants[taken]}
        for variant, options in variants.items():
            path = write_film(tmp_path / f"{kind}-{variant}.{container}", kind, **options)
            files += 1
            try:
                facts = probe(path, decord=True)
            except VideoError as error:
                tally[f"probe: {error.reason}"] += 1
                doubts[f"{path.name}: {error.detail}"] += 1
                continue
            rate = options.get("rate", 25)
            middles = (np.arange(options["n"]) + 0.5) / float(rate)
            if variant == "unequal":
                middles = np.subtract(UNEQUAL, UNEQUAL[0]) / 1000 + 0.015
            for decoder, result in outcomes(path, facts, middles, monkeypatch).items():
                tally[f"{decoder}: {result}"] += 1
                if result == "wrong":
                    wrong.append((path.name, decoder))
    with capsys.disabled():
        print(f"\n{files} films: {dict(sorted(tally.items()))}\n{dict(doubts)}")
    assert files >= (290 if which == "all variants" else len(FILMS)) and not wrong
