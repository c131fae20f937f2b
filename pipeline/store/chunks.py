"""A data file that only grows: chunk after chunk, each followed by its crc32c. Knows no array and no format."""

import os
from pathlib import Path

import google_crc32c
import numpy as np

from .durable import PARTIAL, make_directory, own, read_at, sync_directory, write_all

CRC_BYTES = 4


def crc_bytes(crc: int) -> bytes:
    return crc.to_bytes(CRC_BYTES, "little")


def crc32c(content: np.ndarray) -> int:
    return google_crc32c.value(content)


def read_chunk(descriptor: int, offset: int, nbytes: int, crc: int) -> np.ndarray | None:
    """The content (uint8) of the chunk that begins there; None if it does not fit its checksum."""
    raw = np.empty(nbytes + CRC_BYTES, np.uint8)
    whole = read_at(descriptor, offset, memoryview(raw)) == len(raw)
    content, trailer = raw[:nbytes], raw[nbytes:]
    fits = whole and trailer.tobytes() == crc_bytes(crc) and crc32c(content) == crc
    return content if fits else None


class ChunkFile:
    """The data file while it grows, under a partial name. Reopens a finished one for more.

    Args:
        path: its name once it is finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + PARTIAL)
        make_directory(path.parent)
        if path.exists():
            os.replace(path, self._partial)
        own(self._partial)
        self.descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)
        sync_directory(path.parent)

    def holds(self, offset: int, nbytes: int, crc: int) -> bool:
        """Whether the chunk is there and fits its checksum."""
        return read_chunk(self.descriptor, offset, nbytes, crc) is not None

    def keep(self, length: int) -> None:
        """Drops whatever follows the first `length` bytes; the next append goes there."""
        os.ftruncate(self.descriptor, length)
        os.lseek(self.descriptor, length, os.SEEK_SET)

    def append(self, content: np.ndarray) -> int:
        """Writes a chunk with its checksum, which is returned."""
        crc = crc32c(content)
        write_all(self.descriptor, content, crc_bytes(crc))
        return crc

    def sync(self) -> None:
        os.fsync(self.descriptor)

    def finish(self, trailer: bytes) -> None:
        """Appends the trailer and gives the file its name."""
        write_all(self.descriptor, trailer)
        os.fsync(self.descriptor)
        os.replace(self._partial, self.path)
        sync_directory(self.path.parent)

    def close(self) -> None:
        os.close(self.descriptor)
