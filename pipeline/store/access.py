"""Two ways to read a file at random: mapped into memory, and with pread. Knows no store.

Mapped is the faster one where the data are in memory, and a truncated file ends the process (SIGBUS). With pread the
pages do not count as the process's own, an input/output error is an error, and a cold disk sees large requests.
"""

import ctypes
import mmap
import os
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from .durable import read_at

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class File(Protocol):
    """A file of `size` bytes."""

    size: int

    def read(self, offset: int, place: np.ndarray) -> None:
        """Fills a contiguous uint8 array with the bytes from offset on."""


class MappedFile:
    """The whole file as an array of bytes. Keeps no descriptor open, whose number the system limits (to 1,024, often).

    Raises:
        FileNotFoundError and other OSError, from the system.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size = os.fstat(descriptor).st_size
            self.bytes = _map(descriptor, self.size, path)
        finally:
            os.close(descriptor)

    def read(self, offset: int, place: np.ndarray) -> None:
        place[:] = self.bytes[offset : offset + len(place)]


def _map(descriptor: int, size: int, path: Path) -> np.ndarray:
    if not size:
        return np.empty(0, np.uint8)
    # Python's own mmap holds a duplicate of the descriptor as long as the map lives.
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size).atexit = False
    mapped = np.frombuffer(memory, np.uint8)
    mapped.flags.writeable = False
    return mapped


class PreadFiles:
    """Opens files for pread, and keeps the last `most` of them open."""

    def __init__(self, most: int = 128) -> None:
        self.descriptor = lru_cache(most)(_Descriptor)

    def __call__(self, path: Path) -> "PreadFile":
        return PreadFile(path, self)


class _Descriptor:
    """Closes itself when neither the cache nor a reader has it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class PreadFile:
    """A file that is read by system calls.

    Raises:
        FileNotFoundError and other OSError, from the system.
    """

    def __init__(self, path: Path, files: PreadFiles) -> None:
        self._path, self._files = path, files
        self.size = os.fstat(files.descriptor(path).number).st_size

    def read(self, offset: int, place: np.ndarray) -> None:
        descriptor = self._files.descriptor(self._path)
        if (got := read_at(descriptor.number, offset, memoryview(place))) < len(place):
            raise OSError(f"{self._path} ends at byte {offset + got}, expected {offset + len(place)} at least")
