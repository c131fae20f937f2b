"""One training in several processes: two devices of a node, and two nodes; together, killed, refused."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import Compute
from pipeline.runs import Run
from pipeline.training import RunError
from tests.later import Later, train
from tests.training.learnable import Made, train_and_note
from tests.workflow.forks import programs

processes = Later("pipeline.training.processes")

ROOT = Path(__file__).parents[2]
EPOCHS = 4
# Draws are each process's own, so what is drawn is off where one process and two must agree.
PLAIN = {"epochs": EPOCHS, "mixup": 0.0, "model__dropout": 0.0, "model__token_dropout": 0.0}
ONE_NODE, TWO_NODES = {"devices": 2, "strategy": "ddp"}, {"nodes": 2}


class Training:
    """A training in processes of its own: the first, which starts the other, or two that torchrun starts as nodes.

    Each is a program of tests/workflow/forks.py, which lives and dies with its call.
    """

    def __init__(self, made: Made, run: Path, compute: dict, changes: dict) -> None:
        words = ["tests.training.learnable", made.manifest.parent, run, json.dumps(compute), json.dumps(changes)]
        python = str(programs() / "all/python")
        commands = [[python, "-m", *words]]
        if nodes := compute.get("nodes"):
            started_by = ["-m", "torch.distributed.run", f"--nnodes={nodes}", "--nproc-per-node=1"]
            started_by += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
            commands = [[python, *started_by, f"--node-rank={i}", "-m", *words] for i in range(nodes)]
        self.run = run
        self.processes = [
            subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for command in commands
        ]

    @property
    def lines(self) -> Iterator[str]:
        """What the first says, as it says it."""
        return iter(self.processes[0].stderr)

    def kill(self) -> None:
        """Kill -9 of the first process; on several nodes, of all that runs on the first one."""
        first = self.processes[0]
        started = [pid for pid, node in self.alive().items() if node == 0] if len(self.processes) > 1 else []
        assert len(started) == len(self.processes) - 1
        for pid in (first.pid, *started):
            os.kill(pid, signal.SIGKILL)
        first.wait()

    def end(self) -> list[str]:
        """Waits for all to end well. Returns what they said."""
        said = [process.communicate(timeout=300)[1] for process in self.processes]
        assert [process.returncode for process in self.processes] == [0] * len(self.processes), "\n".join(said)
        return "".join(said).splitlines()

    def gone(self, seconds: float = 60) -> bool:
        """Whether nothing of it runs any more, soon."""
        deadline = time.monotonic() + seconds
        while left := self.alive():
            if time.monotonic() > deadline:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return False
            for process in self.processes:
                process.poll()
            time.sleep(0.1)
        return True

    def alive(self) -> dict[int, int | None]:
        """The processes that were told to train this run, and the number of the node that torchrun gave each."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")  # a zombie has none
                if str(self.run) not in words:
                    continue
                told = (process / "environ").read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            node = [line.partition("=")[2] for line in told if line.startswith("GROUP_RANK=")]
            found[int(process.name)] = int(node[0]) if node else None
        return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def rows_of(run: Path, process: int) -> list:
    """[epoch, step, row numbers] of each step of a process."""
    return [json.loads(line) for line in Path(f"{run}.rows{process}").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module", params=[ONE_NODE, TWO_NODES], ids=["two devices", "two nodes"])
def together(request, made, tmp_path_factory) -> tuple[dict, Path, list[str]]:
    """A training of two processes, with what `compute` it had and what it said."""
    run = tmp_path_factory.mktemp("together") / "two"
    return request.param, run, Training(made, run, request.param, PLAIN).end()


@pytest.fixture(scope="module")
def alone(made, tmp_path_factory) -> Path:
    """The same training in one process, this one."""
    run = tmp_path_factory.mktemp("alone") / "one"
    train_and_note(made.manifest.parent, run, {}, PLAIN)
    return run


@pytest.mark.slow
def test_two_processes_learn_from_disjoint_halves_of_the_batches_of_one(together, alone):
    _, run, _ = together
    halves = zip(rows_of(run, 0), rows_of(run, 1), rows_of(alone, 0), strict=True)
    for (*place, first), (*other_place, second), (*wanted_place, whole) in halves:
        assert place == other_place == wanted_place
        assert len(first) == len(second) == len(whole) // 2
        assert sorted(first + second) == sorted(whole) and len(set(whole)) == len(whole)


@pytest.mark.slow
def test_two_processes_train_as_one_and_leave_one_result(together, alone):
    _, run, said = together
    one, two = (pd.read_csv(folder / "history.csv") for folder in (alone, run))
    # 16 holdout samples, each validated once: accuracy in sixteenths. All else is equal but for the order of sums.
    pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    first, second = (load_file(folder / "weights.safetensors") for folder in (alone, run))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-3, atol=1e-4)
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    assert [line.split()[1] for line in said if line.startswith("epoch ")] == [f"{i}/{EPOCHS}" for i in (1, 2, 3, 4)]


@pytest.mark.slow
def test_killed_half_way_both_end_and_the_same_command_resumes_to_the_same_bytes(made, together, tmp_path):
    compute, whole, _ = together
    run = tmp_path / "killed"
    killed = Training(made, run, compute, PLAIN)
    for line in killed.lines:
        if line.startswith("epoch   2"):
            break
    killed.kill()
    assert killed.gone(), "a process outlived the first one"
    said = Training(made, run, compute, PLAIN).end()
    assert any(line.startswith("resumed after epoch") for line in said)
    for name in ("weights.safetensors", "history.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_what_is_complete_already_is_complete_for_every_process(made, together, tmp_path):
    compute, whole, _ = together
    run = tmp_path / "again"
    shutil.copytree(whole, run)
    (run / "run.json").unlink()  # as a scheduler does before it runs a rule
    # Not the last line: torchrun may report that the first node, whose port the others talk to, was gone before them.
    said = Training(made, run, compute, PLAIN).end()
    assert sum("trained 0 epochs" in line for line in said) == 1
    assert not [line for line in said if line.startswith("epoch ")]
    assert (run / "run.json").read_bytes() == (whole / "run.json").read_bytes()


def test_a_process_that_nobody_started_as_one_of_many_is_refused_with_the_remedy(made, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    params = made.params.model_copy(update={"compute": Compute(device="cpu", devices=4, nodes=2)})
    with pytest.raises(RunError, match=r"neither srun nor torchrun.*each of the 8 devices.*compute\.nodes: 1"):
        train(replace(made.run(tmp_path / "run"), params=params))


def test_more_devices_than_there_are_is_an_error_before_anything_is_read(made, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    params = made.params.model_copy(update={"compute": Compute(device="cuda", devices=2)})
    with pytest.raises(RunError, match=r"compute\.devices is 2, but torch finds 1 CUDA devices here; lower it"):
        train(Run(params, "gasm_cast", tmp_path / "none.parquet", {}, tmp_path / "run"))


def test_srun_s_places_are_taken_as_they_are(monkeypatch):
    """What Slurm says to task 5 of two nodes of four."""
    told = {
        "NTASKS": 8,
        "NTASKS_PER_NODE": 4,
        "PROCID": 5,
        "LOCALID": 1,
        "NODEID": 1,
        "JOB_ID": 4242,
        "JOB_NAME": "run",
    }
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SLURM_NODELIST", "node[07-08]")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "removed")
        monkeypatch.delenv(name)
    place = processes.environment(Compute(devices=4, nodes=2))
    place.validate_settings(num_devices=4, num_nodes=2)
    assert (place.world_size(), place.global_rank(), place.node_rank(), place.local_rank()) == (8, 5, 1, 1)
    assert (place.main_address, place.main_port) == ("node07", 19242)
    assert place.creates_processes_externally and not place.auto_requeue
