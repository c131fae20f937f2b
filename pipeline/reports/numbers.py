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


def with_deviation(mean: float, sd: float | None) -> str:
    """A mean of any size, and its deviation if there is one.

    >>> with_deviation(80.123, 1.26), with_deviation(0.5, None)
    ('80.1 ± 1.3', '0.5')
    """
    return f"{mean:.3g}" if sd is None else f"{mean:.3g} ± {sd:.2g}"


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
