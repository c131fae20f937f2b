"""The HDF5 layout for ragged fields: a dataset an array and sample, contiguous, in one file. Knows no journal.

HDF5 killed while it writes is unreadable, and on a full disk it leaves its file open. So it never writes to one: chunks
are appended to plain files, and `finish` lets HDF5 lay out a file without data in memory, writes that down, fills in
the data, syncs and renames. Nothing in it depends on time or on the order of writing. For a moment the shard takes its
bytes twice. The datasets are /<array>/<sample>, with "/" and "%" in a sample's id as %2F and %25; where their data
begin stands in the manifest, so that readers need no HDF5. Attributes say the rest: `labels` of the file where they
are, as JSON; `id` of a dataset, and the numbers and texts that extraction noted of the sample, such as `fps`.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from .access import File, MappedFile
from .chunks import ChunkFile, read_chunk
from .durable import PARTIAL, make_directory, sync_directory, write_all
from .errors import StoreCorrupt
from .fields import Array
from .manifest import LABELS, beside

_log = logging.getLogger(__name__)


class Hdf5Layout:
    """See `layout.Layout`. The files that grow are copied into one .h5, and removed."""

    trailer = 0

    def __init__(self, base: Path, arrays: Mapping[str, Array]) -> None:
        self.arrays, self.folder = arrays, beside(base, ".parts")
        self._path = beside(base, ".h5")

    def inside(self, name: str) -> str:
        return name

    def data_file(self, name: str) -> Path:
        return self._path

    def thaw(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A finished file is the truth while it is there: the growing ones are made from it, then it is removed."""
        make_directory(self.folder)
        if not self._path.exists():
            return
        with ExitStack() as stack:
            files = {name: ChunkFile(self.folder / self.inside(name)) for name in self.arrays}
            for file in files.values():
                stack.callback(file.close)
                file.keep(0)
            for name, content in self._contents(rows):
                files[name].append(content)
            for file in files.values():
                file.sync()
        self._path.unlink()
        sync_directory(self._path.parent)

    def _contents(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
        """Array by array, sample by sample, up to what HDF5 cannot read. What it reads wrongly, checksums will tell."""
        import h5py

        found = 0
        try:
            with h5py.File(self._path, "r", locking=False) as file:
                for row in rows:
                    for name, array in self.arrays.items():
                        dataset = file[name][entry(row["sample"])]
                        if (dataset.shape, dataset.dtype) != (array.shape_in(row), array.dtype):
                            raise ValueError(f"{dataset.name} is {dataset.dtype} {dataset.shape}")
                        yield name, dataset[()]
                    found += 1
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:  # HDF5 has many words for damage
            _log.warning("%s: only %d of %d samples can be read (%s)", self._path, found, len(rows), error)

    def finish(
        self,
        rows: Sequence[Mapping[str, Any]],
        files: Mapping[str, ChunkFile],
        offsets: Mapping[str, Mapping[str, int]],
    ) -> tuple[dict[str, str], dict[str, Any]]:
        partial = self._path.with_name(self._path.name + PARTIAL)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            places = self._lay_out(rows, descriptor)
            for name, file in files.items():
                for row, place in zip(rows, places[name], strict=True):
                    if place is not None:
                        begin, nbytes = offsets[name][row["sample"]], self.arrays[name].nbytes_in(row)
                        content = read_chunk(file.descriptor, begin, nbytes, row["crc32c"][name])
                        if content is None:
                            raise StoreCorrupt(
                                f"{file.path}: sample {row['sample']!r} changed since it was written; "
                                "check the disk and run again"
                            )
                        os.lseek(descriptor, place, os.SEEK_SET)
                        write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        facts = {"size": partial.stat().st_size, "offsets": places}
        facts["crc32c"] = self._structure_crc(rows, facts, MappedFile(partial))
        os.replace(partial, self._path)
        sync_directory(self._path.parent)
        shutil.rmtree(self.folder)
        return {}, {"hdf5": facts}

    def _lay_out(self, rows: Sequence[Mapping[str, Any]], target: int) -> dict[str, list[int | None]]:
        """Writes a file with all datasets and no data to `target`; returns array -> where each sample's data belong."""
        # Sparse: it takes the memory of what HDF5 writes, not that of the data.
        with os.fdopen(os.memfd_create("layout"), "r+b", buffering=0) as memory:
            places = self._create_datasets(rows, memory)
            size = os.fstat(memory.fileno()).st_size
            os.ftruncate(target, size)
            for begin, end in _extents(memory.fileno(), size):
                os.lseek(target, begin, os.SEEK_SET)
                write_all(target, os.pread(memory.fileno(), end - begin, begin))
        return places

    def _create_datasets(self, rows: Sequence[Mapping[str, Any]], stream: BinaryIO) -> dict[str, list[int | None]]:
        import h5py

        contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        contiguous.set_layout(h5py.h5d.CONTIGUOUS)
        contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        places: dict[str, list[int | None]] = {}
        with h5py.File(stream, "w", libver="earliest") as file:
            _attribute(file, "labels", json.dumps(LABELS))
            for name, array in self.arrays.items():
                group, places[name] = file.create_group(name), []
                for row in rows:
                    place = None
                    if row["status"] == "ok":
                        shape = array.shape_in(row)
                        dataset = group.create_dataset(
                            entry(row["sample"]), shape, array.dtype, track_times=False, dcpl=contiguous
                        )
                        place = dataset.id.get_offset()
                        for attribute, said in {**row["meta"], "id": row["sample"]}.items():
                            _attribute(dataset, attribute, said)
                    places[name].append(place)
        return places

    def _structure_crc(self, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], file: File) -> int:
        """The crc32c of all that lies between the data."""
        taken = sorted(
            (place, array.nbytes_in(row))
            for name, array in self.arrays.items()
            for row, place in zip(rows, facts["offsets"][name], strict=True)
            if place is not None
        )
        crc, end = 0, 0
        for place, nbytes in [*taken, (facts["size"], 0)]:
            between = np.empty(place - end, np.uint8)
            file.read(end, between)
            crc = google_crc32c.extend(crc, between) if between.size else crc
            end = place + nbytes
        return crc

    def size(self, name: str, manifest: Mapping[str, Any]) -> int:
        return manifest["hdf5"]["size"]

    def places(self, name: str, manifest: Mapping[str, Any], file: File) -> list[int]:
        return manifest["hdf5"]["offsets"][name]

    def check(self, manifest: Mapping[str, Any], file: File) -> None:
        if self._structure_crc(manifest["samples"], manifest["hdf5"], file) != manifest["hdf5"]["crc32c"]:
            raise ValueError("HDF5's own structures do not fit the crc32c of the manifest")


def _attribute(of: Any, name: str, value: Any) -> None:
    """Keeps a number or a text. Not a list: beyond 64 KB HDF5 refuses an attribute, and the manifest has it."""
    if isinstance(value, str):
        import h5py

        # Of one length: texts of any length lie in a heap, whose free bytes nobody defines.
        text = value.encode()
        of.attrs.create(name, text, dtype=h5py.string_dtype("utf-8", len(text) or 1))
    elif isinstance(value, int | float):
        of.attrs[name] = value


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has bytes of its own; the rest is a hole."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, end


def entry(sample: str) -> str:
    """A sample's name in HDF5, where "/" would begin a group and "." is the group itself."""
    return "%2E" if sample == "." else sample.replace("%", "%25").replace("/", "%2F")
