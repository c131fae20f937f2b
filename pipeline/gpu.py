"""Lends GPUs to one command: `python -m pipeline.gpu --n 1 -- COMMAND...`. Knows no torch, no params, no Snakemake.

A scheduler on one machine counts GPUs and says to no job which. Here each device is a file, and its holder holds the
file's flock, which the kernel frees however a process ends. The command replaces this process, so that the lease is as
old as the command and dies with it.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

SECONDS_BETWEEN_TRIES = 0.5
# Not TMPDIR: projects that differ in it would not see each other's leases. Flocks are of one machine, as /tmp is.
FOLDER = "/tmp/permafrost-gpus-{user}"
GPU = re.compile(r"^GPU (\d+): .*\(UUID: (\S+)\)")
SLICE = re.compile(r"^\s+MIG .*\(UUID: (\S+)\)")


class LeaseError(RuntimeError):
    """What was asked for cannot be lent; the message gives the remedy."""


def main() -> None:
    """Takes the lease and becomes the command."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, required=True, help="GPUs that the command is to have; 0: it runs as it is")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    if asked.n < 0:
        parser.error(f"--n is {asked.n}, expected 0 or more")
    try:
        os.environ |= lease(asked.n, os.environ)
    except (LeaseError, OSError) as error:
        sys.exit(f"error: {error}")
    try:
        os.execvp(asked.command[0], asked.command)
    except OSError as error:
        sys.exit(f"error: {asked.command[0]} cannot be run: {error.strerror}; name a program that PATH has")


def lease(n: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Waits for n GPUs, all or none, and holds them until this process and what it becomes end.

    Args:
        n: how many.
        environment: CUDA_VISIBLE_DEVICES, where it is set, names the GPUs there are to lend; nvidia-smi does elsewhere.

    Returns:
        What the environment is to hold beside: nothing where there is no GPU, or where all of those that Slurm or an
        outer lease grants are meant.

    Raises:
        LeaseError: fewer than n GPUs in all, or a lock folder of somebody else.
    """
    if n == 0:
        return {}
    devices = pool(environment)
    granted = environment.get("PERMAFROST_LEASE") or environment.get("SLURM_JOB_ID")
    if not devices or (granted and len(devices) <= n):
        return {}
    if len(devices) < n:
        raise LeaseError(
            f"{n} GPUs asked for, {len(devices)} there: {', '.join(devices)}; lower compute.devices in params, or "
            "let CUDA_VISIBLE_DEVICES name more"
        )
    # Within a grant its devices are lent anew: without cgroups' numbering they are other processes' devices, too.
    taken = _wait(devices, n, lock_folder(environment), f"{granted}-" if granted else "")
    return {"CUDA_VISIBLE_DEVICES": ",".join(taken), "PERMAFROST_LEASE": str(os.getpid())}


def pool(environment: Mapping[str, str]) -> list[str]:
    """The GPUs there are to lend, by UUID wherever nvidia-smi tells it, so that each has one name on a machine."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None and "SLURM_JOB_ID" in environment:
        return []  # it granted none, and what nvidia-smi lists may be others'
    listed = _listed()
    if chosen is None:
        return [uuid for uuids in listed.values() for uuid in uuids]
    found: dict[str, None] = {}
    for name in map(str.strip, chosen.split(",")):
        if name in ("", "-1"):
            break  # as CUDA reads it: what follows is hidden
        whole = next((uuid for uuids in listed.values() for uuid in uuids if uuid.startswith(name)), name)
        found[listed[name][0] if name in listed else whole] = None
    return list(found)


def lock_folder(environment: Mapping[str, str]) -> Path:
    """The folder of the leases of this user on this machine, made where it is absent.

    Raises:
        LeaseError: it is somebody else's.
    """
    folder = Path(environment.get("PERMAFROST_LEASES") or FOLDER.format(user=os.getuid()))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise LeaseError(f"{folder} is not a folder of yours; remove it, or let PERMAFROST_LEASES name another folder")
    return folder


def _listed() -> dict[str, list[str]]:
    """Index -> UUIDs of each GPU: its own, or those of the slices that MIG makes of it."""
    if shutil.which("nvidia-smi") is None:
        return {}
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    if done.returncode != 0:
        _say(f"nvidia-smi lists no GPU: {(done.stdout + done.stderr).strip()}")
        return {}
    found: dict[str, list[str]] = {}
    slices: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if gpu := GPU.match(line):
            index = gpu[1]
            found[index], slices[index] = [gpu[2]], []
        elif part := SLICE.match(line):
            slices[index].append(part[1])
    return {index: slices[index] or uuids for index, uuids in found.items()}


def _wait(devices: Sequence[str], n: int, folder: Path, prefix: str) -> list[str]:
    """Holds n of the devices, and gives their names."""
    began = time.monotonic()
    files = {folder / f"{prefix}{re.sub('[^A-Za-z0-9.-]', '_', name)}.lock": name for name in devices}
    # In line behind those who wait for the same devices, even if one is free: else who wants several would wait for as
    # long as somebody comes who wants one.
    line = hashlib.sha256("\n".join(sorted(map(str, files))).encode()).hexdigest()[:16]
    with (folder / f"line-{line}").open("w") as queue:
        taken = _take(list(files), n) if _locked(queue) else {}
        if not taken:
            _say(f"waiting for {n} of {', '.join(devices)}: {_holders(files)}")
            fcntl.flock(queue, fcntl.LOCK_EX)
            while not (taken := _take(list(files), n)):
                time.sleep(SECONDS_BETWEEN_TRIES)
            _say(f"{', '.join(files[path] for path in taken)} after {time.monotonic() - began:.0f} s")
    for descriptor in taken.values():
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} in {Path.cwd()}".encode(), 0)
        os.set_inheritable(descriptor, True)
    return [files[path] for path in taken]


def _take(files: Sequence[Path], n: int) -> dict[Path, int]:
    """Locks n of the files, or none. Returns their descriptors."""
    taken: dict[Path, int] = {}
    for path in files:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _locked(descriptor):
            os.close(descriptor)
            continue
        taken[path] = descriptor
        if len(taken) == n:
            return taken
    for descriptor in taken.values():
        os.close(descriptor)
    return {}


def _locked(file: IO[str] | int) -> bool:
    """Takes the file's flock, unless somebody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holders(files: Mapping[Path, str]) -> str:
    """Who had each device last: its holder, or one that ended."""
    last = {name: path.read_text() if path.exists() else "" for path, name in files.items()}
    return "; ".join(f"{name} was last lent to {holder or 'nobody'}" for name, holder in last.items())


def _say(line: str) -> None:
    print(f"gpu: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
