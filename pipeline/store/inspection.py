"""Re-reads every checksum of a store, and says what a store holds. Repairs nothing."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from pipeline.config import file_digest

from .access import PreadFiles
from .chunks import crc_bytes
from .environments import by_feature, merged
from .errors import StoreError, StoreMissing
from .journal import read_journal
from .manifest import LOCK_FILE, beside, shard_bases
from .shard import Shard

FOREIGN = "belongs to no shard; move it out, or delete it"


@dataclass(frozen=True)
class Finding:
    """Something in a store that is not as it was written; sample and field are None where it concerns neither.

    `shard` is the name of a file, in place of a shard's, where that belongs to none.
    """

    shard: str
    sample: str | None
    field: str | None
    what: str


def verify(
    directory: Path, progress: Callable[[int, int], None] | None = None, expected: Collection[int] | None = None
) -> list[Finding]:
    """Checks data, indexes, journals, metadata and manifests of all shards; never stops at the first finding.

    Args:
        directory: features/<dataset>/<feature>-<key>.
        progress: called with (shards done, shards in all) after each.
        expected: the numbers of the data set's shards; without them, of those that are there none may be skipped.

    Returns:
        No finding means that every shard is there, every byte is the one that was written, and nothing else is.

    Raises:
        StoreMissing: the directory holds no shard, and none is expected.
    """
    try:
        whole, unfinished = shard_bases(Path(directory))
    except StoreMissing:
        if not expected:
            raise
        whole, unfinished = [], []
    findings = [*_missing([*whole, *unfinished], expected)]
    findings += [Finding(base.name, None, None, "has no manifest: unfinished, run `extract`") for base in unfinished]
    for done, base in enumerate(whole, start=1):
        findings += _check_shard(base)
        if progress is not None:
            progress(done, len(whole))
    return [*findings, *_foreign(Path(directory), whole, unfinished)]


def _missing(bases: Sequence[Path], expected: Collection[int] | None) -> Iterator[Finding]:
    """Shards of which nothing is there."""
    there = {int(base.name.removeprefix("shard-")) for base in bases}
    known = "the data set's manifest names it" if expected else "later ones are there"
    for number in sorted(set(expected or range(max(there, default=0))) - there):
        yield Finding(f"shard-{number:03d}", None, None, f"is not there, though {known}: run `extract`, or `dvc pull`")


def _foreign(directory: Path, whole: Sequence[Path], unfinished: Sequence[Path]) -> Iterator[Finding]:
    """Files that belong to no shard. What an unfinished one needs, and every lock, is nobody else's."""
    ours = {f"{base.name}{suffix}" for base in whole for suffix in (".json", ".journal", ".zarr", ".h5")}
    begun = tuple(f"{base.name}." for base in unfinished)
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.name not in ours and not path.name.startswith(begun) and not LOCK_FILE.fullmatch(path.name):
            yield Finding(path.name, None, None, FOREIGN)


def _check_shard(base: Path) -> list[Finding]:
    try:
        shard = Shard(base, PreadFiles())
    except StoreError as error:
        return [Finding(base.name, None, None, str(error))]
    findings = [*_check_counts(shard), *_check_journal(shard)]
    explained = {beside(base, ".journal").name} if findings else set()
    findings += _check_structure(shard)
    for name in shard.arrays:
        found = list(_check_array(shard, name))
        findings += found
        if found:
            explained.add(str(shard.layout.data_file(name).relative_to(base.parent)))
    for name, digest in shard.manifest["files"].items():
        path = base.parent / name
        if name in explained:
            continue
        if not path.exists():
            findings.append(Finding(base.name, None, None, f"{name} is gone"))
        elif file_digest(path) != digest:
            findings.append(Finding(base.name, None, None, f"{name} does not have the sha256 of the manifest"))
    named = {base.parent / name for name in shard.manifest["files"]} | {*map(shard.layout.data_file, shard.arrays)}
    inside = sorted(path for path in beside(base, ".zarr").rglob("*") if not path.is_dir() and path not in named)
    return findings + [Finding(str(path.relative_to(base.parent)), None, None, FOREIGN) for path in inside]


def _check_counts(shard: Shard) -> Iterator[Finding]:
    stored = sum(row["status"] == "ok" for row in shard.rows)
    counts = {"ok": stored, "failed": len(shard.rows) - stored}
    if counts != shard.manifest["counts"]:
        yield Finding(
            shard.base.name, None, None, f"manifest counts {shard.manifest['counts']}, its samples are {counts}"
        )


def _check_journal(shard: Shard) -> Iterator[Finding]:
    path = beside(shard.base, ".journal")
    if not path.exists():  # told with the other files
        return
    journal = read_journal(path)
    if journal.damage is not None:
        yield Finding(shard.base.name, None, None, f"journal, {journal.damage}")
        return
    written = {row["sample"]: row for batch in journal.batches for row in batch}
    for row in shard.rows:
        if written.get(row["sample"]) != row:
            yield Finding(shard.base.name, row["sample"], None, "journal and manifest differ")


def _check_structure(shard: Shard) -> Iterator[Finding]:
    """What the data files hold besides data."""
    try:
        shard.layout.check(shard.manifest, shard.column(next(iter(shard.arrays))).file)
    except StoreError:  # told with the arrays
        return
    except ValueError as error:
        yield Finding(shard.base.name, None, None, str(error))


def _check_array(shard: Shard, name: str) -> Iterator[Finding]:
    try:
        file, offsets = shard.column(name)
    except StoreError as error:
        yield Finding(shard.base.name, None, name, str(error))
        return
    for row, offset in zip(shard.rows, offsets, strict=True):
        if row["status"] != "ok":
            continue
        nbytes, written = shard.arrays[name].nbytes_in(row), row["crc32c"][name]
        chunk = np.empty(nbytes + shard.layout.trailer, np.uint8)
        file.read(offset, chunk)
        if (crc := google_crc32c.value(chunk[:nbytes])) != written:
            yield Finding(shard.base.name, row["sample"], name, f"crc32c {crc:08x}, written was {written:08x}")
        elif chunk[nbytes:].tobytes() != crc_bytes(crc)[: shard.layout.trailer]:
            yield Finding(shard.base.name, row["sample"], name, "the crc32c stored beside the data is damaged")


def describe(directory: Path) -> dict[str, Any]:
    """What a store holds, from what and by what computed: key, provenance, environments, fields, counts, bytes on disk,
    failures, unfinished shards.

    Raises:
        StoreMissing: the directory holds no shard. StoreError: a manifest that cannot be read.
    """
    whole, unfinished = shard_bases(Path(directory))
    shards = [Shard(base) for base in whole]
    first = shards[0].manifest if shards else {"key": None, "fields": {}}
    provenance = merged([shard.manifest["provenance"] for shard in shards]) if shards else {}
    return {
        "directory": str(directory),
        "key": first["key"],
        "provenance": provenance,
        "environments": by_feature([provenance]),
        "fields": first["fields"],
        "shards": len(whole),
        "unfinished": [base.name for base in unfinished],
        "counts": {what: sum(shard.manifest["counts"][what] for shard in shards) for what in ("ok", "failed")},
        "bytes": sum((Path(folder) / name).stat().st_size for folder, _, names in os.walk(directory) for name in names),
        "failures": {
            row["sample"]: row["reason"] for shard in shards for row in shard.rows if row["status"] == "failed"
        },
    }
