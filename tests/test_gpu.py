"""GPUs are lent to one command at a time. No GPU is needed: the devices are names."""

import errno
import fcntl
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import gpu

# As `python -m pipeline.gpu`, on a machine where only PATH leads to nvidia-smi.
ELSEWHERE = (
    "from pathlib import Path; from pipeline import gpu; gpu.PLACES, gpu.DRIVER = (), Path('absent'); gpu.main()"
)
LEASE = [sys.executable, "-c", ELSEWHERE]
SHOW = ["sh", "-c", 'echo "${CUDA_VISIBLE_DEVICES-unset}"']


@pytest.fixture
def machine(tmp_path) -> dict[str, str]:
    """The environment of a machine without GPUs, and with leases of its own."""
    hidden = {"CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "PERMAFROST_LEASE"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    kept.pop("SLURM_STEP_NUM_TASKS", None)
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


def uuid(letter: str, kind: str = "GPU") -> str:
    return f"{kind}-{letter * 8}-0000-1111-2222-333333333333"


A, B = uuid("a"), uuid("b")
TWO = f"GPU 0: Toy T1 (UUID: {A})\nGPU 1: Toy T1 (UUID: {B})"


def lock_of(machine: dict[str, str], device: str) -> Path:
    """The file that is held while the device is lent."""
    return next(Path(machine["PERMAFROST_LEASES"]).glob(f"*{device}.lock"))


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
    assert {*first.devices, *second.devices} == {A, B}
    end(first, second)


def test_a_device_has_one_name_however_a_project_calls_it(machine):
    machine = with_smi(machine, TWO)
    for name in ("1", "01", B, B.upper(), "GPU-bb", "1,-1,0", f"1,{B}"):
        assert run(machine | {"CUDA_VISIBLE_DEVICES": name}, 1).stdout == f"{B}\n"


@pytest.mark.parametrize("name", ["2", "GPU-", "GPU-c", "0,7"])
def test_a_name_that_is_of_no_device_or_of_two_is_refused_with_those_that_there_are(machine, name):
    done = run(with_smi(machine, TWO) | {"CUDA_VISIBLE_DEVICES": name}, 1)
    assert done.returncode == 1 and done.stdout == ""
    assert f"CUDA_VISIBLE_DEVICES names {name.split(',')[-1]}, and nvidia-smi lists" in done.stderr and A in done.stderr


def test_where_there_is_a_driver_nvidia_smi_is_found_beside_path_or_asked_for(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(gpu, "PLACES", ())
    (tmp_path / "version").write_text("580", encoding="utf-8")
    for chosen in ({}, {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": f"{A},1"}):
        with pytest.raises(gpu.LeaseError, match=r"no nvidia-smi.*put it on PATH, or"):
            gpu.pool(machine | chosen)
    assert gpu.pool(machine | {"CUDA_VISIBLE_DEVICES": A}) == [A]
    assert gpu.pool(machine | {"CUDA_VISIBLE_DEVICES": ""}) == []
    with_smi(machine, TWO)
    monkeypatch.setattr(gpu, "PLACES", (machine["PATH"],))
    assert gpu.pool(machine | {"PATH": "", "CUDA_VISIBLE_DEVICES": "1"}) == [B]


def test_the_slices_of_a_device_are_lent_in_its_place(machine):
    x, y = uuid("c", "MIG"), uuid("d", "MIG")
    slices = "".join(f"  MIG 1g.10gb     Device  {i}: (UUID: {name})\n" for i, name in enumerate((x, y)))
    machine = with_smi(machine, f"GPU 0: Toy T1 (UUID: {A})\n{slices}GPU 1: Toy T1 (UUID: {B})")
    assert run(machine, 3).stdout == f"{x},{y},{B}\n"
    # As CUDA reads it, the whole is its first slice.
    for name in ("0", A, x):
        assert run(machine | {"CUDA_VISIBLE_DEVICES": name}, 1).stdout == f"{x}\n"


@pytest.mark.parametrize(
    ("listing", "status"),
    [("couldn't communicate with the NVIDIA driver", 9), (f"GPU 0: Toy T1 (UUID: {A})\nGPU 1: lost", 0)],
)
def test_where_nvidia_smi_fails_no_command_runs_unrestricted(machine, listing, status):
    machine = with_smi(machine, listing, status)
    for chosen in ({}, {"CUDA_VISIBLE_DEVICES": "0"}):
        done = run(machine | chosen, 1)
        assert (done.returncode, done.stdout) == (1, "")
        assert "nvidia-smi -L cannot be relied on: " + listing.splitlines()[0] in done.stderr
        assert "let CUDA_VISIBLE_DEVICES be empty" in done.stderr
    assert run(machine | {"CUDA_VISIBLE_DEVICES": ""}, 1).stdout == "\n"
    assert run(machine, 0).stdout == "unset\n"


def test_an_nvidia_smi_that_never_answers_is_an_error(machine, monkeypatch):
    with_smi(machine, TWO)
    Path(machine["PATH"], "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    monkeypatch.setattr(gpu, "SECONDS_TO_LIST", 0.1)
    with pytest.raises(gpu.LeaseError, match="it says nothing in 0 s; mend the driver"):
        gpu.pool(machine)


def test_a_machine_whose_nvidia_smi_lists_none_has_none(machine):
    assert run(with_smi(machine, "No devices found."), 1).stdout == "unset\n"


def test_hidden_devices_are_none(machine):
    assert run(with_smi(machine, TWO) | {"CUDA_VISIBLE_DEVICES": ""}, 1).stdout == "\n"


def test_more_than_there_are_is_refused_at_once_with_the_remedy(machine):
    done = run(with_smi(machine, TWO), 3)
    assert done.returncode == 1
    assert f"3 GPUs asked for, 2 there: {A}, {B}; lower compute.devices" in done.stderr


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
    assert not gpu._take([lock_of(machine, "a")], 1, "nobody")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    done = run(machine, 1)
    assert done.stdout == "a\n" and "waiting" not in done.stderr


def test_who_comes_while_the_first_ever_looks_for_devices_waits_for_nobody_by_name(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a"}
    assert run(machine, 1).stdout == "a\n"
    lock_of(machine, "a").unlink()
    with next(Path(machine["PERMAFROST_LEASES"]).glob("line-*")).open("w") as line:
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
    assert both.communicate()[0] == "a,b\n"
    # Whichever it finds free: as a process ends, its devices are freed one after the other.
    assert later.communicate()[0] in ("a\n", "b\n")


def test_within_slurm_a_job_keeps_what_slurm_gave_it(machine):
    granted = with_smi(machine, TWO) | {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}
    assert run(granted, 1).stdout == "0\n"
    assert run(granted, 2).stdout == "0\n"  # what it asked for and was granted less
    del granted["CUDA_VISIBLE_DEVICES"]
    assert run(granted, 1).stdout == "unset\n"


@pytest.mark.parametrize(("chosen", "n"), [("0", 1), ("0,1", 2)])
def test_jobs_that_want_all_of_an_allocation_have_it_one_after_the_other(machine, chosen, n):
    granted = with_smi(machine, TWO) | {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": chosen}
    first = hold(granted, n)
    second = wait(granted, n)
    # The same card, wherever it is known by its name: a shell of an allocation may be older than the next one.
    other = wait({name: value for name, value in granted.items() if name != "SLURM_JOB_ID"}, n)
    end(first)
    assert second.communicate()[0] == f"{chosen}\n"
    assert other.communicate()[0] == ",".join([A, B][:n]) + "\n"


def test_the_tasks_of_one_step_of_slurm_hold_its_devices_together(machine):
    step = with_smi(machine, TWO) | {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "CUDA_VISIBLE_DEVICES": "0,1"}
    tasks = [hold(step | {"SLURM_STEP_NUM_TASKS": "2"}, 2) for _ in range(2)]
    assert [task.devices for task in tasks] == [["0", "1"]] * 2
    other = wait(step | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "1"}, 2)
    end(*tasks)
    assert other.communicate()[0] == "0,1\n"


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
    twice = [*within[:-3], *within]
    assert run(machine, 1, twice).stdout == "a\n"


def test_two_within_a_lease_of_one_device_have_it_one_after_the_other(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a", "PATH": os.environ["PATH"]}
    inner = [sys.executable, "-m", "pipeline.gpu", "--n", "1", "--", "sh", "-c", 'mkdir "$0"; sleep 0.2; rmdir "$0"']
    script = f"{shlex.join([*inner, machine['PERMAFROST_LEASES'] + '/x'])}"
    done = run(machine, 1, ["sh", "-ec", f"{script} & {script}; wait $!"])
    assert done.returncode == 0 and "File exists" not in done.stderr and "gpu: waiting for 1 of a" in done.stderr


def test_the_variables_of_a_lease_that_ended_grant_nothing(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a"}
    show = ["sh", "-c", 'echo "$PERMAFROST_LEASE"']
    ended = run(machine, 1, show).stdout.strip()
    holder = hold(machine, 1)
    late = wait(machine | {"PERMAFROST_LEASE": ended}, 1)
    end(holder)
    assert late.communicate()[0] == "a\n"


def test_a_device_of_a_killed_lease_is_not_lent_while_a_job_within_it_runs(machine):
    machine |= {"CUDA_VISIBLE_DEVICES": "a", "PATH": os.environ["PATH"]}
    inner = shlex.join([sys.executable, "-m", "pipeline.gpu", "--n", "1", "--", "sh", "-c", "echo $$; exec sleep 60"])
    # As Python's subprocess does, the inner one is started without what the outer one holds.
    close = "import os, sys, subprocess; subprocess.Popen(sys.argv[1], shell=True).wait()"
    outer = [*LEASE, "--n", "1", "--", sys.executable, "-c", close, inner]
    job = subprocess.Popen(outer, env=machine, stdout=subprocess.PIPE, text=True)
    orphan = int(job.stdout.readline())
    end(job)
    waiter = wait(machine, 1)
    os.kill(orphan, signal.SIGKILL)
    assert waiter.communicate()[0] == "a\n"
    assert [path.name.count(".") for path in Path(machine["PERMAFROST_LEASES"]).glob("*.lock")] == [1]


@pytest.mark.parametrize("sweep", [lambda leases: lock_of({"PERMAFROST_LEASES": leases}, "a").unlink(), shutil.rmtree])
def test_who_deletes_the_lock_of_a_device_that_is_held_lends_it_to_nobody(machine, sweep):
    machine |= {"CUDA_VISIBLE_DEVICES": "a"}
    holder = hold(machine, 1)
    sweep(machine["PERMAFROST_LEASES"])
    waiter = wait(machine, 1)
    end(holder)
    assert waiter.communicate()[0] == "a\n"


def test_a_lock_folder_of_somebody_else_is_refused(machine, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(machine | {"CUDA_VISIBLE_DEVICES": "a", "PERMAFROST_LEASES": str(tmp_path / "file")}, 1)
    assert done.returncode == 1 and "error: no leases of GPUs can be kept in" in done.stderr


def test_leases_lie_in_the_home_that_the_system_knows_which_nothing_sweeps(monkeypatch, tmp_path):
    whose = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwuid", lambda user: pwd.struct_passwd([*whose[:5], str(tmp_path), whose[6]]))
    assert gpu.lock_folder({"HOME": "/x", "TMPDIR": "/y"}) == tmp_path / ".local/state/permafrost/gpus"
    assert gpu.lock_folder({}).stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_written_to_is_an_error_with_the_remedy(monkeypatch):
    whose = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwuid", lambda user: pwd.struct_passwd([*whose[:5], "/proc/nowhere", whose[6]]))
    with pytest.raises(gpu.LeaseError, match=r"kept in /proc/nowhere/.*let PERMAFROST_LEASES name a folder of yours"):
        gpu.lock_folder({})


def test_a_folder_that_is_another_in_each_directory_is_refused():
    with pytest.raises(gpu.LeaseError, match="name it from the root"):
        gpu.lock_folder({"PERMAFROST_LEASES": "leases"})


def test_a_file_system_without_locks_is_an_error_with_the_remedy(machine, monkeypatch):
    def refuse(file, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(gpu.LeaseError, match=r"cannot be locked in .*: No locks available; let PERMAFROST_LEASES"):
        gpu.lease(1, machine | {"CUDA_VISIBLE_DEVICES": "a"})
