"""The sixteen actions of toy-ssv2: sentences and the scenes that show them. Knows no file and no network.

What each class asks of a model is known by construction:
- twelve come in pairs that are each other's time reversal, so that only the order of the frames tells them apart;
- eight name the kind of object (round, or with corners), which motion does not show;
- four of these ask for both at once, at one place: of two kinds of object one moves, in step with eight-frame sampling
  and by a few pixels, so that stills hardly show which one, and only motion and shape seen together name the class.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.scene import TILT, Scene, Track, dress, ease
from pipeline.toyworld.shapes import COLOURS, CORNERED, ROUND, SHAPES

FAMILIES = {"round": ROUND, "with corners": CORNERED}
# The fast movements have one beat a segment of this sampling, so that its stills catch each beat in one phase.
STROBE_SEGMENTS = 8
# Centres of objects keep this far from each other, in fractions of the frame's side: more than two mean radii.
APART = 0.34


@dataclass(frozen=True)
class Take:
    """Tracks from back to front, and the indices of those that the sentence names, in its order."""

    tracks: list[Track]
    named: list[int]


Act = Callable[[np.random.Generator, int, str | None], Take]


class _Props:
    """Hands out objects of different shapes and colours."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.used = rng, set[str]()
        self.colours = list(rng.permutation(list(COLOURS)))

    def look(self, family: str | None, without: tuple[str, ...] = ()) -> tuple[str, str]:
        """(shape, colour), the shape of a family or any."""
        kinds = FAMILIES[family] if family else SHAPES
        left = [shape for shape in kinds if shape not in self.used and shape not in without]
        shape = left[self.rng.integers(len(left))]
        self.used.add(shape)
        return shape, str(self.colours.pop())


def _path(
    rng: np.random.Generator, frames: int, look: tuple[str, str], x: np.ndarray, y: np.ndarray, radius: np.ndarray
) -> Track:
    angle = rng.uniform(-TILT, TILT)
    return Track(*look, *(np.broadcast_to(np.asarray(value, float), frames) for value in (x, y, radius, angle)))


def _radius(rng: np.random.Generator) -> float:
    return rng.uniform(0.125, 0.16)


def _bystanders(
    rng: np.random.Generator, frames: int, props: _Props, actors: list[Track], kinds: list[str | None]
) -> list[Track]:
    """Objects that stay put, one for each of `kinds`, out of everyone's way at all times as far as there is room."""
    stage = list(actors)
    for kind in kinds:
        spots = rng.uniform(0.15, 0.85, (64, 2))
        room = np.min([np.hypot(spots[:, :1] - a.x_T, spots[:, 1:] - a.y_T).min(axis=1) for a in stage], axis=0)
        x, y = spots[np.argmax(room >= APART) if (room >= APART).any() else np.argmax(room)]
        stage.append(_path(rng, frames, props.look(kind), x, y, _radius(rng)))
    return stage[len(actors) :]


def _kinds(rng: np.random.Generator, few: int, family: str | None = None) -> list[str | None]:
    """The kinds of `few` or one more bystanders."""
    return [family] * int(few + rng.integers(2))


def _slide(rng: np.random.Generator, frames: int, across: bool) -> Take:
    props = _Props(rng)
    length, middle, side, drift = (
        rng.uniform(0.35, 0.5),
        rng.uniform(0.42, 0.58),
        rng.uniform(0.2, 0.8),
        rng.uniform(-0.05, 0.05),
    )
    progress = ease(rng, frames) - 0.5
    along, beside = middle + length * progress, side + drift * progress
    actor = _path(rng, frames, props.look(None), *((along, beside) if across else (beside, 1 - along)), _radius(rng))
    others = _bystanders(rng, frames, props, [actor], _kinds(rng, 1))
    return Take([*others, actor], [len(others)])


def _push(rng: np.random.Generator, frames: int, family: str | None) -> Take:
    """From left to right."""
    return _slide(rng, frames, across=True)


def _lift(rng: np.random.Generator, frames: int, family: str | None) -> Take:
    """Upwards."""
    return _slide(rng, frames, across=False)


def _meet(rng: np.random.Generator, frames: int, family: str | None) -> Take:
    """Two objects approach each other on a line at any angle."""
    props = _Props(rng)
    x, y, heading = *rng.uniform(0.44, 0.56, 2), rng.uniform(0, 2 * np.pi)
    far, near = rng.uniform(0.56, 0.68), rng.uniform(0.28, 0.33)
    half = (far + (near - far) * ease(rng, frames)) / 2
    actors = [
        _path(
            rng,
            frames,
            props.look(None),
            x + sign * half * np.cos(heading),
            y + sign * half * np.sin(heading),
            _radius(rng),
        )
        for sign in (-1, 1)
    ]
    others = _bystanders(rng, frames, props, actors, _kinds(rng, 0))
    return Take([*others, *actors], [len(others), len(others) + 1])


def _cover(rng: np.random.Generator, frames: int, family: str | None) -> Take:
    """A large object slides over a small one until it hides it."""
    props = _Props(rng)
    x, y, heading = *rng.uniform(0.32, 0.68, 2), rng.uniform(0, 2 * np.pi)
    target = _path(rng, frames, props.look(None), x, y, rng.uniform(0.075, 0.09))
    away = rng.uniform(0.38, 0.48) * (1 - ease(rng, frames))
    lid_look = props.look(None, without=("ring", "bolt"))
    lid = _path(rng, frames, lid_look, x + away * np.cos(heading), y + away * np.sin(heading), rng.uniform(0.16, 0.175))
    others = _bystanders(rng, frames, props, [target, lid], _kinds(rng, 0))
    return Take([*others, target, lid], [len(others), len(others) + 1])


def _approach(rng: np.random.Generator, frames: int, family: str | None) -> Take:
    """One object grows as if it came closer; everything in view is of its family."""
    props = _Props(rng)
    spot, drift, progress = rng.uniform(0.25, 0.75, 2), rng.uniform(-0.06, 0.06, 2), ease(rng, frames) - 0.5
    radius = 0.135 * np.exp(rng.uniform(0.55, 0.8) * progress)
    actor = _path(rng, frames, props.look(family), spot[0] + drift[0] * progress, spot[1] + drift[1] * progress, radius)
    others = _bystanders(rng, frames, props, [actor], _kinds(rng, 1, family))
    return Take([*others, actor], [len(others)])


def strobe(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A sine with one beat a segment of the sampling, so that stills at segment centres find it where it was.

    Returns:
        (T,) in [-1, 1]; its phase at the frames that STROBE_SEGMENTS stills show is constant up to 0.1 radians.
    """
    shown = np.floor((np.arange(STROBE_SEGMENTS) + 0.5) / STROBE_SEGMENTS * frames)
    beats = np.arange(STROBE_SEGMENTS) + rng.normal(0, 0.1 / (2 * np.pi), STROBE_SEGMENTS)
    # The first and last half beats go on at the pace of their neighbours.
    shown = np.concatenate([[2 * shown[0] - shown[1]], shown, [2 * shown[-1] - shown[-2]]])
    beats = np.concatenate([[beats[0] - 1], beats, [beats[-1] + 1]])
    return np.sin(2 * np.pi * (np.interp(np.arange(frames), shown, beats) + rng.uniform()))


def _spots(rng: np.random.Generator, count: int) -> np.ndarray:
    """Places apart from each other, none of them special. Returns (count, 2)."""
    sets = rng.uniform(0.16, 0.84, (256, count, 2))
    gaps = np.linalg.norm(sets[:, :, None] - sets[:, None], axis=-1) + np.eye(count)
    room = gaps.min(axis=(1, 2))
    return sets[np.argmax(room >= APART) if (room >= APART).any() else np.argmax(room)]


def _fidget(rng: np.random.Generator, frames: int, family: str | None, squeezes: bool) -> Take:
    """One object moves quickly on the spot; one of the other family, and perhaps a third, keeps still.

    A still must not tell who moves: all have places alike, and all sizes vary as a squeezed object's do.
    """
    props, beat = _Props(rng), strobe(rng, frames)
    other = next(name for name in FAMILIES if name != family)
    kinds = [family, other, *_kinds(rng, 0)]
    shake, heading = 0.0 if squeezes else rng.uniform(0.045, 0.06), rng.uniform(0, 2 * np.pi)
    tracks = []
    for kind, (x, y) in zip(kinds, _spots(rng, len(kinds)), strict=True):
        acts = not tracks
        pulse = rng.uniform(0.26, 0.36) * (beat if acts and squeezes else np.sin(rng.uniform(0, 2 * np.pi)))
        move = shake * beat if acts else 0 * beat
        x, y, radius = x + move * np.cos(heading), y + move * np.sin(heading), _radius(rng) * np.exp(pulse)
        tracks.append(_path(rng, frames, props.look(kind), x, y, radius))
    # Who is drawn first must not tell who moves either.
    order = rng.permutation(len(tracks))
    return Take([tracks[index] for index in order], [int(np.flatnonzero(order == 0)[0])])


def _shake(rng: np.random.Generator, frames: int, family: str | None) -> Take:
    return _fidget(rng, frames, family, squeezes=False)


def _squeeze(rng: np.random.Generator, frames: int, family: str | None) -> Take:
    return _fidget(rng, frames, family, squeezes=True)


@dataclass(frozen=True)
class Template:
    """A class of toy-ssv2.

    Attributes:
        text: the sentence with bracketed placeholders, as Something-Something-V2 writes it.
        act: draws the scene, of the kind of object that the sentence asks for.
        backwards: time runs backwards in the act.
        family: the kind of object that the sentence asks for: a key of FAMILIES, or None.
        opposite: text of the class that its time reversal shows, or None where that is the class itself.
    """

    text: str
    act: Act
    backwards: bool = False
    family: str | None = None
    opposite: str | None = None

    @property
    def label(self) -> str:
        """The key in labels.json: the text without brackets."""
        return self.text.replace("[", "").replace("]", "")

    @property
    def needs_order(self) -> bool:
        """Frames without their order, or any single one, cannot tell it from its opposite."""
        return self.opposite is not None

    @property
    def needs_appearance(self) -> bool:
        """Motion alone cannot tell it from the class of the other kind of object."""
        return self.family is not None

    @property
    def needs_binding(self) -> bool:
        """What moves and what it looks like must be seen at one place."""
        return self.act in (_shake, _squeeze)

    def sentence(self, names: list[str]) -> str:
        """The template with its brackets filled, in lower case as in the real set."""
        parts = self.text.split("[")
        filled = "".join(name + part.partition("]")[2] for name, part in zip(names, parts[1:], strict=True))
        return parts[0].lower() + filled

    def scene(self, rng: np.random.Generator, frames: int) -> tuple[Scene, list[str]]:
        """A scene that shows the class, and the names of the objects in its sentence."""
        take = self.act(rng, frames, self.family)
        tracks = [track.during(slice(None, None, -1)) for track in take.tracks] if self.backwards else take.tracks
        background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        return dress(rng, background, tracks, frames), [take.tracks[index].name for index in take.named]


def _pair(forwards: str, backwards: str, act: Act, family: str | None = None) -> tuple[Template, Template]:
    return Template(forwards, act, False, family, backwards), Template(backwards, act, True, family, forwards)


TEMPLATES: tuple[Template, ...] = (
    *_pair("Pushing [something] from left to right", "Pushing [something] from right to left", _push),
    *_pair("Moving [something] up", "Moving [something] down", _lift),
    *_pair(
        "Moving [something] and [something] closer to each other",
        "Moving [something] and [something] away from each other",
        _meet,
    ),
    *_pair("Covering [something] with [something]", "Uncovering [something] hidden by [something]", _cover),
    *_pair(
        "Moving [something round] towards the camera",
        "Moving [something round] away from the camera",
        _approach,
        "round",
    ),
    *_pair(
        "Moving [something with corners] towards the camera",
        "Moving [something with corners] away from the camera",
        _approach,
        "with corners",
    ),
    Template("Shaking [something round]", _shake, family="round"),
    Template("Shaking [something with corners]", _shake, family="with corners"),
    Template("Squeezing [something round]", _squeeze, family="round"),
    Template("Squeezing [something with corners]", _squeeze, family="with corners"),
)
BY_TEXT = {template.text: template for template in TEMPLATES}


def direction_opposite() -> dict[str, str]:
    """Label -> label of the class that its time reversal shows, for the classes that have one."""
    return {template.label: BY_TEXT[template.opposite].label for template in TEMPLATES if template.opposite}
