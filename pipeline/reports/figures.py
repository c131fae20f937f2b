"""Where in a result a figure lies. Knows no file and no picture."""

from collections.abc import Mapping
from typing import Any


def figure_at(result: Any, dotted: str) -> Any:
    """What lies at a dotted path of a result, which may be None. Raises KeyError where nothing does.

    >>> figure_at({"patient": {"accuracy": 90.0}}, "patient.accuracy")
    90.0
    >>> figure_at({"recall": {"St. Vitus": 90.0}}, "recall.St. Vitus")  # names may have dots of their own
    90.0
    """
    if isinstance(result, Mapping):
        if dotted in result:
            return result[dotted]
        first, _, rest = dotted.partition(".")
        if rest and first in result:
            return figure_at(result[first], rest)
    raise KeyError(dotted)
