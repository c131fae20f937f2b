"""Picture files to RGB: a still picture is a video of one frame. Knows no container, no video decoder, no sampling.

One that moves is no still picture: `moves` tells, and what can read its frames with their times is not here.

Seen: a file that is cut, one whose checksum fails (PNG), one whose decoder gives up. Not seen: damage inside a JPEG
that keeps its end, which its decoder conceals without a word, as a VP9 video's does.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.limits import MOST_PIXELS
from pipeline.memory import refuse_shortage
from pipeline.video.facts import PICTURES, VideoError, VideoFacts, cause_of, must_hold_bytes

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
# Of what moves: of these libavformat gives each frame and its time.
MOVING = ("GIF", "PNG")
# JPEG's markers but those that stand within the coded data of a picture.
MARKER, END_OF_IMAGE, START_OF_IMAGE = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])"), 0xD9, b"\xff\xd8\xff"
GIF_IMAGE, GIF_EXTENSION, GIF_END = 0x2C, 0x21, 0x3B
# 16 bits a pixel, in every byte order that Pillow names.
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its first bytes, or, where those say nothing, by its name."""
    try:
        with identified(path):
            return True
    except UnidentifiedImageError:
        return path.suffix.lower() in EXTENSIONS
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        refuse_shortage(error, path)
        return True  # one of the formats, though broken: `read_picture` says how


def moves(path: Path) -> int:
    """How many frames, each with its time, an animated GIF or PNG says that it has; 0 of a still picture.

    A phone's multi-picture JPEG is still: it shows its first.

    Raises:
        VideoError: short (a GIF that ends within a frame), unsupported (a WebP that moves, JPEGs or pages one after the
            other, which have no times); or as `read_picture` says of a file whose frames cannot be counted.
    """
    with translated(path), identified(path) as image:
        kind = str(image.format)
        if kind == "GIF" and _ends_within(path.read_bytes()):
            raise VideoError(path, "short", "it ends within a frame; fetch it again")
        frames = getattr(image, "n_frames", 1) - bool(getattr(image, "default_image", False))
        if kind == "JPEG":
            frames += _goes_on(path.read_bytes())
    if frames == 1 or kind == "MPO":
        return 0
    if kind in MOVING:
        return frames
    what = {"WEBP": "an animated WebP, which libavformat does not read", "TIFF": f"{frames} pages, which have no times"}
    said = what.get(kind, f"several pictures ({kind}) one after the other, which have no times")
    raise VideoError(path, "unsupported", f"{said}; convert it to a video, or keep the one picture that is meant")


def _ends_within(gif: bytes) -> bool:
    """Whether a GIF was cut within one of its blocks; decoders show half a frame then, without a word."""

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    place = 13 + colours(gif[10])
    while place < len(gif) and gif[place] != GIF_END:
        if gif[place] == GIF_IMAGE:
            place += 11 + colours(int.from_bytes(gif[place + 9 : place + 10]))
        elif gif[place] == GIF_EXTENSION:
            place += 2
        else:
            return False  # neither of the kinds of blocks: what it is, is the decoder's to say
        while (size := int.from_bytes(gif[place : place + 1])) > 0:
            place += 1 + size
        place += 1
    return place > len(gif)


def _goes_on(jpeg: bytes) -> bool:
    """Whether another JPEG follows right after the end of the first, as in a raw MJPEG stream."""
    place = 2
    while found := MARKER.search(jpeg, place):
        marker, place = found[1][0], found.end()
        if marker == END_OF_IMAGE:
            return jpeg[place:].lstrip(b"\0").startswith(START_OF_IMAGE)
        place += int.from_bytes(jpeg[place : place + 2])  # a segment, which may hold a whole thumbnail
    return False


def picture_facts(path: Path) -> VideoFacts:
    """The facts of a whole, readable picture: one frame without a duration. Decodes it. Raises as `read_picture`."""
    frame, codec = _decoded(path)
    height, width = frame.shape[:2]
    return VideoFacts(
        duration=0.0,
        frames=1,
        fps=0.0,
        width=width,
        height=height,
        codec=codec,
        rotation=0,
        edit_list=False,
        decord_doubt="a picture",
    )


def read_picture(path: Path) -> np.ndarray:
    """A picture as it is shown: upright, its first frame if it moves.

    Grey, palette and CMYK become RGB; of 16 bits the upper 8 are kept, as libpng does; transparency is dropped, so that
    a pixel has the colour that the file holds for it, as in torchvision's and CLIP's loaders.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        VideoError: unreadable (not a picture), unsupported (too large to be one, or pixels without a range that 8 bits
            could mean), short (cut), decode_error (broken inside).
    """
    return _decoded(path)[0]


@contextmanager
def identified(path: Path) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, whose limit is an error, and of odd metadata
        with Image.open(path, formats=[name.upper() for name in PICTURES]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")  # none is decoded yet
            yield image


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Whatever is wrong with a picture becomes its VideoError."""
    must_hold_bytes(path)
    try:
        yield
    except VideoError:
        raise
    except UnidentifiedImageError as error:
        raise VideoError(path, "unreadable", f"not a picture ({', '.join(PICTURES)}); fetch it again") from error
    except Image.DecompressionBombError as error:
        said = f"too large to be a picture: {error}; at most {MOST_PIXELS} are read: make it smaller"
        raise VideoError(path, "unsupported", said) from error
    except NotPixels as error:
        raise VideoError(path, "unsupported", str(error)) from error
    except Exception as error:  # Pillow's plugins raise many kinds; each means that these bytes are not a whole picture
        refuse_shortage(error, path)
        cause = cause_of(error) or type(error).__name__
        reason = "short" if "truncated" in cause.lower() else "decode_error"
        raise VideoError(path, reason, f"{cause}; fetch it again") from error


def _decoded(path: Path) -> tuple[np.ndarray, str]:
    with translated(path), identified(path) as image:
        codec = "jpeg" if image.format == "MPO" else str(image.format).lower()
        return np.array(to_rgb(ImageOps.exif_transpose(image))), codec


class NotPixels(ValueError):
    """A picture whose numbers do not say how bright they are; the message gives the remedy."""


SAVE_IT = "save it with 8 or 16 bits a colour"


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise NotPixels(f"its pixels are 32-bit numbers (mode {image.mode}); {SAVE_IT}")
    image.load()
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise NotPixels(f"its colours (mode {image.mode}) have no known way to RGB; {SAVE_IT}") from error
