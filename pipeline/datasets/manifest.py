"""The manifest table of a data set: its schema, its Parquet file, its shards. Opens no video, knows no store.

Light on purpose: the workflow asks for shard digests at plan time, long before any decoder is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from pipeline.datasets.names import DatasetError
from pipeline.digests import Damaged
from pipeline.tables import opened, proved, read_columns, write_table

if TYPE_CHECKING:
    import pandas as pd

# Bumped by hand when pipeline.video.probe comes to other facts or verdicts: remembered ones are then taken afresh.
FACTS_VERSION = 4

FACTS = {
    "duration": pa.float64(),  # seconds
    "frames": pa.int64(),  # to be shown
    "fps": pa.float64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "codec": pa.string(),
    "rotation": pa.int64(),  # degrees
    "edit_list": pa.bool_(),
    "mirrored": pa.bool_(),
    "video_streams": pa.int64(),
    "grid": pa.string(),  # frames a second, as a fraction; empty of a variable rate
    "key_frames": pa.string(),  # frame:tick:crc32 of where decoding may begin, about 20 bytes a key frame
    "decord_doubt": pa.string(),  # why decord cannot be believed, or that it was not tried
}
# The runs of a sample's frame labels; null of the layouts whose frames have none, and of a sample without labels.
SEGMENTS = pa.list_(pa.field("element", pa.struct({"label": pa.string(), "frames": pa.int32()})))
# The imported files of a sample, a record a store (`<feature>-<key>`); null where nothing is imported.
IMPORTED = {"feature": pa.string(), "digest": pa.string(), "bytes": pa.int64(), "mtime_ns": pa.int64()}
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
        "uneven": pa.float64(),  # of a labelled video: seconds by which its frames miss a constant rate at most
        "map": pa.string(),  # POSIX, relative to the root: attention map or object mask; null where there is none
        "map_digest": pa.string(),  # sha256 of that file, or of a folder's; empty where it could not be read
        "patient": pa.string(),  # null, as clinician, of the layouts that name none
        "clinician": pa.string(),
        "imported": pa.list_(pa.field("element", pa.struct(IMPORTED))),
        "labels": pa.list_(pa.field("element", pa.string())),  # of several classes; null where nobody said
        "target": pa.list_(pa.field("element", pa.float64())),  # numbers to be predicted; null where nobody said
        "group": pa.string(),  # what no two splits share
        "start": pa.float64(),  # of a clip, seconds into its video, as stop; null of a whole video
        "stop": pa.float64(),
        "file_digest": pa.string(),  # of a clip, sha256 of its video, while `digest` is of that and of its ends
    },
    metadata={"facts_version": str(FACTS_VERSION)},
)
# What is in `frame.attrs`, and as JSON in the file: how the files looked that it was made from (`looks`); of labelled
# frames the names of the classes in their order, lists of classes by name, and the verb and noun of each class; the
# names of the numbers in `target`.
JSON_ATTRS = ("looks", "classes", "class_lists", "parts", "targets")
# Columns that a file has only where one of its rows has a value of them.
SPARSE = ("labels", "target", "group", "start", "stop", "file_digest")
# Columns that manifests of earlier versions lack: null in all of their rows.
LATER_FACTS = frozenset({"mirrored", "video_streams", "grid", "key_frames", "decord_doubt"})
LATER = frozenset(
    {"segments", "uneven", "map", "map_digest", "patient", "clinician", "imported", *SPARSE} | LATER_FACTS
)
# What `permafrost extract` leaves beside the manifest of its folder, and nobody else.
EXTRACTED = ".lock"


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
    imported: Sequence[Mapping[str, Any]] | None = None  # records of IMPORTED; None where nothing is imported
    bytes: int | None = None  # as mtime_ns, of the file when its digest was taken; None where there was none
    mtime_ns: int | None = None
    file_digest: str | None = None  # of a clip's whole video; None where `digest` is the file's

    @property
    def of_file(self) -> str:
        """sha256 of the bytes of its video or picture."""
        return self.file_digest or self.digest


# Why a sample without a map has none in a store of maps: it is no failure of the file.
NO_MAP = "no map"


def map_digest_of(row: Any) -> str:
    """The digest of a sample in a store of maps: sha256 over those of its file and of its map.

    Args:
        row: a ShardSample, or a row of a manifest.
    """
    return hashlib.sha256(json.dumps([row.digest, row.map_digest]).encode()).hexdigest()


def imported_record(row: Any, store: str) -> Mapping[str, Any] | None:
    """What a manifest knows of a sample's imported file, a record of IMPORTED; None where it knows of none.

    Args:
        row: a ShardSample, or a row of a manifest.
        store: `<feature>-<key>`.
    """
    return next((record for record in row.imported or () if record["feature"] == store), None)


def imported_digest_of(row: Any, store: str) -> str | None:
    """The digest in `imported_record`: empty where the file could not be read, None where there is no record."""
    record = imported_record(row, store)
    return None if record is None else record["digest"]


def to_frame(table: pa.Table) -> pd.DataFrame:
    """The table as pandas: text as objects with None, numbers as nullable dtypes, so that integers stay integers."""
    import pandas as pd

    nullable = {pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(), pa.bool_(): pd.BooleanDtype()}
    columns = {}
    for field in SCHEMA:
        column = table[field.name]
        if pa.types.is_string(field.type):
            columns[field.name] = pd.Series(column.to_numpy(zero_copy_only=False), dtype=object)
        elif pa.types.is_list(field.type):
            columns[field.name] = pd.Series(column.to_pylist(), dtype=object)
        else:
            columns[field.name] = column.to_pandas(types_mapper=nullable.get)
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
    if path.exists():
        there, known = _read_table(path, SCHEMA.names, unproved=True)
        if known and there.equals(table, check_metadata=True):
            return False
    absent = [name for name in SPARSE if table[name].null_count == len(table)]
    write_table(table.drop_columns(absent), path, compression="zstd", durable=True)
    return True


def read_manifest(path: Path, unproved: bool = False) -> pd.DataFrame:
    """Reads a manifest.

    Args:
        path: of its file.
        unproved: takes one without a digest of itself too, as earlier versions wrote them: only to make it again.

    Raises:
        DatasetError: it was not made yet, is damaged, has no digest, or lacks a column.
    """
    return to_frame(_made(path, SCHEMA.names, unproved))


def _made(path: Path, columns: list[str], unproved: bool = False) -> pa.Table:
    """Columns of a manifest. Raises as `read_manifest`."""
    try:
        return _read_table(path, columns, unproved)[0]
    except FileNotFoundError:
        dataset = Path(path).parent.name
        raise DatasetError(
            f"{path} is not there: `python -m pipeline manifest {dataset}` makes it; Snakemake does so by itself"
        ) from None


def read_shards(path: Path) -> dict[str, int]:
    """Shard of each sample of a manifest: the `previous` of `assign_shards`, read without pandas.

    Raises:
        FileNotFoundError: it was not made yet.
        DatasetError: the file is damaged, or lacks a column.
    """
    samples, shards = _read_table(path, ["sample", "shard"], unproved=True)[0].columns
    return dict(zip(samples.to_pylist(), shards.to_pylist(), strict=True))


def classes(frame: pd.DataFrame) -> list[str]:
    """Class i of every head is the i-th of these: the data set's own, else the labels that occur, sorted."""
    several = frame["labels"].dropna() if "labels" in frame else ()
    return frame.attrs.get("classes") or sorted({*frame["label"].dropna(), *chain.from_iterable(several)})


def shard_samples(frame: pd.DataFrame, shard: int) -> list[ShardSample]:
    """A shard's samples in the manifest's order; a sample that is not ok keeps its place, and its reason.

    Raises:
        NoSuchShard: the manifest does not hold it.
    """
    rows = frame[frame["shard"] == shard]
    if rows.empty:
        raise _no_such_shard(shard, frame["shard"].unique().tolist(), "the manifest")
    return _of_frame(rows)


def shard_reader(path: Path) -> Callable[[int], list[ShardSample]]:
    """`shard_samples` of a manifest's file, which is read once; without pandas, and of the rows that are asked for.

    Raises:
        NoSuchShard, DatasetError: as `shard_samples` and `read_manifest`.
    """
    table = _made(path, [name for name in SCHEMA.names if name not in ("segments", "labels", "target")])
    places: dict[int, list[int]] = {}
    for place, shard in enumerate(table["shard"].to_pylist()):
        places.setdefault(shard, []).append(place)

    def samples(shard: int) -> list[ShardSample]:
        if shard not in places:
            raise _no_such_shard(shard, sorted(places), str(path))
        found = []
        for _, run in groupby(
            enumerate(places[shard]), lambda place: place[1] - place[0]
        ):  # rows that follow each other
            (_, first), *others = run
            rows = table.slice(first, 1 + len(others)).to_pylist()
            found += [_shard_sample(row, lambda value: value is None) for row in rows]
        return found

    return samples


def samples_by_name(frame: pd.DataFrame) -> dict[str, ShardSample]:
    """Sample -> what a shard knows of it, of every row of a manifest or of a part of one."""
    return {sample.sample: sample for sample in _of_frame(frame)}


def _of_frame(frame: pd.DataFrame) -> list[ShardSample]:
    import pandas as pd

    return [_shard_sample(row, pd.isna) for row in frame.to_dict("records")]


def _shard_sample(row: Mapping[str, Any], absent: Callable[[Any], bool]) -> ShardSample:
    known = row["status"] == "ok" and row["path"] is not None
    facts = {name: row[name] for name in FACTS} if known else None
    if facts is not None and facts["grid"] is None:
        raise DatasetError(
            f"the facts of {row['path']} are of an earlier version, which did not see mirrors; make the manifest again"
        )
    if facts is not None and not absent(row["start"]):
        facts |= {"start": row["start"], "duration": row["stop"] - row["start"]}
    known = (row[name] for name in ("status", "map", "map_digest", "imported"))
    looked = (None if absent(row[name]) else int(row[name]) for name in ("bytes", "mtime_ns"))
    return ShardSample(row["sample"], row["digest"], row["path"], facts, *known, *looked, row["file_digest"])


def shard_digest(manifest_path: Path, shard: int, of: str = "") -> str:
    """sha256 over (sample, digest, status) of a shard's rows.

    It changes if, and only if, what the shard must hold does.

    Args:
        manifest_path: of the data set.
        shard: which one.
        of: "maps" for a store of maps: with what there is of map_digest. `<feature>-<key>` for a store of imported
            features: the digests of its files in place of the samples' own.

    Raises:
        FileNotFoundError: the manifest was not made yet.
        NoSuchShard: it does not hold the shard (a KeyError too).
        DatasetError: it cannot be read.
    """
    digests = shard_digests(manifest_path, of)
    if shard not in digests:
        raise _no_such_shard(shard, list(digests), str(manifest_path))
    return digests[shard]


def shard_digests(manifest_path: Path, of: str = "") -> dict[int, str]:
    """`shard_digest` of every shard, by number, ascending; one pass over the file, remembered until it changes."""
    return dict(_remembered(Path(manifest_path), of)[0])


def shard_contents(manifest_path: Path, shard: int, of: str = "") -> dict[str, str | None]:
    """Sample -> the digest that a store must have of it, of a shard. Arguments and errors: as of `shard_digest`."""
    contents = _remembered(Path(manifest_path), of)[1]
    if shard not in contents:
        raise _no_such_shard(shard, list(contents), str(manifest_path))
    return contents[shard]


def _remembered(path: Path, of: str) -> tuple[dict[int, str], dict[int, dict[str, str | None]]]:
    status = os.stat(path)
    return _digests(path, of, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _digests(
    path: Path, of: str, _inode: int, _size: int, _mtime_ns: int
) -> tuple[dict[int, str], dict[int, dict[str, str | None]]]:
    read = ["shard", "sample", "digest", "status", "map_digest", "imported"]
    table, _ = _read_table(path, read, unproved=True)
    lines: dict[int, list[str]] = {}
    contents: dict[int, dict[str, str | None]] = {}
    for row in map(_Row._make, zip(*(column.to_pylist() for column in table.columns), strict=True)):
        digest = row.digest if not of else map_digest_of(row) if of == "maps" else imported_digest_of(row, of)
        lines.setdefault(row.shard, []).append(json.dumps([row.sample, digest, row.status]))
        contents.setdefault(row.shard, {})[row.sample] = digest
    digests = {shard: hashlib.sha256("\n".join(lines[shard]).encode()).hexdigest() for shard in sorted(lines)}
    return digests, contents


class _Row(NamedTuple):
    shard: int
    sample: str
    digest: str
    status: str
    map_digest: str | None
    imported: Sequence[Mapping[str, Any]] | None


class LookedAt(NamedTuple):
    """What a manifest says of the files that it was made from.

    Attributes:
        samples, paths, maps: its columns.
        looks: group -> how its files looked, as `looks` gives it; empty of manifests of earlier versions.
        bytes, mtime_ns: of each row's video or picture; None where there is no file.
        imported: records of each row.
        proved: whether it carries a digest of itself; those of earlier versions do not.
    """

    samples: list[str]
    paths: list[str | None]
    maps: list[str | None]
    looks: dict[str, list[str]]
    bytes: list[int | None]
    mtime_ns: list[int | None]
    imported: list[Sequence[Mapping[str, Any]] | None]
    proved: bool


def read_looked_at(path: Path) -> LookedAt:
    """What a plan needs to notice that files were replaced. Raises as `read_shards`."""
    table, known = _read_table(path, ["sample", "path", "map", "bytes", "mtime_ns", "imported"], unproved=True)
    samples, paths, maps, *stats = (column.to_pylist() for column in table.columns)
    metadata = table.schema.metadata or {}
    return LookedAt(samples, paths, maps, json.loads(metadata.get(b"looks", b"{}")), *stats, known)


def _read_table(path: Path, columns: list[str], unproved: bool = False) -> tuple[pa.Table, bool]:
    """Columns of a manifest, and whether it carries a digest of itself; one that does not is refused unless unproved.

    A plan takes one of an earlier version, since its shards are the data set's, and has it made again.
    """
    made = f"`python -m pipeline manifest {Path(path).absolute().parent.name}`"
    remedy = f"restore it, or delete it and run {made}, which then assigns its shards anew"
    if Path(path).with_name(EXTRACTED).exists():
        made = "`permafrost extract` again"
        remedy = f"restore it, or delete it, and name all files to {made}, which computes none that is there"
    try:
        file = opened(path, remedy, unproved=True)
        present = [name for name in columns if name in file.schema_arrow.names]
        absent = [name for name in columns if name not in present]
        if not LATER.issuperset(absent):
            raise DatasetError(
                f"{path} lacks the columns {', '.join(absent)}: it is no manifest of this version; {remedy}"
            )
        if not (unproved or proved(file)):
            raise DatasetError(
                f"{path} has no digest of itself: an earlier version wrote it; run {made}, which keeps its shards"
            )
        table = read_columns(file, present)
    except Damaged as error:
        raise DatasetError(str(error)) from None
    for name in absent:
        table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table.select(columns), proved(file)


def _no_such_shard(shard: int, known: list[int], origin: str) -> NoSuchShard:
    span = f"{min(known)} to {max(known)}" if known else "none"
    return NoSuchShard(f"shard {shard} is not in {origin}, which has {len(known)} shards ({span}); name one of these")
