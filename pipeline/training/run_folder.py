"""A run's folder: one writer at a time, what is left of an earlier training, files by rename. Knows no torch.

Until a training is complete its checkpoints say all that it needs. Then state.json says what the files belong to and
outlives run.json, which appears last and says that all is there.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.digests import Damaged, file_digest, read_json, write_json
from pipeline.files import lock

CHECKPOINT, PREVIOUS = "last.ckpt", "previous.ckpt"
WEIGHTS, HISTORY, STATE, RUN = "weights.safetensors", "history.csv", "state.json", "run.json"
RESULT, PREDICTIONS = "result.json", "predictions.parquet"  # of an evaluation, in a folder of its own below the run's
LOGS = "dvclive"
STAND_INS = "stand_ins"  # of the training from which γ is chosen, a run's folder within a run's
PATIENCE = 10.0  # seconds to wait for the workers of a killed training to notice


class RunBusy(RuntimeError):
    """Another process writes in this folder."""


class RunError(ValueError):
    """A run's folder that does not hold what is asked of it; the message gives the remedy."""


def say(line: str) -> None:
    """One line to the log, at once."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def only_writer(run: Path) -> Iterator[None]:
    """Holds the folder's lock. The kernel frees it, even after kill -9.

    Raises:
        RunBusy: it is held, and was not freed in ten seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            held = lock(run / "lock")
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RunBusy(f"{run}: another process trains or evaluates here; wait for it or end it") from None
            time.sleep(0.2)
    try:
        yield
    finally:
        os.close(held)


def clear(run: Path) -> None:
    """Removes what another training left in the folder, its evaluations too."""
    for name in (RUN, STATE, CHECKPOINT, PREVIOUS, WEIGHTS, HISTORY):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / LOGS, ignore_errors=True)
    for evaluation in {path.parent for name in (RESULT, PREDICTIONS) for path in run.glob(f"*/{name}")}:
        shutil.rmtree(evaluation)


def standing(run: Path, identity: str, progress: Callable[[str], None]) -> dict[str, Any]:
    """The record of a training that is complete; {} where it is not, or where its files are damaged.

    Args:
        run: the folder.
        identity: digest of all that decides the weights.
        progress: called with one line where a file is damaged.
    """
    if not (run / STATE).exists():
        return {}
    try:
        state = read_json(run / STATE, "made again")
    except Damaged as error:
        progress(str(error))
        return {}
    if state["identity"] != identity:
        progress(f"{run}: what is there was learned from other samples or params: made again")
        return {}
    record = state["record"]
    for name, digest in ((WEIGHTS, record["weights"]), (HISTORY, record[HISTORY])):
        if not (run / name).exists() or file_digest(run / name) != digest:
            progress(f"{run / name} is not there, or damaged: made again")
            return {}
    return record


def complete(run: Path, identity: str, record: dict[str, Any]) -> None:
    """Declares the training complete: first in state.json, which outlives run.json, then in run.json."""
    write_json(run / STATE, {"identity": identity, "record": record})
    write_json(run / RUN, record)


def read_run(run: Path) -> dict[str, Any]:
    """The record of a complete run.

    Raises:
        RunError: there is none, or its weights are not the ones that it names.
        Damaged: the record is not what was written.
    """
    try:
        record = read_json(run / RUN, "delete it and train the head again")
    except FileNotFoundError:
        raise RunError(f"{run / RUN} is not there: train the head first (`python -m pipeline train`)") from None
    if not (run / WEIGHTS).exists() or file_digest(run / WEIGHTS) != record["weights"]:
        raise RunError(
            f"{run / WEIGHTS} is not the file that run.json names; delete {run / RUN} and train again, which goes on "
            "from the last checkpoint where there is one"
        )
    return record
