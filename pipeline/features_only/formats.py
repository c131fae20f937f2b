"""A finished shard as files that other tools read: npy, npz, webdataset. Each is whole or not there."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import whole
from pipeline.store import FeatureStore

EXPORTS = ("npy", "npz", "webdataset")
NOTED = ("times", "fps")  # of a sample's meta, put beside its arrays where the format has a place


def export(store: FeatureStore, folder: Path, form: str, shard: int) -> dict[str, int]:
    """Writes the samples of one shard.

    npy: <id>.<field>.npy, a file an array. npz: <id>.npz, a file a sample, with `times` or `fps` beside its fields.
    webdataset: <shard>.tar, of <id>.<field>.npy and <id>.json a sample; a dot in an id becomes "_", since a dot ends
    the key there, and the json has the id as it is.

    Args:
        store: of that shard alone.
        folder: for the files.
        form: one of EXPORTS.
        shard: its number.

    Returns:
        The name of each file below `folder` -> its bytes.
    """
    if form == "webdataset":
        return _tar(store, folder, f"{shard:06d}.tar")
    written = {}
    for sample, arrays in _samples(store):
        if form == "npz":
            noted = {name: np.asarray(of) for name, of in store.meta(sample).items() if name in NOTED}
            contents = {f"{sample}.npz": _bytes(np.savez, **noted | arrays)}
        else:
            contents = {f"{sample}.{name}.npy": _npy(array) for name, array in arrays.items()}
        for name, content in contents.items():
            with whole(folder / name, durable=True) as scratch:
                scratch.write_bytes(content)
            written[name] = len(content)
    return written


def _samples(store: FeatureStore) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for sample in store.samples:
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


def _tar(store: FeatureStore, folder: Path, name: str) -> dict[str, int]:
    if not store.samples:
        return {}
    with whole(folder / name, durable=True) as scratch, tarfile.open(scratch, "w") as archive:
        for key, (sample, arrays) in zip(_keys(store.samples), _samples(store), strict=True):
            for field, array in arrays.items():
                _add(archive, f"{key}.{field}.npy", _npy(array))
            facts = {"id": sample, "digest": store.digest(sample), **store.meta(sample)}
            _add(archive, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
    return {name: (folder / name).stat().st_size}


def _keys(samples: list[str]) -> list[str]:
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


def whole_there(folder: Path, files: Mapping[str, int]) -> bool:
    """Whether every file is there, of the size that was written."""
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())
