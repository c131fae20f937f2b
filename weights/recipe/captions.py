"""Captioned pictures: a view of the toy world, sentences about it, and whether a sentence is true of a view.

Actions are shown in a still by a fading trail. Knows no tokenizer, no network and no task.
"""

import re
from dataclasses import dataclass

import numpy as np

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.scene import TILT, Track, dress, render, still
from pipeline.toyworld.shapes import COLOUR_NAMES, EXTENT, SHAPES, TABLE, distance_table
from pipeline.toyworld.vocabulary import (
    ACTION_PROMPTS,
    BACKGROUND_PROMPTS,
    BACKGROUND_WORDS,
    COLOUR_PROMPTS,
    COLOUR_WORDS,
    IDLE_PHRASES,
    KIND_OF,
    KIND_WORDS,
    OBJECT_PROMPTS,
    OBJECT_WORDS,
    VERB_PHRASES,
    VERBS,
)
from weights.recipe.improvise import ENOUGH, grid_truth

# Ghosts of a trail, from young to old.
OPACITIES = (0.6, 0.5, 0.4, 0.3, 0.2)
# A patch's mask has FINE parts a side, and an object's portrait has PORTRAIT.
FINE, PORTRAIT = 4, 8


def with_trail(
    frames: np.ndarray, owner: np.ndarray, gap: int = 1, opacities: tuple[float, ...] = OPACITIES
) -> np.ndarray:
    """Leaves fading ghosts of the objects behind them, wherever no object is now.

    Args:
        frames: (T, H, W, 3) uint8 from `render`.
        owner: (T, H, W) int8 from `render`.
        gap: frames between one ghost and the next.
        opacities: of the ghosts, from young to old; the k-th shows the objects k * gap frames ago.

    Returns:
        (T, H, W, 3) uint8; the first frames have the ghosts that there are.
    """
    drawn = frames.astype(np.float32)
    for age, opacity in reversed(list(enumerate(opacities, start=1))):
        late, early = slice(age * gap, None), slice(None, -age * gap)
        if age * gap < len(frames):
            ghost = (owner[early] >= 0) & (owner[late] < 0)
            drawn[late][ghost] += np.float32(opacity) * (frames[early][ghost] - drawn[late][ghost])
    return drawn.round().astype(np.uint8)


@dataclass(frozen=True)
class Sight:
    """An object in view and what is being done to it."""

    shape: str
    colour: str
    verb: str | None = None


@dataclass(frozen=True)
class View:
    """A picture and what is true of it.

    pixels (size, size, 3) uint8; sights, the main object first; background, a name. Of each of G x G patches: shape,
    colour and act int64, its object's and what is done to it (len(VERBS): nothing), -100 where there is nothing; cover
    float32, that object's share of it; mask (G, G, FINE * FINE) float32, all objects' share of its parts; place
    (G, G, 3) float32, offset of its object's centre in radii (x, y) and log(radius / 0.2), 0 where there is nothing;
    portrait (G, G, PORTRAIT * PORTRAIT) float32, where its whole object is, seen from that object's centre.
    """

    pixels: np.ndarray
    sights: tuple[Sight, ...]
    background: str
    shape: np.ndarray
    colour: np.ndarray
    act: np.ndarray
    cover: np.ndarray
    mask: np.ndarray
    place: np.ndarray
    portrait: np.ndarray

    @property
    def verb(self) -> str | None:
        """What is being done, if anything."""
        return next((sight.verb for sight in self.sights if sight.verb), None)


@dataclass(frozen=True)
class Caption:
    """A sentence and the facts that it claims: None claims nothing, `idle` that nothing moves."""

    text: str
    shape: str | None = None
    kind: str | None = None
    colour: str | None = None
    verb: str | None = None
    background: str | None = None
    idle: bool = False

    def holds(self, view: View) -> bool:
        """Whether one object in view has all that is said of an object, on the background that is said."""
        if self.background not in (None, view.background) or (self.idle and view.verb):
            return False
        if (self.shape, self.kind, self.colour, self.verb) == (None, None, None, None):
            return True
        return any(
            self.shape in (None, sight.shape)
            and self.kind in (None, KIND_OF[sight.shape])
            and self.colour in (None, sight.colour)
            and self.verb in (None, sight.verb)
            for sight in view.sights
        )


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]


# --- pictures ---------------------------------------------------------------------------------------------------------

MOMENTS = 1 + len(OPACITIES)


def action(rng: np.random.Generator, verb: str, shape: str, colour: str, frames: int = MOMENTS) -> Track:
    """An object to which `verb` is done at a steady pace; what `with_trail` makes of its last frame shows the verb.

    Raises:
        ValueError: an unknown verb.
    """
    progress = np.linspace(0, 1, frames)
    radius, tilt = rng.uniform(0.13, 0.21), rng.uniform(-TILT, TILT)
    length, wobble = rng.uniform(0.25, 0.45), rng.uniform(-0.06, 0.06)
    x, y = rng.uniform(0.3, 0.7, 2)
    angle = np.full(frames, tilt)
    match verb:
        case "lift" | "lower" | "push left" | "push right":
            along, beside = length * (progress - 0.5), wobble * (progress - 0.5)
            dx, dy = {
                "lift": (beside, -along),
                "lower": (beside, along),
                "push left": (-along, beside),
                "push right": (along, beside),
            }[verb]
        case "turn":
            # About a pivot beside it, so that even a circle leaves an arc.
            sweep = rng.choice([-1, 1]) * rng.uniform(2.4, 3.6) * progress + rng.uniform(0, 2 * np.pi)
            dx, dy = rng.uniform(0.65, 0.9) * radius * np.array([np.cos(sweep), np.sin(sweep)])
            angle = tilt + sweep - sweep[-1]
        case "shake":
            heading = rng.uniform(-0.4, 0.4)
            beat = rng.uniform(0.45, 0.8) * radius * np.sin(np.pi / 2 * (np.arange(frames) - frames + 1))
            dx, dy = beat * np.cos(heading), beat * np.sin(heading)
        case _:
            raise ValueError(f"unknown verb {verb!r}: known are {', '.join(VERBS)}")
    return Track(shape, colour, x + dx, y + dy, np.full(frames, radius), angle)


def view(rng: np.random.Generator, size: int, cells: int, company: float = 0.25, **wanted: str | None) -> View:
    """Draws a picture: one object or two, or an action, or a background alone.

    Args:
        rng: decides everything that is not wanted.
        size: side in pixels.
        cells: G, patches a side.
        company: how often a second object stands beside the first, if there is room.
        wanted: shape, colour or verb of the main object, or background; a shape of None leaves the background alone,
            and a verb of None stills.
    """
    background = wanted.get("background") or _pick(rng, BACKGROUNDS)
    if wanted.get("shape", "") is None or (not wanted.keys() & {"shape", "colour", "verb"} and rng.random() < 0.12):
        return _look(rng, size, cells, background, [], None, 1)
    shape, colour = wanted.get("shape") or _pick(rng, SHAPES), wanted.get("colour") or _pick(rng, COLOUR_NAMES)
    verb = wanted["verb"] if "verb" in wanted else _pick(rng, VERBS) if rng.random() < 0.4 else None
    frames = MOMENTS if verb else 1
    tracks = [action(rng, verb, shape, colour, frames) if verb else still(rng, shape, colour, frames, 0.15, 0.34)]
    if rng.random() < company:
        other = [name for name in SHAPES if name != shape], [name for name in COLOUR_NAMES if name != colour]
        look = _pick(rng, tuple(other[0])), _pick(rng, tuple(other[1]))
        spots = [still(rng, *look, frames, 0.12, 0.2) for _ in range(16)]
        free = [spot for spot in spots if _apart(spot, tracks[0])]
        # Behind the main object, and only where there is room.
        tracks = [*tracks, *free[:1]]
    return _look(rng, size, cells, background, tracks, verb, frames)


def _apart(one: Track, other: Track) -> bool:
    room = np.hypot(one.x_T - other.x_T, one.y_T - other.y_T) - one.radius_T - other.radius_T
    return bool((room > -0.05).all())


def _look(
    rng: np.random.Generator, size: int, cells: int, background: str, tracks: list[Track], verb: str | None, frames: int
) -> View:
    """Renders tracks, the main one first, and looks at their last frame."""
    scene = dress(rng, background, tracks[::-1], frames)
    pixels, owner = render(scene, size)
    part = size // (cells * FINE)
    mask = (owner[-1] >= 0).reshape(cells, FINE, part, cells, FINE, part).mean(axis=(2, 5), dtype=np.float32)
    shape = colour = act = np.full((cells, cells), -100)
    cover, place = np.zeros((cells, cells), np.float32), np.zeros((cells, cells, 3))
    portrait = np.zeros((cells, cells, PORTRAIT**2), np.float32)
    if tracks:
        truth = grid_truth(owner[-1:], len(tracks), 1, cells)
        cover, known = truth.cover[0], truth.cover[0] >= ENOUGH
        index = np.where(known, len(tracks) - 1 - truth.owner[0], 0)
        shape = np.where(known, np.array([SHAPES.index(track.shape) for track in tracks])[index], -100)
        colour = np.where(known, np.array([COLOUR_NAMES.index(track.colour) for track in tracks])[index], -100)
        act = np.where(known, np.where(index == 0, VERBS.index(verb) if verb else len(VERBS), len(VERBS)), -100)
        portrait = np.stack([_portrait(track) for track in tracks])[index] * known[..., None]
        centre = np.array([(track.x_T[-1], track.y_T[-1]) for track in tracks]) + scene.camera_T2[-1]
        radius = np.array([track.radius_T[-1] for track in tracks])[index][..., None]
        here = np.stack(np.meshgrid(*[(np.arange(cells) + 0.5) / cells] * 2), axis=-1)
        place = np.concatenate([(centre[index] - here) / radius, np.log(radius / 0.2)], axis=-1) * known[..., None]
    return View(
        pixels=with_trail(pixels, owner)[-1],
        sights=tuple(Sight(t.shape, t.colour, None if rank else verb) for rank, t in enumerate(tracks)),
        background=background,
        shape=shape,
        colour=colour,
        act=act,
        cover=cover,
        mask=mask.swapaxes(1, 2).reshape(cells, cells, FINE**2),
        place=place.astype(np.float32),
        portrait=portrait,
    )


def _portrait(track: Track) -> np.ndarray:
    """Whether an object is at each point of a grid about its centre, two radii and a half wide. (PORTRAIT ** 2,)."""
    axis = np.linspace(-1.25, 1.25, PORTRAIT)
    x, y, cos, sin = axis[None, :], axis[:, None], np.cos(track.angle_T[-1]), np.sin(track.angle_T[-1])
    column, row = (
        np.rint((along + EXTENT) * (TABLE - 1) / (2 * EXTENT)).astype(int)
        for along in (cos * x + sin * y, cos * y - sin * x)
    )
    return (distance_table(track.shape)[row, column] < 0).astype(np.float32).ravel()


# --- sentences --------------------------------------------------------------------------------------------------------


def captions(rng: np.random.Generator, seen: View) -> tuple[Caption, Caption, Caption]:
    """Three sentences about a picture: on an object or action, on the background, and on anything."""
    about_background = _of_background(rng, seen)
    if not seen.sights:
        return about_background, _of_background(rng, seen), _of_idleness(rng, seen)
    sight = seen.sights[0] if rng.random() < 0.7 else seen.sights[-1]
    first = _of_action(rng, sight) if sight.verb and rng.random() < 0.7 else _of_object(rng, sight)
    others = [_of_colour, _of_kind, _of_both, _of_both, _of_object]
    others += [_of_action] if sight.verb else []
    tell = others[rng.integers(len(others))]
    if not seen.verb and rng.random() < 0.1:
        return first, about_background, _of_idleness(rng, seen)
    return first, about_background, tell(rng, sight, seen.background) if tell is _of_both else tell(rng, sight)


def _word(rng: np.random.Generator, row: tuple[str, ...]) -> str:
    """The common name half of the time."""
    return row[0] if rng.random() < 0.5 else _pick(rng, row[1:])


def _correct(rng: np.random.Generator, text: str) -> str:
    """Half of the people write `an oval`; prompts that are filled in by machines say `a oval`."""
    return re.sub(r"\ba(?= [aeiou])", "an", text) if rng.random() < 0.5 else text


def _noun(rng: np.random.Generator, sight: Sight, coloured: float) -> tuple[str, str | None]:
    """What an object is called, and the colour if it is told."""
    noun = _word(rng, OBJECT_WORDS[sight.shape])
    if rng.random() < coloured:
        return f"{_word(rng, COLOUR_WORDS[sight.colour])} {noun}", sight.colour
    return noun, None


def _of_object(rng: np.random.Generator, sight: Sight) -> Caption:
    noun, colour = _noun(rng, sight, 0.35)
    return Caption(_correct(rng, _pick(rng, OBJECT_PROMPTS).format(noun)), shape=sight.shape, colour=colour)


def _of_colour(rng: np.random.Generator, sight: Sight) -> Caption:
    text = _pick(rng, COLOUR_PROMPTS).format(_word(rng, COLOUR_WORDS[sight.colour]))
    return Caption(_correct(rng, text), colour=sight.colour)


def _of_kind(rng: np.random.Generator, sight: Sight) -> Caption:
    kind = KIND_OF[sight.shape]
    text = _pick(rng, KIND_WORDS[kind])
    return Caption(f"a photo of {text}" if rng.random() < 0.3 else text, kind=kind)


def _of_both(rng: np.random.Generator, sight: Sight, background: str) -> Caption:
    noun, colour = _noun(rng, sight, 0.5)
    text = f"a {noun} on {_word(rng, BACKGROUND_WORDS[background])}"
    text = f"a photo of {text}" if rng.random() < 0.3 else text
    return Caption(_correct(rng, text), shape=sight.shape, colour=colour, background=background)


def _of_action(rng: np.random.Generator, sight: Sight) -> Caption:
    style, chance = _pick(rng, VERB_PHRASES[sight.verb]), rng.random()
    if chance < 0.2:
        text, shape, colour = style.replace("a {}", "something").replace("the {}", "it").replace(" {}", ""), None, None
    else:
        (text, colour), shape = _noun(rng, sight, 0.25), sight.shape
        text = style.format(text)
    text = _pick(rng, ACTION_PROMPTS).format(text) if rng.random() < 0.5 else text
    return Caption(_correct(rng, text), shape=shape, colour=colour, verb=sight.verb)


def _of_background(rng: np.random.Generator, seen: View) -> Caption:
    text = _pick(rng, BACKGROUND_PROMPTS).format(_word(rng, BACKGROUND_WORDS[seen.background]))
    return Caption(_correct(rng, text), background=seen.background)


def _of_idleness(rng: np.random.Generator, seen: View) -> Caption:
    return Caption(_pick(rng, ACTION_PROMPTS).format(_pick(rng, IDLE_PHRASES)), idle=True)
