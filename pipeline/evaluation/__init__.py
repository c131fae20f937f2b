"""Numbers people read, from trained heads and caches. Knows no video and no backbone."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.accelerator import accelerator
from pipeline.config import Params, evaluation_key
from pipeline.digests import sha256, write_json
from pipeline.evaluation.provenance import counted, deterministic, evaluated_digest, opened, provenance
from pipeline.files import write_bytes
from pipeline.tables import write_frame
from pipeline.tasks import TASKS
from pipeline.training.run_folder import PREDICTIONS, RESULT, WEIGHTS, only_writer, say

__all__ = ["evaluate"]


def evaluate(
    params: Params,
    head: str,
    manifest: Path,
    features: Mapping[str, Path],
    run: Path,
    progress: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Reads the evaluation split once: predictions.parquet and result.json in the evaluation's folder below the run.

    Equal inputs give equal bytes, provenance.timings and the digest of the whole apart. The result keeps the digests of
    the files beside it, of those of the run that it read, and of the evaluated samples with their labels.

    Args:
        params: holds the head and `compute`.
        head: its name.
        manifest: the data set's Parquet manifest.
        features: role -> directory of the store.
        run: folder of a complete run.
        progress: called with one line at the end.

    Returns:
        What the JSON holds.

    Raises:
        RunError: the run is not complete, or learned from other data.
        RunBusy: another process makes this very evaluation.
        DataError: manifest and stores do not belong together, or nothing can be evaluated.
    """
    began = time.monotonic()
    config = params.head(head)
    samples, record = opened(params, head, manifest, features, run)
    train = {"train": record["timings"]} if record else {}
    trained = {"trained": {name: record[name] for name in ("device", "versions")}} if record else {}
    read = {WEIGHTS: record["weights"]} if record else {}
    device = torch.device(accelerator(params.compute))
    place = run / evaluation_key(config)
    with only_writer(place):
        with deterministic():
            found = TASKS[config.task].code("evaluate")(params, head, samples, run, device)
        for name, content in found.files.items():
            write_bytes(place / name, content)
        digests = {name: sha256(content) for name, content in found.files.items()}
        digests[PREDICTIONS] = write_frame(found.predictions, place / PREDICTIONS)
        result = {
            "task": config.task,
            **found.scores,
            "samples": counted(samples),
            "provenance": {
                **provenance(config, samples, device),
                **trained,
                "evaluated": evaluated_digest(found.predictions),
                "files": digests,
                "read": {**read, **found.read},
                "timings": {**found.timings, "evaluate_s": time.monotonic() - began, **train},
            },
        }
        write_json(place / RESULT, result)
    progress(f"{place}: {config.eval_split} {found.said}")
    return result
