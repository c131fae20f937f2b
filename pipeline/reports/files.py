"""Texts and pictures, whole or not there at all. Knows nothing of what they show."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def save_text(text: str, path: Path) -> None:
    """A text by rename; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text)
    os.replace(scratch, path)


def save_figure(figure: plt.Figure, path: Path) -> None:
    """A picture by rename, closed then; no software version in the file: equal results give equal pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    figure.savefig(scratch, dpi=120, format="png", metadata={"Software": None})
    plt.close(figure)
    os.replace(scratch, path)
