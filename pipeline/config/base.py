"""What every model of params.yaml shares. Knows no section of it."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# No file system takes a longer name than 255 bytes, and a key, a shard and a suffix join it.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=120)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Of dropout, of smoothing, of averaging: at 1 nothing is left of what it is a share of.
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # torch's and numpy's both


def _a_place(path: str) -> str:
    if wrong := [mark for mark in path if mark in "{}" or not mark.isprintable()]:
        raise ValueError(f"{shown(path)} has the character {wrong[0]!r}, which no path of a rule may have; rename it")
    return path


def _a_suffix(text: str) -> str:
    if text and "." not in text:
        raise ValueError(f"{shown(text)} has no dot, and it is put behind an id as it is; write .{text}")
    return text


# A path on this machine, and a piece of one. The scheduler fills in what stands in braces.
Piece = Annotated[str, AfterValidator(_a_place)]
Place = Annotated[str, Field(min_length=1), AfterValidator(_a_place)]
# What stands behind an id in a file's name: .webm, _rgb.npy, or nothing.
Extension = Annotated[Piece, AfterValidator(_a_suffix)]


class ParamsError(ValueError):
    """A params document that cannot be used; the message names the key and the remedy."""


class Strict(BaseModel):
    """Refuses unknown keys, silent casts and numbers that are not finite; immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Vocabulary(Strict):
    """Texts, embedded: a data set of texts and the feature that embeds them."""

    dataset: Name
    feature: Name


def shown(value: Any, longest: int = 120) -> str:
    """A value of a person's in a message: one line, not too long.

    >>> shown("model.fusion=concat"), shown(["a" * 200], 10), shown("two\\nlines")
    ('model.fusion=concat', "['aaaaaaa...", "'two\\\\nlines'")
    """
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted names; a mapping without anything is a value.

    >>> flat({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    found: dict[str, Any] = {}
    for name, value in document.items():
        nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal content, equal text, whatever the order in the YAML."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
