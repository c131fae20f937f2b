"""The two shapes of a shard's data on disk behind one face: zarr for fixed fields, HDF5 for ragged ones.

Both grow the same way, as one append-only file an array; they differ in what `finish` makes of those files, and in
where a reader finds a sample.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .access import File
from .chunks import CRC_BYTES, ChunkFile
from .fields import Array
from .hdf5 import Hdf5Layout
from .sharding import ZarrLayout

Row = Mapping[str, Any]


class Layout(Protocol):
    """One shard's data.

    Attributes:
        arrays: what a sample has, by name.
        folder: where the data files grow.
        trailer: how many bytes of the checksum follow a chunk in the finished file.
    """

    arrays: Mapping[str, Array]
    folder: Path
    trailer: int

    def inside(self, name: str) -> str:
        """The path of an array's growing file within `folder`, once it is whole."""

    def thaw(self, rows: Sequence[Row]) -> None:
        """Prepares `folder` for more; rows, in the journal's order, are what a finished shard holds."""

    def finish(
        self, rows: Sequence[Row], files: Mapping[str, ChunkFile], offsets: Mapping[str, Mapping[str, int]]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Makes the grown files what readers see, durably.

        Args:
            rows: the journal's row of each sample, in the shard's order.
            files: the grown file of each array.
            offsets: array -> sample -> where its chunk begins in the file.

        Returns:
            sha256 of each file without checksums of its own, by its path beside the shard; what else the manifest
            shall hold.
        """

    def data_file(self, name: str) -> Path:
        """The finished file that holds an array."""

    def size(self, name: str, manifest: Mapping[str, Any]) -> int:
        """The bytes of that file."""

    def places(self, name: str, manifest: Mapping[str, Any], file: File) -> list[int]:
        """Where each sample's content begins in that file. Raises ValueError when the file's index is damaged."""

    def check(self, manifest: Mapping[str, Any], file: File) -> None:
        """Raises ValueError when the parts of a data file that hold no sample are damaged."""


def layout_of(base: Path, arrays: Mapping[str, Array]) -> Layout:
    """The layout of a shard with these arrays."""
    ragged = any(array.ragged for array in arrays.values())
    return Hdf5Layout(base, arrays) if ragged else ZarrLayout(base, arrays)


def offsets_of(rows: Iterable[Row], arrays: Mapping[str, Array]) -> dict[str, dict[str, int]]:
    """Array -> sample -> where its chunk begins in the growing file, which has them in the journal's order."""
    offsets: dict[str, dict[str, int]] = {name: {} for name in arrays}
    ends = dict.fromkeys(arrays, 0)
    for row in rows:
        if row["status"] == "ok":
            for name, array in arrays.items():
                offsets[name][row["sample"]] = ends[name]
                ends[name] += array.nbytes_in(row) + CRC_BYTES
    return offsets
