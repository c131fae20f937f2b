"""Files that survive kill -9 and power cuts: whole writes, rename, sync, lock. Knows no zarr and no sample."""

import os
import shutil
import weakref
from pathlib import Path
from typing import ClassVar

from pipeline.files import lock

from .errors import StoreBusy

PARTIAL = ".partial"


def write_all(descriptor: int, *parts: bytes | memoryview) -> None:
    """Appends the parts in one system call where the kernel allows, in more where it does not."""
    views = [memoryview(part).cast("B") for part in parts]
    while views:
        written = os.writev(descriptor, views)
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]


def read_at(descriptor: int, offset: int, place: memoryview) -> int:
    """Fills a writable view of bytes from a file; returns how many there were before its end."""
    done = 0
    while done < len(place) and (got := os.preadv(descriptor, [place[done:]], offset + done)):
        done += got
    return done


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Creates a directory with its parents, durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_directory(folder.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Puts content at path so that anyone sees either what was there before or all of it."""
    partial = path.with_name(path.name + PARTIAL)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(partial, path)
    sync_directory(path.parent)


def own(path: Path) -> None:
    """Replaces a link by a copy of what it leads to: DVC links to a cache that others read, and that is read-only."""
    if not path.is_symlink():
        return
    if path.exists():
        copy = path.with_name(path.name + PARTIAL)
        shutil.copyfile(path, copy)
        os.replace(copy, path)
    else:
        path.unlink()


class Lock:
    """An exclusive flock; the kernel frees it when the process ends, however it ends.

    Raises:
        StoreBusy: another process, or another writer of this one, holds it.
    """

    _held: ClassVar["weakref.WeakSet[Lock]"] = weakref.WeakSet()

    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = lock(path)
        except BlockingIOError:
            raise StoreBusy(
                f"{path.with_suffix('')} is being written by another process; "
                f"wait for it, or end it (`fuser {path}` names it) and run again"
            ) from None
        self._held.add(self)

    def release(self) -> None:
        self._held.discard(self)
        os.close(self.descriptor)

    @classmethod
    def _forget_in_child(cls) -> None:
        # A forked decode worker shares the parent's lock, and would keep it after the parent was killed.
        for held in list(cls._held):
            held.release()


os.register_at_fork(after_in_child=Lock._forget_in_child)
