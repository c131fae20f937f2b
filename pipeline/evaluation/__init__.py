"""Numbers people read, from trained heads and caches. Knows no video and no backbone."""

import time
from collections.abc import Callable
from typing import Any

from pipeline.digests import sha256, write_json
from pipeline.files import write_bytes
from pipeline.runs import DRAWS, PREDICTIONS, RESULT, WEIGHTS, Run, only_writer, say
from pipeline.tables import write_frame

__all__ = ["evaluate"]


def evaluate(run: Run, progress: Callable[[str], None] = say) -> dict[str, Any]:
    """Reads the evaluation split once: predictions.parquet, draws.parquet and result.json in the evaluation's folder.

    Equal inputs give equal bytes, provenance.timings and the digest of the whole apart. The result keeps the digests of
    the files beside it, of those of the run that it read, and of the evaluated samples with their labels.

    Args:
        run: a complete one.
        progress: called with one line at the end.

    Returns:
        What the JSON holds.

    Raises:
        RunError: the run is not complete, or learned from other data.
        RunBusy: another process makes this very evaluation.
        DataError: manifest and stores do not belong together, or nothing can be evaluated.
    """
    # Reports import this package, and load no torch.
    import pandas as pd

    from pipeline.accelerator import deterministic
    from pipeline.evaluation.provenance import counted, evaluated_digest, opened, provenance

    began = time.monotonic()
    opened(run)
    record, place = run.record, run.evaluation_folder
    train = {"train": record["timings"]} if record else {}
    trained = {"trained": {name: record[name] for name in ("device", "versions")}} if record else {}
    read = {WEIGHTS: record["weights"]} if record else {}
    with only_writer(place):
        with deterministic():
            found = run.task.code("evaluate")(run)
        for name, content in found.files.items():
            write_bytes(place / name, content)
        digests = {name: sha256(content) for name, content in found.files.items()}
        digests[PREDICTIONS] = write_frame(found.predictions, place / PREDICTIONS)
        resampled = {}
        if found.draws:
            digests[DRAWS] = write_frame(pd.DataFrame(found.draws.figures), place / DRAWS)
            resampled = {"resampled": {"draws": found.draws.draws, "units": found.draws.units}}
        result = {
            "task": run.task.name,
            **found.scores,
            "samples": counted(run.samples),
            "provenance": {
                **provenance(run),
                **trained,
                "evaluated": evaluated_digest(found.predictions),
                **resampled,
                "files": digests,
                "read": {**read, **found.read},
                "timings": {**found.timings, "evaluate_s": time.monotonic() - began, **train},
            },
        }
        write_json(place / RESULT, result)
    progress(f"{place}: {run.config.eval_split} {found.said}")
    return result
