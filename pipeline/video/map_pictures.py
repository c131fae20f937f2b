"""Picture files whose pixels are numbers and not colours: masks and maps. Knows no array, no video and no unit.

What says how much lies in a picture's grey levels or in its alpha. What says which, such as the labels behind a
palette, is no map: its colours have no order.
"""

from pathlib import Path

import numpy as np
from PIL import ImageOps

from pipeline.video.pictures import DEEP, NotPixels, identified, to_rgb, translated


def read_map_picture(path: Path) -> np.ndarray:
    """The numbers of a picture, as the file has them; of several pictures the first.

    Alpha is the map where it is not the same everywhere and the colours under it are; where it is the same everywhere,
    the colours are. A picture of one colour of which nothing is seen is an empty map, whatever the colour: the frame
    without an object, among masks that lie in alpha. A palette is looked up, if all that is used of it is grey.

    Returns:
        (H, W, 3), uint8, or uint16 of a grey picture of 16 bits; three equal channels of what has one.

    Raises:
        VideoError: as `read_picture` says; and unsupported where a palette has colours, where alpha and colours both
            vary, and of 16 bits in several channels.
    """
    with translated(path), identified(path) as image:
        deep = ";16" in str(image.tile)
        upright = ImageOps.exif_transpose(image)
        if upright.mode in DEEP:
            return _three(np.asarray(upright).astype(np.uint16))
        if deep:
            raise NotPixels("it holds 16 bits in each of several channels; save the one that is meant, as grey")
        indexed = upright.mode in ("P", "PA")
        if upright.has_transparency_data:
            rgba_HWC = np.array(upright.convert("RGBA"))
            alpha_HW, colours_HWC = rgba_HWC[..., 3], rgba_HWC[..., :3]
            if alpha_HW.min() < alpha_HW.max():
                return _three(_of_alpha(alpha_HW, colours_HWC))
            if not alpha_HW.any() and (colours_HWC == colours_HWC[0, 0]).all():
                return _three(alpha_HW)
        else:
            colours_HWC = np.array(to_rgb(upright))
        if indexed and (colours_HWC != colours_HWC[..., :1]).any():
            raise NotPixels(
                "its palette gives a colour to each label, and colours have no order; save the mask of what is meant, "
                "as grey of 0 and 255"
            )
        return colours_HWC


def _of_alpha(alpha_HW: np.ndarray, colours_HWC: np.ndarray) -> np.ndarray:
    """Alpha, where the colours add nothing to it: one colour wherever something is seen, or alpha once more."""
    seen = colours_HWC[alpha_HW > 0]
    if (seen == seen[0]).all() or (colours_HWC == alpha_HW[..., None]).all():
        return alpha_HW
    raise NotPixels("its alpha is one map and its colours are another; save the one that is meant, as grey")


def _three(values_HW: np.ndarray) -> np.ndarray:
    return np.repeat(values_HW[..., None], 3, axis=2)
