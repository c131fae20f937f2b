"""Numbers people read, from trained heads and caches. Knows no video and no backbone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.evaluation import classification, segmentation
from pipeline.training.trainer import say

__all__ = ["evaluate"]

TASKS = {"classification": classification.evaluate, "segmentation": segmentation.evaluate}


def evaluate(
    params: Params,
    head: str,
    manifest: Path,
    features: Mapping[str, Path],
    run: Path,
    out: Path | None = None,
    progress: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Reads the evaluation split once: predictions.parquet in the run, and the result JSON.

    Equal inputs give equal bytes, provenance.timings apart.

    Args:
        params: holds the head and `compute`.
        head: its name.
        manifest: the data set's Parquet manifest.
        features: role -> directory of the store.
        run: folder of a complete run.
        out: the result; run/result.json if not given.
        progress: called with one line at the end.

    Returns:
        What the JSON holds.

    Raises:
        RunError: the run is not complete, or learned from other data.
        DataError: manifest and stores do not belong together, or nothing can be evaluated.
    """
    return TASKS[params.head(head).task](params, head, manifest, features, run, out, progress)
