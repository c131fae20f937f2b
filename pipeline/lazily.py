"""Passes on what a package's modules hold, and imports each module when it is first asked for. Knows no module.

An `__init__` that imports its modules makes everybody pay for the heaviest of them: seconds for a trainer, of whoever
joins two tables.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def passed_on(package: str, modules: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its dotted name.
        modules: a module, one of its own with a dot before its name -> the names that it gives to the package.

    No name may be a module's of the package: where that is imported, the name is the module.

    Returns:
        A function from a name to what it means; raises AttributeError of any other name, as Python asks.

    >>> find = passed_on("collections", {".abc": ["Iterable", "Sized"]})
    >>> find("Sized").__name__
    'Sized'
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module_of[name], package), name)

    return find
