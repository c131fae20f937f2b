"""decord, which is believed only where it was proved. Everything that calls it. Knows no sampling.

decord finds its frames by number: it sorts the times of all packets, goes to the key frame before the number wanted,
and counts decoded frames from there. Its index does not tell whether the picture is the right one. Seen to be wrong:
H.264 in MPEG-TS (the seek lands one group late), open groups of pictures and intra refresh (the count begins at
pictures that are shown before the key frame, or are not whole yet), and a file with two video streams.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from zlib import crc32

import decord
import numpy as np

from pipeline.memory import refuse_shortage
from pipeline.video.facts import VideoError
from pipeline.video.landings import Landing
from pipeline.video.sampling import ROUNDING

# Where decord was measured to give PyAV's frames, bit for bit, at PyAV's times: these codecs in 8-bit 4:2:0.
CODECS = {"vp8", "vp9", "h264"}
PIXELS = {"yuv420p", "yuvj420p"}
# Of a long video, so many groups of pictures are read to their ends.
ENDS = 4

decord.logging.set_level(decord.logging.QUIET)


def doubt(
    path: Path, ticks: Sequence[int], time_base: Fraction, landings: Sequence[Landing], pixels: Mapping[int, int]
) -> str:
    """Why decord is not to be believed on a file; "" where it is proved.

    Its times must be those of the decoded frames, and, from the last landing to the first so that each is a seek, its
    pictures at each landing and right after it those of the sequential pass; and at the ends of a few groups of
    pictures, the last one among them, which proves that it neither drops nor adds a frame in between. A video of one
    landing is read from its start, as in the sequential pass, and its end costs all of it: that one is not tried.

    Args:
        path: the video.
        ticks: of each frame that PyAV decoded, in the order of showing.
        time_base: seconds a tick.
        landings: key frames, the first frame first.
        pixels: crc32 of the RGB of frames, by number: of each landing, the frame after it and the one before the next.
    """
    last = len(ticks) - 1
    ends = [*(landing.frame - 1 for landing in landings[1:]), last]
    tried = set(np.linspace(0, len(landings) - 1, min(ENDS, len(landings))).round().astype(int)) if landings[1:] else ()
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        seconds = np.subtract(ticks, ticks[0]) * float(time_base)
        # decord's times are float32.
        if len(starts) != len(ticks) or np.any(
            np.abs(starts - starts[0] - seconds) > ROUNDING + np.abs(starts) * 2.0**-22
        ):
            return "its index has other frames or times"
        for place in range(len(landings) - 1, -1, -1):
            start = landings[place].frame
            # Backwards at the first landing, where decord stands when it is the only one: so that it seeks.
            pair = (start, min(start + 1, last)) if place else (min(1, last), 0)
            for number in (*pair, *([ends[place]] if place in tried else [])):
                if crc32(np.ascontiguousarray(reader[number].asnumpy())) != pixels.get(number):
                    return f"it gives another picture than frame {number}"
    except (decord.DECORDError, RuntimeError) as error:
        refuse_shortage(error, path)
        return "it fails to read it"
    return ""


def iterate(path: Path, numbers: np.ndarray, frames: int, piece: int) -> Iterator[np.ndarray]:
    """The frames of these numbers, ascending, repeats allowed, in pieces: (piece, H, W, 3) uint8.

    Raises:
        VideoError: decord fails, or holds another number of frames than `frames`.
    """
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) != frames:
            said = f"got {len(reader)} frames, but its facts say {frames} frames; make the manifest again"
            raise VideoError(path, "decode_error", said)
        last, held = -1, None
        for start in range(0, len(numbers), piece):
            indices, places = np.unique(numbers[start : start + piece], return_inverse=True)
            # A frame that the piece before ended with is not read again: decord would go back to a key frame for it.
            fresh = indices[indices > last].tolist()
            read = [] if held is None or indices[0] > last else [held]
            if fresh:
                read.append(reader.get_batch(fresh).asnumpy())
            taken = np.concatenate(read) if len(read) > 1 else read[0]
            last, held = int(indices[-1]), taken[-1:].copy()
            yield taken if len(taken) == len(places) else taken[places]
    except (decord.DECORDError, RuntimeError) as error:
        refuse_shortage(error, path)
        raise VideoError(path, "decode_error", f"decord fails: {str(error).strip().splitlines()[-1]}") from error
