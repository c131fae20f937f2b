"""Frames at given times, native RGB. Knows no backbone: what a model wants done to pixels is the model's.

The rule, for every decoder: the frame at time t is the last one that starts at or before t, counted from the start of
the first frame; before the first, the first. "At" has a tolerance of one millisecond, because Matroska rounds times to
milliseconds: so the same film gives the same frames from a .webm and an .mp4.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import av
import decord
import numpy as np
from av.video.reformatter import VideoReformatter

from pipeline.video.facts import ROUNDING, VideoError, VideoFacts, opened, probe, shown_at


def segment_centres(n: int, duration: float) -> np.ndarray:
    """The centres of n equal segments.

    Args:
        n: number of segments, at least 1.
        duration: seconds.

    Returns:
        (n,) float64 seconds, t_i = (i + 0.5) / n * duration.

    >>> segment_centres(4, 2.0).tolist()
    [0.25, 0.75, 1.25, 1.75]
    """
    return (np.arange(n) + 0.5) / n * duration


def read_frames(
    path: Path,
    times: Sequence[float] | np.ndarray,
    decoder: Literal["decord", "pyav"] = "decord",
    facts: VideoFacts | None = None,
) -> np.ndarray:
    """The frames shown at `times`.

    Args:
        path: the video.
        times: seconds from the start of the first frame, in any order, repeats allowed.
        decoder: "decord" where it is exact (`facts.decord_exact`) and PyAV elsewhere, or "pyav" everywhere.
        facts: what `probe(path)` said of these very bytes; without them the file is probed first, which costs a decode.

    Returns:
        (len(times), H, W, 3) uint8 RGB, turned as the container says, otherwise as it is in the file.

    Raises:
        VideoError: as `probe` says.
    """
    facts = facts or probe(path)
    wanted = np.asarray(times, dtype=np.float64)
    read = _with_decord if decoder == "decord" and facts.decord_exact else _with_pyav
    return read(path, wanted, facts)


def _with_decord(path: Path, times: np.ndarray, facts: VideoFacts) -> np.ndarray:
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) != facts.frames:
            raise _changed(path, f"{len(reader)} frames", facts)
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        shown = np.searchsorted(starts - starts[0], times + ROUNDING, side="right") - 1
        indices, places = np.unique(shown.clip(min=0), return_inverse=True)
        return reader.get_batch(indices.tolist()).asnumpy()[places]
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(path, "decode_error", f"decord fails: {str(error).strip().splitlines()[-1]}") from error


def _with_pyav(path: Path, times: np.ndarray, facts: VideoFacts) -> np.ndarray:
    """One pass over the stream, up to the last frame wanted, with one converter for all frames."""
    order = np.argsort(times, kind="stable")
    waiting = times[order] + ROUNDING
    out = np.empty((len(times), facts.height, facts.width, 3), np.uint8)
    done, convert = 0, VideoReformatter()
    with closing(_spans(path)) as spans:
        for frame, end in spans:
            due = int(np.searchsorted(waiting, end, side="left"))
            if due > done:
                rgb = np.rot90(convert.reformat(frame, format="rgb24", threads=1).to_ndarray(), facts.rotation // 90)
                if rgb.shape != out.shape[1:]:
                    raise _changed(path, f"frames of {rgb.shape[1]} x {rgb.shape[0]}", facts)
                out[order[done:due]] = rgb
                done = due
            if done == len(times):
                return out
    raise _changed(path, "no frame", facts)


def _spans(path: Path) -> Iterator[tuple[av.VideoFrame, float]]:
    """Each decoded frame with the time at which the next one takes over, counted from the first; inf for the last."""
    with opened(path) as (container, stream):
        shown, start = None, 0.0
        try:
            for index, frame in enumerate(container.decode(stream)):
                time = shown_at(frame, index, stream)
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
