"""Small films of every container and kind of group of pictures; each frame says its own number."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, BLOCK = 96, 64, 12
# (encoder, its options); the container says nothing of these, so a reader must find out.
KINDS = {
    "closed": ("libx264", {"x264-params": "keyint=12:min-keyint=12:bframes=2:b-adapt=0:scenecut=0:open-gop=0"}),
    "open": ("libx264", {"x264-params": "keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:open-gop=1"}),
    "refresh": ("libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
    "intra": ("libx264", {"g": "1"}),
    "long": ("libx264", {"x264-params": "keyint=250:bframes=3"}),
    "scenes": ("libx264", {"x264-params": "keyint=19:min-keyint=2:bframes=5:b-pyramid=normal:ref=5"}),
    "x265": ("libx265", {"x265-params": "log-level=error:keyint=12:min-keyint=12:open-gop=0"}),
    "x265open": (
        "libx265",
        {"x265-params": "log-level=error:keyint=12:min-keyint=12:open-gop=1:bframes=4:b-adapt=0:scenecut=0"},
    ),
    "vp8": ("libvpx", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "vp9": ("libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "vp9alt": ("libvpx-vp9", {"g": "25", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "av1": ("libsvtav1", {"g": "12", "preset": "12"}),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "0"}),
    "mpeg4b": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg2": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg1": ("mpeg1video", {"g": "12", "bf": "2"}),
    "mjpeg": ("mjpeg", {}),
    "flv1": ("flv", {"g": "12"}),
    "wmv2": ("wmv2", {"g": "12"}),
}
_H264 = ("closed", "open", "refresh", "intra", "long", "scenes")
HOLDS = {
    "mp4": (*_H264, "x265", "x265open", "mpeg4", "mpeg4b", "vp9", "av1"),
    "mov": (*_H264, "x265open", "mjpeg"),
    "mkv": (*_H264, "x265", "x265open", "vp8", "vp9alt", "av1", "mpeg4b", "mpeg2", "mjpeg"),
    "webm": ("vp8", "vp9", "vp9alt", "av1"),
    "avi": ("closed", "long", "intra", "refresh", "mpeg4", "mpeg4b", "mjpeg"),
    "ts": (*_H264, "x265", "x265open", "mpeg2"),
    "m2ts": ("closed", "open", "refresh", "long"),
    "flv": (*_H264, "flv1"),
    "nut": (*_H264, "mpeg4b", "x265open"),
    "wmv": ("wmv2",),
    "mpg": ("mpeg2", "mpeg1"),
    "ogv": ("vp8",),
    "3gp": ("closed", "mpeg4"),
}
FORMATS = {"m2ts": "mpegts", "wmv": "asf", "ogv": "ogg", "3gp": "3gp"}


def pictures(n: int) -> np.ndarray:
    """(n, HEIGHT, WIDTH, 3) uint8: the number in eight blocks at the top, a bar that moves over a gradient below."""
    frames = np.full((n, HEIGHT, WIDTH, 3), 90, np.uint8)
    frames[..., 0] = np.linspace(0, 255, WIDTH, dtype=np.uint8)
    for number, frame in enumerate(frames):
        for bit in range(8):
            frame[:24, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
        left = number * 5 % (WIDTH - 16)
        frame[32:48, left : left + 16] = (255, 40, 0)
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that frames say."""
    blocks = frames[:, 4:20, : 8 * BLOCK].reshape(len(frames), 16, 8, BLOCK, 3)[:, :, :, 3:9].mean(axis=(1, 3, 4))
    return ((blocks > 127) @ (1 << np.arange(8))).tolist()


@contextmanager
def _ordinary_priority() -> Iterator[None]:
    """Ends with this thread scheduled as it was.

    SVT-AV1 makes the thread that opens it a real-time one where it runs as root. All that this process computes or
    starts from then on would take the processors from everybody else.
    """
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, param)


def write_film(
    path: Path,
    kind: str,
    n: int = 50,
    rate: Fraction = Fraction(25),
    starts: Sequence[int] | None = None,
    second: bool = False,
) -> Path:
    """Writes a film of `n` frames.

    Args:
        path: its suffix names the container.
        kind: of `KINDS`.
        n: at most 256.
        rate: frames a second.
        starts: milliseconds of each frame, for a variable rate.
        second: with another video stream before it, which shows the numbers backwards.
    """
    encoder, options = KINDS[kind]
    unit = 1 / rate if starts is None else Fraction(1, 1000)
    with _ordinary_priority(), av.open(str(path), "w", format=FORMATS.get(path.suffix[1:])) as container:
        streams = []
        for _ in range(1 + second):
            stream = container.add_stream(encoder, rate=rate, options=options)
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = unit
            streams.append(stream)
        shown = pictures(n)
        for number in range(n):
            for stream, rgb in zip(streams, (shown[number], shown[n - 1 - number]), strict=False):
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts, frame.time_base = number if starts is None else starts[number], unit
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path
