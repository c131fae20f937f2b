"""A Slurm of one node on this machine, for tests: no systemd, no cgroups, no accounting, two GPUs in name.

It lives in one folder, /etc is not touched, and it ends with the test.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun")
# Slurm wants character devices, and only lends them: these are everywhere, in containers too.
DEVICES = ("/dev/null", "/dev/zero")
CONFIGURATION = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
DefMemPerCPU=256
MailProg=/bin/true
KillWait=2
MinJobAge=600
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=1000000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=2-0 State=UP
"""


def missing() -> str:
    """Why no Slurm can be started here; nothing if it can."""
    if absent := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"needs {', '.join(absent)}: apt-get install --no-install-recommends slurm-wlm munge"
    return "" if os.getuid() == 0 else "slurmd starts jobs as root only"


@contextmanager
def one_node(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment with a running Slurm in it, of two GPUs and 16 processors, whatever the machine has."""
    for name in ("munge", "state", "spool", "bin"):
        (folder / name).mkdir(parents=True, mode=0o755)
    (folder / "munge/key").write_bytes(os.urandom(1024))
    (folder / "munge/key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    controller, daemon = _free_ports(2)
    configuration = CONFIGURATION.format(folder=folder, host=host, controller=controller, daemon=daemon)
    (folder / "slurm.conf").write_text(configuration)
    (folder / "gres.conf").write_text("".join(f"NodeName={host} Name=gpu File={device}\n" for device in DEVICES))
    # Snakemake's plugin hides SLURM_CONF from the srun that it starts in a job.
    srun = folder / "bin/srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    path = f"{srun.parent}{os.pathsep}{environment['PATH']}"
    environment = environment | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    files = {name: f"--{name}-file={folder}/munge/{name}" for name in ("key", "log", "pid", "seed")}
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *files.values()]
    started: list[subprocess.Popen] = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            with (folder / f"{command[0]}.out").open("w") as out:
                started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
            if command is munge:
                _until(lambda: (folder / "munge/socket").exists(), folder)
        _until(lambda: "idle" in _told(["sinfo", "--noheader", "--format=%T"], environment), folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False)
        # Until it has killed what does not end by itself: else that outlives the test.
        _until(lambda: not _told(["squeue", "--noheader"], environment), folder, seconds=90)
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=30)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _told(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def _until(there, folder: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            said = "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob("*.out")))
            raise TimeoutError(f"Slurm did not start in {seconds} s\n{said}")
        time.sleep(0.1)
