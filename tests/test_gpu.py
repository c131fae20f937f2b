"""GPUs are lent to one command at a time. No GPU is needed: the devices are names."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import gpu

LEASE = [sys.executable, "-m", "pipeline.gpu"]
SHOW = ["sh", "-c", 'echo "${CUDA_VISIBLE_DEVICES-unset}"']


@pytest.fixture
def machine(tmp_path) -> dict[str, str]:
    """The environment of a machine without GPUs, and with leases of its own."""
    hidden = {"CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "PERMAFROST_LEASE"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    (tmp_path / "bin").mkdir()
    for program in ("sh", "sleep"):
        (tmp_path / "bin" / program).symlink_to(f"/bin/{program}")
    return kept | {"PERMAFROST_LEASES": str(tmp_path / "leases"), "PATH": str(tmp_path / "bin")}


def with_smi(machine: dict[str, str], listing: str, status: int = 0) -> dict[str, str]:
    """A machine whose nvidia-smi says this."""
    program = Path(machine["PATH"]) / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nwhile IFS= read -r x; do echo \"$x\"; done <<'X'\n{listing}\nX\nexit {status}\n")
    program.chmod(0o755)
    return machine


def run(machine: dict[str, str], n: int, command: list[str] = SHOW) -> subprocess.CompletedProcess:
    return subprocess.run([*LEASE, "--n", str(n), "--", *command], env=machine, capture_output=True, text=True)


def hold(machine: dict[str, str], n: int) -> subprocess.Popen:
    """A command that has its lease."""
    script = ["sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES"; exec sleep 60']
    job = subprocess.Popen([*LEASE, "--n", str(n), "--", *script], env=machine, stdout=subprocess.PIPE, text=True)
    job.devices = job.stdout.readline().strip().split(",")
    return job


def wait(machine: dict[str, str], n: int) -> subprocess.Popen:
    """One that waits for its lease, which it then shows. `said` is what it said when it began to wait."""
    command = [*LEASE, "--n", str(n), "--", *SHOW]
    job = subprocess.Popen(command, env=machine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    job.said = job.stderr.readline()
    assert f"waiting for {n}" in job.said
    return job


def end(*jobs: subprocess.Popen) -> None:
    for job in jobs:
        job.kill()
        job.wait()


TWO = "GPU 0: Toy T1 (UUID: GPU-aaaa-1)\nGPU 1: Toy T1 (UUID: GPU-bbbb-2)"


def test_where_there_is_no_gpu_the_command_runs_as_it_is(machine):
    done = run(machine, 2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unset\n", "")


def test_a_job_without_gpu_takes_none(machine):
    assert run(with_smi(machine, TWO), 0).stdout == "unset\n"


def test_the_commands_own_exit_status_and_arguments_are_kept(machine):
    command = ["sh", "-c", 'echo "$@"; exit 7', "sh", "--n", "3", "--", "x"]
    done = run(machine | {"CUDA_VISIBLE_DEVICES": "a"}, 1, command)
    assert (done.returncode, done.stdout) == (7, "--n 3 -- x\n")


def test_each_holder_has_devices_of_its_own(machine):
    machine = with_smi(machine, TWO)
    first, second = hold(machine, 1), hold(machine, 1)
    assert {*first.devices, *second.devices} == {"GPU-aaaa-1", "GPU-bbbb-2"}
    end(first, second)


def test_a_device_has_one_name_however_a_project_calls_it(machine):
    machine = with_smi(machine, TWO)
    for name in ("1", "GPU-bbbb-2", "GPU-bb", "1,-1,0"):
        assert run(machine | {"CUDA_VISIBLE_DEVICES": name}, 1).stdout == "GPU-bbbb-2\n"


def test_the_slices_of_a_device_are_lent_in_its_place(machine):
    slices = "".join(f"  MIG 1g.10gb     Device  {i}: (UUID: MIG-{name})\n" for i, name in enumerate("xy"))
    machine = with_smi(machine, f"GPU 0: Toy T1 (UUID: GPU-a)\n{slices}GPU 1: Toy T1 (UUID: GPU-b)")
    assert run(machine, 3).stdout == "MIG-x,MIG-y,GPU-b\n"


def test_where_the_driver_fails_the_command_runs_as_it_is_and_it_is_said(machine):
    done = run(with_smi(machine, "couldn't communicate with the NVIDIA driver", status=9), 1)
    assert (done.returncode, done.stdout) == (0, "unset\n")
    assert "gpu: nvidia-smi lists no GPU: couldn't communicate" in done.stderr


def test_hidden_devices_are_none(machine):
    assert run(with_smi(machine, TWO) | {"CUDA_VISIBLE_DEVICES": ""}, 1).stdout == "\n"


def test_more_than_there_are_is_refused_at_once_with_the_remedy(machine):
    done = run(with_smi(machine, TWO), 3)
    assert done.returncode == 1
    assert "3 GPUs asked for, 2 there: GPU-aaaa-1, GPU-bbbb-2; lower compute.devices" in done.stderr


def test_a_command_that_is_not_there_is_an_error_that_names_it(machine):
    done = run(machine, 0, ["absent"])
    assert done.returncode == 1
    assert done.stderr == "error: absent cannot be run: No such file or directory; name a program that PATH has\n"


def test_fewer_than_no_gpu_is_refused(machine):
    done = run(machine, -1)
    assert done.returncode == 2 and "--n is -1, expected 0 or more" in done.stderr


def test_who_waits_says_for_what_and_behind_whom(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a"}
    holder = hold(machine, 1)
    waiter = wait(machine, 1)
    assert f"gpu: waiting for 1 of a: a was last lent to {holder.pid} in {Path.cwd()}" in waiter.said
    end(holder)
    lent, said = waiter.communicate()
    assert lent == "a\n" and "gpu: a after " in said


def test_kill_9_frees_the_device_at_once(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a"}
    holder = hold(machine, 1)
    assert not gpu._take([Path(machine["PERMAFROST_LEASES"]) / "a.lock"], 1)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    done = run(machine, 1)
    assert done.stdout == "a\n" and "waiting" not in done.stderr


def test_who_comes_while_the_first_ever_looks_for_devices_waits_for_nobody_by_name(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a"}
    assert run(machine, 1).stdout == "a\n"
    leases = Path(machine["PERMAFROST_LEASES"])
    (leases / "a.lock").unlink()
    with next(leases.glob("line-*")).open("w") as line:
        fcntl.flock(line, fcntl.LOCK_EX)
        waiter = wait(machine, 1)
        assert "a was last lent to nobody" in waiter.said
    assert waiter.communicate()[0] == "a\n"


def test_a_killed_waiter_does_not_block_the_line(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a"}
    holder = hold(machine, 1)
    killed, next_one = wait(machine, 1), wait(machine, 1)
    end(killed, holder)
    assert next_one.communicate()[0] == "a\n"


def test_all_or_nothing_many_that_want_several_all_get_them_and_never_two_the_same(machine, tmp_path):
    """Twelve jobs, two projects, one to three of three devices each: no deadlock, and no device with two holders."""
    machine |= {"CUDA_VISIBLE_DEVICES": "a,b,c"}
    # mkdir is atomic: it fails if another holder is on the device.
    claim = 'set -e; for d in $(echo $CUDA_VISIBLE_DEVICES | tr , " "); do mkdir "$0/$d"; done; sleep 0.1; rmdir '
    script = [claim + '$(echo $CUDA_VISIBLE_DEVICES | sed "s|[^,]*|$0/&|g; s|,| |g")', str(tmp_path)]
    machine |= {"PATH": os.environ["PATH"]}
    commands = [[*LEASE, "--n", str(1 + number % 3), "--", "sh", "-c", *script] for number in range(12)]
    jobs = [subprocess.Popen(command, env=machine, stderr=subprocess.PIPE, text=True) for command in commands]
    for job in jobs:
        assert job.wait(timeout=60) == 0, job.stderr.read()


def test_who_wants_all_is_not_passed_by_those_who_want_one(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a,b"}
    first, second = hold(machine, 1), hold(machine, 1)
    both = wait(machine, 2)
    end(first)
    later = wait(machine, 1)  # though a device is free
    end(second)
    assert (both.communicate()[0], later.communicate()[0]) == ("a,b\n", "a\n")


def test_within_slurm_a_job_keeps_what_slurm_gave_it(machine):
    granted = with_smi(machine, TWO) | {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}
    assert run(granted, 1).stdout == "0\n"
    assert not Path(machine["PERMAFROST_LEASES"]).exists()
    del granted["CUDA_VISIBLE_DEVICES"]
    assert run(granted, 1).stdout == "unset\n"


def test_jobs_that_share_one_allocation_of_slurm_share_no_device_of_it(machine):
    granted = machine | {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}
    first, second = hold(granted, 1), hold(granted, 1)
    assert {*first.devices, *second.devices} == {"0", "1"}
    # Another allocation may number other devices the same.
    other = hold(granted | {"SLURM_JOB_ID": "8"}, 1)
    end(first, second, other)


def test_a_lease_within_a_lease_waits_for_nobody(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a,b", "PATH": os.environ["PATH"]}
    within = [sys.executable, "-m", "pipeline.gpu", "--n", "1", "--", *SHOW]
    assert run(machine, 1, within).stdout == "a\n"
    assert run(machine, 2, within).stdout == "a\n"


def test_a_lock_folder_of_somebody_else_is_refused(machine, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(machine | {"CUDA_VISIBLE_DEVICES": "a", "PERMAFROST_LEASES": str(tmp_path / "file")}, 1)
    assert done.returncode == 1 and "error: " in done.stderr
