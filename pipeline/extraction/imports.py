"""Imports features that somebody else computed, of any form that `config.Imported` names. Knows no video, no backbone.

The files are not trusted: no pickle is opened, and what a header declares is held against `limits`, and shape and dtype
against params, before memory is taken and anything is stored.
"""

import contextlib
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import Imported, NpyFeature
from pipeline.config.base import shown
from pipeline.datasets import ShardSample, changed, imported_digest_of, imported_record
from pipeline.datasets.imported import Held, Place, opened, own
from pipeline.datasets.rates import contradiction
from pipeline.extraction.device import Device
from pipeline.extraction.lanes import RowLane, Task
from pipeline.extraction.progress import ExtractionError
from pipeline.extraction.ring import Ring
from pipeline.extraction.rows import Piece
from pipeline.limits import MOST_ROWS, MOST_UNPACKED
from pipeline.memory import refuse_shortage
from pipeline.store import StoreError

BLOCK = 1 << 22  # numbers that are compared at once


class ImportedFields:
    """In the place of a backbone: the fields of a sample in the store, and its token grid."""

    def __init__(self, feature: Imported) -> None:
        name, shape, dtype = feature.field
        self.fields = {name: (shape, dtype)}
        rows_columns = getattr(feature, "grid", None)
        self.grid = rows_columns and (feature.steps, *rows_columns)


class Rounded(NamedTuple):
    """By how much a cast changes values: the largest error, the value that has it, and how many changed."""

    error: float
    value: float
    count: int


class ImportSource:
    """One sample a job; what lies open is memory-mapped."""

    message_bytes = 0

    def __init__(self, store: str, feature: Imported, samples: Sequence[ShardSample]) -> None:
        self.store, self.feature, self.samples = store, feature, samples
        self._held = Held(feature)
        self._checked: dict[Path, str] = {}  # folders: each costs a look at all of its files

    def __len__(self) -> int:
        return len(self.samples)

    def describe(self, job: int) -> str:
        return f"sample {self.samples[job].sample}"

    def messages(self, job: int, ring: Ring | None = None) -> Iterator[Piece]:
        sample, feature = self.samples[job], self.feature
        try:
            place = self._held.place(sample.sample)
            self._expect_unchanged(sample, place.path)
            array = read_array(feature, place)
            self._expect_rate(sample, place, len(array))
        except ValueError as error:
            yield Piece(0, sample.sample, reason=str(error))
        else:
            fields = {feature.field[0]: array}
            yield Piece(0, sample.sample, len(array), 0, feature.fps if self._timed else 0.0, fields=fields)

    @property
    def _timed(self) -> bool:
        return getattr(self.feature, "fps", None) is not None

    def _expect_unchanged(self, sample: ShardSample, path: Path) -> None:
        """Raises ValueError where a file was replaced since its digest was taken."""
        known = imported_record(sample, self.store)
        why = self._checked.get(path)
        if why is None:
            why = changed(path, known["digest"], known["bytes"], known["mtime_ns"])
            if path.is_dir():
                self._checked[path] = why
        if why:
            raise ValueError(f"replaced: {path} {why}")

    def _expect_rate(self, sample: ShardSample, place: Place, rows: int) -> None:
        """Raises ValueError where a sample's rows at the declared rate do not fit the duration of its video."""
        if not self._timed or not sample.facts:
            return
        if wrong := contradiction(rows, self.feature.fps, sample.facts["duration"]):
            raise ValueError(f"rate: {place}: {wrong}; correct the feature's fps")


class ImportLane(RowLane):
    """Whole samples, of one shape or ragged. A batch is what one commit holds."""

    def __init__(self, device: Device, *shared: Any) -> None:
        super().__init__(device, *shared)
        ((self.field, (self.shape, dtype)),) = self.backbone.fields.items()
        self.dtype = np.dtype(dtype)
        self.rounded: tuple[Rounded, str, str] | None = None  # the largest, its sample and dtype

    def take(self, piece: Piece) -> Iterator[Task]:
        yield partial(self._import, piece)

    def _import(self, piece: Piece) -> tuple[int, int]:
        if piece.reason:
            self.writer.fail(piece.sample, piece.reason)
            return self._count(1)
        array = piece.fields[self.field]
        rounded = rounding(array, self.dtype)
        if rounded and self.feature.lossy == "refuse":
            self.writer.fail(
                piece.sample,
                f"lossy: {array.dtype} to {self.dtype} changes {rounded.count} of {array.size} values, by up to "
                f"{rounded.error:.3g}; set dtype: float32, or lossy: say",
            )
            return self._count(1)
        meta: dict[str, Any] = {"fps": piece.fps} if piece.fps else {}
        if rounded and not isinstance(self.feature, NpyFeature):  # the bytes of those are as they were
            meta["rounded"] = {"from": array.dtype.name, "error": rounded.error, "count": rounded.count}
        failed = self._settle(piece.sample, partial(self._put, piece.sample, array, meta))
        if rounded and not failed and (self.rounded is None or rounded.error > self.rounded[0].error):
            self.rounded = rounded, piece.sample, array.dtype.name
        return self._count(failed)

    def _put(self, sample: str, array: np.ndarray, meta: dict[str, Any]) -> None:
        try:
            self.writer.put(sample, {self.field: array}, meta)
        except StoreError:
            raise
        except ValueError as error:
            if not np.isfinite(array).all():
                remedy = "compute it again there, or leave the sample out of the annotations"
                raise ValueError(f"{error}; {remedy}") from None
            if isinstance(self.feature, NpyFeature) or self.dtype == np.float32:
                raise
            raise ValueError(f"{error}; set dtype: float32 for this feature") from None

    def told(self) -> list[str]:
        """What the cast has changed, for the log: of the samples that were read now."""
        if self.rounded is None:
            return []
        (error, value, _), sample, dtype = self.rounded
        return [
            f"{dtype} to {self.dtype} changes values: at most by {error:.3g}, of {value:.6g} in sample {sample!r}; "
            "dtype and lossy of the feature decide what is done about it"
        ]


def rounding(array: np.ndarray, dtype: np.dtype) -> Rounded | None:
    """By how much a cast changes an array; None where it changes nothing.

    Args:
        array: of floats.
        dtype: float16 or float32.

    >>> rounding(np.float32([1, 1.0001]), np.dtype("float16")).count
    1
    """
    if np.can_cast(array.dtype, dtype, "safe"):
        return None
    flat, largest, value, count = array.reshape(-1), 0.0, 0.0, 0
    exact = np.float32 if array.dtype.itemsize <= 4 else np.float64  # which holds the errors of its numbers too
    for start in range(0, flat.size, BLOCK):
        given = np.asarray(flat[start : start + BLOCK], exact)
        if not (finite := np.isfinite(given)).all():
            given = given[finite]
        with np.errstate(over="ignore"):
            off = np.abs(given.astype(dtype).astype(exact) - given)
        off[np.isinf(off)] = 0  # beyond `dtype`: the store refuses it
        count += int(np.count_nonzero(off))
        if off.size and off[most := int(off.argmax())] > largest:
            largest, value = float(off[most]), float(given[most])
    return Rounded(largest, value, count) if count else None


# --- one array --------------------------------------------------------------------------------------------------------


def read_array(feature: Imported, place: Place) -> np.ndarray:
    """A sample's array as the store has it, (T, width), (steps, tokens, width) and so on; mapped where it lies open.

    Axes of one in front, that the shape in params does not have, are dropped.

    Raises:
        ValueError: the file is missing or damaged, holds objects or no floats, declares more than is read, or has
            another shape; the message names the file, what was found and what was expected.
    """
    try:
        found = _reader(feature, place)()
    except FileNotFoundError:
        raise ValueError(f"missing: {place} does not exist") from None
    except Refused as error:
        raise ValueError(f"unreadable: {place} {error}") from None
    except Exception as error:  # headers are parsed, and sizes in them believed: any kind of error may follow
        refuse_shortage(error, place.path)
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"unreadable: {place} is no array of numbers in a whole {_kind(feature)} file ({cause})"
        ) from None
    return _as_declared(feature, place, found)


class Refused(ValueError):
    """A file that is not read; the message is the end of a sentence that begins with its name."""


def _kind(feature: Imported) -> str:
    """By what a file, or a member of a tar, is read: .npy unless its name says otherwise."""
    if feature.form in ("hdf5", "zarr"):
        return feature.form
    suffix = "." + feature.extension.lower().rpartition(".")[2]
    return suffix if suffix in READERS else ".npy"


def _reader(feature: Imported, place: Place) -> Callable[[], np.ndarray]:
    if feature.form in ("hdf5", "zarr"):
        return partial(_in_archive, feature, place)
    return partial(READERS[_kind(feature)], place, feature.array)


def _expected(feature: Imported) -> tuple[tuple[int | None, ...], str]:
    """The shape as it lies in the file, and as it is told."""
    _, shape, _ = feature.field
    shape = shape[::-1] if feature.orientation == "DT" and shape[:1] == (None,) else shape
    return shape, f"({', '.join('T' if side is None else str(side) for side in shape)}{',' * (len(shape) == 1)})"


def _as_declared(feature: Imported, place: Place, found: np.ndarray) -> np.ndarray:
    shape, told = _expected(feature)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        got = found.dtype if isinstance(found, np.ndarray) else "an .npz archive"
        raise ValueError(f"unreadable: {place} holds {got}, expected floats of shape {told}")
    array = found
    while not isinstance(feature, NpyFeature) and array.ndim > len(shape) and array.shape[0] == 1:
        array = array[0]
    if not _fits(array.shape, shape):
        turned = None in shape and _fits(array.shape[::-1], shape)
        other = "TD" if feature.orientation == "DT" else "DT"
        hint = f"; set orientation: {other} if that is how they lie" if turned else ""
        raise ValueError(f"unreadable: {place} has shape {found.shape}, expected {told}{hint}")
    array = array.T if feature.orientation == "DT" and None in shape else array
    if len(array) > MOST_ROWS:
        raise ValueError(f"unreadable: {place} has {len(array)} rows, and {MOST_ROWS} are read at most")
    return array


def _fits(found: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(found) == len(wanted) and all(a == b or (b is None and a) for a, b in zip(found, wanted, strict=True))


def _refuse_large(shape: Sequence[int], dtype: Any) -> None:
    """Raises Refused where an array that lies packed declares more than is read."""
    if (declared := prod(shape) * np.dtype(dtype).itemsize) > MOST_UNPACKED:
        raise Refused(f"unpacks to {declared} bytes, and {MOST_UNPACKED} are read at most; save it as .npy")


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, fortran order, dtype) of the .npy that begins here; the stream is then at its data."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise Refused(f"is a .npy of version {version}, expected 1.0 or 2.0; save it again")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject:
        raise Refused("holds objects, that is a pickle, which is not opened; save floats")
    return shape, fortran, dtype


def _npy(place: Place, _: str | None) -> Any:
    if place.span is None:
        return np.load(place.path, mmap_mode="r", allow_pickle=False)
    first, size = place.span
    with place.path.open("rb") as stream:
        stream.seek(first)
        shape, fortran, dtype = _header(stream)
        begin = stream.tell()
    if begin - first + prod(shape) * dtype.itemsize > size:
        raise Refused(f"is cut off: it declares {shape} of {dtype}, and has {size} bytes")
    return np.memmap(place.path, dtype, "r", begin, shape, "F" if fortran else "C")


@contextlib.contextmanager
def _stream(place: Place) -> Iterator[Any]:
    """A file, or the bytes of a member of a tar."""
    with place.path.open("rb") as stream:
        if place.span is None:
            yield stream
            return
        first, size = place.span
        _refuse_large((size,), "u1")
        stream.seek(first)
        yield io.BytesIO(stream.read(size))


def _npz(place: Place, array: str | None) -> np.ndarray:
    with _stream(place) as stream, zipfile.ZipFile(stream) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        name = _one_of(names, array)
        member = archive.getinfo(f"{name}.npy")
        _refuse_large((member.file_size,), "u1")
        with archive.open(member) as inner:
            shape, fortran, dtype = _header(inner)
            _refuse_large(shape, dtype)
            content = inner.read(prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _one_of(names: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None or wanted not in names:
        said = "several arrays" if wanted is None else f"no array {wanted!r}"
        known = ", ".join(map(shown, sorted(names)[:8])) or "none"
        raise Refused(f"holds {said}, but {known}; name one of these with array")
    return wanted


def _torch(place: Place, array: str | None) -> np.ndarray:
    import torch

    with _stream(place) as stream:
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise Refused("has members that are compressed, which torch.save never does")
        stream.seek(0)
        found = torch.load(stream, "cpu", weights_only=True)
    if isinstance(found, dict):
        found = found[_one_of([str(name) for name, of in found.items() if isinstance(of, torch.Tensor)], array)]
    if not isinstance(found, torch.Tensor):
        raise Refused(f"holds a {type(found).__name__}, expected a tensor, or a dict of tensors")
    # An expanded tensor declares more than it holds.
    _refuse_large(found.shape, "f8" if found.element_size() == 8 else "f4")
    return (found.float() if found.dtype == torch.bfloat16 else found).detach().contiguous().numpy()


def _h5(place: Place, array: str | None) -> np.ndarray:
    if not place.path.exists():
        raise FileNotFoundError
    with opened("hdf5", place.path) as top:
        return _whole(own(top, array or "features"), array or "features", None)


def _in_archive(feature: Imported, place: Place) -> np.ndarray:
    with opened(feature.form, place.path) as top:
        found = own(top, place.inside or feature.array or "")
        if found is not None and not hasattr(found, "dtype"):
            found = own(found, feature.array or "features")
        return _whole(found, feature.array or "features", place.row)


def _whole(held: Any, name: str, row: int | None) -> np.ndarray:
    """A dataset of HDF5 or an array of zarr, or one row of it, of which every part was written."""
    if held is None or not hasattr(held, "dtype"):
        raise Refused(f"has no array {name!r}; correct the feature's array")
    if held.dtype.kind != "f":
        raise Refused(f"holds {held.dtype}, expected floats")
    shape = held.shape if row is None else held.shape[1:]
    _refuse_large(shape, held.dtype)
    if held.chunks is not None:
        _refuse_large(held.chunks, held.dtype)
    if row is not None and row >= held.shape[0]:
        raise Refused(f"has {held.shape[0]} rows, and more ids; write one a row")
    if absent := (_absent_h5 if hasattr(held, "id") else _absent_zarr)(held, row):
        raise Refused(f"{absent}: the array was not written to its end; write it again")
    return np.asarray(held[...] if row is None else held[row])


def _absent_h5(held: Any, row: int | None) -> str:
    """What of a dataset is not in its file: HDF5 reads it as zeros, or follows it to another file."""
    if held.external or held.is_virtual:
        raise Refused("lies in other files, which are not followed; copy it into one")
    if held.chunks is None:
        return "nothing of it is there" if held.size and not held.id.get_storage_size() else ""
    steps = held.chunks
    counts = [-(-side // step) for side, step in zip(held.shape, steps, strict=True)]
    if row is None:
        there, wanted = held.id.get_num_chunks(), prod(counts)
    else:
        wanted = prod(counts[1:])
        corners = ((row // steps[0], *rest) for rest in np.ndindex(*counts[1:]))
        offsets = (tuple(at * step for at, step in zip(of, steps, strict=True)) for of in corners)
        there = sum(held.id.get_chunk_info_by_coord(offset).byte_offset is not None for offset in offsets)
    return "" if there >= wanted else f"{wanted - there} of {wanted} chunks are not there"


def _absent_zarr(held: Any, row: int | None) -> str:
    """Chunks that have no file: zarr reads them as its fill value, without an error."""
    metadata, steps = held.metadata, held.shards or held.chunks
    root = Path(str(held.store_path.store.root), held.store_path.path)
    counts = [-(-side // step) for side, step in zip(held.shape, steps, strict=True)]
    begin = 0 if row is None else row // steps[0]
    corners = np.ndindex(*([1, *counts[1:]] if row is not None else counts))
    names = [metadata.encode_chunk_key((of[0] + begin, *of[1:])) for of in corners] if counts else []
    absent = [name for name in names if not (root / name).is_file()]
    return f"{len(absent)} of {len(names)} chunks are not there, the first {absent[0]}" if absent else ""


READERS = {".npy": _npy, ".npz": _npz, ".pt": _torch, ".pth": _torch, ".h5": _h5, ".hdf5": _h5}


def with_file_digests(store: str, samples: Sequence[ShardSample]) -> list[ShardSample]:
    """The samples with the digests of their imported files, from the manifest, in place of their videos'.

    Raises:
        ExtractionError: the manifest does not list these files.
    """
    digests = [imported_digest_of(sample, store) for sample in samples]
    if None in digests:
        raise ExtractionError(
            f"the manifest does not say what files {store} is made from; run `snakemake`, or "
            "`python -m pipeline manifest <dataset> <feature>` first"
        )
    return [sample._replace(digest=digest) for sample, digest in zip(samples, digests, strict=True)]
