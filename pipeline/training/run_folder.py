"""A run's folder: one writer at a time, what is left of an earlier training, files by rename. Knows no torch.

Until a training is complete its checkpoints say all that it needs. Then state.json says what the files belong to and
outlives run.json, which appears last and says that all is there.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.files import lock, write_bytes

CHECKPOINT, PREVIOUS = "last.ckpt", "previous.ckpt"
WEIGHTS, HISTORY, STATE, RUN = "weights.safetensors", "history.csv", "state.json", "run.json"
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


def write_json(path: Path, document: Any) -> None:
    """Writes by rename: a reader sees all of it or nothing. Keys are sorted; NaN is refused."""
    write_bytes(path, json_bytes(document), durable=True)


def json_bytes(document: Any) -> bytes:
    """As `write_json` writes it."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


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
        state = json.loads((run / STATE).read_text(encoding="utf-8"))
        record = state["record"]
        whole = state["digest"] == _digest(state["identity"], record)
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        progress(f"{run / STATE} is damaged: made again")
        return {}
    if state["identity"] != identity:
        progress(f"{run}: what is there was learned from other samples or params: made again")
        return {}
    if not (run / WEIGHTS).exists() or weights_digest(run) != record["weights"]:
        progress(f"{run / WEIGHTS} is not there, or damaged: made again")
        return {}
    return record


def complete(run: Path, identity: str, record: dict[str, Any]) -> None:
    """Declares the training complete: first in state.json, which outlives run.json, then in run.json."""
    state = {"identity": identity, "record": record, "digest": _digest(identity, record)}
    write_json(run / STATE, state)
    write_json(run / RUN, record)


def _digest(identity: str, record: dict[str, Any]) -> str:
    return hashlib.sha256(json_bytes([identity, record])).hexdigest()


def read_run(run: Path) -> dict[str, Any]:
    """The record of a complete run.

    Raises:
        RunError: there is none, or its weights are not the ones that it names.
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
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
