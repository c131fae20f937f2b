"""Numbers as results that are shown hold them: short. Knows no file."""

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


def compact(value: Any) -> Any:
    """A document with floats of four significant digits.

    >>> compact({"b": [1.23456, 2], "a": None})
    {'b': [1.235, 2], 'a': None}
    """
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, dict):
        return {key: compact(of) for key, of in value.items()}
    return [compact(of) for of in value] if isinstance(value, list | tuple) else value
