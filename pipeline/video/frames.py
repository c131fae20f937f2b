"""Frames at given times, native RGB. Knows no backbone: what a model wants done to pixels is the model's.

The rule, for every decoder: the frame at time t is the last one that starts at or before t, counted from the start of
the first frame; before the first, the first. `pipeline.video.timing` says when a frame starts, in integers. A picture
is the same at every time.

PyAV, by time stamps, is the reference. It passes over a stream from its start, and leaps ahead to a key frame where
that spares it more than `LEAP` frames: eight frames of an hour cost about eight groups of pictures. A leap is proved by
the checksum of the key frame that the manifest holds; where it fails, decoding begins earlier, at last at the start.
This is what `auto` means, for every file: decord goes over all packets to make its index before it leaps to the same
key frames, and took longer on every video that was measured, short or long (`python -m benchmarks.decode`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from pipeline.limits import MOST_DECODED
from pipeline.memory import refuse_shortage
from pipeline.video import by_decord, by_torchcodec, proofs
from pipeline.video.facts import UNTRIED, VideoError, VideoFacts, must_hold_bytes
from pipeline.video.landings import Landing, fingerprint, loaded
from pipeline.video.pictures import read_picture
from pipeline.video.probing import as_rgb, opened, probe
from pipeline.video.timing import MICROSECONDS, Clock, at_rate, at_tick, microseconds

Decoder = Literal["auto", "pyav", "decord", "torchcodec", "torchcodec_cuda"]

# A leap costs about as much as so many frames.
LEAP = 24
# A seek may land late by a group of pictures (MPEG-TS): so many are tried, each from one landing earlier.
TRIES = 3


def read_frames(
    path: Path,
    times: Sequence[float] | np.ndarray,
    decoder: Decoder = "auto",
    facts: VideoFacts | None = None,
) -> np.ndarray:
    """The frames shown at `times`.

    Args:
        path: the video or picture.
        times: seconds from the start of the first frame, or of the clip that `facts` are of, in any order, repeats
            allowed.
        decoder: "auto" or "pyav" (the same frames at the same price), or one that fails where it is not proved:
            "decord", by `facts.decord_doubt` or by a trial that costs more than the reading, or "torchcodec" or
            "torchcodec_cuda", by a trial of every frame whose outcome is kept (`pipeline.video.proofs`).
        facts: what `probe(path)` said of these very bytes; without them the file is probed first, which costs a decode.
            A file that was cut since gives an error where its end is reached, not a repeated last frame.

    Returns:
        (len(times), H, W, 3) uint8 RGB, turned as the container says, otherwise as it is in the file.

    Raises:
        VideoError: as `probe` says; unproved (the decoder that is asked for is not proved on this file); unsupported
            (frames that take more than `limits.MOST_DECODED`).
        DecoderMissing: torchcodec is asked for, and not there.
    """
    facts = facts or probe(path)
    wanted = np.asarray(times, dtype=np.float64)
    if not wanted.size:
        return _room(0, facts)
    if (asked := len(wanted) * facts.height * facts.width * 3) > MOST_DECODED:
        said = (
            f"{len(wanted)} frames of {facts.width} x {facts.height} are {asked} bytes, {MOST_DECODED} are read at once"
        )
        raise VideoError(path, "unsupported", f"{said}; make it smaller, or sample fewer frames")
    order = np.argsort(wanted, kind="stable")
    frames = next(iterate_frames(path, wanted[order], decoder, facts, len(wanted)))
    return frames if np.array_equal(order, np.arange(len(order))) else frames[np.argsort(order)]


def iterate_frames(
    path: Path,
    times: Sequence[float] | np.ndarray,
    decoder: Decoder = "auto",
    facts: VideoFacts | None = None,
    piece: int = 256,
) -> Iterator[np.ndarray]:
    """The frames of `read_frames`, in pieces, in one pass over the video: for videos longer than memory.

    Args:
        path, decoder, facts: as for `read_frames`.
        times: ascending, repeats allowed.
        piece: most frames at once. One piece is in memory, besides those that the caller keeps.

    Yields:
        (piece, H, W, 3) uint8 RGB, the last one shorter where need be; nothing for no times.

    Raises:
        VideoError: as `read_frames` says. In pieces that came before it, nothing is wrong.
        ValueError: times that descend.
    """
    facts = facts or probe(path)
    wanted = np.asarray(times, dtype=np.float64)
    if np.any(np.diff(wanted) < 0):
        raise ValueError(f"times of {path} descend, expected them to ascend; sort them, or use read_frames")
    if not wanted.size:
        return
    wanted = _within(wanted, facts)
    if facts.still:
        yield from _of_picture(path, wanted, facts, piece)
    elif decoder == "decord":
        doubt = facts.decord_doubt
        if doubt == UNTRIED:
            doubt = probe(path, decord=True).decord_doubt
        if doubt:
            raise VideoError(path, "unproved", f"decord is not proved to give its frames ({doubt}); use decoder: auto")
        starts = frame_starts(path, replace(facts, start=None))
        yield from by_decord.iterate(path, frames_at(starts, wanted), facts.frames, piece)
    elif decoder in by_torchcodec.DEVICES:
        yield from _with_torchcodec(path, wanted, decoder, replace(facts, start=None), piece)
    else:
        yield from _with_pyav(path, wanted, facts, piece)


def frame_starts(path: Path, facts: VideoFacts) -> np.ndarray:
    """When each frame of a video is shown first: what `frames_at` needs to tell the number of a frame from a time.

    At a constant rate the facts say it. Elsewhere it costs a decode.

    Returns:
        (facts.frames,) float64 seconds, ascending, whole microseconds, counted from the first, or from where the clip
        begins that `facts` are of: those of frames before it are below zero.

    Raises:
        VideoError: as `probe` says, or another number of frames than `facts` say.
    """
    must_hold_bytes(path)
    if facts.start is not None:
        return frame_starts(path, replace(facts, start=None)) - facts.start
    if facts.rate is not None:
        return np.array([at_rate(number, facts.rate) for number in range(facts.frames)]) / MICROSECONDS
    if facts.still:
        return np.zeros(1)
    starts = [0] + [end for _, _, end in _spans(path, replace(facts, key_frames=""), lambda: 0) if end is not None]
    if len(starts) != facts.frames:
        raise _changed(path, f"{len(starts)} frames", facts)
    return np.array(starts) / MICROSECONDS


def frames_at(starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The numbers of the frames shown at `times`, an array of any shape, by the rule of this module.

    >>> frames_at(np.array([0.0, 0.5, 1.0]), np.array([0.4, 0.4999, 0.5, 7.0])).tolist()
    [0, 0, 1, 2]
    """
    return (np.searchsorted(microseconds(starts), microseconds(times), side="right") - 1).clip(min=0)


def _within(times: np.ndarray, facts: VideoFacts) -> np.ndarray:
    """Times of the file, of times of a clip in it: what is asked of before or after it, is its first or last frame."""
    if facts.start is None:
        return times
    return facts.start + times.clip(0, max(0.0, facts.duration - 1 / MICROSECONDS))


def _of_picture(path: Path, times: np.ndarray, facts: VideoFacts, piece: int) -> Iterator[np.ndarray]:
    frame = read_picture(path)
    if frame.shape != (facts.height, facts.width, 3):
        raise _changed(path, f"a picture of {frame.shape[1]} x {frame.shape[0]}", facts)
    for start in range(0, len(times), piece):
        yield frame[None].repeat(min(piece, len(times) - start), axis=0)


def _with_pyav(path: Path, times: np.ndarray, facts: VideoFacts, piece: int) -> Iterator[np.ndarray]:
    """One way over the stream, up to the last frame wanted, with one converter for all frames."""
    waiting, convert = microseconds(times).tolist(), VideoReformatter()
    done, out = 0, _room(min(piece, len(times)), facts)
    with closing(_spans(path, facts, lambda: waiting[done])) as spans:
        for frame, number, end in spans:
            if end is None and number + 1 != facts.frames:
                raise _changed(path, f"{number + 1} frames", facts)
            due = len(waiting) if end is None else bisect_left(waiting, end, lo=done)
            if due == done:
                continue
            rgb = _shown(as_rgb(path, convert, frame), facts)
            if rgb.shape != out.shape[1:]:
                raise _changed(path, f"frames of {rgb.shape[1]} x {rgb.shape[0]}", facts)
            while done < due:
                filled = done % piece
                count = min(due - done, len(out) - filled)
                out[filled : filled + count] = rgb
                done += count
                if filled + count == len(out):
                    yield out
                    out = _room(min(piece, len(times) - done), facts)
            if done == len(times):
                return
    raise _changed(path, "no frame", facts)


def _with_torchcodec(
    path: Path, times: np.ndarray, decoder: str, facts: VideoFacts, piece: int
) -> Iterator[np.ndarray]:
    versions = by_torchcodec.expect(decoder) | {"PyAV": av.__version__}
    libraries = " ".join([decoder, *(f"{name}-{version}" for name, version in versions.items())])
    starts, of = frame_starts(path, facts), proofs.identity(path, facts)
    if (doubt := proofs.recalled(libraries, of)) is None:
        at_once = max(1, by_torchcodec.TRIED_BYTES // (3 * facts.height * facts.width))
        doubt = by_torchcodec.doubt(path, decoder, facts, starts, _with_pyav(path, starts, facts, at_once))
        proofs.keep(libraries, of, doubt)
    if doubt:
        raise VideoError(path, "unproved", f"{decoder} is not proved to give its frames ({doubt}); use decoder: auto")
    yield from by_torchcodec.iterate(path, decoder, frames_at(starts, times), facts, starts, piece)


def _shown(rgb: np.ndarray, facts: VideoFacts) -> np.ndarray:
    """A decoded frame as it is to be shown."""
    return np.rot90(rgb[:, ::-1] if facts.mirrored else rgb, facts.rotation // 90)


def _room(n: int, facts: VideoFacts) -> np.ndarray:
    return np.empty((n, facts.height, facts.width, 3), np.uint8)


# --- the stream's frames, one after the other, with leaps -------------------------------------------------------------


def _spans(path: Path, facts: VideoFacts, due: Callable[[], int]) -> Iterator[tuple[av.VideoFrame, int, int | None]]:
    """Decoded frames, their numbers, and when the next one takes over: microseconds from the first; None for the last.

    Args:
        due: the next time that is wanted; frames that end before it may be left out.
    """
    try:
        yield from _walk(path, facts, loaded(facts.key_frames), due)
    except _NotLanded:
        yield from _walk(path, facts, [], due)


def _walk(
    path: Path, facts: VideoFacts, landings: list[Landing], due: Callable[[], int]
) -> Iterator[tuple[av.VideoFrame, int, int | None]]:
    with opened(path) as (container, stream):
        film = _Film(path, container, stream, told=facts.rate is None)
        first = landings[0].tick if landings else None
        begins = [_start(entry.frame, entry.tick, first, facts.rate, stream.time_base) for entry in landings]
        shown, number, frames = None, -1, film.frames()  # `number` is of the frame shown
        while True:
            place = bisect_right(begins, due()) - 1
            if place > 0 and landings[place].frame - number > LEAP:
                frames, shown = film.leap(landings, place), None
                number = landings[place].frame - 1
            frame, tick = next(frames, (None, None))
            if frame is None:
                break
            first = tick if first is None else first
            if shown is not None:
                yield shown, number, _start(number + 1, tick, first, facts.rate, stream.time_base)
            shown, number = frame, number + 1
        if shown is not None:
            yield shown, number, None


def _start(number: int, tick: int | None, first: int | None, rate: Fraction | None, time_base: Fraction) -> int:
    return at_tick(tick - first, time_base) if rate is None else at_rate(number, rate)


class _NotLanded(Exception):
    """No seek led to a key frame."""


class _Film:
    """The frames of an opened stream. `told`: its frames' own times are needed, so each must have one."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, told: bool) -> None:
        self.path, self.container, self.stream, self.told = path, container, stream, told
        self.clock = Clock(container, stream)
        self.sure = True  # what is decoded now is right, or the file is broken

    def frames(self) -> Iterator[tuple[av.VideoFrame, int | None]]:
        """From where the container stands, with their ticks. Raises VideoError where the decoder reports damage."""
        for packet in self._packets():
            self.clock.saw(packet)
            for frame in self._decoded(packet):
                tick = self.clock.tick(frame)
                if self.sure and (frame.is_corrupt or (tick is None and self.told)):
                    raise VideoError(self.path, "decode_error", "a frame is broken; fetch the file again")
                yield frame, tick

    def leap(self, landings: Sequence[Landing], place: int) -> Iterator[tuple[av.VideoFrame, int | None]]:
        """The frames from a landing on, which is the picture that its checksum says."""
        goal = landings[place]
        self.sure = False
        for begin in landings[place : max(0, place - TRIES) : -1]:
            self.container.seek(begin.tick, stream=self.stream)
            self.clock.reset()
            frames = self.frames()
            for frame, tick in frames:
                if tick is not None and tick >= goal.tick:
                    if tick == goal.tick and fingerprint(frame) == goal.crc:
                        self.sure = True
                        return chain([(frame, tick)], frames)
                    break
        raise _NotLanded

    def _packets(self) -> Iterator[av.Packet]:
        try:
            yield from self.container.demux(self.stream)
        except av.FFmpegError as error:
            refuse_shortage(error, self.path)
            raise self._broken(error) from error

    def _decoded(self, packet: av.Packet) -> list[av.VideoFrame]:
        try:
            return packet.decode()
        except av.FFmpegError as error:
            refuse_shortage(error, self.path)
            if not self.sure:  # before a landing there may be pictures that lean on what was not read
                return []
            raise self._broken(error) from error

    def _broken(self, error: av.FFmpegError) -> VideoError:
        return VideoError(self.path, "decode_error", f"decoding fails: {error.strerror}; fetch the file again")


def _changed(path: Path, got: str, facts: VideoFacts) -> VideoError:
    said = f"{facts.frames} frames of {facts.width} x {facts.height}"
    return VideoError(path, "decode_error", f"got {got}, but its facts say {said}; make the manifest again")
