"""Names of code in params and in records: `package.module:Name`, and entry points. Imports what is named alone."""

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any


class PluginError(ValueError):
    """Code that is named and cannot be used; the message gives the remedy."""


def named(name: str, own: Mapping[str, str], group: str) -> str:
    """Where code lies that params name: `package.module:Name`.

    Args:
        name: one of `own`, an entry point of `group`, or the place itself.
        own: name -> place, of what this package brings.
        group: of entry points.

    Raises:
        PluginError: none of them.

    >>> named("gasm_cast", {"gasm_cast": "pipeline.heads.gasm_cast:HEAD"}, "permafrost.heads")
    'pipeline.heads.gasm_cast:HEAD'
    >>> named("my_package.heads:Mine", {}, "permafrost.heads")
    'my_package.heads:Mine'
    """
    if ":" in name:
        return name
    found = dict(own) | {point.name: point.value for point in _points(group)}
    if name not in found:
        raise PluginError(
            f"{name!r} is none of {', '.join(sorted(found))}; correct its spelling, or name your own class: "
            "my_package.module:Name"
        )
    return found[name]


@cache
def _points(group: str) -> tuple[Any, ...]:
    return tuple(entry_points(group=group))


def load(place: str) -> Any:
    """What `package.module:Name` names; dots in Name lead into it.

    Raises:
        PluginError: the module cannot be imported, or does not hold the name.

    >>> load("math:pi")
    3.141592653589793
    """
    module, _, name = place.partition(":")
    if not name or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise PluginError(f"{place!r} names no code; write my_package.module:Name")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PluginError(f"{place} cannot be imported: {error}; install it, or correct the name") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise PluginError(f"{place}: {module} holds no {name}; correct the name")
        found = getattr(found, part)
    return found
