"""Several trainings and evaluations in one process: each as if it were alone, none held up by another."""

import multiprocessing
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import series as module
from pipeline.evaluation import evaluate
from pipeline.runs import only_writer
from pipeline.series import RunsFailed, alone, each
from tests.later import train
from tests.training.test_trainer import with_lr
from tests.workflow.states import without_timings

SEEDS = (3, 4, 5)
# Read from disk by a process that stays between epochs: it has to end with its run.
READS = {"cache_memory_gb": 0.0, "decode_workers": 1}


def quiet(line: str) -> None:
    pass


@pytest.fixture
def runs(made, tmp_path):
    """Three runs of two epochs that differ in their seeds, by name."""
    return runs_in(made, tmp_path / "series")


def runs_in(made, folder):
    found = {}
    for seed in SEEDS:
        run = made.run(folder / f"seed{seed}", epochs=2, seed=seed)
        compute = run.params.compute.model_copy(update=READS)
        found[f"seed {seed}"] = replace(run, params=run.params.model_copy(update={"compute": compute}))
    return found


@pytest.fixture(scope="module")
def apart(made, tmp_path_factory):
    """The same, each by a call of its own, in another order."""
    found = runs_in(made, tmp_path_factory.mktemp("apart"))
    for run in reversed(found.values()):
        train(run, quiet)
        evaluate(run, quiet)
    return found


def same(made, alone, name) -> bool:
    one, other = made[name], alone[name]
    files = ("weights.safetensors", "history.csv", f"{one.evaluation}/predictions.parquet")
    equal = [(one.folder / file).read_bytes() == (other.folder / file).read_bytes() for file in files]
    results = [without_timings(of.evaluation_folder / "result.json") for of in (one, other)]
    return all(equal) and results[0] == results[1]


def test_runs_of_one_process_have_the_bytes_that_each_has_alone_and_leave_nothing_behind(runs, apart):
    lines: list[str] = []
    before = torch.get_rng_state()
    each(runs, lambda run: train(run, quiet), lines.append)
    assert multiprocessing.active_children() == []
    each(runs, lambda run: evaluate(run, quiet), quiet)
    assert all(same(runs, apart, name) for name in runs)
    assert lines == ["1 of 3: seed 3", "2 of 3: seed 4", "3 of 3: seed 5"]
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(vars(run).get("samples") or run._loaded for run in runs.values()), "what a run opened is closed"


def test_a_process_that_is_killed_within_the_second_run_goes_on_there_and_ends_with_the_same_bytes(runs, apart):
    def dies(line: str) -> None:
        if line.startswith("epoch   1/2"):
            epochs.append(line)
            if len(epochs) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    epochs: list[str] = []
    if (child := os.fork()) == 0:
        each(runs, lambda run: train(run, dies), quiet)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [(run.folder / "run.json").exists() for run in runs.values()] == [True, False, False]
    lines: list[str] = []
    each(runs, lambda run: train(run, lines.append), quiet)
    assert sum("complete already" in line for line in lines) == 1
    assert sum(line.startswith("epoch") for line in lines) in (3, 4), "the second run went on, where a checkpoint was"
    each(runs, lambda run: evaluate(run, quiet), quiet)
    assert all(same(runs, apart, name) for name in runs)


def test_a_run_that_fails_holds_up_no_other_and_is_named_at_the_end(made, runs, apart, capfd):
    folder = runs["seed 3"].folder.with_name("diverges")
    runs = {"diverges": with_lr(made.run(folder, warmup_epochs=0.0), 1e30)} | runs

    def work(run) -> None:
        if run.config.seed == SEEDS[1]:
            raise ZeroDivisionError("a bug")
        train(run, quiet)
        evaluate(run, quiet)

    with pytest.raises(RunsFailed, match=r"2 of 4 runs failed; the others are complete:\ndiverges: ") as error:
        each(runs, work, quiet)
    assert "lower lr" in str(error.value) and "seed 4: a bug" in str(error.value)
    assert "ZeroDivisionError" in capfd.readouterr().err, "of a bug the place is shown"
    assert same(runs, apart, "seed 3") and same(runs, apart, "seed 5")
    with pytest.raises(ZeroDivisionError):
        each({"seed 4": runs["seed 4"]}, work, quiet)


def test_a_full_disk_ends_all_runs(runs):
    def work(run) -> None:
        tried.append(run)
        raise OSError(28, "No space left on device")

    tried: list = []
    with pytest.raises(OSError, match="No space"):
        each(runs, work, quiet)
    assert len(tried) == 1


def test_a_run_that_another_process_has_comes_last_and_is_waited_for(runs, monkeypatch):
    monkeypatch.setattr("pipeline.runs.PATIENCE", 0.0)
    order, lines = [], []
    held = only_writer(runs["seed 3"].folder)
    held.__enter__()
    monkeypatch.setattr(module.time, "sleep", lambda seconds: held.__exit__(None, None, None))

    def work(run) -> None:
        with only_writer(run.folder):
            order.append(run.config.seed)

    each(runs, work, lines.append)
    assert order == [4, 5, 3] and sum(line.startswith("waiting: ") for line in lines) == 1


def test_whatever_a_run_does_to_its_process_the_next_one_does_not_find():
    def found():
        draws = random.random(), np.random.rand(), torch.rand(1).item()
        cudnn = torch.backends.cudnn
        return draws, torch.get_deterministic_debug_mode(), cudnn.benchmark, torch.get_num_threads(), dict(os.environ)

    def spoil():
        torch.set_deterministic_debug_mode("error")
        torch.backends.cudnn.benchmark = True
        torch.set_num_threads(2)
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
        multiprocessing.get_context("fork").Process(target=signal.pause).start()

    with alone():
        first = found()
        spoil()
    with alone():
        assert found() == first
    assert multiprocessing.active_children() == []
