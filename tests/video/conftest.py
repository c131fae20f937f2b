"""Clips made on the fly: each frame says its own number in 8 black or white blocks along its top."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

CLIPS = Path(__file__).parents[2] / "../shared/data/clips"

# The shared clips and what is true of each.
WHOLE = {
    "cve_vid1.mp4",
    "decord_flipping_a_pancake.mkv",
    "decord_unordered.mov",
    "decord_video_90.mov",
    "mmaction2_demo.mp4",
    "mmaction2_test.avi",
    "torchcodec_av1_video.mkv",
    "torchcodec_bt709_full_range.mp4",
    "torchcodec_h264_10bits.mp4",
    "torchcodec_h265_video.mp4",
    "torchcodec_nasa_13013.mp4",
    "made/demo_h264.mp4",
    "made/demo_vp9.webm",
    "made/pancake_h264.mp4",
    "made/pancake_h264g12.mp4",
    "made/pancake_vp8.webm",
    "made/pancake_vp9.webm",
    "corrupt/one_frame.webm",
}
DAMAGED = {
    "decord_corrupted.mp4": "decode_error",
    "corrupt/audio_only.mp4": "no_video",
    "corrupt/decord_corrupted.mp4": "decode_error",
    "corrupt/demo_faststart_trunc50.mp4": "short",
    "corrupt/demo_faststart_trunc90.mp4": "short",
    "corrupt/demo_h264_allzero.mp4": "unreadable",
    "corrupt/demo_h264_flip200.mp4": "decode_error",
    "corrupt/demo_h264_trunc10.mp4": "unreadable",
    "corrupt/demo_h264_trunc50.mp4": "unreadable",
    "corrupt/demo_h264_trunc90.mp4": "unreadable",
    "corrupt/demo_h264_zero20pct.mp4": "decode_error",
    "corrupt/empty.mp4": "empty",
    "corrupt/empty.webm": "empty",
    "corrupt/garbage.mp4": "unreadable",
    "corrupt/html.webm": "unreadable",
    "corrupt/pancake_vp9_allzero.webm": "unreadable",
    "corrupt/pancake_vp9_flip200.webm": "short",
    "corrupt/pancake_vp9_trunc10.webm": "short",
    "corrupt/pancake_vp9_trunc50.webm": "short",
    "corrupt/pancake_vp9_trunc90.webm": "short",
    "corrupt/pancake_vp9_zero20pct.webm": "short",
}
QUICK = {"libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"}}


def picture(number, height=96, width=128):
    """A gradient with the number's bits as blocks, least significant first."""
    frame = np.full((height, width, 3), 90, np.uint8)
    frame[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
    for bit in range(8):
        frame[:24, bit * 16 : bit * 16 + 16] = 255 * (number >> bit & 1)
    return frame


def numbers(frames, left=0, top=4, step=16):
    """The numbers that frames say."""
    return [
        sum(
            1 << bit
            for bit in range(8)
            if frame[top : top + 12, left + bit * step + 4 : left + bit * step + 12].mean() > 127
        )
        for frame in frames
    ]


def encode(
    path,
    codec="libx264",
    n=24,
    fps=12,
    pts=None,
    rotation=None,
    cut=0,
    pixels="yuv420p",
    quick=True,
    lasts=None,
    sound=0.0,
    sound_codec="aac",
    matrix=None,
):
    """Writes a clip of `n` numbered frames.

    `pts`: milliseconds of each frame (default: constant rate). `rotation`: into the display matrix. `cut`: the first
    that many frames get times before zero, so that an mp4 gets an edit list that hides them. `lasts`: milliseconds of a
    frame by its number, which each packet then states. `sound`: seconds of it. `matrix`: H.273 coefficients.
    """
    unit = Fraction(1, fps) if pts is None else Fraction(1, 1000)
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"} if cut else {}) as container:
        options = (QUICK.get(codec, {}) if quick else {}) | ({} if lasts is None else {"bf": "0"})
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        stream.codec_context.time_base = unit
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        if sound:
            heard = container.add_stream(sound_codec, rate=44100)

        def write(packets):
            for packet in packets:
                shift = int(Fraction(cut, fps) / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                if lasts is not None:
                    packet.duration = round(lasts[pts.index(packet.pts)] / 1000 / packet.time_base)
                container.mux(packet)

        for number in range(n):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = (number if pts is None else pts[number]), unit
            write(stream.encode(frame))
        write(stream.encode(None))
        if sound:
            size = heard.codec_context.frame_size
            for number in range(int(sound * 44100 / size)):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.float32), format="fltp", layout="mono")
                frame.rate, frame.pts, frame.time_base = 44100, number * size, Fraction(1, 44100)
                container.mux(heard.encode(frame))
            container.mux(heard.encode(None))
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder of clips of 24 frames at 12 a second (2 s), one a container and codec."""
    folder = tmp_path_factory.mktemp("made")
    encode(folder / "h264.mp4")
    encode(folder / "vp9.webm", "libvpx-vp9")
    encode(folder / "vp8.webm", "libvpx")
    encode(folder / "h265.mp4", "libx265")
    encode(folder / "mpeg4.avi", "mpeg4")
    encode(folder / "deep.mp4", pixels="yuv420p10le")
    encode(folder / "turned.mp4", rotation=90)
    encode(folder / "edited.mp4", cut=5)
    encode(folder / "one.mp4", n=1)
    encode(folder / "late.webm", "libvpx-vp9", pts=[round(1000 + number * 1000 / 12) for number in range(24)])
    pauses = np.random.default_rng(0).choice([33, 33, 200, 500], 24)
    encode(folder / "varying.webm", "libvpx-vp9", fps=30, pts=np.cumsum(pauses).tolist())
    return folder


@pytest.fixture
def shared_clips():
    if not CLIPS.is_dir():
        pytest.skip("the shared clips are not here")
    return CLIPS
