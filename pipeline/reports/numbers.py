"""Numbers as results that are shown hold them: short. Knows no file."""

import json
from typing import Any

DIGITS = 4


def significant(value: float, digits: int = DIGITS) -> float:
    """A number with so many significant digits.

    >>> significant(0.123456), significant(-98765.4)
    (0.1235, -98770.0)
    """
    return float(f"{value:.{digits}g}")


def compact(document: Any) -> str:
    """JSON on one line, floats of four significant digits, keys sorted; NaN is refused.

    >>> compact({"b": [1.23456, 2], "a": None})
    '{"a":null,"b":[1.235,2]}\\n'
    """
    text = json.dumps(_rounded(document), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, dict):
        return {key: _rounded(of) for key, of in value.items()}
    return [_rounded(of) for of in value] if isinstance(value, list | tuple) else value
