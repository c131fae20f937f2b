"""A run: one training of one head, and one evaluation of it. Opens, loads and names its files, each once.

Knows no torch, so that a plan may name what there is to make; what a task decides is asked of its record.

Until a training is complete its checkpoints say all that it needs. Then state.json says what the files belong to and
outlives run.json, which appears last and says that all is there.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Params, evaluation_key
from pipeline.digests import Damaged, file_digest, read_json, write_json
from pipeline.files import lock
from pipeline.tables import read_frame
from pipeline.tasks import TASKS, Task

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINT, PREVIOUS = "last.ckpt", "previous.ckpt"
WEIGHTS, HISTORY, STATE, RUN = "weights.safetensors", "history.csv", "state.json", "run.json"
# Of an evaluation, in a folder of its own below the run's.
RESULT, PREDICTIONS, DRAWS = "result.json", "predictions.parquet", "draws.parquet"
LOGS = "dvclive"
STAND_INS = "stand_ins"  # of the training from which γ is chosen, a run's folder within a run's
PATIENCE = 10.0  # seconds to wait for the workers of a killed training to notice


def say(line: str) -> None:
    """One line to the log, at once."""
    print(line, file=sys.stderr, flush=True)


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


def clear(run: Path) -> None:
    """Removes what another training left in the folder, its evaluations too."""
    for name in (RUN, STATE, CHECKPOINT, PREVIOUS, WEIGHTS, HISTORY):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / LOGS, ignore_errors=True)
    for evaluation in {path.parent for name in (RESULT, PREDICTIONS, DRAWS) for path in run.glob(f"*/{name}")}:
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


@dataclass(frozen=True, eq=False)
class Run:
    """A head, what it reads, and where all that is made of it lies; what is asked of it is opened then, and kept.

    Attributes:
        params: hold the head as this run has it, and `compute`.
        head: its name.
        manifest: the data set's Parquet manifest.
        features: role -> directory of the store, as the head's `inputs`.
        folder: runs/<head>/<key>: checkpoints, weights, logs; what is mined.
    """

    params: Params = field(repr=False)
    head: str
    manifest: Path = field(repr=False)
    features: Mapping[str, Path] = field(repr=False)
    folder: Path
    _loaded: dict[str, Any] = field(init=False, default_factory=dict, repr=False)

    # --- what params say ----------------------------------------------------------------------------------------------

    @property
    def config(self) -> Any:
        """The head's sub-tree of params."""
        return self.params.head(self.head)

    @property
    def task(self) -> Task:
        """What its head is asked for."""
        return TASKS[self.config.task]

    @property
    def dataset(self) -> str:
        """The data set that it reads."""
        return self.config.dataset

    @property
    def root(self) -> Path:
        """The features' folder, where the manifests of all data sets lie."""
        return self.manifest.parents[1]

    # --- the names of its files ---------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """Of all that decides what is learned."""
        return self.folder.name

    @cached_property
    def evaluation(self) -> str:
        """The key of its evaluation: runs of one training differ in it alone."""
        return evaluation_key(self.config)

    @property
    def evaluation_folder(self) -> Path:
        """runs/<head>/<key>/<evaluation>: result and predictions."""
        return self.folder / self.evaluation

    @property
    def result_file(self) -> str:
        """Its result.json, as the workflow names it."""
        return str(self.evaluation_folder / RESULT)

    # --- what is in them ----------------------------------------------------------------------------------------------

    @cached_property
    def samples(self) -> Any:
        """What is learned from and evaluated: `training.dataset.Samples`, or what else its task opens.

        Raises:
            DataError: manifest and stores do not belong together, or nothing can be learned or evaluated.
        """
        return self.task.code("samples")(self)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Of its training; {} where nothing is trained. Raises as `read_run`."""
        return read_run(self.folder) if self.config.trains else {}

    @property
    def model(self) -> Any:
        """The head with the run's weights, ready to predict; of whatever samples it was first asked about."""
        if "model" not in self._loaded:
            self._loaded["model"] = self.task.code("model")(self)
        return self._loaded["model"]

    @cached_property
    def result(self) -> dict[str, Any]:
        """What its evaluation found, of what the run holds now.

        Raises:
            RunError: it has not been evaluated.
            Damaged: a file is not the one that was written, or that was evaluated.
        """
        place = self.evaluation_folder
        for name in (RESULT, PREDICTIONS):
            if not (place / name).exists():
                raise RunError(
                    f"{place / name} is not there: {self.head} has no finished run of these params; make it first: "
                    f"`snakemake results/{self.config.result}.json`"
                )
        result = read_json(place / RESULT, self._again)
        for name, digest in result["provenance"]["read"].items():
            path = self.folder / name
            if not path.exists() or file_digest(path) != digest:
                raise Damaged(f"{path} is not the file that {place / RESULT} was evaluated with; {self._again}")
        return result

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """What its evaluation predicted, a row a sample. Raises as `result`."""
        digest = self.result["provenance"]["files"][PREDICTIONS]
        return read_frame(self.evaluation_folder / PREDICTIONS, self._again, digest=digest)

    @property
    def _again(self) -> str:
        made = f"`snakemake results/{self.config.result}.json`"
        return (
            f"delete {self.evaluation_folder} and evaluate again: {made}, or `python -m pipeline evaluate {self.head}`"
        )

    def refuse_other_samples(self) -> None:
        """Raises RunError where the run is not complete, or learned from other samples than the stores hold now."""
        samples = self.samples
        if self.config.trains and self.record["data_digest"] != samples.digest:
            raise RunError(
                f"{self.folder} learned from other samples than {self.manifest} and the stores hold now; train the "
                "head again"
            )

    # --- what is made of them -----------------------------------------------------------------------------------------

    def table(self, ids: Sequence[str]) -> Any:
        """Some of its samples by row number, as training and evaluation read them."""
        return self.task.code("table")(self.samples, ids, self.params.compute.cache_memory_gb * 1e9)

    @cached_property
    def stand_ins(self) -> Run:
        """The training without some of its seen classes, which play the unseen ones: γ is chosen from it."""
        taught = self.samples.standing_in(self.config.stand_ins, self.config.seed)
        return self.over(taught, self.folder / STAND_INS)

    def over(self, samples: Any, folder: Path | None = None) -> Run:
        """The same head over other samples: by the same weights, or by those of another training in its own folder."""
        other = replace(self, folder=folder or self.folder)
        vars(other)["samples"] = samples
        if folder is None:
            vars(other)["_loaded"] = self._loaded
        return other
