"""Numbers people read, from trained heads and caches. Knows no video and no backbone."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.accelerator import accelerator
from pipeline.config import Params
from pipeline.evaluation import alignment, classification, ood, segmentation
from pipeline.evaluation.provenance import counted, deterministic, opened, provenance
from pipeline.tables import write_frame
from pipeline.training.run_folder import only_writer, write_json
from pipeline.training.trainer import say

__all__ = ["evaluate"]

TASKS = {
    "classification": classification.evaluate,
    "segmentation": segmentation.evaluate,
    "zeroshot": segmentation.evaluate,
    "alignment": alignment.evaluate,
    "ood": ood.evaluate,
}


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
        RunBusy: another process trains or evaluates the run.
        DataError: manifest and stores do not belong together, or nothing can be evaluated.
    """
    began = time.monotonic()
    config = params.head(head)
    if config.task == "ood":
        torch.set_num_threads(params.compute.threads)
        samples, train = ood.open_pictures(params, head, manifest.parents[1], features), {}
    else:
        samples, record = opened(params, head, manifest, features, run)
        train = {"train": record["timings"]}
    device = torch.device(accelerator(params.compute))
    with only_writer(run):
        with deterministic():
            found = TASKS[config.task](params, head, samples, run, device)
        result = {
            "task": config.task,
            **found.scores,
            "samples": counted(samples),
            "provenance": {
                **provenance(config, samples, device),
                "timings": {**found.timings, "evaluate_s": time.monotonic() - began, **train},
            },
        }
        write_frame(found.predictions, run / "predictions.parquet")
        write_json(out or run / "result.json", result)
    progress(f"{run}: {config.eval_split} {found.said}")
    return result
