"""Where the evaluations of a run lie."""

from pathlib import Path


def evaluation_of(run: Path) -> Path:
    """The folder of a run's only evaluation."""
    (result,) = run.glob("*/result.json")
    return result.parent
