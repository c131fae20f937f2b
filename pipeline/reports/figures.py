"""Where in a result a figure lies. Knows no file and no picture."""

from collections.abc import Mapping
from typing import Any


def figure_at(result: Any, dotted: str) -> Any:
    """What lies at a dotted path of a result, which may be None. Raises KeyError where nothing does.

    >>> figure_at({"patient": {"accuracy": 90.0}}, "patient.accuracy")
    90.0
    """
    for name in dotted.split("."):
        if not isinstance(result, Mapping) or name not in result:
            raise KeyError(dotted)
        result = result[name]
    return result
