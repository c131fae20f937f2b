"""Files and folders that are whole or not there, one writer at a time, however a writer ends. Knows no content."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path, durable: bool = False) -> Iterator[Path]:
    """Where to write a file, which gets its name when all of it is written; if that fails, nothing is left of it.

    Who writes the same file meanwhile waits, and then replaces it; what a killed writer left is written over. A reader
    sees all of the one or all of the other.

    Args:
        path: the file's name; its folder is made.
        durable: waits for the disk, which only matters to files that nothing makes again.
    """
    with _scratch(path, os.O_WRONLY | os.O_CREAT) as (scratch, descriptor):
        os.ftruncate(descriptor, 0)
        try:
            with naming(path):
                yield scratch
                if durable:
                    os.fsync(descriptor)
            os.replace(scratch, path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Where to write the files of a folder, which then replaces the one of that name: as `whole`."""
    with _scratch(path, os.O_RDONLY | os.O_DIRECTORY) as (scratch, _):
        for left in scratch.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            with naming(path):
                yield scratch
            shutil.rmtree(path, ignore_errors=True)
            os.replace(scratch, path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def lock(path: Path) -> int:
    """An open descriptor that holds the flock of a file; it and its folder are made, again where others take them away.

    Raises:
        BlockingIOError: another one holds it. FileNotFoundError: it is taken away again and again.
    """
    for _ in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _held(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if descriptor is not None:
            return descriptor
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an error of the machine that names none: a write to a full disk knows no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes, durable: bool = False) -> None:
    """Writes a file: see `whole`."""
    with whole(path, durable) as scratch:
        scratch.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, with the ends of its lines as they are: see `whole`."""
    write_bytes(path, text.encode())


def user_cache() -> Path | None:
    """This package's folder in the user's cache; None where the user's home is unknown or not there. A cache that is
    empty or relative is unset."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        home = cache.parent if cache.is_absolute() else Path.home()
    except RuntimeError:
        return None
    folder = cache if cache.is_absolute() else home / ".cache"
    return folder / "permafrost" if home.is_absolute() and home.is_dir() else None


@contextmanager
def _scratch(path: Path, flags: int) -> Iterator[tuple[Path, int]]:
    """The one scratch name of a file or folder, and an open descriptor that holds its flock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    while (descriptor := _held(scratch, flags, fcntl.LOCK_EX)) is None:
        pass
    try:
        yield scratch, descriptor
    finally:
        os.close(descriptor)


def _held(scratch: Path, flags: int, how: int) -> int | None:
    """Opens it and takes its flock; None where whoever had that has renamed or removed it in between."""
    descriptor = None
    try:
        if flags & os.O_DIRECTORY:
            scratch.mkdir(exist_ok=True)
        descriptor = os.open(scratch, flags, 0o666)
        fcntl.flock(descriptor, how)
        if os.path.samestat(os.fstat(descriptor), scratch.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise
    if descriptor is not None:
        os.close(descriptor)
    return None
