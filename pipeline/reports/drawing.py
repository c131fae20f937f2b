"""Matplotlib as every picture has it, imported when one is drawn: what reads results alone does not pay for it."""

from functools import cache
from typing import Any


@cache
def pyplot() -> Any:
    """`matplotlib.pyplot`, on no screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # Names are the users': a dollar sign in one begins no formula.
    plt.rcParams["text.parse_math"] = False
    return plt
