"""A run's folder: one writer at a time, what is left of an earlier training, files by rename. Knows no torch.

state.json appears first and says what the other files belong to; run.json appears last and says that all is there.
"""

import fcntl
import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.digests import read_json, write_json

CHECKPOINT, WEIGHTS, HISTORY, STATE, RUN = "last.ckpt", "weights.safetensors", "history.csv", "state.json", "run.json"
RESULT, PREDICTIONS = "result.json", "predictions.parquet"  # of an evaluation, in a folder of its own below the run's
LOGS = "dvclive"
PATIENCE = 10.0  # seconds to wait for the workers of a killed training to notice


class RunBusy(RuntimeError):
    """Another process writes in this folder."""


class RunError(ValueError):
    """A run's folder that does not hold what is asked of it; the message gives the remedy."""


@contextmanager
def only_writer(run: Path) -> Iterator[None]:
    """Holds the folder's lock. The kernel frees it, even after kill -9.

    Raises:
        RunBusy: it is held, and was not freed in ten seconds.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("w", encoding="utf-8") as lock:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunBusy(f"{run}: another process trains or evaluates here; wait for it or end it") from None
                time.sleep(0.2)
        yield


def claim(run: Path, identity: str) -> dict[str, Any]:
    """Makes the folder belong to one training: what it left is kept, what another one left or was damaged is removed,
    its evaluations too.

    Args:
        run: the folder.
        identity: digest of all that decides the weights.

    Returns:
        The run's record if this training is already complete, otherwise {}.
    """
    record = standing(run, identity)
    if record is not None:
        return record
    for name in (RUN, CHECKPOINT, WEIGHTS, HISTORY):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / LOGS, ignore_errors=True)
    for evaluation in {path.parent for name in (RESULT, PREDICTIONS) for path in run.glob(f"*/{name}")}:
        shutil.rmtree(evaluation)
    write_json(run / STATE, {"identity": identity})
    return {}


def standing(run: Path, identity: str) -> dict[str, Any] | None:
    """How far a training is: its record, {} where it was begun, None where nothing of it is of use."""
    state = _read(run / STATE)
    record = state.get("record", {})
    usable = (run / WEIGHTS).exists() and (not record or weights_digest(run) == record["weights"])
    return record if state.get("identity") == identity and usable else None


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
    record = _read(run / RUN)
    if not record:
        raise RunError(f"{run / RUN} is not there: train the head first (`python -m pipeline train`)")
    if not (run / WEIGHTS).exists() or weights_digest(run) != record["weights"]:
        raise RunError(f"{run / WEIGHTS} is not the file that run.json names; delete {run} and train again")
    return record


def weights_digest(run: Path) -> str:
    """sha256 of the run's weights file."""
    with (run / WEIGHTS).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    remedy = "delete it" if path.name == RUN else f"delete {path.parent}"
    return read_json(path, f"{remedy} and train the head again") if path.exists() else {}
