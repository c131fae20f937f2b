"""Frames at given times, native RGB. Knows no backbone: what a model wants done to pixels is the model's.

The rule, for every decoder: the frame at time t is the last one that starts at or before t, counted from the start of
the first frame; before the first, the first. "At" has a tolerance of one millisecond, because Matroska rounds times to
milliseconds: so the same film gives the same frames from a .webm and an .mp4. A picture is the same at every time.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import av
import decord
import numpy as np
from av.video.reformatter import VideoReformatter

from pipeline.video.facts import VideoError, VideoFacts, must_hold_bytes
from pipeline.video.pictures import read_picture
from pipeline.video.probing import as_rgb, clock, opened, probe
from pipeline.video.sampling import ROUNDING

Decoder = Literal["decord", "pyav"]


def read_frames(
    path: Path,
    times: Sequence[float] | np.ndarray,
    decoder: Decoder = "decord",
    facts: VideoFacts | None = None,
) -> np.ndarray:
    """The frames shown at `times`.

    Args:
        path: the video or picture.
        times: seconds from the start of the first frame, in any order, repeats allowed.
        decoder: "decord" where it is exact (`facts.decord_exact`) and PyAV elsewhere, or "pyav" everywhere.
        facts: what `probe(path)` said of these very bytes; without them the file is probed first, which costs a decode.
            A file that was cut since gives an error where its end is reached, not a repeated last frame.

    Returns:
        (len(times), H, W, 3) uint8 RGB, turned as the container says, otherwise as it is in the file.

    Raises:
        VideoError: as `probe` says.
    """
    facts = facts or probe(path)
    wanted = np.asarray(times, dtype=np.float64)
    if not wanted.size:
        return _room(0, facts)
    order = np.argsort(wanted, kind="stable")
    frames = next(iterate_frames(path, wanted[order], decoder, facts, len(wanted)))
    return frames if np.array_equal(order, np.arange(len(order))) else frames[np.argsort(order)]


def iterate_frames(
    path: Path,
    times: Sequence[float] | np.ndarray,
    decoder: Decoder = "decord",
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
        VideoError: as `probe` says. In pieces that came before it, nothing is wrong.
        ValueError: times that descend.
    """
    facts = facts or probe(path)
    wanted = np.asarray(times, dtype=np.float64)
    if np.any(np.diff(wanted) < 0):
        raise ValueError(f"times of {path} descend, expected them to ascend; sort them, or use read_frames")
    if not wanted.size:
        return
    if facts.still:
        yield from _of_picture(path, wanted, facts, piece)
    elif decoder == "decord" and facts.decord_exact:
        yield from _with_decord(path, wanted, facts, piece)
    else:
        yield from _with_pyav(path, wanted, facts, piece)


def frame_starts(path: Path, facts: VideoFacts) -> np.ndarray:
    """When each frame of a video is shown first: what `frames_at` needs to tell the number of a frame from a time.

    Where decord is exact it costs decord's index, elsewhere a decode.

    Returns:
        (facts.frames,) float64 seconds, ascending, counted from the first.

    Raises:
        VideoError: as `probe` says, or another number of frames than `facts` say.
    """
    must_hold_bytes(path)
    if facts.still:
        return np.zeros(1)
    if facts.decord_exact:
        with _decord_errors(path):
            return _decord_starts(_decord_reader(path, facts))
    ends = [end for _, end in _spans(path)]
    if len(ends) != facts.frames:
        raise _changed(path, f"{len(ends)} frames", facts)
    return np.array([0.0, *ends[:-1]])


def frames_at(starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The numbers of the frames shown at `times`, an array of any shape, by the rule of this module.

    >>> frames_at(np.array([0.0, 0.5, 1.0]), np.array([0.4, 0.4999, 0.5, 7.0])).tolist()
    [0, 1, 1, 2]
    """
    return (np.searchsorted(starts, times + ROUNDING, side="right") - 1).clip(min=0)


def _of_picture(path: Path, times: np.ndarray, facts: VideoFacts, piece: int) -> Iterator[np.ndarray]:
    frame = read_picture(path)
    if frame.shape != (facts.height, facts.width, 3):
        raise _changed(path, f"a picture of {frame.shape[1]} x {frame.shape[0]}", facts)
    for start in range(0, len(times), piece):
        yield frame[None].repeat(min(piece, len(times) - start), axis=0)


def _with_decord(path: Path, times: np.ndarray, facts: VideoFacts, piece: int) -> Iterator[np.ndarray]:
    with _decord_errors(path):
        reader = _decord_reader(path, facts)
        shown = frames_at(_decord_starts(reader), times)
        last, held = -1, _room(0, facts)
        for start in range(0, len(times), piece):
            indices, places = np.unique(shown[start : start + piece], return_inverse=True)
            # A frame that the piece before ended with is not read again: decord would go back to a key frame for it.
            fresh = indices[indices > last].tolist()
            frames = reader.get_batch(fresh).asnumpy() if fresh else held
            if len(fresh) < len(indices):
                frames = np.concatenate([held, frames]) if fresh else held
            last, held = int(indices[-1]), frames[-1:].copy()
            yield frames if len(frames) == len(places) else frames[places]


def _decord_reader(path: Path, facts: VideoFacts) -> decord.VideoReader:
    reader = decord.VideoReader(str(path), num_threads=1)
    if len(reader) != facts.frames:
        raise _changed(path, f"{len(reader)} frames", facts)
    return reader


def _decord_starts(reader: decord.VideoReader) -> np.ndarray:
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    return starts - starts[0]


@contextmanager
def _decord_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(path, "decode_error", f"decord fails: {str(error).strip().splitlines()[-1]}") from error


def _with_pyav(path: Path, times: np.ndarray, facts: VideoFacts, piece: int) -> Iterator[np.ndarray]:
    """One pass over the stream, up to the last frame wanted, with one converter for all frames."""
    waiting, convert = (times + ROUNDING).tolist(), VideoReformatter()
    done, out = 0, _room(min(piece, len(times)), facts)
    with closing(_spans(path)) as spans:
        for seen, (frame, end) in enumerate(spans, 1):
            if end == np.inf and seen != facts.frames:
                raise _changed(path, f"{seen} frames", facts)
            due = bisect_left(waiting, end, lo=done)
            if due == done:
                continue
            rgb = np.rot90(as_rgb(path, convert, frame), facts.rotation // 90)
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


def _room(n: int, facts: VideoFacts) -> np.ndarray:
    return np.empty((n, facts.height, facts.width, 3), np.uint8)


def _spans(path: Path) -> Iterator[tuple[av.VideoFrame, float]]:
    """Each decoded frame with the time at which the next one takes over, counted from the first; inf for the last."""
    with opened(path) as (container, stream):
        shown, start, time_of = None, 0.0, clock(container, stream)
        try:
            for index, frame in enumerate(container.decode(stream)):
                time = time_of(frame, index)
                if frame.is_corrupt or time is None:
                    raise VideoError(path, "decode_error", f"frame {index} is broken; fetch the file again")
                if shown is None:
                    start = time
                else:
                    yield shown, time - start
                shown = frame
        except av.FFmpegError as error:
            raise VideoError(path, "decode_error", f"decoding fails: {error.strerror}; fetch the file again") from error
        if shown is not None:
            yield shown, np.inf


def _changed(path: Path, got: str, facts: VideoFacts) -> VideoError:
    said = f"{facts.frames} frames of {facts.width} x {facts.height}"
    return VideoError(path, "decode_error", f"got {got}, but its facts say {said}; make the manifest again")
