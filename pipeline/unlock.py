"""Lets a killed workflow be repeated as it was: removes the locks that a dead Snakemake left. Knows no params.

Snakemake's locks are files that outlive it. Each of ours therefore shares a flock as well, which the kernel frees: who
gets it alone knows that nobody else is alive, and that what locks there are mean nothing.
"""

import fcntl
import os
import socket
import sys
from pathlib import Path

_held: list[int] = []  # open until this process ends


def unlock_after_a_kill(folder: Path = Path(".snakemake")) -> list[Path]:
    """Removes Snakemake's locks if it was killed on this machine, and says that this one lives for as long as it does.

    Args:
        folder: Snakemake's, in the working directory.

    Returns:
        The locks that were removed.
    """
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / "alive", os.O_RDWR | os.O_CREAT, 0o644)
    _held.append(descriptor)
    locks, host = sorted((folder / "locks").glob("*.lock")), socket.gethostname().encode()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Of another machine nothing is known: some file systems keep flocks to themselves.
        ours = not locks or os.pread(descriptor, 1024, 0) in (b"", host)
    except BlockingIOError:
        ours = False  # somebody lives, and the locks may be theirs
    if ours:
        for lock in locks:
            lock.unlink()
            print(f"{lock}: removed, the Snakemake that left it was killed", file=sys.stderr)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, host, 0)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return locks if ours else []
