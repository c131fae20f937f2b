"""Code that params and records name: `package.module:Name`, or an entry point. Imports what is named alone."""

import importlib
import inspect
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

    >>> named("gasm_cast", {"gasm_cast": "pipeline.heads.gasm_cast.config:GasmCastHead"}, "permafrost.heads")
    'pipeline.heads.gasm_cast.config:GasmCastHead'
    >>> named("my_package.heads:Mine", {}, "permafrost.heads")
    'my_package.heads:Mine'
    """
    if name in own:
        return own[name]
    if ":" in name:
        return name
    found = offered(group)
    if name not in found:
        raise PluginError(
            f"{name!r} is none of {', '.join([*own, *sorted(found)])}; correct it, install the package that offers "
            "it, or name your own class as my_package.module:Name"
        )
    return found[name]


def offered(group: str) -> dict[str, str]:
    """The entry points of a group: name -> place."""
    return _offered(group)


@cache
def _offered(group: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=group)}


def load(place: str) -> Any:
    """What `package.module:Name` names; dots in Name lead into it.

    Raises:
        PluginError: the module cannot be imported, or does not hold the name.

    >>> load("math:pi")
    3.141592653589793
    """
    module, _, name = place.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise PluginError(f"{place!r} is no place of code; write my_package.module:Name")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PluginError(
            f"{place} cannot be imported: {error}; install the package, or put its folder on PYTHONPATH, on every "
            "machine that runs jobs"
        ) from error
    except Exception as error:  # whatever somebody's module raises when it is imported
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(f"{place} cannot be imported: {what}; correct it") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise PluginError(f"{place}: {module} has no {name}; correct the name")
        found = getattr(found, part)
    return found


def load_class(place: str, base: type) -> type:
    """The class that `package.module:Name` names.

    Raises:
        PluginError: as `load`; it is no class, not derived from `base`, or lacks a method that `base` leaves open.
    """
    found, said = load(place), f"{base.__module__}.{base.__qualname__}"
    if not inspect.isclass(found) or not issubclass(found, base):
        raise PluginError(f"{place} is no {base.__name__.lower()}; derive the class from {said}")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise PluginError(f"{place} lacks {', '.join(missing)}; {said} says what it gives")
    return found


def source_of(chosen: type) -> str | None:
    """The file that a class is written in; None where it is in none, as in a notebook."""
    try:
        return inspect.getsourcefile(chosen)
    except (TypeError, OSError):
        return None
