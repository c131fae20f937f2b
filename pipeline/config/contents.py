"""What a feature gives, and what a head's role reads: shapes, as far as params and local checkpoints tell them.

None stands for what cannot be known before extraction. Knows no feature and no head.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from .features import Weights

BOX_TOLERANCE = 0.01  # of the frame's sides, by which two features may see different parts: a seventh of a patch of 14

# The part of the frame that is seen: in which measure, and its numbers.
Part = tuple[str, tuple[float, ...]]


@dataclass(frozen=True)
class Tokens:
    """(steps, rows * columns, width): a grid of tokens in space, at some steps in time."""

    steps: int | None = None
    grid: tuple[int, int] | None = None  # rows, columns
    width: int | None = None
    part: Part | None = None

    def __str__(self) -> str:
        return _said("tokens", steps=self.steps, grid=self.grid, width=self.width)


@dataclass(frozen=True)
class Vectors:
    """(width,), or (steps, width): a vector a sample, or a step. `space` is the checkpoint that its texts are of."""

    width: int | None = None
    steps: int | None = None  # None of one vector a sample
    space: "Weights | None" = None

    def __str__(self) -> str:
        return _said("vectors", steps=self.steps, width=self.width)


@dataclass(frozen=True)
class Rows:
    """(T, width): a row a frame, as many as the video is long."""

    width: int | None = None
    fps: float | None = None

    def __str__(self) -> str:
        return _said("rows of frames", width=self.width)


@dataclass(frozen=True)
class Maps:
    """(channels, steps, rows, columns): what somebody marked, on the frames and the crop of the tokens of `source`."""

    source: str
    steps: int | None = None
    grid: tuple[int, int] | None = None
    channels: int | None = None
    part: Part | None = None

    def __str__(self) -> str:
        return _said(f"maps on {self.source}", steps=self.steps, grid=self.grid)


@dataclass(frozen=True)
class Texts:
    """(width,): a unit vector a text, in the `space` of a checkpoint."""

    width: int | None = None
    space: "Weights | None" = None

    def __str__(self) -> str:
        return _said("embeddings of texts", width=self.width)


@dataclass(frozen=True)
class Cams:
    """(rows * columns,) and (rows * columns, width): a class-activation map, and each patch's embedding."""

    grid: tuple[int, int] | None = None
    width: int | None = None
    space: "Weights | None" = None
    part: Part | None = None

    def __str__(self) -> str:
        return _said("class-activation maps", grid=self.grid, width=self.width)


@dataclass(frozen=True)
class Hidden:
    """(1 + rows * columns, width), a step each of several frames: what enters a block of a transformer, CLS first."""

    steps: int | None = None
    grid: tuple[int, int] | None = None
    width: int | None = None
    space: "Weights | None" = None
    part: Part | None = None

    def __str__(self) -> str:
        return _said("the input of a block", steps=self.steps, grid=self.grid, width=self.width)


@dataclass(frozen=True)
class Flow:
    """(T, 2, height, width): optical flow, for other features to read."""

    def __str__(self) -> str:
        return "optical flow"


Content = Tokens | Vectors | Rows | Maps | Texts | Cams | Hidden | Flow
FIXED = (Tokens, Vectors, Maps, Cams, Hidden)  # of one shape in every sample of a data set of videos or pictures
Contents = Mapping[str, Content]  # by the name of the store's field
NAMES = {
    Tokens: "a grid of tokens",
    Vectors: "a vector a sample",
    Rows: "a row a frame",
    Maps: "maps (backbone: maps)",
    Texts: "embeddings of texts",
    Cams: "class-activation maps (backbone: clip_cam)",
}


@dataclass(frozen=True)
class Reads:
    """Marks a role of a head: `semantic: Annotated[Name, Reads(Tokens)]` takes a feature that gives one of these."""

    content: type | UnionType


@dataclass(frozen=True)
class Given:
    """What a role is given.

    Attributes:
        key: of params that names the feature.
        feature: its name.
        content: that which the role reads; a feature's other fields are not its business.
    """

    key: str
    feature: str
    content: Any
    _alike: Callable[[str], frozenset[str]] = lambda feature: frozenset({feature})

    @property
    def alike(self) -> frozenset[str]:
        """The declared features that differ from it in their weights at most, itself among them."""
        return self._alike(self.feature)

    def __str__(self) -> str:
        return f"{self.key} ({self.feature})"


def told_types(wanted: type | UnionType) -> str:
    """What a role reads, for people.

    >>> told_types(Tokens | Rows)
    'a grid of tokens or a row a frame'
    """
    return " or ".join(NAMES[of] for of in get_args(wanted) or (wanted,))


def readable(contents: Contents, wanted: type | UnionType) -> list[Content]:
    """What of a feature a role of a type can be given. Beside a grid of tokens a head reads no other field: no CLS.

    >>> readable({"patch_tokens": Tokens(8), "cls": Vectors(48, 8)}, Vectors)
    []
    """
    tokens = [content for content in contents.values() if isinstance(content, Tokens)]
    return [content for content in tokens or contents.values() if isinstance(content, wanted)]


def part_of(box: Sequence[float] | None, resize: Any, size: Sequence[int]) -> Part:
    """The part of the frame that is seen, in the measure that is one for videos of any shape.

    Args:
        box: (top, left, bottom, right) fractions of the frame's height and width, if it depends on no video's shape.
        resize: the shorter side's length otherwise, in pixels.
        size: height and width of what is seen of it, in pixels.
    """
    if box is not None:
        return "top, left, bottom, right of the frame", tuple(box)
    return "height, width in shorter sides", tuple(side / resize for side in size)


def same_part(first: Part, second: Part) -> bool:
    """Whether two features see one part of the frame, as nearly as patches lie on each other."""
    (kind, box), (other_kind, other) = first, second
    return kind == other_kind and all(abs(a - b) <= BOX_TOLERANCE for a, b in zip(box, other, strict=True))


def told(contents: Contents) -> str:
    """What a feature gives, for people."""
    return " and ".join(str(content) for content in contents.values()) or "nothing that a head reads"


def refuse_unlike(given: Mapping[str, Given], roles: Sequence[str], what: str, remedy: str) -> None:
    """Refuses roles whose contents are known to differ in a field, where all must have one value.

    Args:
        given: role -> what it is given; a role whose feature does not say what it gives is absent.
        roles: to compare.
        what: the field: "steps", "grid", "width", "part" or "space".
        remedy: what to do about it.

    Raises:
        ValueError: names both sides, what each has, and the remedy.
    """
    known = [given[role] for role in roles if role in given and getattr(given[role].content, what) is not None]
    for other in known[1:]:
        first, second = getattr(known[0].content, what), getattr(other.content, what)
        if _differ(what, first, second):
            raise ValueError(f"{known[0]} has {_value(what, first)} and {other} {_value(what, second)}; {remedy}")


def _differ(what: str, first: Any, second: Any) -> bool:
    if what == "space":
        return not may_be_same(first, second)
    return not same_part(first, second) if what == "part" else first != second


def _value(what: str, value: Any) -> str:
    if what == "space":
        return f"the checkpoint {value.path or value.hub or f'random {value.random}'}"
    if what == "part":
        return f"the {value[0]} {', '.join(f'{number:.3g}' for number in value[1])}"
    return f"the {what} {' x '.join(map(str, value)) if isinstance(value, tuple) else value}"


def may_be_same(first: "Weights", second: "Weights") -> bool:
    """Whether two checkpoints can be one: copies of one lie in two places, and where one is not here, who knows."""
    if first == second:
        return True
    if first.random is not None or second.random is not None:
        return False
    if first.path is None or second.path is None:
        return None in (first.hub, second.hub) or first.hub == second.hub
    from .keys import weights_digest  # here: keys know params, which know this

    # Of pathlib's, a name that is too long is an error.
    absent = [weights for weights in (first, second) if not os.path.exists(weights.path)]
    return bool(absent) or weights_digest(first) == weights_digest(second)


def architecture(weights: "Weights") -> Mapping[str, Any]:
    """What config.json of a local folder of weights says; empty where there is none, or where weights are no folder."""
    return json_of(Path(weights.path, "config.json")) if weights.path else {}


def json_of(path: Path) -> Mapping[str, Any]:
    """The mapping that a file of a checkpoint holds; empty where there is no such file, or where it holds none."""
    try:
        return _config(path, path.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _config(path: Path, _mtime_ns: int) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # who loads the weights says why they cannot be read
    return found if isinstance(found, dict) else {}


def size(config: Mapping[str, Any], *keys: str) -> int | None:
    """A positive whole number of an architecture, by its keys from outside in; None where it says none."""
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _said(what: str, steps: int | None = None, grid: Any = None, width: int | None = None) -> str:
    parts = [
        f"{steps} steps" if steps else "",
        "{} x {}".format(*grid) if grid else "",
        f"{width} wide" if width else "",
    ]
    known = ", ".join(filter(None, parts))
    return f"{what} ({known})" if known else what
