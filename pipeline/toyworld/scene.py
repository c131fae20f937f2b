"""Scenes and their rendering: objects on tracks over a background, seen by a shaky, noisy camera. Knows no task.

A scene is its own ground truth: positions, radii and angles of every object in every frame. Lengths are fractions of
the frame's side, y points down, angles are in radians; so a scene can be rendered at any size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import map_coordinates

from pipeline.toyworld.backgrounds import texture
from pipeline.toyworld.shapes import COLOURS, EXTENT, TABLE, distance_table

# The background reaches this far beyond each side of the frame; the camera may shake by less.
MARGIN = 1 / 16
# Objects stand upright within this many radians, as most things do; turning over is left to their motion.
TILT = 0.5


@dataclass(frozen=True)
class Track:
    """One object through time; all arrays are (T,) float64."""

    shape: str
    colour: str | tuple[float, ...]  # a name of COLOURS, or RGB in [0, 255]
    x_T: np.ndarray
    y_T: np.ndarray
    radius_T: np.ndarray
    angle_T: np.ndarray

    @property
    def name(self) -> str:
        """What a person would call it: `a red star`. Of a colour that has a name."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.shape}"

    def during(self, moments: slice) -> "Track":
        """The same object at some of its frames; `slice(None, None, -1)` lets time run backwards."""
        return Track(self.shape, self.colour, *(a[moments] for a in (self.x_T, self.y_T, self.radius_T, self.angle_T)))


@dataclass(frozen=True)
class Scene:
    """What the camera sees. `tracks` run from back to front; `camera_T2` moves the whole picture by (x, y)."""

    background: str
    tracks: Sequence[Track]
    camera_T2: np.ndarray
    texture_seed: int
    gain: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)
    noise: float = 0.0
    frames: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", len(self.camera_T2))
        if self.frames and np.abs(self.camera_T2).max() >= MARGIN:
            raise ValueError(
                f"the camera moves by {np.abs(self.camera_T2).max():.3f} of the side; keep it under {MARGIN}"
            )


def camera_shake(rng: np.random.Generator, frames: int, amplitude: float) -> np.ndarray:
    """A hand-held camera's drift: three slow sines a direction. Returns (T, 2), each within +-3 amplitudes / sqrt 3."""
    periods, phases = rng.uniform(8, 40, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 2))
    time = np.arange(frames)[:, None, None]
    return amplitude / math.sqrt(3) * np.sin(2 * np.pi * time / periods + phases).sum(axis=1)


def ease(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Progress from 0 to 1 with a smooth start and end at random times. Returns (T,)."""
    start, stop = rng.uniform(0, 0.2), rng.uniform(0.8, 1)
    share = np.clip((np.linspace(0, 1, frames) - start) / (stop - start), 0, 1)
    return share * share * (3 - 2 * share)


def still(rng: np.random.Generator, shape: str, colour: str, frames: int, smallest: float, largest: float) -> Track:
    """An object that stays where it is, upright within TILT, most of it in view; radii in fractions of the side."""
    radius = rng.uniform(smallest, largest)
    x, y = rng.uniform(0.8 * radius, 1 - 0.8 * radius, 2)
    return Track(shape, colour, *(np.full(frames, value) for value in (x, y, radius, rng.uniform(-TILT, TILT))))


def dress(rng: np.random.Generator, background: str, tracks: Sequence[Track], frames: int) -> Scene:
    """Puts tracks in front of a camera with random light, noise and shake."""
    return Scene(
        background=background,
        tracks=tracks,
        camera_T2=camera_shake(rng, frames, rng.uniform(0.002, 0.008)),
        texture_seed=int(rng.integers(2**31)),
        gain=rng.uniform(0.8, 1.1),
        slope=(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)),
        noise=rng.uniform(1, 5),
    )


def render(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Renders a scene.

    Args:
        scene: what to draw.
        size: side of the square frames in pixels.

    Returns:
        frames: (T, size, size, 3) uint8 RGB.
        owner: (T, size, size) int8, the index in `scene.tracks` of the object seen at each pixel; -1 is background.
    """
    rng = np.random.default_rng(scene.texture_seed)
    margin = math.ceil(MARGIN * size)
    ground = texture(scene.background, rng, size + 2 * margin)
    grain = rng.standard_normal((size + 16, size + 16, 3), dtype=np.float32) * np.float32(scene.noise)
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    light = np.float32(scene.gain) * (1 + scene.slope[0] * ramp[None, :, None] + scene.slope[1] * ramp[:, None, None])
    light = light.astype(np.float32)
    frames = np.empty((scene.frames, size, size, 3), np.uint8)
    owner = np.full((scene.frames, size, size), -1, np.int8)
    for t in range(scene.frames):
        shift_x, shift_y = scene.camera_T2[t] * size
        canvas = _shifted(ground, margin - shift_x, margin - shift_y, size)
        for index, track in enumerate(scene.tracks):
            _draw(canvas, owner[t], index, track, t, shift_x, shift_y)
        canvas *= light
        row, column = rng.integers(0, 16, 2)
        canvas += grain[row : row + size, column : column + size]
        np.clip(canvas, 0, 255, out=canvas)
        frames[t] = canvas
    return frames, owner


def _shifted(ground: np.ndarray, left: float, top: float, size: int) -> np.ndarray:
    """The window of `size` at a fractional corner, by bilinear interpolation."""
    column, row = int(left), int(top)
    share_x, share_y = np.float32(left - column), np.float32(top - row)
    rows = ground[row : row + size + 1, column : column + size + 1]
    rows = rows[:-1] * (1 - share_y) + rows[1:] * share_y
    return rows[:, :-1] * (1 - share_x) + rows[:, 1:] * share_x


def _draw(
    canvas: np.ndarray, owner: np.ndarray, index: int, track: Track, t: int, shift_x: float, shift_y: float
) -> None:
    """Draws one object into a float32 canvas and marks the pixels it owns; both are changed in place."""
    size = len(canvas)
    x, y = track.x_T[t] * size + shift_x, track.y_T[t] * size + shift_y
    radius, angle = track.radius_T[t] * size, track.angle_T[t]
    reach = 1.8 * radius
    left, right = max(0, math.floor(x - reach)), min(size, math.ceil(x + reach))
    top, bottom = max(0, math.floor(y - reach)), min(size, math.ceil(y + reach))
    if left >= right or top >= bottom:
        return
    dx = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x))[None, :]
    dy = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y))[:, None]
    cos, sin = np.float32(math.cos(angle) / radius), np.float32(math.sin(angle) / radius)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    scale = np.float32((TABLE - 1) / (2 * EXTENT))
    distance = map_coordinates(
        distance_table(track.shape),
        [(v + EXTENT) * scale, (u + EXTENT) * scale],
        order=1,
        mode="nearest",
        prefilter=False,
    ) * np.float32(radius)
    cover = np.clip(0.5 - distance, 0, 1)
    # A dark rim parts the object from a background of its own colour; a darker half makes turning visible.
    rim = np.clip(distance + 0.5 + size / 64, 0, 1)
    half = np.clip(0.5 + u * np.float32(radius), 0, 1)
    shade = (1 - 0.55 * rim) * (1 - 0.3 * half)
    colour = np.float32(COLOURS[track.colour] if isinstance(track.colour, str) else track.colour)
    window = canvas[top:bottom, left:right]
    window += cover[..., None] * (shade[..., None] * colour - window)
    owner[top:bottom, left:right][cover > 0.5] = index
