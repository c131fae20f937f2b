"""The manifest table of a data set: its schema, its Parquet file, its shards. Opens no video, knows no store.

Light on purpose: the workflow asks for shard digests at plan time, long before any decoder is loaded.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from pipeline.datasets.names import DatasetError
from pipeline.tables import opened, read_columns, write_table

# Bumped by hand when pipeline.video.probe comes to other facts or verdicts: remembered ones are then taken afresh.
FACTS_VERSION = 2

FACTS = {
    "duration": pa.float64(),  # seconds
    "frames": pa.int64(),  # to be shown
    "fps": pa.float64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "codec": pa.string(),
    "rotation": pa.int64(),  # degrees
    "edit_list": pa.bool_(),
    "decord_exact": pa.bool_(),
}
# The runs of a sample's frame labels; null of the layouts whose frames have none, and of a sample without labels.
SEGMENTS = pa.list_(pa.field("element", pa.struct({"label": pa.string(), "frames": pa.int32()})))
SCHEMA = pa.schema(
    {
        "sample": pa.string(),
        "path": pa.string(),  # POSIX, relative to the videos' folder; null for a text, and where the set has no videos
        "label": pa.string(),  # null where the set has none
        "template": pa.string(),  # as published
        "split": pa.string(),
        "digest": pa.string(),  # sha256 of the file, the text, or the labels; empty where it could not be read
        "status": pa.string(),  # ok, or the reason why not
        **FACTS,  # null where the status is not ok, for a text, and where the set has no videos
        "bytes": pa.int64(),  # null, as mtime_ns, where there is no file to look at
        "mtime_ns": pa.int64(),
        "shard": pa.int64(),
        "segments": SEGMENTS,
        "map": pa.string(),  # POSIX, relative to the root: attention map or object mask; null where there is none
        "map_digest": pa.string(),  # sha256 of that file, or of a folder's; empty where it could not be read
        "patient": pa.string(),  # null, as clinician, of the layouts that name none
        "clinician": pa.string(),
    },
    metadata={"facts_version": str(FACTS_VERSION)},
)
# What labelled frames add to `frame.attrs`, as JSON in the file: names of the classes in their order, lists of classes
# by name, and the verb and noun of each class.
JSON_ATTRS = ("classes", "class_lists", "parts")
# Columns that manifests of earlier versions lack: null in all of their rows.
LATER = frozenset({"segments", "map", "map_digest", "patient", "clinician"})
_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(), pa.bool_(): pd.BooleanDtype()}


class NoSuchShard(DatasetError, KeyError):
    """A shard that the manifest does not hold."""

    __str__ = Exception.__str__  # KeyError's would show the sentence in quotes


class ShardSample(NamedTuple):
    """A sample as extraction needs it."""

    sample: str
    digest: str
    path: str | None  # POSIX, relative to the videos' folder; None where there is no file
    facts: dict[str, Any] | None  # arguments of video.VideoFacts; None where the status is not ok, or no file is there
    status: str
    map: str | None = None  # POSIX, relative to the data set's root; None where there is none
    map_digest: str | None = None  # None where there is no map, empty where it could not be read


# Why a sample without a map has none in a store of maps: it is no failure of the file.
NO_MAP = "no map"


def map_digest_of(row: Any) -> str:
    """The digest of a sample in a store of maps: sha256 over those of its file and of its map.

    Args:
        row: a ShardSample, or a row of a manifest.
    """
    return hashlib.sha256(json.dumps([row.digest, row.map_digest]).encode()).hexdigest()


def to_frame(table: pa.Table) -> pd.DataFrame:
    """The table as pandas: text as objects with None, numbers as nullable dtypes, so that integers stay integers."""
    columns = {}
    for field in SCHEMA:
        column = table[field.name]
        if pa.types.is_string(field.type):
            columns[field.name] = pd.Series(column.to_numpy(zero_copy_only=False), dtype=object)
        elif pa.types.is_list(field.type):
            columns[field.name] = pd.Series(column.to_pylist(), dtype=object)
        else:
            columns[field.name] = column.to_pandas(types_mapper=_NULLABLE.get)
    frame = pd.DataFrame(columns)
    metadata = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    frame.attrs["facts_version"] = metadata.get("facts_version", "")
    frame.attrs |= {name: json.loads(metadata[name]) for name in JSON_ATTRS if name in metadata}
    return frame


def to_table(frame: pd.DataFrame) -> pa.Table:
    """The inverse of `to_frame`; nothing of pandas' own metadata, so that equal content is equal bytes."""
    metadata = {"facts_version": frame.attrs.get("facts_version", "")}
    metadata |= {name: json.dumps(frame.attrs[name]) for name in JSON_ATTRS if name in frame.attrs}
    columns = [pa.Array.from_pandas(frame[field.name], type=field.type) for field in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA.with_metadata(metadata))


def write_manifest(frame: pd.DataFrame, path: Path) -> bool:
    """Writes the manifest by rename. A file that already holds this content is not touched.

    Returns:
        Whether the file was written.

    Raises:
        DatasetError: a file is there that is no manifest; it is left as it is, since it may hold the shards.
    """
    table = to_table(frame)
    if path.exists() and _read_table(path, SCHEMA.names).equals(table, check_metadata=True):
        return False
    write_table(table, path, compression="zstd", durable=True)
    return True


def read_manifest(path: Path) -> pd.DataFrame:
    """Reads a manifest.

    Raises:
        DatasetError: it was not made yet, is not Parquet, or lacks a column.
    """
    try:
        return to_frame(_read_table(path, SCHEMA.names))
    except FileNotFoundError:
        dataset = Path(path).parent.name
        raise DatasetError(
            f"{path} is not there: `python -m pipeline manifest {dataset}` makes it; Snakemake does so by itself"
        ) from None


def read_shards(path: Path) -> dict[str, int]:
    """Shard of each sample of a manifest: the `previous` of `assign_shards`, read without pandas.

    Raises:
        FileNotFoundError: it was not made yet.
        DatasetError: the file is not Parquet, or lacks a column.
    """
    samples, shards = _read_table(path, ["sample", "shard"]).columns
    return dict(zip(samples.to_pylist(), shards.to_pylist(), strict=True))


def classes(frame: pd.DataFrame) -> list[str]:
    """Class i of every head is the i-th of these: the data set's own, else the labels that occur, sorted."""
    return frame.attrs.get("classes") or sorted(frame["label"].dropna().unique())


def shard_samples(frame: pd.DataFrame, shard: int) -> list[ShardSample]:
    """A shard's samples in the manifest's order; a sample that is not ok keeps its place, and its reason.

    Raises:
        NoSuchShard: the manifest does not hold it.
    """
    rows = frame[frame["shard"] == shard]
    if rows.empty:
        raise _no_such_shard(shard, frame["shard"].unique().tolist(), "the manifest")
    return [_shard_sample(row) for row in rows.to_dict("records")]


def samples_by_name(frame: pd.DataFrame) -> dict[str, ShardSample]:
    """Sample -> what a shard knows of it, of every row of a manifest or of a part of one."""
    return {row["sample"]: _shard_sample(row) for row in frame.to_dict("records")}


def _shard_sample(row: Mapping[str, Any]) -> ShardSample:
    known = row["status"] == "ok" and row["path"] is not None
    facts = {name: row[name] for name in FACTS} if known else None
    return ShardSample(row["sample"], row["digest"], row["path"], facts, row["status"], row["map"], row["map_digest"])


def shard_digest(manifest_path: Path, shard: int) -> str:
    """sha256 over (sample, digest, status) of a shard's rows, and what there is of map_digest.

    It changes if, and only if, what the shard must hold of pixels or of maps does.

    Raises:
        FileNotFoundError: the manifest was not made yet.
        NoSuchShard: it does not hold the shard (a KeyError too).
        DatasetError: it cannot be read.
    """
    digests = shard_digests(manifest_path)
    if shard not in digests:
        raise _no_such_shard(shard, list(digests), str(manifest_path))
    return digests[shard]


def shard_digests(manifest_path: Path) -> dict[int, str]:
    """`shard_digest` of every shard, by number, ascending; one pass over the file, remembered until it changes."""
    status = os.stat(manifest_path)
    return dict(_shard_digests(Path(manifest_path), status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=8)
def _shard_digests(path: Path, _inode: int, _size: int, _mtime_ns: int) -> dict[int, str]:
    table = _read_table(path, ["shard", "sample", "digest", "status", "map_digest"])
    lines: dict[int, list[str]] = {}
    for shard, *content, of_map in zip(*(column.to_pylist() for column in table.columns), strict=True):
        lines.setdefault(shard, []).append(json.dumps(content if of_map is None else [*content, of_map]))
    return {shard: hashlib.sha256("\n".join(lines[shard]).encode()).hexdigest() for shard in sorted(lines)}


def _read_table(path: Path, columns: list[str]) -> pa.Table:
    remedy = "delete it only if its shards may be assigned anew, or restore it"
    try:
        # From an open file: given a path, pyarrow would also take a folder, and read `name=value` folders as columns.
        with opened(path) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            absent = [name for name in columns if name not in present]
            if not LATER.issuperset(absent):
                raise DatasetError(
                    f"{path} lacks the columns {', '.join(absent)}: it is no manifest of this version; {remedy}"
                )
            table = read_columns(file, present)
            for name in absent:
                table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
            return table.select(columns)
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path} is not a Parquet file that can be read ({error}); {remedy}") from None


def _no_such_shard(shard: int, known: list[int], origin: str) -> NoSuchShard:
    span = f"{min(known)} to {max(known)}" if known else "none"
    return NoSuchShard(f"shard {shard} is not in {origin}, which has {len(known)} shards ({span}); name one of these")
