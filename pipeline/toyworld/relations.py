"""Writes toy-relations, in Something-Something-V2's layout: what things far apart are to each other decides the class.

Four objects lie on a ring, a quarter turn apart, at any angle; two are red and two are blue, and each sways on the spot
along some line. In one class the two of a colour lie across from each other, in the other beside each other.

An object by itself looks, lies and moves alike in both, and so does a bag of them: no place, patch or sum over patches
has evidence. It takes two objects, a third of a frame apart or more, seen together. Knows no reader and no network.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Toyworld
from pipeline.toyworld.scene import TILT, Scene, Track
from pipeline.toyworld.shapes import SHAPES
from pipeline.toyworld.ssv2 import ToySet, Video, staged, videos, write_set
from pipeline.toyworld.templates import Take, Template

# Bumped when the same seed gives other videos.
VERSION = 1
# Of the seed: no other set has scenes of these random numbers.
WORD = 0x5E1A
OBJECTS = 4
# Two that the mini backbones tell apart best: with all eight, 400 videos teach no relation.
COLOURS = ("red", "blue")


def _ring(rng: np.random.Generator, frames: int, family: str | None, across: bool) -> Take:
    """Objects k and k + 2 lie across from each other. Named are the two of one colour."""
    one, other = (COLOURS[index] for index in rng.permutation(len(COLOURS)))
    colours = [one, other, one, other] if across else [one, one, other, other]
    angles = rng.uniform(0, 2 * np.pi) + np.arange(OBJECTS) * np.pi / 2 + rng.uniform(-0.15, 0.15, OBJECTS)
    reach, middle = rng.uniform(0.28, 0.34, OBJECTS), rng.uniform(0.47, 0.53, 2)
    headings, phases = rng.uniform(0, 2 * np.pi, (2, OBJECTS))
    beat = 2 * np.pi * np.arange(frames) / rng.uniform(12, 18)
    tracks = []
    for k in range(OBJECTS):
        sway = 0.045 * np.sin(beat + phases[k])
        x = middle[0] + reach[k] * np.cos(angles[k]) + sway * np.cos(headings[k])
        y = middle[1] + reach[k] * np.sin(angles[k]) + sway * np.sin(headings[k])
        radius, angle = (np.full(frames, value) for value in (rng.uniform(0.1, 0.125), rng.uniform(-TILT, TILT)))
        tracks.append(Track(SHAPES[rng.integers(len(SHAPES))], colours[k], x, y, radius, angle))
    return Take(tracks, [k for k in range(OBJECTS) if colours[k] == one])


RELATIONS: tuple[Template, ...] = (
    Template("Swaying [something] across from [something] of its colour", partial(_ring, across=True)),
    Template("Swaying [something] beside [something] of its colour", partial(_ring, across=False)),
)


def stage_relation(video: Video, params: Toyworld) -> tuple[Scene, dict[str, Any]]:
    """The scene of one video and its annotation, as `ssv2.stage`."""
    return staged(video, RELATIONS, params.relations, [params.seed, WORD])


def write_relations(
    params: Toyworld, root: Path, say: Callable[[str], None] = print, workers: int | None = None
) -> None:
    """Writes the whole set. Arguments and errors as `write_ssv2`."""
    of_relations = ToySet("relations", VERSION, stage_relation)
    write_set("toy-relations", of_relations, videos(params.relations, RELATIONS), RELATIONS, params, root, say, workers)
