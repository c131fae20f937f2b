"""The zarr v3 sharding layout: chunks one after another, then an index. Knows no journal.

An array is one zarr array (samples, *sample shape) in one shard file; a chunk is one sample, raw little-endian bytes
followed by their crc32c. The index, (samples, 2) uint64 of offset and length with a crc32c of its own, ends the file.
Source: zarr v3 specification, codec `sharding_indexed` 1.0.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from .access import File
from .chunks import CRC_BYTES, ChunkFile, crc_bytes
from .durable import make_directory, replace_file
from .fields import Array
from .manifest import LABELS, beside

ABSENT = np.uint64(np.iinfo(np.uint64).max)


class ZarrLayout:
    """See `layout.Layout`. The files that grow are the shard files; `finish` appends their indexes."""

    trailer = CRC_BYTES

    def __init__(self, base: Path, arrays: Mapping[str, Array]) -> None:
        self.arrays, self.folder = arrays, beside(base, ".zarr")

    def inside(self, name: str) -> str:
        return "/".join([name, "c", "0", *["0"] * len(self.arrays[name].shape)])

    def data_file(self, name: str) -> Path:
        return self.folder / self.inside(name)

    def thaw(self, rows: Sequence[Mapping[str, Any]]) -> None:
        make_directory(self.folder)
        for stale in self.folder.rglob("zarr.json"):  # written anew by finish: no client shall take this for whole
            stale.unlink()

    def finish(
        self,
        rows: Sequence[Mapping[str, Any]],
        files: Mapping[str, ChunkFile],
        offsets: Mapping[str, Mapping[str, int]],
    ) -> tuple[dict[str, str], dict[str, Any]]:
        for name, array in self.arrays.items():
            index = encode_index([offsets[name].get(row["sample"]) for row in rows], _stride(array))
            files[name].finish(index)
        digests = {}
        for path, content in metadata(rows, self.arrays).items():
            replace_file(self.folder / path, content)
            digests[f"{self.folder.name}/{path}"] = hashlib.sha256(content).hexdigest()
        return digests, {}

    def size(self, name: str, manifest: Mapping[str, Any]) -> int:
        return manifest["counts"]["ok"] * _stride(self.arrays[name]) + index_size(len(manifest["samples"]))

    def places(self, name: str, manifest: Mapping[str, Any], file: File) -> list[int]:
        stored = [row["status"] == "ok" for row in manifest["samples"]]
        raw = np.empty(index_size(len(stored)), np.uint8)
        end = file.size - len(raw)
        file.read(end, raw)
        index = decode_index(raw.tobytes())
        lengths = np.where(stored, np.uint64(_stride(self.arrays[name])), ABSENT)
        if (index[:, 1] != lengths).any() or (index[stored, 0] + index[stored, 1] > end).any():
            raise ValueError("its index places samples that the manifest does not have")
        return index[:, 0].tolist()

    def check(self, manifest: Mapping[str, Any], file: File) -> None:
        """Nothing: `places` checks the index, and metadata are files of their own."""


def _stride(array: Array) -> int:
    """Bytes that a sample takes in the data file."""
    return array.nbytes_in({}) + CRC_BYTES


def index_size(samples: int) -> int:
    return samples * 16 + CRC_BYTES


def encode_index(offsets: Sequence[int | None], stride: int) -> bytes:
    """The shard index.

    Args:
        offsets: where each sample's chunk begins; None for a sample without a chunk.
        stride: bytes of a chunk with its checksum.
    """
    index = np.full((len(offsets), 2), ABSENT, dtype="<u8")
    for row, offset in enumerate(offsets):
        if offset is not None:
            index[row] = offset, stride
    raw = index.tobytes()
    return raw + crc_bytes(google_crc32c.value(raw))


def decode_index(raw: bytes) -> np.ndarray:
    """(samples, 2) uint64 of offset and length; ABSENT twice for a sample without a chunk.

    Raises:
        ValueError: its checksum does not fit.
    """
    body, crc = raw[:-CRC_BYTES], raw[-CRC_BYTES:]
    if crc != crc_bytes(google_crc32c.value(body)):
        raise ValueError("the shard index does not fit its crc32c")
    return np.frombuffer(body, dtype="<u8").reshape(-1, 2)


def metadata(rows: Sequence[Mapping[str, Any]], arrays: Mapping[str, Array]) -> dict[str, bytes]:
    """The zarr.json files of the group and of each array: relative path -> content, written by zarr-python itself.

    The group's attributes say what the rows are: `ids`, `failed` (id -> reason), `labels` (where they are), and of each
    row what extraction noted, such as `times` in seconds, or null.
    """
    import zarr  # half a second, and readers never need it

    held: dict[str, Any] = {}
    attributes: dict[str, Any] = {name: [row.get("meta", {}).get(name) for row in rows] for name in _noted(rows)}
    attributes |= {"ids": [row["sample"] for row in rows], "labels": LABELS}
    attributes["failed"] = {row["sample"]: row["reason"] for row in rows if row["status"] == "failed"}
    group = zarr.create_group(zarr.storage.MemoryStore(store_dict=held), zarr_format=3, attributes=attributes)
    for name, array in arrays.items():
        group.create_array(
            name,
            shape=(len(rows), *array.shape),
            shards=(len(rows), *array.shape),
            chunks=(1, *array.shape),
            dtype=array.dtype,
            compressors=[zarr.codecs.Crc32cCodec()],
            fill_value=float("nan") if array.dtype.kind == "f" else 0,
        )
    documents = {path: json.loads(content.to_bytes()) for path, content in held.items()}
    # The group's on one line: its attributes have a line a number else.
    return {
        path: (json.dumps(document, indent=2 if path.count("/") else None, sort_keys=True) + "\n").encode()
        for path, document in documents.items()
    }


def _noted(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of what extraction noted of any row."""
    return sorted({name for row in rows for name in row.get("meta", {})})
