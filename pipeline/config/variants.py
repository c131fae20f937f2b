"""Features as an axis: of `features.<name>.<field>` among a head's overrides, a feature of its own is made.

Knows no head, and no kind of feature.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .backbones import AnyFeature
from .base import ParamsError, canonical_json

# Characters that a variant's name takes of its feature's, and of what is varied; a digest tells it from all others.
OF_FEATURE, OF_CHANGES, OF_DIGEST = 60, 40, 6

Changes = Mapping[str, Any]


def parted(changes: Changes, features: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Overrides of a head itself, and by feature those of features. A key of two parts names a role.

    >>> parted({"lr": 0.1, "features.semantic": "a", "features.a.pool": 2}, {"a": None})
    ({'lr': 0.1, 'features.semantic': 'a'}, {'a': {'pool': 2}})
    """
    own: dict[str, Any] = {}
    varied: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, _, rest = key.partition(".")
        name, _, field = rest.partition(".")
        if section == "features" and field and name in features:
            varied.setdefault(name, {})[field] = value
        else:
            own[key] = value
    return own, varied


def vary(
    features: dict[str, AnyFeature],
    varied: Mapping[str, Changes],
    read: Iterable[str],
    override: Callable[[AnyFeature, Changes], AnyFeature],
) -> dict[str, str]:
    """Declares a variant of each feature that is varied, and of each that is made from one.

    A variant that determines the bytes of a feature that is declared already is that feature.

    Args:
        features: those that are declared, by name; what is made is added.
        varied: feature -> its dotted overrides.
        read: the features that are asked for.
        override: gives a copy with dotted keys replaced. Raises ParamsError.

    Returns:
        Feature -> the name of its variant, of all that are read or made from, in the order in which they are made.

    Raises:
        ParamsError: an override that does not fit, or of a feature that nothing asked for is made from.
    """
    found: dict[str, str] = {}
    reached: dict[str, dict[str, Changes]] = {}

    def visit(name: str) -> None:
        if name in reached:
            return
        feature, reached[name] = features[name], {}
        others = {key: value for key, value in feature.named.items() if value in features}
        for other in others.values():
            visit(other)
            reached[name] |= reached[other]
        if name in varied:
            reached[name] = {**reached[name], name: varied[name]}
        if not reached[name]:
            return
        try:
            made = override(feature, {**{key: found.get(of, of) for key, of in others.items()}, **varied.get(name, {})})
        except ParamsError as error:
            raise ParamsError(f"features.{name}.{error}") from None
        called = variant_name(name, reached[name])
        # First what it is called, since of most rows it is there already; in an order that is no file's, since a job
        # reads a document whose names are sorted and must give it the same name.
        same = (other for other in dict.fromkeys((called, name, *sorted(features))) if other in features)
        found[name] = next((other for other in same if equal(features[other], made)), called)
        if not equal(features.setdefault(found[name], made), made):
            raise ParamsError(f"features.{called} is declared, and is what a variant of {name} is called; rename it")

    for name in list(read):
        visit(name)
    if idle := [name for name in varied if name not in found]:
        raise ParamsError(
            f"features.{idle[0]} is varied, but nothing that is read is made from it; vary one of {', '.join(reached)}"
        )
    return found


def equal(first: AnyFeature, second: AnyFeature) -> bool:
    """Whether two features have the same bytes, by what they declare."""
    return type(first) is type(second) and first.made_of == second.made_of


def variant_name(feature: str, varied: Mapping[str, Changes]) -> str:
    """What a variant is called: the same changes, the same name.

    >>> variant_name("dinov3_patches", {"dinov3_patches": {"sampling.frames": 4}})
    'dinov3_patches__frames_4_8bd835'
    """
    digest = hashlib.sha256(canonical_json([feature, varied]).encode()).hexdigest()[:OF_DIGEST]
    said = "_".join(f"{key.rpartition('.')[2]}_{value}" for of in varied.values() for key, value in of.items())
    return f"{feature[:OF_FEATURE]}__{re.sub('[^A-Za-z0-9]+', '_', said)[:OF_CHANGES].strip('_')}_{digest}"
