"""The procedures of toy-assembly: steps of verb x part, and the scene that shows them. Knows no file and no network.

A part is one thing with one look, as in a kit that is assembled: the red star is always red and a star. Its class name
says both, so a class is known by what is done, and by a colour and a shape that go together. Places, sizes, angles,
paces, light and what else lies about vary from step to step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.scene import TILT, Scene, Track, dress
from pipeline.toyworld.vocabulary import VERB_PHRASES, VERBS

# (colour, shape); colours that are far apart, and as many round shapes as ones with corners.
PARTS = (
    ("red", "star"), ("yellow", "ring"), ("green", "cross"), ("blue", "flower"), ("white", "triangle"),
    ("purple", "clover"),
)  # fmt: skip
BACKGROUND = "background"
# A part comes and goes within so many frames, and rests for about as many before and after what is done to it.
FADE = 3
AWAY = -2.0  # out of view


def label(verb: str, part: tuple[str, str]) -> str:
    """The class of a step, in words that mini CLIP knows: `push left red star`."""
    return VERB_PHRASES[verb][1].format(" ".join(part))


CLASSES = (BACKGROUND, *(label(verb, part) for verb in VERBS for part in PARTS))
# One combination of each verb, every part among them: of each, most other combinations are seen in training.
HELD_OUT = tuple(label(verb, PARTS[index % len(PARTS)]) for index, verb in enumerate(VERBS))
# Three of each verb and of each part, half of all: of each, half of the combinations are seen in training.
HELD_OUT_HALF = tuple(
    label(verb, PARTS[(index + step) % len(PARTS)]) for index, verb in enumerate(VERBS) for step in range(3)
)


@dataclass(frozen=True)
class Step:
    """A segment: what is done to which part for how many frames; without either, nobody does anything."""

    frames: int
    verb: str | None = None
    part: tuple[str, str] | None = None

    @property
    def label(self) -> str:
        """Its class."""
        return BACKGROUND if self.verb is None or self.part is None else label(self.verb, self.part)


def procedure(rng: np.random.Generator, steps: tuple[int, int], frames: tuple[int, int]) -> list[Step]:
    """A video's segments; neighbours are of different classes.

    A part stays in hand for a step or three, an earlier step is done again now and then, and there are pauses.

    Args:
        rng: decides everything.
        steps: fewest and most segments.
        frames: fewest and most of a segment.
    """
    done: list[Step] = []
    part = PARTS[rng.integers(len(PARTS))]
    for _ in range(rng.integers(steps[0], steps[1] + 1)):
        length = int(rng.integers(frames[0], frames[1] + 1))
        last, actions = done[-1] if done else Step(0), [step for step in done if step.verb]
        if last.verb and rng.random() < 0.2:
            done.append(Step(length))
            continue
        again = [step for step in actions if step.label != last.label]
        if again and rng.random() < 0.25:
            chosen = again[rng.integers(len(again))]
        else:
            if rng.random() < 0.5:
                part = PARTS[rng.integers(len(PARTS))]
            verbs = [verb for verb in VERBS if (verb, part) != (last.verb, last.part)]
            chosen = Step(length, verbs[rng.integers(len(verbs))], part)
        done.append(Step(length, chosen.verb, chosen.part))
    return done


def scene(rng: np.random.Generator, steps: Sequence[Step]) -> Scene:
    """What the camera sees of a procedure: the part in hand, in front of parts that only lie about."""
    total = sum(step.frames for step in steps)
    starts = np.cumsum([0, *(step.frames for step in steps)])
    handled = [
        _during(total, start, _handled(rng, step)) for start, step in zip(starts, steps, strict=False) if step.verb
    ]
    # Now and then, between two steps, somebody tidies up.
    tidied = [0, *(int(start) for start in starts[1:-1] if rng.random() < 0.3), total]
    lying = [_during(total, start, track) for start, stop in pairwise(tidied) for track in _lying(rng, stop - start)]
    return dress(rng, BACKGROUNDS[rng.integers(len(BACKGROUNDS))], [*lying, *handled], total)


def _during(total: int, start: int, track: Track) -> Track:
    """A track of some frames as one of `total` frames, out of view before and after."""
    around = (start, total - start - len(track.x_T))
    x_T, y_T = (np.pad(values, around, constant_values=AWAY) for values in (track.x_T, track.y_T))
    radius_T, angle_T = (np.pad(values, around, mode="edge") for values in (track.radius_T, track.angle_T))
    return Track(track.shape, track.colour, x_T, y_T, radius_T, angle_T)


def _handled(rng: np.random.Generator, step: Step) -> Track:
    """The part of a step, and what is done to it."""
    frames = step.frames
    first, last = rng.integers(0, FADE + 1), frames - rng.integers(0, FADE + 1)
    moves = (np.arange(frames) >= first) & (np.arange(frames) < last)
    moved = np.cumsum(moves) - moves.sum() / 2
    x, y, angle = np.full(frames, rng.uniform(0.38, 0.62)), np.full(frames, rng.uniform(0.38, 0.62)), np.zeros(frames)
    match step.verb:
        case "lift" | "lower" | "push left" | "push right":
            along = min(rng.uniform(0.014, 0.026), 0.6 / frames) * moved
            beside = rng.uniform(-0.1, 0.1) * moved / frames
            dx, dy = {
                "lift": (beside, -along),
                "lower": (beside, along),
                "push left": (-along, beside),
                "push right": (along, beside),
            }[step.verb]
            x, y = x + dx, y + dy
        case "turn":
            angle = rng.choice([-1, 1]) * rng.uniform(0.06, 0.15) * moved
        case "shake":
            heading, amplitude = rng.uniform(0, 2 * np.pi), rng.uniform(0.035, 0.07)
            beat = amplitude * moves * np.sin(2 * np.pi * np.arange(frames) / rng.uniform(3.2, 6))
            x, y = x + beat * np.cos(heading), y + beat * np.sin(heading)
        case _:
            raise ValueError(f"unknown verb {step.verb!r}: known are {', '.join(VERBS)}")
    # It grows out of nothing, and shrinks to nothing.
    ends = np.minimum(np.arange(frames), np.arange(frames)[::-1]) + 1
    radius = rng.uniform(0.17, 0.23) * np.minimum(1, ends / FADE)
    colour, shape = step.part
    return Track(shape, colour, x, y, radius, angle + rng.uniform(-TILT, TILT))


def _lying(rng: np.random.Generator, frames: int) -> list[Track]:
    """None, one or two parts of the kit that nobody touches, towards the corners."""
    tracks = []
    for corner in rng.permutation(4)[: rng.integers(3)]:
        colour, shape = PARTS[rng.integers(len(PARTS))]
        x, y = rng.uniform(0.08, 0.2, 2)
        values = (1 - x if corner % 2 else x, 1 - y if corner // 2 else y, rng.uniform(0.1, 0.14))
        still = (np.full(frames, value) for value in (*values, rng.uniform(-TILT, TILT)))
        tracks.append(Track(shape, colour, *still))
    return tracks
