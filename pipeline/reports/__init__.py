"""Pictures and tables from results alone. Reads no store, trains nothing."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.reports.ablation import ablation_table
from pipeline.reports.alignment import publish_alignment
from pipeline.reports.claims import claims_table
from pipeline.reports.classification import publish_classification, training_figure
from pipeline.reports.files import result_text, save_figure
from pipeline.reports.ood import publish_ood
from pipeline.reports.segmentation import publish_segmentation

__all__ = ["ablation_table", "claims_table", "publish"]


PUBLISHERS = {
    "classification": publish_classification,
    "segmentation": publish_segmentation,
    "zeroshot": publish_segmentation,
    "alignment": publish_alignment,
    "ood": publish_ood,
}


def publish(evaluation: Path, out: Path, **shown: Any) -> None:
    """Copies an evaluation's result.json to `out` and draws its pictures beside it, as its task asks for.

    Args:
        evaluation: its folder, in that of its run.
        out: results/<name>.json, written last.
        shown: beside it, what a task's pictures show that the run does not hold: `strips` of a segmentation.

    Raises:
        ReportError: the run has not been evaluated.
    """
    task = json.loads(result_text(evaluation, out))["task"]
    history = evaluation.parent / "history.csv"
    if history.exists():
        save_figure(training_figure(pd.read_csv(history)), out.with_name(f"{out.stem}_training.png"))
    PUBLISHERS[task](evaluation, out, **shown)
