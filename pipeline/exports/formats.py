"""A finished shard as files that other tools read: npy, npz, webdataset, datasets. Each is whole or not there."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.digests import file_digest, sha256
from pipeline.exports.notes import ALL, Notes
from pipeline.exports.table import write_parquet
from pipeline.files import whole
from pipeline.store import FeatureStore

EXPORTS = ("npy", "npz", "webdataset", "datasets")
SUFFIX = {"npy": ".npy", "npz": ".npz", "webdataset": ".tar", "datasets": ".parquet"}
NOTED = ("times", "fps")  # of a sample's meta, put beside its arrays where the format has a place

Files = dict[str, dict[str, Any]]


def export(store: FeatureStore, folder: Path, form: str, shard: int, notes: Notes) -> Files:
    """Writes the samples of one shard.

    npy: <id>.<field>.npy, a file an array. npz: <id>.npz, a file a sample, with `times` or `fps` beside its fields.
    webdataset: <split>-<shard>.tar, of <id>.<field>.npy and <id>.json a sample; a dot in an id becomes "_", since a dot
    ends the key there, and the json has the id as it is, and the labels. datasets: data/<split>/<shard>.parquet, as
    Hugging Face's `datasets` writes and reads it.

    Args:
        store: of that shard alone.
        folder: for the files.
        form: one of EXPORTS.
        shard: its number.
        notes: labels and splits of the samples.

    Returns:
        The name of each file below `folder` -> its bytes and sha256.
    """
    if form in ("webdataset", "datasets"):
        write = _tar if form == "webdataset" else write_parquet
        return dict(_of_splits(store, folder, shard, notes, form, write))
    written: Files = {}
    for sample, arrays in _samples(store, store.samples):
        if form == "npz":
            noted = {name: np.asarray(of) for name, of in store.meta(sample).items() if name in NOTED}
            contents = {f"{sample}.npz": _bytes(np.savez, **noted | arrays)}
        else:
            contents = {f"{sample}.{name}.npy": _npy(array) for name, array in arrays.items()}
        for name, content in contents.items():
            with whole(folder / name, durable=True) as scratch:
                scratch.write_bytes(content)
            written[name] = {"bytes": len(content), "sha256": sha256(content)}
    return written


def split_name(split: str) -> str:
    """A split as it is called in names of files: letters, digits and "_".

    >>> split_name("test split-1")
    'test_split_1'
    """
    return "".join(mark if mark.isascii() and mark.isalnum() else "_" for mark in split)


def _of_splits(
    store: FeatureStore, folder: Path, shard: int, notes: Notes, form: str, write: Callable[..., None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, bytes and sha256) of the file of each split of a shard."""
    for split, samples in notes.by_split(store.samples):
        name = f"{f'{split_name(split)}-' if split != ALL else ''}{shard:06d}.tar"
        if form == "datasets":
            name = f"data/{split_name(split)}/{shard:06d}.parquet"
        with whole(folder / name, durable=True) as scratch:
            write(store, samples, notes, scratch)
        yield name, {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}


def _samples(store: FeatureStore, samples: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for sample in samples:
        arrays = {}
        for name, (shape, _) in store.fields.items():
            read = store.read_ragged if shape[:1] == (None,) else store.read
            arrays[name] = read([sample], name)[0]
        yield sample, arrays


def _npy(array: np.ndarray) -> bytes:
    return _bytes(np.save, array, allow_pickle=False)


def _bytes(save: Any, *arrays: np.ndarray, **named: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def _tar(store: FeatureStore, samples: Sequence[str], notes: Notes, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for key, (sample, arrays) in zip(_keys(samples), _samples(store, samples), strict=True):
            for field, array in arrays.items():
                _add(archive, f"{key}.{field}.npy", _npy(array))
            facts = {"id": sample, "digest": store.digest(sample), **store.meta(sample), **notes.of.get(sample, {})}
            _add(archive, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())


def _keys(samples: Sequence[str]) -> list[str]:
    """Keys as webdataset reads them: up to the first dot of the file's name; different ones for different ids."""
    taken: dict[str, None] = {}
    for sample in samples:
        key = sample.replace(".", "_")
        while key in taken:
            key += "_"
        taken[key] = None
    return list(taken)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Without times and owners: equal content is an equal archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def whole_there(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every file is there, of the size that was written."""
    return all(
        isinstance(of, Mapping)  # those of earlier versions have no digest
        and (folder / name).is_file()
        and (folder / name).stat().st_size == of["bytes"]
        for name, of in files.items()
    )
