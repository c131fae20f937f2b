"""Lends GPUs to one command: `python -m pipeline.gpu --n 1 -- COMMAND...`. Knows no torch, no params, no Snakemake.

A scheduler on one machine counts GPUs and says to no job which. Here each device is a file, and its holder holds the
file's flock, which the kernel frees however a process ends, and a socket's name beside it, which cannot be deleted as
a file can. The command replaces this process, so that the lease is as old as the command and dies with it.
"""

import argparse
import errno
import fcntl
import hashlib
import os
import pwd
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

SECONDS_BETWEEN_TRIES = 0.5
# Below the home that the system knows, not HOME: jobs that differ in a variable would not see each other's leases. Not
# /tmp: a lock there is swept after ten days, though it is held, and a job may have a /tmp of its own.
FOLDER = ".local/state/permafrost/gpus"
# nvidia-smi counts as there wherever drivers put it: PATH differs from job to job, and with it would a device's name.
PLACES = ("/usr/bin", "/usr/local/bin", "/usr/local/nvidia/bin", "/opt/bin", "/usr/lib/wsl/lib")
DRIVER = Path("/proc/driver/nvidia/version")
# Of one start of one machine, in containers too: an index is a name only there. A UUID is one everywhere.
BOOT = Path("/proc/sys/kernel/random/boot_id")
SECONDS_TO_LIST = 60.0
ELSEWHERE = "let PERMAFROST_LEASES name a folder of yours that all of your jobs on this machine see"
GPU = re.compile(r"^GPU (\d+): .*\(UUID: (\S+)\)")
SLICE = re.compile(r"^\s+MIG .*\(UUID: (\S+)\)")
UUID = re.compile(r"(GPU|MIG|MIG-GPU)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(/\d+/\d+)?", re.IGNORECASE)
NAME = re.compile(r"\d|(GPU|MIG)-")  # what CUDA takes for a device


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
        n: how many; of what Slurm or an outer lease grants, at most all.
        environment: CUDA_VISIBLE_DEVICES, where it is set, names the GPUs there are to lend; nvidia-smi does elsewhere.

    Returns:
        What the environment is to hold beside: nothing where there is no GPU. Devices of which Slurm grants no more
        than are meant keep its names.

    Raises:
        LeaseError: fewer than n GPUs in all, devices whose names cannot be told, or no folder for the leases.
    """
    devices = pool(environment) if n else []
    if not devices:
        return {}
    folder = lock_folder(environment)
    files = {_file_of(name, folder, environment): name for name in devices}
    in_slurm = "SLURM_JOB_ID" in environment
    if len(devices) < n and not (in_slurm or all("." in path.stem for path in files)):
        raise LeaseError(
            f"{n} GPUs asked for, {len(devices)} there: {', '.join(devices)}; lower compute.devices in params, or "
            "let CUDA_VISIBLE_DEVICES name more"
        )
    holder = _holder(environment)
    try:
        taken = _wait(files, min(n, len(files)), folder, holder)
    except OSError as error:
        raise LeaseError(f"GPUs cannot be locked in {folder}: {error.strerror}; {ELSEWHERE}") from None
    lent = {"PERMAFROST_LEASE": ",".join(filter(None, (environment.get("PERMAFROST_LEASE"), holder)))}
    return lent if in_slurm and len(taken) == len(devices) else lent | {"CUDA_VISIBLE_DEVICES": ",".join(taken)}


def pool(environment: Mapping[str, str]) -> list[str]:
    """The GPUs there are to lend, by UUID wherever nvidia-smi tells it, so that each has one name on a machine.

    Raises:
        LeaseError: nvidia-smi is not there or fails where there is a driver, or CUDA_VISIBLE_DEVICES names no device.
    """
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None and "SLURM_JOB_ID" in environment:
        return []  # it granted none, and what nvidia-smi lists may be others'
    names: list[str] = []
    for name in map(str.strip, (chosen or "").split(",")):
        if not name or name.startswith("-"):
            break  # as CUDA reads it: what follows is hidden
        names.append(str(int(name)) if name.isdecimal() else name)
    if chosen is not None and not names:
        return []
    listed = _listed(environment, names)
    if chosen is None:
        return list(dict.fromkeys(uuid for uuids in listed.values() for uuid in uuids))
    return list(dict.fromkeys(_device(name, listed) for name in names))


def _device(name: str, listed: Mapping[str, Sequence[str]]) -> str:
    """The one name of a device: CUDA takes an index, a UUID, the beginning of one, and for a whole its first slice."""
    if not listed or not NAME.match(name):
        return name.lower().replace("gpu-", "GPU-").replace("mig-", "MIG-") if UUID.fullmatch(name) else name
    meant = [name] if name in listed else [full for full in listed if full.lower().startswith(name.lower())]
    if len(meant) != 1 or (name.isdecimal() and meant != [name]):
        found = "several that begin so" if meant else "no such device"
        raise LeaseError(
            f"CUDA_VISIBLE_DEVICES names {name}, and nvidia-smi lists {found}; name some of {', '.join(listed)}"
        )
    return listed[meant[0]][0]


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    tool = shutil.which("nvidia-smi", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *PLACES)))
    if tool:
        asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS_TO_LIST, check=False)
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.split()[0]
    with suppress(OSError):
        words = DRIVER.read_text(encoding="utf-8").split()
        return next((word for word in words if word[0].isdigit()), "of an unknown version")
    return None


def lock_folder(environment: Mapping[str, str]) -> Path:
    """The folder of the leases of this user, made where it is absent.

    Raises:
        LeaseError: it is somebody else's, cannot be made, or is named relative to the working directory.
    """
    try:
        folder = Path(environment.get("PERMAFROST_LEASES") or Path(pwd.getpwuid(os.getuid()).pw_dir) / FOLDER)
        if not folder.is_absolute():
            raise LeaseError(f"PERMAFROST_LEASES is {folder}, another folder in each directory; name it from the root")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise LeaseError(f"{folder} is not a folder of yours; remove it, or {ELSEWHERE}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise LeaseError(f"the folder of leases {folder} cannot be written to; {ELSEWHERE}")
    except KeyError:
        raise LeaseError(f"user {os.getuid()} has no home for the leases of GPUs; {ELSEWHERE}") from None
    except OSError as error:
        raise LeaseError(f"no leases of GPUs can be kept in {folder}: {error.strerror}; {ELSEWHERE}") from None
    return folder.resolve()


def _listed(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, list[str]]:
    """Each index and UUID of a GPU, and of a slice that MIG makes of one -> the UUIDs to lend for it."""
    tool = shutil.which("nvidia-smi", path=os.pathsep.join((environment.get("PATH", os.defpath), *PLACES)))
    if tool is None:
        if DRIVER.exists() and not (names and all(map(UUID.fullmatch, names))):
            raise LeaseError(
                "there is an NVIDIA driver, but no nvidia-smi, which tells the names of its GPUs; put it on PATH, or "
                "let CUDA_VISIBLE_DEVICES name GPUs by their whole UUID, or be empty"
            )
        return {}
    try:
        done = subprocess.run(
            [tool, "-L"], capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=SECONDS_TO_LIST
        )
        said, failed = (done.stdout + done.stderr).strip(), done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"it says nothing in {SECONDS_TO_LIST:.0f} s", True
    except OSError as error:
        said, failed = str(error.strerror), True
    gpus: dict[tuple[str, str], list[str]] = {}
    for line in [] if failed else said.splitlines():
        if gpu := GPU.match(line):
            slices = gpus.setdefault((gpu[1], gpu[2]), [])
        elif gpus and (part := SLICE.match(line)):
            slices.append(part[1])
        elif line.lstrip().startswith(("GPU ", "MIG ")):
            failed = True
    if failed:
        # A job that ran on unrestricted would take devices that are others'.
        raise LeaseError(
            f"{tool} -L cannot be relied on: {said}; mend the driver, or let CUDA_VISIBLE_DEVICES be empty, and the "
            "command runs without a GPU"
        )
    listed = {}
    for (index, uuid), slices in gpus.items():
        listed |= {index: slices or [uuid], uuid: slices or [uuid], **{name: [name] for name in slices}}
    return listed


# --- who holds what ---------------------------------------------------------------------------------------------------


def _file_of(device: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """The file whose flock is the device, or within an outer lease of the device, its part in that."""
    # Slurm may number the devices of another job the same.
    of = [] if UUID.fullmatch(device) else [BOOT.read_text(encoding="ascii")[:8], environment.get("SLURM_JOB_ID", "")]
    path = folder / f"{re.sub('[^A-Za-z0-9-]', '_', '-'.join(filter(None, [*of, device])))}.lock"
    for outer in filter(None, environment.get("PERMAFROST_LEASE", "").split(",")):
        # Only while that is held: its variables live on in whatever it left running.
        if _is_lent(path, outer):
            path = path.with_suffix(f".{outer}.lock")
    return path


def _holder(environment: Mapping[str, str]) -> str:
    """What tells this lease from all others; the tasks of one step of Slurm are one job, with one lease."""
    step = f"{environment.get('SLURM_JOB_ID')}-{environment.get('SLURM_STEP_ID')}"
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and step not in environment.get("PERMAFROST_LEASE", ""):
        return step
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def _is_lent(path: Path, holder: str) -> bool:
    """Whether that lease holds the file now: it was noted there, and somebody has the flock."""
    try:
        with path.open(encoding="utf-8") as file:
            return not _locked(file, fcntl.LOCK_SH) and file.read().partition("\n")[2] == holder
    except FileNotFoundError:
        return False


def _wait(files: Mapping[Path, str], n: int, folder: Path, holder: str) -> list[str]:
    """Holds n of the devices, and gives their names."""
    began = time.monotonic()
    # In line behind those who wait for the same devices, even if one is free: else who wants several would wait for as
    # long as somebody comes who wants one.
    line = hashlib.sha256("\n".join(sorted(path.name for path in files)).encode()).hexdigest()[:16]
    with (folder / f"line-{line}").open("w", encoding="utf-8") as queue:
        taken = _take(list(files), n, holder) if _locked(queue) else {}
        if not taken:
            _say(f"waiting for {n} of {', '.join(files.values())}: {_holders(files)}")
            fcntl.flock(queue, fcntl.LOCK_EX)
            while not (taken := _take(list(files), n, holder)):
                time.sleep(SECONDS_BETWEEN_TRIES)
            _say(f"{', '.join(files[path] for path in taken)} after {time.monotonic() - began:.0f} s")
        for lock, name in filter(None, taken.values()):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()} in {Path.cwd()}\n{holder}".encode(), 0)
            os.set_inheritable(lock, True)
            os.set_inheritable(name, True)
    return [files[path] for path in taken]


def _take(files: Sequence[Path], n: int, holder: str) -> dict[Path, list[int]]:
    """Locks n of the files, or none. Returns the descriptors that hold each: none where its own step of Slurm does."""
    taken: dict[Path, list[int]] = {}
    for path in files:
        if descriptors := _hold(path):
            taken[path] = descriptors
        elif _is_lent(path, holder):
            taken[path] = []
        if len(taken) == n:
            return taken
    for descriptors in taken.values():
        _release(descriptors)
    return {}


def _hold(path: Path) -> list[int]:
    """Locks a device's file. Returns the descriptors that hold it; none if somebody else does."""
    held = [descriptor := os.open(path, os.O_RDWR | os.O_CREAT, 0o600)]
    if not _locked(descriptor) or not _is_at(path, descriptor):
        _release(held)
        return []
    # Whoever deletes the file deletes no lease: its holder still has the name.
    name = socket.socket(socket.AF_UNIX)
    held.append(name.fileno())
    try:
        name.bind(f"\0permafrost-{hashlib.sha256(str(path).encode()).hexdigest()}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _release(held)
        return []
    finally:
        name.detach()
    # Jobs within a lease that was killed may still run.
    for part in path.parent.glob(f"{path.stem}.*.lock"):
        within = os.open(part, os.O_RDWR)
        free = _locked(within)
        if free:
            part.unlink(missing_ok=True)
        os.close(within)
        if not free:
            _release(held)
            return []
    return held


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _release(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _locked(file: IO[str] | int, kind: int = fcntl.LOCK_EX) -> bool:
    """Takes the file's flock, unless somebody has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holders(files: Mapping[Path, str]) -> str:
    """Who had each device last: its holder, or one that ended."""
    last = {name: path.read_text(encoding="utf-8") if path.exists() else "" for path, name in files.items()}
    return "; ".join(f"{name} was last lent to {held.partition(chr(10))[0] or 'nobody'}" for name, held in last.items())


def _say(line: str) -> None:
    print(f"gpu: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
