"""Finds the class that a word in params names: ours, an installed package's, or `my_package.module:MyClass`.

Knows no plug-in. What is named in a params file is imported when the file is read, and nothing else is.
"""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from .base import shown


def loaded(what: str, name: str, ours: Mapping[str, str], base: type) -> type:
    """The class behind a name.

    Args:
        what: it is, in the singular: "layout". Other packages offer theirs as entry points of the group
            `permafrost.<what>s`.
        name: a key of `ours`, the name of an entry point, or `my_package.module:MyClass`.
        ours: name -> `module:Class` of those of this package.
        base: what the class must be derived from, and whose abstract methods it must have.

    Raises:
        ValueError: one line: nobody has the name, the package is not installed or cannot be imported, the module has
            no such class, or the class is not what it should be; with the remedy.
    """
    place = ours.get(name) or (name if ":" in name else _offered(what).get(name))
    if place is None:
        known = ", ".join([*ours, *sorted(_offered(what))])
        raise ValueError(
            f"{what} {shown(name)!r} is none of {known}; correct it, install the package that offers it, or name a "
            "class as my_package.module:MyClass"
        )
    return _class(what, place, base)


def source_of(chosen: type) -> str | None:
    """The file that a class is written in; None where it is in none, as in a notebook."""
    try:
        return inspect.getsourcefile(chosen)
    except (TypeError, OSError):
        return None


@lru_cache(maxsize=64)
def _class(what: str, place: str, base: type) -> type:
    module_name, _, name = place.partition(":")
    said = f"{what} {shown(place)}"
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ValueError(f"{said} is no place of a class; write it as my_package.module:MyClass")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{said}: there is no module {error.name} here; install the package, or put its folder on PYTHONPATH, on "
            "every machine that runs jobs"
        ) from None
    except Exception as error:  # whatever somebody else's module does when it is imported is said, in one line
        raise ValueError(
            f"{said} cannot be imported: {type(error).__name__}: {shown(str(error))}; correct it"
        ) from None
    chosen = getattr(module, name, None)
    if chosen is None:
        raise ValueError(f"{said}: {module_name} has no {name}; correct the name")
    if not inspect.isclass(chosen) or not issubclass(chosen, base):
        raise ValueError(f"{said} is no {what}; derive the class from {base.__module__}.{base.__qualname__}")
    if missing := sorted(getattr(chosen, "__abstractmethods__", ())):
        raise ValueError(f"{said} lacks {', '.join(missing)}; {base.__module__}.{base.__qualname__} says what it gives")
    return chosen


def _offered(what: str) -> dict[str, str]:
    """name -> `module:Class` of the entry points of all installed packages."""
    return {entry.name: entry.value for entry in entry_points(group=f"permafrost.{what}s")}
