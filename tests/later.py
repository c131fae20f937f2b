"""What takes long to import, at its first use: who collects all tests waits for none of it."""

from importlib import import_module
from typing import Any


class Later:
    """A module that is imported when one of its names is asked for."""

    __slots__ = ("_module",)  # what is set is the module's, and no attribute of this

    def __init__(self, module: str) -> None:
        object.__setattr__(self, "_module", module)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_mock", "_pytest", "pytest")):  # as pytest asks of all that a file of tests holds
            raise AttributeError(name)
        return getattr(import_module(self._module), name)

    def __setattr__(self, name: str, value: Any) -> None:  # as monkeypatch does
        setattr(import_module(self._module), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(import_module(self._module), name)


def train(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """`pipeline.training.train`: the trainer imports Lightning, and that torchmetrics, SciPy and matplotlib."""
    return import_module("pipeline.training").train(*args, **kwargs)
