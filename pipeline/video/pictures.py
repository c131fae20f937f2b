"""Picture files to RGB: a still picture is a video of one frame. Knows no container, no video decoder, no sampling.

Seen: a file that is cut, one whose checksum fails (PNG), one whose decoder gives up. Not seen: damage inside a JPEG
that keeps its end, which its decoder conceals without a word, as a VP9 video's does.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.video.facts import PICTURES, VideoError, VideoFacts, must_hold_bytes

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
# Pillow's own limit: a header can promise more memory than any machine has.
MOST_PIXELS = 2 * 89_478_485
# 16 bits a pixel, in every byte order that Pillow names.
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its first bytes, or, where those say nothing, by its name."""
    try:
        with _identified(path):
            return True
    except UnidentifiedImageError:
        return path.suffix.lower() in EXTENSIONS
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return True  # one of the formats, though broken: `read_picture` says how


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
        VideoError: unreadable (not a picture, too large to be one, or pixels without a range that 8 bits could mean),
            short (cut), decode_error (broken inside).
    """
    return _decoded(path)[0]


@contextmanager
def _identified(path: Path) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, whose limit is an error, and of odd metadata
        with Image.open(path, formats=[name.upper() for name in PICTURES]) as image:
            yield image


def _decoded(path: Path) -> tuple[np.ndarray, str]:
    must_hold_bytes(path)
    try:
        with _identified(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            # A phone's multi-picture JPEG shows its first.
            codec = "jpeg" if image.format == "MPO" else str(image.format).lower()
            return np.array(_rgb(ImageOps.exif_transpose(image))), codec
    except UnidentifiedImageError as error:
        raise VideoError(path, "unreadable", f"not a picture ({', '.join(PICTURES)}); fetch it again") from error
    except Image.DecompressionBombError as error:
        raise VideoError(path, "unreadable", f"too large to be a picture: {error}") from error
    except NotPixels as error:
        raise VideoError(path, "unreadable", f"{error}; save it with 8 or 16 bits a colour") from error
    except Exception as error:  # Pillow's plugins raise many kinds; each means that these bytes are not a whole picture
        cause = str(error) or type(error).__name__
        reason = "short" if "truncated" in cause.lower() else "decode_error"
        raise VideoError(path, reason, f"{cause}; fetch it again") from error


class NotPixels(ValueError):
    """A picture whose numbers do not say how bright they are."""


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise NotPixels(f"its pixels are 32-bit numbers (mode {image.mode})")
    image.load()
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise NotPixels(f"its colours (mode {image.mode}) have no known way to RGB") from error
