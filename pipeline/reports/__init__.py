"""Pictures and tables from results alone. Reads no store, trains nothing."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.reports.ablation import ablation_table
from pipeline.reports.baselines import stood_beside
from pipeline.reports.claims import claims_table
from pipeline.reports.classification import training_figure
from pipeline.reports.files import beside, evaluate_again, read_history, read_predictions, read_result, save_figure
from pipeline.reports.following import refuse_other_figures
from pipeline.reports.search import search_table
from pipeline.tasks import TASKS

__all__ = ["ablation_table", "claims_table", "publish", "search_table"]


def publish(evaluation: Path, out: Path, baselines: Mapping[str, Path] = MappingProxyType({}), **shown: Any) -> None:
    """Copies an evaluation's result.json to `out`; its pictures, as its task asks for, into results/<name>/report.

    Args:
        evaluation: its folder, in that of its run.
        out: results/<name>.json, written last.
        baselines: role -> the folder of the evaluation of a linear probe of that input; `out` names their figures.
        shown: beside it, what a task's pictures show that the run does not hold: `strips` of a segmentation.

    Raises:
        ReportError: the run has not been evaluated.
        Damaged: a file is not what was written, or the result does not follow from its predictions.
    """
    result, again = read_result(evaluation, out), evaluate_again(evaluation, out)
    refuse_other_figures(result, read_predictions(evaluation, out, result), evaluation / "result.json", again)
    history = read_history(evaluation.parent)
    if history is not None:
        save_figure(training_figure(history, TASKS[result["task"]].judged), beside(out, "training.png"))
    if TASKS[result["task"]].baselines and (baselines or "majority" in result):
        shown["more"] = {"baselines": stood_beside(result, baselines, out)}
    TASKS[result["task"]].code("publish")(evaluation, out, **shown)
