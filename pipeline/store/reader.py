"""Reads stores: random samples at the speed of a memory map. Knows no backbone, no head and no writer."""

import gc
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from pipeline.config import file_digest

from .errors import StoreCorrupt, StoreError, StoreMissing
from .manifest import beside, read_manifest, shard_bases
from .sharding import ABSENT, Field, decode_index, index_size, parse_fields

REMEDY = "delete {base}.json and run `extract`: it keeps what is whole and computes the rest again"


class Column:
    """One field of one shard: its file mapped into memory, and where each row lies in it.

    Raises:
        StoreMissing: the data file is not there.
        StoreCorrupt: its size or its index is not what the manifest promises.
    """

    def __init__(self, base: Path, name: str, field: Field, rows: Sequence[dict[str, Any]]) -> None:
        path = beside(base, ".zarr") / name / field.chunk_path
        remedy = REMEDY.format(base=base)
        stored = [row["status"] == "ok" for row in rows]
        expected = field.data_size(sum(stored), len(rows))
        try:
            with path.open("rb") as stream:
                self.bytes = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        except FileNotFoundError:
            raise StoreMissing(f"{path} is gone though {base}.json names it; {remedy}, or `dvc pull`") from None
        except ValueError:
            raise StoreCorrupt(f"{path} is empty, expected {expected} bytes; {remedy}") from None
        if self.bytes.size != expected:
            raise StoreCorrupt(f"{path} has {self.bytes.size} bytes, expected {expected}; {remedy}")
        try:
            index = decode_index(self.bytes[-index_size(len(rows)) :].tobytes())
        except ValueError as error:
            raise StoreCorrupt(f"{path}: {error}; {remedy}") from None
        lengths = np.where(stored, np.uint64(field.stride), ABSENT)
        ends = expected - index_size(len(rows))
        if (index[:, 1] != lengths).any() or (index[stored, 0] + index[stored, 1] > ends).any():
            raise StoreCorrupt(f"{path}: its index places samples that the manifest does not have; {remedy}")
        self.offsets: list[int] = index[:, 0].tolist()


class Shard:
    """One shard's manifest, and its columns as they are asked for."""

    def __init__(self, base: Path, check_files: bool = False) -> None:
        self.base, self._check_files = base, check_files
        self.manifest = read_manifest(base)
        self.rows: list[dict[str, Any]] = self.manifest["samples"]
        self.fields = parse_fields(self.manifest["fields"])
        self._columns: dict[str, Column] = {}

    def column(self, name: str) -> Column:
        if name not in self._columns:
            if self._check_files and not self._columns:
                self._check_small_files()
            self._columns[name] = Column(self.base, name, self.fields[name], self.rows)
        return self._columns[name]

    def _check_small_files(self) -> None:
        """The data have their own checksums; metadata and journal have the manifest's."""
        for name, digest in self.manifest["files"].items():
            path = self.base.parent / name
            if path.name != "zarr.json" and path.suffix != ".journal":
                continue
            if not path.exists() or file_digest(path) != digest:
                raise StoreCorrupt(f"{path} does not have the sha256 of the manifest; {REMEDY.format(base=self.base)}")


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection meanwhile: parsed JSON has no cycles, and looking for some costs as much as a third.

    860 manifests of 256 samples, interleaved on a busy machine: 5.3 s against 7.6 s.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class FeatureStore:
    """The samples of one feature of one data set, over all its shards.

    Nothing is opened before it is asked for, and only paths are pickled: each process opens its own.

    Args:
        directory: features/<dataset>/<feature>-<key>.
        samples: restricts the store to these ids; None is all.
        verify: check the crc32c of each sample that is read (and, once a shard, its metadata and journal).

    Raises (at the first use, not here):
        StoreMissing: no shard, a shard without its manifest, or an id that no shard has.
        StoreCorrupt: damage, with shard, sample, field and remedy. StoreError: a newer format.
    """

    def __init__(self, directory: Path, samples: Sequence[str] | None = None, verify: bool = False) -> None:
        self.directory = Path(directory).absolute()
        self._only = None if samples is None else list(samples)
        self._verify = verify

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self._only, self._verify)

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def _shards(self) -> list[Shard]:
        whole, unfinished = shard_bases(self.directory)
        if unfinished:
            raise StoreMissing(
                f"{self.directory}: {len(unfinished)} of {len(whole) + len(unfinished)} shards have no manifest, "
                f"the first {unfinished[0].name}; run `extract` to finish them"
            )
        with _collector_paused():
            shards = [Shard(base, self._verify) for base in whole]
        for shard in shards:
            for name in ("key", "fields"):
                if shard.manifest[name] != shards[0].manifest[name]:
                    raise StoreCorrupt(
                        f"{shard.base} has {name} {shard.manifest[name]}, {shards[0].base.name} has "
                        f"{shards[0].manifest[name]}; a directory holds one feature: move one of them out"
                    )
        return shards

    @cached_property
    def _where(self) -> dict[str, tuple[Shard, int]]:
        """Sample -> its shard, and its row there."""
        where: dict[str, tuple[Shard, int]] = {}
        for shard in self._shards:
            for number, row in enumerate(shard.rows):
                if (earlier := where.setdefault(row["sample"], (shard, number)))[0] is not shard:
                    raise StoreCorrupt(
                        f"{shard.base} and {earlier[0].base.name} both hold sample {row['sample']!r}; delete one"
                    )
        if self._only is None:
            return where
        if absent := [sample for sample in self._only if sample not in where]:
            raise StoreMissing(
                f"{self.directory} lacks {len(absent)} of {len(self._only)} samples, the first {absent[0]!r}; "
                "run `extract` for the present manifest of the data set"
            )
        return {sample: where[sample] for sample in self._only}

    def _row(self, sample: str) -> dict[str, Any]:
        shard, number = self._locate(sample)
        return shard.rows[number]

    def _locate(self, sample: str) -> tuple[Shard, int]:
        try:
            return self._where[sample]
        except KeyError:
            raise StoreMissing(f"{self.directory} holds no sample {sample!r} among its {len(self._where)}") from None

    # --- what it holds ------------------------------------------------------------------------------------------------

    @cached_property
    def samples(self) -> list[str]:
        """Ids of the samples that can be read."""
        return [sample for sample in self._where if self._row(sample)["status"] == "ok"]

    @cached_property
    def failed(self) -> dict[str, str]:
        """Id -> reason, of the samples that were tried and have no data."""
        return {
            sample: self._row(sample)["reason"] for sample in self._where if self._row(sample)["status"] == "failed"
        }

    @property
    def key(self) -> str:
        return self._shards[0].manifest["key"]

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the first shard came from."""
        return self._shards[0].manifest["provenance"]

    @property
    def fields(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name -> (shape of one sample, dtype)."""
        return {name: (field.shape, field.dtype.name) for name, field in self._shards[0].fields.items()}

    def digest(self, sample: str) -> str:
        """sha256 of the sample's source."""
        return self._row(sample)["digest"]

    def meta(self, sample: str) -> dict[str, Any]:
        """What the extraction noted of the sample, such as {"times": [...]}; empty for a failed one."""
        return self._row(sample).get("meta", {})

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, ids: Sequence[str], field: str, out: np.ndarray | None = None) -> np.ndarray:
        """The samples' values of a field, in the order asked.

        Args:
            ids: B ids; an id may come twice.
            field: one of `fields`.
            out: C-contiguous (B, *shape) array of the field's dtype to fill; made when None. Reusing one is 1.6 times
                as fast (17.9 against 29.3 ms for 64 samples of 2.4 MB): fresh memory is mapped page by page.

        Raises:
            StoreError: a failed sample, with its reason; an unknown field; an `out` that does not fit.
            StoreMissing, StoreCorrupt: as the class says.
        """
        kind = self._field(field)
        shape = (len(ids), *kind.shape)
        if out is None:
            out = np.empty(shape, kind.dtype)
        elif out.shape != shape or out.dtype != kind.dtype or not out.flags.c_contiguous:
            raise StoreError(f"out is {out.dtype} {out.shape}, expected C-contiguous {kind.dtype} {shape}")
        target = out.reshape(-1).view(np.uint8)
        for number, sample in enumerate(ids):
            shard, row = self._locate(sample)
            entry = shard.rows[row]
            if entry["status"] != "ok":
                raise StoreError(
                    f"{shard.base}: sample {sample!r} has no data, it failed: {entry['reason']}; leave it out"
                )
            column = shard.column(field)
            start = column.offsets[row]
            place = target[number * kind.nbytes : (number + 1) * kind.nbytes]
            place[:] = column.bytes[start : start + kind.nbytes]
            if self._verify and google_crc32c.value(place) != entry["crc32c"][field]:
                raise StoreCorrupt(
                    f"{shard.base}: sample {sample!r}, field {field!r} does not fit its crc32c; "
                    + REMEDY.format(base=shard.base)
                )
        return out

    def load(self, field: str, ids: Sequence[str] | None = None) -> np.ndarray:
        """(B, *shape): a whole field in memory, of these ids or of all `samples`."""
        return self.read(self.samples if ids is None else ids, field)

    def _field(self, name: str) -> Field:
        fields = self._shards[0].fields
        if name not in fields:
            raise StoreError(f"{self.directory} has no field {name!r}; its fields are {sorted(fields)}")
        return fields[name]
