"""What a video file truly holds, found by decoding it once with PyAV. Knows nothing of sampling and of pixels' values.

Seen: a file that is cut, has a hole, or whose bitstream breaks its codec's rules. (libavcodec conceals broken H.264
pictures, but flags them, and reports the ones that it drops: both count.) Not seen: a few flipped bits inside a VP8 or
VP9 picture, which nearly always make another legal picture, since neither codec nor container keeps a checksum; and a
cut file whose header states no duration.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av
import decord
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from pipeline.video.facts import PICTURES, VideoError, VideoFacts, must_hold_bytes
from pipeline.video.pictures import MOST_PIXELS, is_picture, moves, picture_facts
from pipeline.video.sampling import ROUNDING

# Where decord was measured to give PyAV's frames, bit for bit, at PyAV's times: these codecs in 8-bit 4:2:0.
DECORD_CODECS = {"vp8", "vp9", "h264"}
DECORD_PIXELS = {"yuv420p", "yuvj420p"}
# A whole file reaches this share of the length that its header states.
WHOLE = 0.95
# With this share of all gaps one frame long, a stream is of constant rate, and missing frames can be counted.
CONSTANT = 0.9

decord.logging.set_level(decord.logging.QUIET)


@dataclass
class _Survey:
    """What one pass over the packets and frames of a stream found. Times in seconds."""

    packet_times: list[float] = field(default_factory=list)
    frame_times: list[float] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    rotations: set[int] = field(default_factory=set)
    last_duration: float = 0.0
    first: av.VideoFrame | None = None
    lasting: float = 0.0  # the sum of what each frame says of its own duration
    edit_list: bool = False
    damage: str | None = None


def probe(path: Path, still: bool = False) -> VideoFacts:
    """Decodes a video or a picture from end to end, on one thread, and gives its facts; converts one frame to RGB.

    Once a file, and about what `read_frames` costs: 31 to 39 ms for 48 frames of 240p on a busy machine. Demuxing alone
    takes 1.5 ms, but sees nothing of what is wrong with a picture: of 180 H.264 files with 1 to 20 flipped bits, this
    finds 178, and the other 2 differ by less than one grey level on average.

    Args:
        path: the file.
        still: take the first frame of a picture that moves, as a data set of pictures does. Otherwise an animated GIF
            or PNG is a video, and what else moves is refused.

    Raises:
        VideoError: missing (no such file), empty (no bytes), unreadable (neither a picture that Pillow knows nor a
            container that libavformat knows, or one without times), unsupported (a picture of another format, one that
            moves without times, colours that have no way to RGB, too many pixels), no_video (no video stream), short
            (frames are missing at the end or in between), decode_error (the decoder reports damage, or conceals it).
    """
    must_hold_bytes(path)
    promised = 0
    if is_picture(path):
        try:
            promised = 0 if still else moves(path)
            if not promised:
                return picture_facts(path)
        except VideoError as error:
            raise (error.reason == "unreadable" and _misnamed(path)) or error from None
    with opened(path) as (container, stream):
        survey = _survey(path, container, stream)
        said = _stated_duration(container, stream)
        rate = float(stream.average_rate or 0)
        # Matroska's duration counts from zero, other containers' from their first frame.
        from_zero = container.start_time is None or "matroska" in container.format.name
        start = 0.0 if from_zero else container.start_time / av.time_base
        codec, pixels = stream.codec.canonical_name, stream.codec_context.pix_fmt
    stated = said.stream
    if stated is None and said.file is not None and (said.alone or _end(path) - start < WHOLE * said.file):
        stated = said.file  # of the video alone, or of streams that all end before it

    # Packets first: a file that was cut also fails to decode its last picture, and `short` says more.
    for times, what in ((survey.packet_times, "packets"), (survey.frame_times, "decodable frames")):
        missing = _missing(sorted(times), start, stated, rate, survey.last_duration, survey.lasting)
        if missing:
            raise VideoError(path, "short", f"{missing} ({len(times)} {what}); fetch the file again")
        if survey.damage:
            raise VideoError(path, "decode_error", f"{survey.damage}; fetch the file again")
    if len(survey.frame_times) < promised:
        raise VideoError(path, "short", f"it promises {promised} frames and has {len(survey.frame_times)}")
    as_rgb(path, VideoReformatter(), survey.first)  # otherwise extraction would be the first to know

    times = survey.frame_times
    duration = times[-1] - times[0] + (survey.last_duration or (1 / rate if rate else 0.0))
    width, height = next(iter(survey.sizes))
    rotation = next(iter(survey.rotations))
    plain = codec in DECORD_CODECS and pixels in DECORD_PIXELS and not survey.edit_list and not rotation
    return VideoFacts(
        duration=duration,
        frames=len(times),
        fps=rate or (len(times) / duration if duration else 0.0),
        width=height if rotation % 180 else width,
        height=width if rotation % 180 else height,
        codec=codec,
        rotation=rotation,
        edit_list=survey.edit_list,
        decord_exact=plain and len(times) > 1 and _decord_agrees(path, times),
    )


# --- opening and decoding, also for reading ---------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its best video stream, decoding on one thread. Raises VideoError as `probe` says."""
    with _container(path) as container:
        if container.format.name in ("image2", "ico") or container.format.name.endswith("_pipe"):
            raise _unsupported(path, container) or VideoError(
                path, "unreadable", f"a broken picture ({container.format.long_name}); fetch it again"
            )
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = sorted({other.type or "unknown" for other in container.streams})
            raise VideoError(path, "no_video", f"no video stream among its streams ({', '.join(kinds) or 'none'})")
        tiled = any(other.disposition & av.stream.Disposition.dependent for other in container.streams.video)
        if tiled and container.duration is None:  # libavformat gives each tile of a HEIC picture as a stream
            said = "its picture lies in tiles, as phones write HEIC; convert it to JPEG or PNG"
            raise VideoError(path, "unsupported", said)
        if stream.codec_context is None:
            raise VideoError(path, "unsupported", "no decoder knows its codec; encode it anew, or fetch it again")
        if stream.width * stream.height > MOST_PIXELS:
            raise VideoError(path, "unsupported", f"{stream.width} x {stream.height} pixels a frame; make it smaller")
        stream.codec_context.thread_count = 1
        yield container, stream


@contextmanager
def _container(path: Path) -> Iterator[InputContainer]:
    must_hold_bytes(path)
    try:
        # A playlist in disguise must not reach the network.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, UnicodeError) as error:
        raise VideoError(path, "unreadable", f"not a readable video container ({_cause(error)})") from error
    with container:
        yield container


def _misnamed(path: Path) -> VideoError | None:
    """What a file that is named as a picture is instead, where its pictures can be decoded."""
    try:
        with _container(path) as container:
            return _unsupported(path, container)
    except VideoError:
        return None


def _unsupported(path: Path, container: InputContainer) -> VideoError | None:
    """What to say of a file that is refused for its format alone: its first picture can be decoded."""
    if not container.streams.video or container.streams.video[0].codec_context is None:
        return None
    try:
        frame = next(container.decode(video=0), None)
    except av.FFmpegError:
        return None
    if frame is None:
        return None
    held = container.streams.video[0].codec.long_name
    said = f"it holds {held} and is none of the pictures that are read ({', '.join(PICTURES)})"
    return VideoError(path, "unsupported", f"{said}; convert it to one of them, or name a video as one")


def as_rgb(path: Path, convert: VideoReformatter, frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a decoded frame, not turned.

    Raises:
        VideoError: unsupported, where libswscale knows no way from these colours.
    """
    try:
        return convert.reformat(frame, format="rgb24", threads=1).to_ndarray()
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        said = f"its colours ({frame.format.name}, matrix coefficients {int(frame.colorspace)}) cannot become RGB"
        remedy = "encode it anew, for instance as yuv420p with BT.709"
        raise VideoError(path, "unsupported", f"{said}: {_cause(error)}; {remedy}") from error


def clock(container: InputContainer, stream: VideoStream) -> Callable[[av.VideoFrame, int], float | None]:
    """Tells the time, in seconds, at which the i-th decoded frame is shown; None where the file does not say.

    AVI holds no presentation times, only a rate: libavformat's guesses for it run backwards at B-frames.
    """
    rate = stream.average_rate
    if early := _before_zero(container, stream):
        return lambda frame, index: frame.time if index >= len(early) else early[index]
    if container.format.name == "avi" and rate:
        return lambda frame, index: float(index / rate)
    return lambda frame, index: frame.time


def _before_zero(container: InputContainer, stream: VideoStream) -> list[float]:
    """Times of the first frames of a Matroska file that begins below zero: libavformat gives them no times, or guesses.

    They are counted back from the first that has one, at the stream's rate: a guess is of whole milliseconds a frame.
    """
    rate, early, first = stream.average_rate, 0, None
    if "matroska" not in container.format.name or not rate:
        return []
    with _container(Path(container.name.removeprefix("file:"))) as again:
        for packet in again.demux(again.streams[stream.index]):
            if packet.size and first is None and (packet.pts is None or packet.pts < 0):
                early += 1
            elif not early:
                return []
            elif packet.pts is not None:
                first = packet.pts if first is None else min(first, packet.pts)
    return [] if first is None else [float(first * stream.time_base - (early - n) / rate) for n in range(early)]


def _survey(path: Path, container: InputContainer, stream: VideoStream) -> _Survey:
    found, time_of = _Survey(), clock(container, stream)
    try:
        for packet in container.demux(stream):
            found.edit_list |= packet.is_discard
            if packet.size and packet.pts is not None and not packet.is_discard:
                found.packet_times.append(float(packet.pts * packet.time_base))
            try:
                for frame in packet.decode():
                    _note(found, frame, time_of(frame, len(found.frame_times)), path)
            except av.FFmpegError as error:
                found.damage = (
                    found.damage or f"the decoder reports {_cause(error)!r} after frame {len(found.frame_times)}"
                )
    except av.FFmpegError as error:
        found.damage = found.damage or f"reading stops after frame {len(found.frame_times)}: {_cause(error)}"
    return found


def _note(found: _Survey, frame: av.VideoFrame, time: float | None, path: Path) -> None:
    if time is None:
        raise VideoError(path, "unreadable", "frames have no times; remux it, for instance with ffmpeg -fflags +genpts")
    if frame.is_corrupt:
        found.damage = found.damage or f"the picture at {time:.3f} s is broken and was concealed"
    if found.frame_times and time < found.frame_times[-1]:
        found.damage = found.damage or f"time runs backwards at {found.frame_times[-1]:.3f} s"
    found.frame_times.append(time)
    found.first = found.first or frame
    found.sizes.add((frame.width, frame.height))
    found.rotations.add(frame.rotation % 360)
    found.last_duration = float((frame.duration or 0) * (frame.time_base or 0))
    found.lasting += found.last_duration
    if len(found.sizes) > 1 or len(found.rotations) > 1 or frame.rotation % 90:
        shapes = f"sizes {sorted(found.sizes)}, rotations {sorted(found.rotations)}"
        raise VideoError(path, "unreadable", f"expected one picture size and turns by 90 degrees, got {shapes}")


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# --- whole or short ---------------------------------------------------------------------------------------------------


class _Stated(NamedTuple):
    """Seconds that a header states: for the video stream, for the file, whose only stream the video may be."""

    stream: float | None
    file: float | None
    alone: bool


def _stated_duration(container: InputContainer, stream: VideoStream) -> _Stated:
    own = None
    # Of ASF (WMV) libavformat gives each stream the duration of the file.
    if stream.duration is not None and container.format.name != "asf":
        own = float(stream.duration * stream.time_base)
    elif tag := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):  # Matroska
        own = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])  # 00:00:04.000000000
    others = [other for other in container.streams if other is not stream and other.type != "attachment"]
    return _Stated(own, None if container.duration is None else container.duration / av.time_base, not others)


def _end(path: Path) -> float:
    """When the last packet of any stream ends, in seconds: where a file that was cut was cut."""
    end = 0.0
    with opened(path) as (container, _), suppress(av.FFmpegError):  # what cannot be read ends nothing later
        for packet in container.demux():
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end


def _missing(
    times: list[float], start: float, stated: float | None, rate: float, last: float = 0.0, lasting: float = 0.0
) -> str | None:
    """What is missing from a stream with frames at `times` (ascending), or None where nothing is.

    Args:
        times: when packets or frames are shown, seconds.
        start: the time from which `stated`, the duration in the header, counts; `rate` is the header's too.
        last: what the last frame says of its own duration. lasting: the sum of what all frames say.

    Frames are counted only where nearly all gaps are one frame long: in a stream of variable rate, such as a screen
    recording, a hole and a pause look alike, and the stated rate is only its fastest. A pause that the frame before it
    states as its own duration is none.
    """
    if not times:
        return "it holds no frame"
    if stated is None or not rate:
        return None
    if times[-1] + max(last, 1 / rate) - start < WHOLE * stated:
        return f"it ends at {times[-1] - start:.3f} s of the {stated:.3f} s in its header"
    gaps = np.diff(times)
    constant = np.abs(gaps - 1 / rate) <= max(2 * ROUNDING, 0.1 / rate)
    expected = (stated - (times[0] - start)) * rate
    if constant.size and constant.mean() >= CONSTANT and max(len(times), lasting * rate) < WHOLE * expected:
        return f"frames are missing: its header promises {expected:.0f}"
    return None


def _decord_agrees(path: Path, times: list[float]) -> bool:
    """Whether decord's frame times, from its first frame on, are the decoded ones."""
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    except (decord.DECORDError, RuntimeError):
        return False
    return len(starts) == len(times) and np.allclose(starts - starts[0], np.subtract(times, times[0]), atol=ROUNDING)
