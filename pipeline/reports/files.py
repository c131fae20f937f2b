"""Results as runs hold them; pictures, whole or not there at all. Knows nothing of what they show."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.digests import read_json, read_kept
from pipeline.files import whole
from pipeline.reports.drawing import pyplot
from pipeline.runs import DRAWS, HISTORY, PREDICTIONS, RESULT
from pipeline.tables import read_frame

if TYPE_CHECKING:
    import matplotlib.pyplot as plt


class ReportError(ValueError):
    """Results of which no report can be made; the message names what is wrong with which, and the remedy."""


def read_result(evaluation: Path | str, out: Path) -> dict[str, Any]:
    """The result that an evaluation left in its folder, for `out`.

    Raises:
        ReportError: there is none.
        Damaged: it is not what was written.
    """
    path = Path(evaluation) / RESULT
    try:
        return read_json(path, evaluate_again(evaluation, out))
    except FileNotFoundError:
        raise ReportError(
            f"{path} is not there: this run has not been evaluated; `snakemake {out}` makes it with all that it needs"
        ) from None


def evaluate_again(evaluation: Path | str, out: Path) -> str:
    """The remedy where an evaluation's files are not what was written."""
    return f"delete {evaluation} and run `snakemake {out}`, or evaluate the head again (`python -m pipeline evaluate`)"


def read_predictions(evaluation: Path | str, out: Path, result: Mapping[str, Any], *columns: str) -> pd.DataFrame:
    """The predictions that an evaluation left beside its result. Raises Damaged: they are others."""
    path, digest = Path(evaluation) / PREDICTIONS, result["provenance"]["files"][PREDICTIONS]
    return read_frame(path, evaluate_again(evaluation, out), columns or None, digest)


def read_draws(evaluation: Path | str, out: Path, result: Mapping[str, Any]) -> pd.DataFrame:
    """Figures over resamples of its samples, a column each, that an evaluation left; empty if it left none.

    Raises Damaged: they are others.
    """
    digest = result["provenance"].get("files", {}).get(DRAWS)
    if digest is None:
        return pd.DataFrame()
    return read_frame(Path(evaluation) / DRAWS, evaluate_again(evaluation, out), digest=digest)


def read_history(run: Path) -> pd.DataFrame | None:
    """Losses and accuracies by epoch of a run; None of a head that trains nothing.

    Raises:
        Damaged: they are not there though the run names them, or are others.
        ReportError: the run is not complete.
    """
    path, remedy = run / HISTORY, f"restore it, or delete {run / 'run.json'} and train the head again"
    try:
        digest = read_json(run / "run.json", remedy).get(HISTORY)
    except FileNotFoundError:
        if not path.exists():
            return None
        raise ReportError(f"{run / 'run.json'} is not there: train the head to its end first") from None
    if digest is None and not path.exists():
        return None
    return pd.read_csv(io.BytesIO(read_kept(path, digest, remedy)))


def beside(out: Path, name: str, folder: str = "report") -> Path:
    """What lies with results/<name>.json in a folder of results/<name>/: the report's, or that of `explain`.

    Pictures have a folder of their own below it, which `dvc plots` is shown as a whole.

    >>> str(beside(Path("results/ssv2_top1.json"), "confusion.png"))
    'results/ssv2_top1/report/pictures/confusion.png'
    >>> str(beside(Path("results/waterbirds_ood.json"), "table.md"))
    'results/waterbirds_ood/report/table.md'
    """
    place = out.with_suffix("") / folder
    return place / "pictures" / name if name.endswith(".png") else place / name


def save_figure(figure: plt.Figure, path: Path) -> None:
    """A picture by rename, closed then; no software version in the file: equal results give equal pictures."""
    with whole(path) as scratch:
        figure.savefig(scratch, dpi=120, format="png", metadata={"Software": None})
    pyplot().close(figure)
