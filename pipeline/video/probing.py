"""What a video file truly holds, found by decoding it once with PyAV. Knows nothing of sampling and of pixels' values.

Seen: a file that is cut, has a hole, or whose bitstream breaks its codec's rules. (libavcodec conceals broken H.264
pictures, but flags them, and reports the ones that it drops: both count.) Not seen: a few flipped bits inside a VP8 or
VP9 picture, which nearly always make another legal picture, since neither codec nor container keeps a checksum; and a
cut file whose header states no duration.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from pipeline.limits import MOST_PIXELS
from pipeline.memory import refuse_shortage
from pipeline.video import by_decord
from pipeline.video.facts import PICTURES, UNTRIED, VideoError, VideoFacts, cause_of, must_hold_bytes
from pipeline.video.landings import APART, Landing, dumped, fingerprint, is_closed
from pipeline.video.pictures import is_picture, moves, picture_facts
from pipeline.video.sampling import ROUNDING
from pipeline.video.timing import Clock, constant_rate

# A whole file reaches this share of the length that its header states.
WHOLE = 0.95
# What libavcodec takes no memory beyond.
BOUNDED = {"max_pixels": str(MOST_PIXELS)}
# With this share of all gaps one frame long, a stream is of constant rate, and missing frames can be counted.
CONSTANT = 0.9
# Whose duration counts from time zero; that of other containers counts from their first frame.
FROM_ZERO = ("matroska,webm", "nut", "flv")
# The signs of a display matrix (a, b, c, d) -> degrees counter-clockwise, after a mirror from left to right or not.
TURNS = {
    (1, 0, 0, 1): (0, False),
    (0, -1, 1, 0): (90, False),
    (-1, 0, 0, -1): (180, False),
    (0, 1, -1, 0): (270, False),
    (-1, 0, 0, 1): (0, True),
    (0, 1, 1, 0): (90, True),
    (1, 0, 0, -1): (180, True),
    (0, -1, -1, 0): (270, True),
}


@dataclass
class _Survey:
    """What one pass over the packets and frames of a stream found. Times in seconds."""

    packet_times: list[float] = field(default_factory=list)
    ticks: list[int | None] = field(default_factory=list)  # of each frame, of the stream's time base
    sizes: set[tuple[int, int]] = field(default_factory=set)
    turns: set[tuple[int, bool]] = field(default_factory=set)  # degrees, mirrored
    last_duration: float = 0.0
    first: av.VideoFrame | None = None
    lasting: float = 0.0  # the sum of what each frame says of its own duration
    edit_list: bool = False
    damage: str | None = None
    landings: list[Landing] = field(default_factory=list)
    open_groups: bool = False  # there are key packets that decoding may not begin at
    unshown: int | None = None  # of AVI, chunks that gave no frame
    # For decord's trial: crc32 of the RGB of each landing, the frame after it, the one before it, and the last.
    pixels: dict[int, int] = field(default_factory=dict)


def probe(path: Path, still: bool = False, decord: bool = False) -> VideoFacts:
    """Decodes a video or a picture from end to end, on one thread, and gives its facts; converts one frame to RGB.

    Once a file, and about what `read_frames` costs: 31 to 39 ms for 48 frames of 240p on a busy machine. Demuxing alone
    takes 1.5 ms, but sees nothing of what is wrong with a picture: of 180 H.264 files with 1 to 20 flipped bits, this
    finds 178, and the other 2 differ by less than one grey level on average.

    Args:
        path: the file.
        still: take the first frame of a picture that moves, as a data set of pictures does. Otherwise an animated GIF
            or PNG is a video, and what else moves is refused.
        decord: try whether decord gives the same frames: 9 ms more for 48 frames of 240p with one key frame, 40 with
            four. Only who asks for decord needs it.

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
        survey = _survey(path, container, stream, decord)
        time_base, streams = stream.time_base, len(container.streams.video)
        grid = _placed(path, survey, stream)
        frame_times = [float(tick * time_base) for tick in survey.ticks]
        said = _stated_duration(container, stream)
        rate = float(stream.average_rate or 0)
        from_zero = container.start_time is None or container.format.name in FROM_ZERO
        start = 0.0 if from_zero else container.start_time / av.time_base
        codec, pixels, sized = stream.codec.canonical_name, stream.codec_context.pix_fmt, bool(stream.width)
    stated = said.stream
    if stated is None and said.file is not None and (said.alone or _end(path) - start < WHOLE * said.file):
        stated = said.file  # of the video alone, or of streams that all end before it

    if survey.damage and not survey.ticks and not sized:
        said = f"{survey.damage}: it is broken, or a frame has more than {MOST_PIXELS} pixels, as many as are read"
        raise VideoError(path, "unsupported", f"{said}; fetch it again, or make it smaller")
    # Packets first: a file that was cut also fails to decode its last picture, and `short` says more.
    decoded = frame_times if survey.unshown is None else survey.packet_times  # AVI's empty chunks are no missing frames
    for times, what in ((survey.packet_times, "packets"), (decoded, "decodable frames")):
        missing = _missing(sorted(times), start, stated, rate, survey.last_duration, survey.lasting)
        if missing:
            raise VideoError(path, "short", f"{missing} ({len(times)} {what}); fetch the file again")
        if survey.damage:
            raise VideoError(path, "decode_error", f"{survey.damage}; fetch the file again")
    if len(survey.ticks) < promised:
        raise VideoError(path, "short", f"it promises {promised} frames and has {len(survey.ticks)}")
    as_rgb(path, VideoReformatter(), survey.first)  # otherwise extraction would be the first to know

    if survey.unshown:
        said = f"{survey.unshown} of its chunks give no frame, so the times of the others cannot be told"
        raise VideoError(path, "unreadable", f"{said}; convert it, for instance with ffmpeg, to mp4")
    times = frame_times
    duration = _lasting(times, grid, survey.last_duration or (1 / rate if rate else 0.0), float(time_base))
    width, height = next(iter(survey.sizes))
    rotation, mirrored = next(iter(survey.turns))
    unfit = {
        f"codec {codec}": codec not in by_decord.CODECS,
        f"pixels {pixels}": pixels not in by_decord.PIXELS,
        f"{streams} video streams": streams > 1,
        "an edit list": survey.edit_list,
        "turned or mirrored": bool(rotation or mirrored),
        "open groups of pictures, or intra refresh": survey.open_groups,
        "a single frame": len(times) == 1,
    }
    doubt = ", ".join(what for what, holds in unfit.items() if holds)
    if decord and not doubt:
        doubt = by_decord.doubt(path, survey.ticks, time_base, survey.landings, survey.pixels)
    elif not doubt:
        doubt = UNTRIED
    return VideoFacts(
        duration=duration,
        frames=len(times),
        fps=rate or (len(times) / duration if duration else 0.0),
        width=height if rotation % 180 else width,
        height=width if rotation % 180 else height,
        codec=codec,
        rotation=rotation,
        edit_list=survey.edit_list,
        mirrored=mirrored,
        video_streams=streams,
        grid="" if grid is None else str(grid),
        key_frames=dumped(survey.landings),
        decord_doubt=doubt,
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
            said = f"{stream.width} x {stream.height} pixels a frame, and {MOST_PIXELS} are read at most"
            raise VideoError(path, "unsupported", f"{said}; make it smaller")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = dict(BOUNDED)  # the stream may be of another size than its container says
        yield container, stream


@contextmanager
def _container(path: Path) -> Iterator[InputContainer]:
    must_hold_bytes(path)
    try:
        # A playlist in disguise must not reach the network. Streams are decoded to be told apart, too.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file", **BOUNDED})
    except (av.FFmpegError, UnicodeError) as error:
        refuse_shortage(error, path)
        raise VideoError(path, "unreadable", f"not a readable video container ({cause_of(error)})") from error
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
    except av.FFmpegError as error:
        refuse_shortage(error, path)
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
    except (av.FFmpegError, OSError, ValueError) as error:
        refuse_shortage(error, path)
        said = f"its colours ({frame.format.name}, matrix coefficients {int(frame.colorspace)}) cannot become RGB"
        remedy = "encode it anew, for instance as yuv420p with BT.709"
        raise VideoError(path, "unsupported", f"{said}: {cause_of(error)}; {remedy}") from error


def orientation(path: Path, frame: av.VideoFrame) -> tuple[int, bool]:
    """How a decoded frame is turned to be shown, from its whole display matrix: an angle does not tell a mirror.

    Returns:
        Degrees counter-clockwise (0, 90, 180 or 270), and whether it is mirrored left to right before that.

    Raises:
        VideoError: unreadable (a matrix of another kind, or one that cannot be read).
    """
    try:
        side = frame.side_data.get("DISPLAYMATRIX")
    except ValueError as error:  # a kind of side data that PyAV does not know hides the others
        said = f"it may be turned or mirrored, and PyAV cannot tell ({error}); convert it, for instance with ffmpeg"
        raise VideoError(path, "unreadable", said) from error
    if side is None:
        return 0, False
    # Points move by (x, y) -> (a x + c y, b x + d y), y downwards.
    a, b, _, c, d = np.frombuffer(side, np.int32)[:5].tolist()
    signs = tuple((value > 0) - (value < 0) for value in (a, b, c, d))
    if signs not in TURNS:
        matrix = [value / 65536 for value in (a, b, c, d)]
        raise VideoError(path, "unreadable", f"expected turns by 90 degrees and mirrors, got the matrix {matrix}")
    return TURNS[signs]


def _survey(path: Path, container: InputContainer, stream: VideoStream, pixels: bool) -> _Survey:
    found, clock, codec = _Survey(), Clock(container, stream), stream.codec.canonical_name
    header = stream.codec_context.extradata
    # Begun at, these give a right picture and only right ones after it; by the container's own times.
    closed: set[int] = set()
    check = _Pixels(path, found) if pixels and codec in by_decord.CODECS else None
    try:
        for packet in container.demux(stream):
            found.edit_list |= packet.is_discard
            clock.saw(packet)
            if packet.size and packet.pts is not None and not packet.is_discard:
                found.packet_times += [float(tick * packet.time_base) for tick in clock.covered(packet)]
            if packet.size and packet.is_keyframe:
                if is_closed(codec, packet, header):
                    closed.add(packet.pts)
                else:
                    found.open_groups = True
            try:
                for frame in packet.decode():
                    lands = bool(frame.key_frame) and frame.pts is not None and frame.pts in closed
                    _note(found, frame, clock.tick(frame), lands, path)
                    if check is not None:
                        check.see(frame)
            except av.FFmpegError as error:
                refuse_shortage(error, path)
                found.damage = found.damage or f"the decoder reports {cause_of(error)!r} after frame {len(found.ticks)}"
    except av.FFmpegError as error:
        refuse_shortage(error, path)
        found.damage = found.damage or f"reading stops after frame {len(found.ticks)}: {cause_of(error)}"
    if check is not None:
        check.end()
    found.unshown = clock.unshown
    return found


def _note(found: _Survey, frame: av.VideoFrame, tick: int | None, lands: bool, path: Path) -> None:
    number = len(found.ticks)
    if frame.is_corrupt:
        found.damage = found.damage or f"the picture of frame {number} is broken and was concealed"
    if tick is not None and any(known is not None and tick < known for known in found.ticks[-1:]):
        found.damage = found.damage or f"time runs backwards at frame {number}"
    found.ticks.append(tick)
    if not number or (lands and tick is not None and number - found.landings[-1].frame >= APART):
        found.landings.append(Landing(number, tick or 0, fingerprint(frame)))
    found.first = found.first or frame
    found.sizes.add((frame.width, frame.height))
    if not number or frame.key_frame or frame.rotation:
        found.turns.add(orientation(path, frame))
    found.last_duration = float((frame.duration or 0) * (frame.time_base or 0))
    found.lasting += found.last_duration
    if len(found.sizes) > 1 or len(found.turns) > 1:
        shapes = f"sizes {sorted(found.sizes)}, turns {sorted(found.turns)}"
        raise VideoError(path, "unreadable", f"expected one picture size and one way to show it, got {shapes}")


class _Pixels:
    """Takes the checksums of the RGB that decord's are compared with: 0.1 ms a frame at 240p, three a landing."""

    def __init__(self, path: Path, found: _Survey) -> None:
        self.path, self.found, self.convert = path, found, VideoReformatter()
        self.before: av.VideoFrame | None = None

    def see(self, frame: av.VideoFrame) -> None:
        """Looks at the frame that was noted last."""
        number, landing = len(self.found.ticks) - 1, self.found.landings[-1].frame
        if number == landing and self.before is not None:
            self._take(number - 1, self.before)
        if number - landing < 2:
            self._take(number, frame)
        self.before = frame

    def end(self) -> None:
        """After the last frame."""
        if self.before is not None:
            self._take(len(self.found.ticks) - 1, self.before)

    def _take(self, number: int, frame: av.VideoFrame) -> None:
        self.found.pixels[number] = crc32(np.ascontiguousarray(as_rgb(self.path, self.convert, frame)))


def _placed(path: Path, survey: _Survey, stream: VideoStream) -> Fraction | None:
    """The constant rate of a stream's frames, if they have one; gives their ticks to frames before time zero.

    libavformat tells no times below zero of Matroska. At a constant rate they follow from the others.
    """
    ticks, base = survey.ticks, stream.time_base
    known = [tick for tick in ticks if tick is not None]
    untold = len(ticks) - len(known)
    if not known:
        if not ticks:
            return None
        raise VideoError(path, "unreadable", "frames have no times; remux it, for instance with ffmpeg -fflags +genpts")
    rate = constant_rate(known, base, (stream.average_rate, stream.guessed_rate)) if not survey.damage else None
    if untold:
        if rate is None or None in ticks[untold:]:
            said = f"{untold} frames have no times; remux it, for instance with ffmpeg -fflags +genpts"
            raise VideoError(path, "unreadable", said)
        survey.ticks = [known[0] - round(number / (rate * base)) for number in range(untold, 0, -1)] + known
        # No seek goes by a time that the container does not tell.
        survey.landings = [survey.landings[0]._replace(tick=survey.ticks[0]), *survey.landings[1:]]
    return rate


def _lasting(times: list[float], grid: Fraction | None, last: float, tick: float) -> float:
    """Seconds from the first frame's start to the last one's end.

    At a constant rate from the number of frames, as their starts are: a length that a container rounds to its tick
    would put a centre that lies on a frame's start before it, in one container and not in another.

    >>> _lasting([0.0, 0.083, 0.167], Fraction(12), 0.083, 0.001), _lasting([0.0, 0.083, 0.167], None, 3.0, 0.001)
    (0.25, 3.167)
    """
    if grid is None:
        return times[-1] - times[0] + last
    own = last if abs(last - 1 / grid) > tick else 0.0  # of a frame that stays on, as screen recorders' last one does
    return float((len(times) - 1) / grid + own) if own else float(len(times) / grid)


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
    with opened(path) as (container, _):
        try:
            for packet in container.demux():
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except av.FFmpegError as error:  # what cannot be read ends nothing later
            refuse_shortage(error, path)
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
