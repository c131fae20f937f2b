"""Short windows of someone handling an object, for pretraining, with ground truth. Knows no task and no network.

Shape suffixes: T frames, P steps and G cells a side of a grid.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.scene import TILT, Track, dress, render
from pipeline.toyworld.shapes import COLOUR_NAMES, SHAPES
from weights.recipe.improvise import ENOUGH, MOTIONS, grid_truth

# What may be done to an object; each window shows one of these, some a second one of the first three too.
ACTS = ("travel", "turn", "grow", "shake", "pulse", "rock", "rest")
SLOW_ACTS = ACTS[:3]
# A second object lies this far away at least, in fractions of the frame's side.
APART = 0.38


@dataclass(frozen=True)
class Handling:
    """A rendered window and what it and the cells of its grid show.

    pixels (T + 1, size, size, 3) uint8: one frame more than the window has, for the flow of its last one.
    Of the handled object: shape, colour, background, indices; motion (len(MOTIONS),) float32, the mean over the middle
    half of the window, in the units of MOTIONS. present (20,) float32: shapes, then colours in view.
    Of cells: cover (P, G, G) float32; cell_motion (P, G, G, len(MOTIONS)) float32; cell_shape, cell_colour (P, G, G)
    int64, -100 where there is nothing.
    """

    pixels: np.ndarray
    motion: np.ndarray
    shape: int
    colour: int
    background: int
    present: np.ndarray
    cover: np.ndarray
    cell_motion: np.ndarray
    cell_shape: np.ndarray
    cell_colour: np.ndarray


def handling(rng: np.random.Generator, frames: int, size: int, steps: int, cells: int) -> Handling:
    """Draws one object that is handled and, nearly every other time, one that only lies about.

    Args:
        rng: decides everything.
        frames: T, a multiple of `steps`.
        size: side in pixels, a multiple of `cells`.
        steps: P.
        cells: G.
    """
    acts = {ACTS[rng.integers(len(ACTS))]}
    if rng.random() < 0.25:
        acts.add(SLOW_ACTS[rng.integers(len(SLOW_ACTS))])
    looks = [_look(rng)]
    actor, motion = _track(rng, looks[0], frames + 1, acts)
    tracks, motions = [actor], [motion]
    # At rest beside another, nobody could tell which of the two is meant.
    if acts != {"rest"} and rng.random() < 0.45:
        looks.append(_look(rng))
        tracks.append(_bystander(rng, looks[1], actor))
        motions.append(np.zeros_like(motion))
    order = rng.permutation(len(tracks))  # who is in front must not tell who acts
    background = int(rng.integers(len(BACKGROUNDS)))
    pixels, owner = render(dress(rng, BACKGROUNDS[background], [tracks[i] for i in order], frames + 1), size)

    truth = grid_truth(owner[:frames], len(tracks), steps, cells)
    known = truth.cover >= ENOUGH
    stepwise = np.stack([motions[i][:frames].reshape(steps, -1, len(MOTIONS)).mean(axis=1) for i in order])
    cell_motion = stepwise[truth.owner, np.arange(steps)[:, None, None]] * known[..., None]
    cell_shape, cell_colour = (np.where(known, values[order][truth.owner], -100) for values in np.array(looks).T)
    present = np.zeros(len(SHAPES) + len(COLOUR_NAMES), np.float32)
    for shape, colour in looks:
        present[shape] = present[len(SHAPES) + colour] = 1
    return Handling(
        pixels=pixels,
        motion=motion[frames // 4 : 3 * frames // 4].mean(axis=0).astype(np.float32),
        shape=looks[0][0],
        colour=looks[0][1],
        background=background,
        present=present,
        cover=truth.cover,
        cell_motion=cell_motion.astype(np.float32),
        cell_shape=cell_shape,
        cell_colour=cell_colour,
    )


def _look(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOUR_NAMES)))


def _track(rng: np.random.Generator, look: tuple[int, int], frames: int, acts: set[str]) -> tuple[Track, np.ndarray]:
    """The handled object, and its motion (T, len(MOTIONS)) in the order and units of MOTIONS."""
    moves = _while(rng, frames)
    velocity_x = velocity_y = rotation = growth = shake_x = shake_y = pulse = rock = 0.0
    heading = rng.uniform(0, 2 * np.pi)
    if "travel" in acts:
        speed = rng.uniform(0.006, 0.03)
        velocity_x, velocity_y = speed * np.cos(heading), speed * np.sin(heading)
    if "turn" in acts:
        rotation = rng.choice([-1, 1]) * rng.uniform(0.03, 0.16)
    if "grow" in acts:
        growth = rng.choice([-1, 1]) * rng.uniform(0.012, 0.05)
    if "shake" in acts:
        amplitude = rng.uniform(0.03, 0.08)
        shake_x, shake_y = amplitude * np.cos(heading), amplitude * np.sin(heading)
    if "pulse" in acts:
        pulse = rng.uniform(0.15, 0.4)
    if "rock" in acts:
        rock = rng.uniform(0.2, 0.6)
    # Progress is zero in the middle, so that places and sizes there do not tell what happens.
    progress = np.cumsum(moves) - np.cumsum(moves)[frames // 2]
    beat = moves * np.sin(2 * np.pi * np.arange(frames) / rng.uniform(3.2, 6) + rng.uniform(0, 2 * np.pi))
    x, y = rng.uniform(0.3, 0.7, 2)
    track = Track(
        SHAPES[look[0]],
        COLOUR_NAMES[look[1]],
        x + velocity_x * progress + shake_x * beat,
        y + velocity_y * progress + shake_y * beat,
        rng.uniform(0.15, 0.25) * np.exp(growth * progress + pulse * beat),
        rng.uniform(-TILT, TILT) + rotation * progress + rock * beat,
    )
    rates = (velocity_x, velocity_y, np.hypot(velocity_x, velocity_y), rotation, growth)
    motion = np.array([*rates, abs(shake_x), abs(shake_y), pulse, rock]) / tuple(MOTIONS.values())
    return track, moves[:, None] * motion


def _while(rng: np.random.Generator, frames: int) -> np.ndarray:
    """When it happens: (T,) of 0 and 1. Mostly throughout, else up to some frame or from there on."""
    if rng.random() < 0.65:
        return np.ones(frames)
    early = np.arange(frames) < rng.integers(3, frames - 2)
    return (early if rng.random() < 0.5 else ~early).astype(float)


def _bystander(rng: np.random.Generator, look: tuple[int, int], actor: Track) -> Track:
    spots = rng.uniform(0.1, 0.9, (32, 2))
    room = np.hypot(spots[:, 0] - actor.x_T.mean(), spots[:, 1] - actor.y_T.mean())
    x, y = spots[np.argmax(room >= APART) if (room >= APART).any() else np.argmax(room)]
    still = (x, y, rng.uniform(0.12, 0.2), rng.uniform(-TILT, TILT))
    return Track(SHAPES[look[0]], COLOUR_NAMES[look[1]], *(np.full(len(actor.x_T), value) for value in still))
