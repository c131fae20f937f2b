"""Decoding: PyAV, decord and, where it is installed, torchcodec on VP9 and H.264 of 240p, plain calls against
read_frames, 16 frames and all of them.

Then a few frames of a long H.264 film (`--minutes`, of 320 x 240, 30 a second, a key frame every 250): read_frames,
which leaps to key frames, against the pass from the start, decord and torchcodec. torchcodec's proof of a file is made
before its readings are measured, and measured apart.

Each case gives the same RGB frames of the same file, opened anew each time, on one thread: as an extraction's worker
does. Ratios are to PyAV in one pass with one converter (`pyav`); those of processor time bear a busy machine better,
and are what matters where decode workers fill all cores. Clips: encoded here, and the shared ones where they are.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import av
import decord
import numpy as np
from av.video.reformatter import VideoReformatter

from benchmarks._harness import interleaved, main, ratio, table
from pipeline.video import DecoderMissing, VideoFacts, expect_decoder, probe, read_frames, segment_centres

CLIPS = Path(__file__).parents[1] / "../shared/data/clips/made"
SHARED = ("pancake_vp9.webm", "pancake_h264.mp4")
ENCODERS = {
    "vp9": ("clip.webm", "libvpx-vp9", {"cpu-used": "4", "crf": "32", "b": "0"}),
    "h264": ("clip.mp4", "libx264", {"crf": "23"}),
}
FRAMES, FPS, HEIGHT, WIDTH = 48, 12, 240, 426


def encode(path: Path, codec: str, options: dict[str, str]) -> None:
    """A film as long and large as Something-Something's: a textured scene that the camera pans over, with grain."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (12, 24, 3)).astype(np.float32)
    scene = coarse.repeat(40, axis=0).repeat(40, axis=1)
    for axis in (0, 1):
        scene = np.mean([np.roll(scene, shift, axis) for shift in range(-12, 13)], axis=0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for number in range(FRAMES):
            seen = scene[2 * number : 2 * number + HEIGHT, 5 * number : 5 * number + WIDTH]
            grain = random.normal(0, 3, seen.shape[:2])[..., None]
            frame = av.VideoFrame.from_ndarray((seen + grain).clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# --- the plain calls --------------------------------------------------------------------------------------------------


def with_decord(path: Path, wanted: list[int]) -> np.ndarray:
    return decord.VideoReader(str(path), num_threads=1).get_batch(wanted).asnumpy()


def with_torchcodec(path: Path, wanted: list[int]) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    reader = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    return reader.get_frames_at(wanted).data.numpy()


def torchcodec_is_there() -> bool:
    try:
        return bool(expect_decoder("torchcodec"))
    except DecoderMissing as error:
        print(f"torchcodec is left out: {error}")
        return False


def with_pyav(path: Path, wanted: list[int]) -> np.ndarray:
    convert = VideoReformatter()
    return _passed(path, wanted, lambda frame: convert.reformat(frame, format="rgb24", threads=1).to_ndarray())


def with_pyav_default(path: Path, wanted: list[int]) -> np.ndarray:
    return _passed(path, wanted, lambda frame: frame.to_ndarray(format="rgb24"))


def _passed(path: Path, wanted: list[int], rgb: Callable[[av.VideoFrame], np.ndarray]) -> np.ndarray:
    chosen = set(wanted)
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None
        stream.codec_context.thread_count = 1
        taken = []
        for index, frame in enumerate(container.decode(stream)):
            if index in chosen:
                taken.append(rgb(frame))
            if index == wanted[-1]:
                break
    return np.stack(taken)


# --- the comparison ---------------------------------------------------------------------------------------------------


def compare(path: Path, facts: VideoFacts, n: int, rounds: int) -> dict[str, Any]:
    """Wall and processor time of n frames at segment centres, by case. Asserts that all cases give the same frames."""
    times = segment_centres(n, facts.duration)
    wanted = [int(time * facts.fps) for time in times]
    cases: dict[str, Callable[[], Any]] = {
        "pyav": lambda: with_pyav(path, wanted),
        "pyav_default": lambda: with_pyav_default(path, wanted),
        "decord": lambda: with_decord(path, wanted),
        "read_frames": lambda: read_frames(path, times, "auto", facts),
        "read_frames_decord": lambda: read_frames(path, times, "decord", facts),
        **with_torchcodecs(path, times, wanted, facts),
    }
    first, *others = (case() for case in cases.values())
    assert all(np.array_equal(first, other) for other in others), f"the decoders disagree on {path.name}"
    cases["probe"] = lambda: probe(path)
    return _timed(cases, rounds, "pyav")


def compare_long(path: Path, facts: VideoFacts, n: int, rounds: int) -> dict[str, Any]:
    """Wall and processor time of n frames of a long film. Asserts that all cases give the same frames."""
    times, from_start = segment_centres(n, facts.duration), replace(facts, key_frames="")
    wanted = [int(time * facts.fps + 1e-6) for time in times]
    cases: dict[str, Callable[[], Any]] = {
        "read_frames": lambda: read_frames(path, times, "auto", facts),
        "read_frames_from_the_start": lambda: read_frames(path, times, "auto", from_start),
        "decord": lambda: with_decord(path, wanted),
        "read_frames_decord": lambda: read_frames(path, times, "decord", facts),
        **with_torchcodecs(path, times, wanted, facts),
    }
    first, *others = (case() for case in cases.values())
    assert all(np.array_equal(first, other) for other in others), f"the decoders disagree on {path.name}"
    return _timed(cases, rounds, "read_frames")


def with_torchcodecs(
    path: Path, times: np.ndarray, wanted: list[int], facts: VideoFacts
) -> dict[str, Callable[[], np.ndarray]]:
    """The cases of torchcodec, on a file that is proved; none where it is not installed."""
    if not torchcodec_is_there():
        return {}
    return {
        "torchcodec": lambda: with_torchcodec(path, wanted),
        "read_frames_torchcodec": lambda: read_frames(path, times, "torchcodec", facts),
    }


def proof_seconds(path: Path, facts: VideoFacts) -> float | None:
    """Processor time of torchcodec's first reading of a file, which proves it."""
    if not torchcodec_is_there():
        return None
    started = time.process_time()
    read_frames(path, [0.0], "torchcodec", facts)
    return time.process_time() - started


def _timed(cases: dict[str, Callable[[], Any]], rounds: int, base: str) -> dict[str, Any]:
    processor: dict[str, list[float]] = {name: [] for name in cases}

    def metered(name: str) -> None:
        started = time.process_time()
        cases[name]()
        processor[name].append(time.process_time() - started)

    wall = interleaved({name: partial(metered, name) for name in cases}, rounds, warmup=0)
    return {
        name: {
            "ms": 1000 * median(wall[name]),
            "ratio": ratio(wall[name], wall[base]),
            "cpu_ms": 1000 * median(processor[name]),
            "cpu_ratio": ratio(processor[name], processor[base]),
        }
        for name in cases
    }


def encode_long(path: Path, minutes: int) -> None:
    """A long film, quickly made: noise that moves."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "g": "250", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for number in range(minutes * 60 * 30):
            top, left = number % 240, number * 3 % 320
            picture = np.full((360, 320), 128, np.uint8)
            picture[:240] = noise[top : top + 240, left : left + 320]
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def run(rounds: int, minutes: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        clips = {codec: Path(folder) / name for codec, (name, _, _) in ENCODERS.items()}
        for codec, (_, encoder, options) in ENCODERS.items():
            encode(clips[codec], encoder, options)
        clips |= {name: CLIPS / name for name in SHARED if (CLIPS / name).exists()}
        for name, path in clips.items():
            facts = probe(path, decord=True)
            result[name] = {
                "kilobytes": path.stat().st_size / 1000,
                "torchcodec_proof_s": proof_seconds(path, facts),
                "frames_16": compare(path, facts, 16, rounds),
                "frames_all": compare(path, facts, facts.frames, rounds),
            }
        long = Path(folder) / "long.mp4"
        encode_long(long, minutes)
        started = time.process_time()
        probe(long)
        probed = time.process_time() - started
        facts = probe(long, decord=True)
        proof = proof_seconds(long, facts)
        film = {f"{n} frames": compare_long(long, facts, n, min(rounds, 3)) for n in (8, 64)}
    table(
        f"{minutes} minutes, {facts.frames} frames (probe: {probed:.1f} s of processor time): ratios to read_frames",
        [
            {"asked": n, "case": case, "ms": row["ms"], "CPU ms": row["cpu_ms"], "CPU ratio": row["cpu_ratio"]}
            for n, found in film.items()
            for case, row in found.items()
        ],
    )
    for part, frames in (("frames_16", "16 frames"), ("frames_all", f"all {FRAMES} frames")):
        table(
            f"{frames}: medians of {rounds} rounds, ratios to pyav",
            [
                {
                    "clip": name,
                    "case": case,
                    "ms": row["ms"],
                    "ratio": row["ratio"],
                    "CPU ms": row["cpu_ms"],
                    "CPU ratio": row["cpu_ratio"],
                }
                for name, found in result.items()
                for case, row in found[part].items()
            ],
        )
    return result | {"long": {"probe_cpu_s": probed, "torchcodec_proof_s": proof, **film}}


if __name__ == "__main__":
    main(run, {"rounds": 15, "minutes": 10}, rounds=3, minutes=3)
