"""The patients of toy-clinic: a figure of body sites, one of which moves as its diagnosis does. Knows no file.

A diagnosis is a kind of small motion at one site, which is faintly red. Elsewhere the figure moves more, and in ways
that say nothing: who looks everywhere sees mostly those, who looks at the right site sees the diagnosis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.scene import Scene, Track, dress

DIAGNOSES = ("tremor", "drift", "jerk", "sway")
# Where each site is on an average patient, in sides of the frame, and its radius; y points down.
SITES = {
    "head": (0.50, 0.16, 0.10),
    "chest": (0.50, 0.47, 0.08),
    "left hand": (0.16, 0.50, 0.08),
    "right hand": (0.84, 0.50, 0.08),
    "left foot": (0.30, 0.87, 0.08),
    "right foot": (0.70, 0.87, 0.08),
}
SITE_NAMES = tuple(SITES)
# What a limb hangs from.
ROOTS = {"left hand": (0.41, 0.36), "right hand": (0.59, 0.36), "left foot": (0.44, 0.62), "right foot": (0.56, 0.62)}
SKINS = ((245, 215, 190), (225, 180, 145), (190, 140, 105), (150, 105, 75), (110, 75, 55))
CLOTHES = ((60, 70, 110), (70, 105, 80), (120, 110, 100), (95, 80, 120), (60, 100, 120), (150, 145, 120))
RED = (215, 40, 40)
# Share of red in the affected site's colour.
SIGN = (0.20, 0.35)
# Half of the way that a site moves, in sides, at the affected site and elsewhere.
FAINT, STRONG = (0.013, 0.020), (0.035, 0.055)
# Patients differ by so much in where their sites are, and videos of one patient by less.
PLACES, POSES = 0.03, 0.012


@dataclass(frozen=True)
class Patient:
    """Who is filmed: the affected site and its diagnosis, where the sites are, and colours as RGB in [0, 255]."""

    diagnosis: str
    site: str
    places: np.ndarray  # (6, 2), (x, y) of each of SITES in order, in sides
    skin: tuple[float, ...]
    clothes: tuple[float, ...]
    sign: float


def patient(rng: np.random.Generator, diagnosis: str, site: str) -> Patient:
    """Somebody who has `diagnosis` at `site`."""
    places = np.array([place[:2] for place in SITES.values()]) + rng.uniform(-PLACES, PLACES, (len(SITES), 2))
    skin, clothes = (_near(rng, colours) for colours in (SKINS, CLOTHES))
    return Patient(diagnosis, site, places, skin, clothes, rng.uniform(*SIGN))


def motion(rng: np.random.Generator, kind: str, half: float, frames: int) -> np.ndarray:
    """How a site moves about its place.

    Args:
        rng: decides direction, pace and phase.
        kind: one of DIAGNOSES. tremor: back and forth, fast; drift: one way, slowly; jerk: rest, and sudden jumps;
            sway: round and round, slowly.
        half: half of the way between its ends, in sides.
        frames: T.

    Returns:
        (T, 2) float64, (x, y) in sides.

    Raises:
        ValueError: an unknown kind.
    """
    time, heading = np.arange(frames), rng.uniform(0, 2 * np.pi)
    across = np.zeros(frames)
    match kind:
        case "tremor":
            along = np.sin(2 * np.pi * time / rng.uniform(3, 4) + rng.uniform(0, 2 * np.pi))
        case "drift":
            along = 2 * time / (frames - 1) - 1
        case "jerk":
            rests = rng.integers(5, 9, frames)
            along = 1.0 - 2 * (np.searchsorted(np.cumsum(rests), time + rng.integers(5), side="right") % 2)
        case "sway":
            turn = rng.choice([-1, 1]) * 2 * np.pi * time / rng.uniform(10, 14)
            along, across = np.cos(turn), np.sin(turn)
        case _:
            raise ValueError(f"unknown kind of motion {kind!r}: known are {', '.join(DIAGNOSES)}")
    x, y = np.cos(heading), np.sin(heading)
    return half * np.stack([along * x - across * y, along * y + across * x], axis=1)


def film(rng: np.random.Generator, who: Patient, frames: int) -> tuple[Scene, np.ndarray]:
    """A video of a patient.

    Returns:
        scene: what the camera sees; one or two other sites move too, more than the affected one.
        seen: (T, 6, 2) float64, where each of SITES is in the picture, (x, y) in sides.
    """
    places = who.places + rng.uniform(-POSES, POSES, who.places.shape)
    moves = np.zeros((frames, len(SITES), 2))
    affected = SITE_NAMES.index(who.site)
    moves[:, affected] = motion(rng, who.diagnosis, rng.uniform(*FAINT), frames)
    others = rng.permutation([site for site in range(len(SITES)) if site != affected])
    for site in others[: rng.integers(1, 3)]:
        moves[:, site] = motion(rng, DIAGNOSES[rng.integers(len(DIAGNOSES))], rng.uniform(*STRONG), frames)
    paths = places + moves
    tracks = [*_body(who, places, moves), *(_site(who, site, paths[:, site]) for site in range(len(SITES)))]
    scene = dress(rng, BACKGROUNDS[rng.integers(len(BACKGROUNDS))], tracks, frames)
    return scene, paths + scene.camera_T2[:, None]


def _body(who: Patient, places: np.ndarray, moves: np.ndarray) -> list[Track]:
    """Limbs, which follow their ends, and the trunk."""
    tracks = []
    for name, root in ROOTS.items():
        site = SITE_NAMES.index(name)
        for share in (0.3, 0.65):
            path = np.array(root) + share * (places[site] - root) + share * moves[:, site]
            tracks.append(_piece("circle", who.clothes, path, 0.05))
    trunk = np.broadcast_to((0.5, 0.49), moves[:, 0].shape)
    return [*tracks, _piece("oval", who.clothes, trunk, 0.25, np.pi / 2)]


def _site(who: Patient, site: int, path_T2: np.ndarray) -> Track:
    name = SITE_NAMES[site]
    share = who.sign if name == who.site else 0.0
    colour = tuple((1 - share) * of_skin + share * of_red for of_skin, of_red in zip(who.skin, RED, strict=True))
    return _piece("circle", colour, path_T2, SITES[name][2])


def _piece(shape: str, colour: tuple[float, ...], path_T2: np.ndarray, radius: float, angle: float = 0.0) -> Track:
    x_T, y_T = path_T2.T
    return Track(shape, colour, x_T, y_T, np.full(len(x_T), radius), np.full(len(x_T), angle))


def _near(rng: np.random.Generator, colours: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
    """One of the colours, a little off."""
    return tuple(float(value) for value in colours[rng.integers(len(colours))] + rng.uniform(-12, 12, 3))
