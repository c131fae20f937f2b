"""An earlier version of a shard, with another sample list: its bytes are copied, not computed. Writes no shard."""

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .chunks import read_chunk
from .durable import PARTIAL, sync_directory
from .journal import read_journal
from .layout import Layout, offsets_of
from .manifest import beside

_log = logging.getLogger(__name__)


class Donor:
    """What lies set aside as shard-000.donor.* until the shard with the new list has all it wants."""

    def __init__(self, base: Path, layout: Layout) -> None:
        self._base, self._layout = base, layout
        self._folder, self._journal = beside(base, f".donor{layout.folder.suffix}"), beside(base, ".donor.journal")

    def take(self) -> None:
        """Sets the present shard aside. An older donor stays one: it was finished, what came after it was not."""
        folder, journal = self._layout.folder, beside(self._base, ".journal")
        if self._journal.exists():
            if folder.exists():
                shutil.rmtree(folder)
            journal.unlink()
        else:
            if folder.exists() and not self._folder.exists():
                os.replace(folder, self._folder)
            os.replace(journal, self._journal)
        sync_directory(self._base.parent)

    def drop(self) -> None:
        """Deletes it, the journal last: data without a journal would lie there for ever."""
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._journal.unlink(missing_ok=True)

    def rows(self) -> dict[tuple[str, str], tuple[dict[str, Any], dict[str, int], dict[str, Any] | None]]:
        """(sample, digest) -> its journal row, where its chunk begins in each array's file, and its environment."""
        journal = read_journal(self._journal)
        batches = zip(journal.batches, journal.environments, strict=True)
        rows = [(row, environment) for batch, environment in batches for row in batch]
        offsets = offsets_of((row for row, _ in rows), self._layout.arrays)
        return {
            (row["sample"], row["digest"]): (
                row,
                {name: of.get(row["sample"]) for name, of in offsets.items()},
                environment,
            )
            for row, environment in rows
        }

    def open(self, stack: ExitStack) -> "DonorData | None":
        """Its data files, open as long as the stack; None, with a warning, when one is gone."""
        descriptors = {}
        for name in self._layout.arrays:
            path = self._folder / self._layout.inside(name)
            unfinished = path.with_name(path.name + PARTIAL)
            if not path.exists() and not unfinished.exists():
                _log.warning("%s: the earlier data %s are gone; computing its samples again", self._base, path)
                return None
            descriptors[name] = os.open(path if path.exists() else unfinished, os.O_RDONLY)
            stack.callback(os.close, descriptors[name])
        return DonorData(self._base, self._layout, descriptors)


class DonorData:
    """Reads checked chunks of a donor."""

    def __init__(self, base: Path, layout: Layout, descriptors: Mapping[str, int]) -> None:
        self._base, self._arrays, self._descriptors = base, layout.arrays, descriptors

    def read(self, row: Mapping[str, Any], offsets: Mapping[str, int]) -> dict[str, np.ndarray] | None:
        """A sample's bytes of each array; None, with a warning, when they do not fit their checksums."""
        contents = {}
        for name, array in self._arrays.items():
            content = read_chunk(self._descriptors[name], offsets[name], array.nbytes_in(row), row["crc32c"][name])
            if content is None:
                _log.warning("%s: earlier data of sample %r are damaged; computing it again", self._base, row["sample"])
                return None
            contents[name] = content
        return contents
