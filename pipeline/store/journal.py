"""The journal of a shard: which samples are settled, one line a batch. Knows no array and no zarr.

A batch that was computed by another environment than the one before it says by which.
A line is JSON whose first member is a crc32c over its other members, continued from the line before. A line that was
torn, changed, moved or lost therefore shows, and a batch is in the journal whole or not at all.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c

from pipeline.config import canonical_json

from .durable import own, sync_directory, write_all

_GUARD = '{{"crc32c":"{:08x}",'
_GUARD_LENGTH = len(_GUARD.format(0))


def guard(document: dict[str, Any], previous: int = 0) -> tuple[bytes, int]:
    """Canonical JSON with its checksum put first, and that checksum.

    Args:
        document: not empty.
        previous: the checksum to continue from.
    """
    body = canonical_json(document).encode()
    crc = google_crc32c.extend(previous, body)
    return _GUARD.format(crc).encode() + body[1:], crc


def unguard(line: bytes, previous: int = 0) -> tuple[dict[str, Any], int]:
    """The document of a guarded line, and its checksum.

    Raises:
        ValueError: the checksum does not fit the text.
    """
    body = b"{" + line[_GUARD_LENGTH:]
    crc = google_crc32c.extend(previous, body)
    if line[:_GUARD_LENGTH] != _GUARD.format(crc).encode():
        raise ValueError(f"its crc32c should be {crc:08x}, but it begins with {line[:_GUARD_LENGTH]!r}")
    return json.loads(body), crc


@dataclass
class Journal:
    """What a journal file says.

    Attributes:
        header: its first line; None when there is no file, or when it was torn before the first line was whole.
        batches: the rows of each whole line after the header.
        environments: by what the rows of each batch were computed; None where nobody said.
        marks: (length of the file in bytes, checksum) after the header and after each batch.
        damage: the first line that could not be used and why, or None.
        torn: whether that line is merely the unfinished last one, as a kill leaves it.
    """

    header: dict[str, Any] | None = None
    batches: list[list[dict[str, Any]]] = field(default_factory=list)
    environments: list[dict[str, Any] | None] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    damage: str | None = None
    torn: bool = False


def read_journal(path: Path) -> Journal:
    """Reads up to the first line that is not whole; an absent file reads as an empty journal."""
    journal = Journal()
    if not path.exists():
        return journal
    length, crc = 0, 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            if not line.endswith(b"\n"):
                journal.torn = True
                raise ValueError("it has no end")
            document, crc = unguard(line[:-1], crc)
        except ValueError as error:
            journal.damage = f"line {number}: {error}"
            break
        length += len(line)
        journal.marks.append((length, crc))
        if number == 1:
            journal.header = document
        else:
            journal.batches.append(document["batch"])
            before = journal.environments[-1] if journal.environments else None
            journal.environments.append(document.get("environment", before))
    return journal


class JournalFile:
    """The append side. Each line is on disk when `append` returns."""

    def __init__(self, path: Path, length: int = 0, crc: int = 0) -> None:
        self._crc = crc
        own(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(self._descriptor, length)
        os.lseek(self._descriptor, length, os.SEEK_SET)
        sync_directory(path.parent)

    def append(self, document: dict[str, Any]) -> None:
        line, self._crc = guard(document, self._crc)
        write_all(self._descriptor, line, b"\n")
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
