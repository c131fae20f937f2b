"""Random scenes for pretraining, with dense ground truth. Knows no task's template and no network.

Shape suffixes: T frames, P steps of the motion grid, G cells a side of a grid.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.scene import TILT, Scene, Track, dress, ease, render
from pipeline.toyworld.shapes import COLOUR_NAMES, SHAPES

# What a cell knows of its object's motion, and the size that counts as one: fractions of the side or radians a frame,
# log radius a frame, and amplitudes of fast oscillation (fractions of the side, log radius, radians).
MOTIONS = {
    "velocity_x": 0.015,
    "velocity_y": 0.015,
    "speed": 0.015,
    "rotation": 0.08,
    "growth": 0.02,
    "shake_x": 0.03,
    "shake_y": 0.03,
    "pulse": 0.15,
    "rock": 0.2,
}
NOBODY = -1


@dataclass(frozen=True)
class GridTruth:
    """Per cell of a grid: whose it is and how much of it. Cells of nobody hold NOBODY and 0.

    owner: int, index of the object with the largest share; cover: float32 in [0, 1], its share of the cell's pixels.
    """

    owner: np.ndarray
    cover: np.ndarray


def grid_truth(owner_THW: np.ndarray, objects: int, steps: int, cells: int) -> GridTruth:
    """Reduces rendered ownership to a grid of (steps, cells, cells).

    Args:
        owner_THW: (T, H, W) int8 from `render`; T a multiple of steps, H and W of cells.
        objects: number of tracks.
        steps: P.
        cells: G.
    """
    frames, size, _ = owner_THW.shape
    blocks = owner_THW.reshape(steps, frames // steps, cells, size // cells, cells, size // cells)
    share = np.stack([(blocks == index).mean(axis=(1, 3, 5), dtype=np.float32) for index in range(objects)])
    cover = share.max(axis=0)
    return GridTruth(np.where(cover > 0, share.argmax(axis=0), NOBODY), cover)


def _choose(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[rng.integers(len(names))]


def still_scene(rng: np.random.Generator) -> Scene:
    """One picture: two to six objects anywhere."""
    tracks = [
        Track(_choose(rng, SHAPES), _choose(rng, COLOUR_NAMES), x, y, radius, angle)
        for x, y, radius, angle in rng.uniform(
            (0.08, 0.08, 0.1, -TILT), (0.92, 0.92, 0.19, TILT), (rng.integers(2, 7), 4)
        ).reshape(-1, 4, 1)
    ]
    return dress(rng, _choose(rng, BACKGROUNDS), tracks, 1)


def _improvise_track(rng: np.random.Generator, frames: int) -> tuple[Track, np.ndarray]:
    """An object on a random course, and its motion: (T, len(MOTIONS)) in the order and units of MOTIONS."""
    x, y = rng.uniform(0.1, 0.9, 2)
    growth = rotation = 0.0
    reach_x = reach_y = bend_x = bend_y = 0.0
    fidgets = rng.integers(8)
    # Mostly an object either goes somewhere or is busy on the spot.
    if rng.random() < (0.25 if fidgets < 5 else 0.7):
        heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.6)
        reach_x, reach_y = length * np.cos(heading), length * np.sin(heading)
        bend_x, bend_y = rng.normal(0, 0.06, 2)
    if rng.random() < 0.3:
        growth = rng.uniform(-0.8, 0.8)
    if rng.random() < 0.2:
        rotation = rng.choice([-1, 1]) * rng.uniform(0.02, 0.15)
    progress = ease(rng, frames)
    arch = 4 * progress * (1 - progress)
    course_x, course_y = x + reach_x * (progress - 0.5) + bend_x * arch, y + reach_y * (progress - 0.5) + bend_y * arch
    log_radius = np.log(rng.uniform(0.1, 0.16)) + growth * (progress - 0.5)
    angle = rng.uniform(-TILT, TILT) + rotation * np.arange(frames)

    time = np.arange(frames)
    lasts = (time >= rng.integers(0, 6)) & (time < frames - rng.integers(0, 6))
    beat = np.sin(2 * np.pi * time / rng.uniform(3.2, 6) + rng.uniform(0, 2 * np.pi)) * lasts
    shake, pulse, rock, heading = 0.0, 0.0, 0.0, rng.uniform(0, 2 * np.pi)
    match fidgets:
        case 0 | 1:
            shake = rng.uniform(0.03, 0.065)
        case 2 | 3:
            pulse = rng.uniform(0.18, 0.4)
        case 4:
            rock = rng.uniform(0.2, 0.6)
    shake_x, shake_y = shake * np.cos(heading), shake * np.sin(heading)

    velocity_x, velocity_y = np.gradient(course_x), np.gradient(course_y)
    motion = [
        velocity_x,
        velocity_y,
        np.hypot(velocity_x, velocity_y),
        np.full(frames, rotation),
        np.gradient(log_radius),
    ]
    motion += [amplitude * lasts for amplitude in (abs(shake_x), abs(shake_y), pulse, rock)]
    track = Track(
        _choose(rng, SHAPES),
        _choose(rng, COLOUR_NAMES),
        course_x + shake_x * beat,
        course_y + shake_y * beat,
        np.exp(log_radius + pulse * beat),
        angle + rock * beat,
    )
    return track, np.stack(motion, axis=1) / tuple(MOTIONS.values())


def moving_scene(rng: np.random.Generator, frames: int) -> tuple[Scene, list[np.ndarray]]:
    """Two to five objects on random courses, and each one's motion (T, len(MOTIONS))."""
    tracks, motions = zip(*(_improvise_track(rng, frames) for _ in range(rng.integers(2, 6))), strict=True)
    return dress(rng, _choose(rng, BACKGROUNDS), tracks, frames), list(motions)


@dataclass(frozen=True)
class Picture:
    """A rendered picture and what its patches and the whole of it show; G patches a side, -100 where there is nothing.

    pixels (size, size, 3) uint8; shape, colour (G, G) int64; cover (G, G) float32; place (G, G, 3) float32: offset of
    the object's centre from the patch's in radii (x, y) and log(radius / 0.14); background int; present (20,) float32.
    """

    pixels: np.ndarray
    shape: np.ndarray
    colour: np.ndarray
    cover: np.ndarray
    place: np.ndarray
    background: int
    present: np.ndarray


# A cell teaches its object's looks or motion when the object fills at least this share of it.
ENOUGH = 0.12


def picture(rng: np.random.Generator, size: int, cells: int) -> Picture:
    """Draws a still scene with its dense ground truth."""
    scene = still_scene(rng)
    frames, owner = render(scene, size)
    truth = grid_truth(owner, len(scene.tracks), 1, cells)
    index, cover = truth.owner[0], truth.cover[0]
    known = cover >= ENOUGH
    shapes = np.array([SHAPES.index(track.shape) for track in scene.tracks])
    colours = np.array([COLOUR_NAMES.index(track.colour) for track in scene.tracks])
    centre = np.array([(t.x_T[0], t.y_T[0]) for t in scene.tracks]) + scene.camera_T2[0]
    radius = np.array([t.radius_T[0] for t in scene.tracks])
    middle = (np.arange(cells) + 0.5) / cells
    here = np.stack(np.meshgrid(middle, middle), axis=-1)
    place = np.concatenate([(centre[index] - here) / radius[index, None], np.log(radius[index, None] / 0.14)], axis=-1)
    seen = np.unique(index[known])
    present = np.zeros(len(SHAPES) + len(COLOUR_NAMES), np.float32)
    present[shapes[seen]] = present[len(SHAPES) + colours[seen]] = 1
    return Picture(
        pixels=frames[0],
        shape=np.where(known, shapes[index], -100),
        colour=np.where(known, colours[index], -100),
        cover=cover,
        place=place.astype(np.float32),
        background=BACKGROUNDS.index(scene.background),
        present=present,
    )


@dataclass(frozen=True)
class Clip:
    """A rendered clip and what the cells of its motion grid show.

    pixels (T, size, size, 3) uint8; motion (P, G, G, len(MOTIONS)) float32, 0 where there is nothing; cover (P, G, G)
    float32; colour (P, G, G) int64, -100 where there is nothing; background int; shape as colour, for probes only.
    """

    pixels: np.ndarray
    motion: np.ndarray
    cover: np.ndarray
    colour: np.ndarray
    shape: np.ndarray
    background: int


def clip(rng: np.random.Generator, frames: int, size: int, steps: int, cells: int, window: int | None = None) -> Clip:
    """Draws a moving scene with its dense ground truth.

    Args:
        rng: decides everything.
        frames: length of the scene.
        size: side in pixels.
        steps: P, steps of the motion grid.
        cells: G, cells a side.
        window: frames that are rendered, anywhere in the scene; all by default.
    """
    scene, motions = moving_scene(rng, frames)
    if window:
        first = int(rng.integers(frames - window + 1))
        moments = slice(first, first + window)
        tracks = [track.during(moments) for track in scene.tracks]
        scene = replace(scene, tracks=tracks, camera_T2=scene.camera_T2[moments])
        motions = [motion[moments] for motion in motions]
    pixels, owner = render(scene, size)
    truth = grid_truth(owner, len(scene.tracks), steps, cells)
    known = truth.cover >= ENOUGH
    stepwise = np.stack([m.reshape(steps, -1, len(MOTIONS)).mean(axis=1) for m in motions])
    colours = np.array([COLOUR_NAMES.index(track.colour) for track in scene.tracks])
    shapes = np.array([SHAPES.index(track.shape) for track in scene.tracks])
    motion = stepwise[truth.owner, np.arange(steps)[:, None, None]] * known[..., None]
    return Clip(
        pixels=pixels,
        motion=motion.astype(np.float32),
        cover=truth.cover,
        colour=np.where(known, colours[truth.owner], -100),
        shape=np.where(known, shapes[truth.owner], -100),
        background=BACKGROUNDS.index(scene.background),
    )
