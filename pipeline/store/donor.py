"""An earlier version of a shard, with another sample list: its bytes are copied, not computed. Writes no shard."""

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .durable import PARTIAL, sync_directory
from .journal import read_journal
from .manifest import beside
from .sharding import Field, read_chunk

_log = logging.getLogger(__name__)


class Donor:
    """What lies set aside as shard-000.donor.{zarr,journal} until the shard with the new list has all it wants."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._zarr, self._journal = beside(base, ".donor.zarr"), beside(base, ".donor.journal")

    def take(self) -> None:
        """Sets the present shard aside. An older donor stays one: it was finished, what came after it was not."""
        zarr, journal = beside(self._base, ".zarr"), beside(self._base, ".journal")
        if self._journal.exists():
            if zarr.exists():
                shutil.rmtree(zarr)
            journal.unlink()
        else:
            if zarr.exists() and not self._zarr.exists():
                os.replace(zarr, self._zarr)
            os.replace(journal, self._journal)
        sync_directory(self._base.parent)

    def drop(self) -> None:
        """Deletes it, the journal last: data without a journal would lie there for ever."""
        if self._zarr.exists():
            shutil.rmtree(self._zarr)
        self._journal.unlink(missing_ok=True)

    def rows(self) -> dict[tuple[str, str], tuple[dict[str, Any], int]]:
        """(sample, digest) -> its journal row, and how many chunks lie before its own."""
        found, position = {}, 0
        for batch in read_journal(self._journal).batches:
            for row in batch:
                found[row["sample"], row["digest"]] = (row, position)
                position += row["status"] == "ok"
        return found

    def open(self, fields: Mapping[str, Field], stack: ExitStack) -> "DonorData | None":
        """Its data files, open as long as the stack; None, with a warning, when one is gone."""
        descriptors = {}
        for name, field in fields.items():
            path = self._zarr / name / field.chunk_path
            unfinished = path.with_name(path.name + PARTIAL)
            if not path.exists() and not unfinished.exists():
                _log.warning("%s: the earlier data %s are gone; computing its samples again", self._base, path)
                return None
            descriptors[name] = os.open(path if path.exists() else unfinished, os.O_RDONLY)
            stack.callback(os.close, descriptors[name])
        return DonorData(self._base, fields, descriptors)


class DonorData:
    """Reads checked chunks of a donor."""

    def __init__(self, base: Path, fields: Mapping[str, Field], descriptors: Mapping[str, int]) -> None:
        self._base, self._fields, self._descriptors = base, fields, descriptors

    def read(self, row: Mapping[str, Any], position: int) -> dict[str, bytes] | None:
        """A sample's bytes of each field; None, with a warning, when they do not fit their checksums."""
        contents = {}
        for name, field in self._fields.items():
            content = read_chunk(self._descriptors[name], position, field, row["crc32c"][name])
            if content is None:
                _log.warning("%s: earlier data of sample %r are damaged; computing it again", self._base, row["sample"])
                return None
            contents[name] = content
        return contents
