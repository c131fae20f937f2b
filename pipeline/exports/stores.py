"""A finished store in, files that other tools read out: resumable at the shard. Computes nothing."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import canonical_json
from pipeline.digests import file_digest
from pipeline.exports.folder import WORK, ExportError, ExportFolder, held
from pipeline.exports.formats import EXPORTS, split_name
from pipeline.exports.notes import Notes, notes_of
from pipeline.store import FeatureStore
from pipeline.store.manifest import shard_bases

LONGEST = 180  # bytes of a part of an id: no name of a file has more than 255, and a field and suffixes follow


@dataclass(frozen=True)
class Exported:
    """What there is now: the folder, how many samples, and id -> reason of those that have no features."""

    folder: Path
    samples: int
    failed: dict[str, str]


def export_store(
    store: Path,
    form: str,
    out: str | os.PathLike,
    license: str = "",
    url: str = "",
    say: Callable[[str], None] = print,
) -> Exported:
    """Writes all samples of a store as files of another format; each sample's checksum is checked as it is read.

    Labels and splits are those of the manifest beside the store. A shard that is there, whole and of the same content,
    is not written again: a killed export goes on.

    Args:
        store: its folder, features/<dataset>/<feature>-<key>.
        form: one of EXPORTS.
        out: folder for the files, with `index.json` (provenance; files with their sha256; of each sample times, label
            and split), `failures.json` (id -> reason) and `croissant.json`.
        license, url: of the Croissant file; they are nowhere known here.
        say: called with a line a shard.

    Raises:
        ExportError: no such format; `out` is in use, cannot be written, or holds files of something else.
        StoreError: the store is unfinished or damaged. DatasetError: the manifest is damaged.
    """
    if form not in EXPORTS:
        raise ExportError(f"--format {form}: expected one of {', '.join(EXPORTS)}")
    if not os.fspath(out):
        raise ExportError("--out is empty; name a folder")
    out = Path(os.path.abspath(os.path.expanduser(os.fspath(out))))
    reader = FeatureStore(store, verify=True)
    failed, count, name = reader.failed, len(reader.samples), f"{reader.provenance['feature']}-{reader.key}"
    notes = notes_of(reader.directory.parent / "manifest.parquet")
    if form != "datasets":
        _expect_file_names(reader.samples)
    _expect_split_names(notes, reader)
    fresh = not (out / WORK).exists()
    folder = ExportFolder(out, form, name)
    if fresh:
        folder.expect_mine(fresh)
    with held(out / WORK, out):
        folder.expect_mine(fresh=False)
        for base in shard_bases(reader.directory)[0]:
            shard = int(base.name.removeprefix("shard-"))
            one = FeatureStore(reader.directory, shard, verify=True)
            content = _content(base, one, notes)
            if (known := folder.known(shard, content)) is None:
                known = folder.write(one, shard, content, notes)
                say(f"shard {shard:03d}: {len(known['samples'])} samples written, {len(known['failed'])} failed")
            else:
                say(f"shard {shard:03d}: {len(known['samples'])} samples are there")
        folder.finish({}, notes, {"license": license, "url": url})
    return Exported(out, count, failed)


def _content(base: Path, store: FeatureStore, notes: Notes) -> str:
    """What is written of a shard follows from its manifest and from what is noted of its samples."""
    noted = {sample: notes.of.get(sample, {}) for sample in store.samples}
    told = [file_digest(base.with_name(f"{base.name}.json")), noted, list(notes.classes), list(notes.known)]
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()


def _expect_file_names(samples: Sequence[str]) -> None:
    """Refuses ids that are no names of files below a folder: a text may be an id too."""
    for sample in samples:
        parts = sample.split("/")
        if not all(parts) or {".", ".."} & set(parts) or max(len(part.encode()) for part in parts) > LONGEST:
            raise ExportError(
                f"the id {sample[:LONGEST]!r} cannot be the name of a file; write --format datasets, which keeps ids "
                "in a table"
            )


def _expect_split_names(notes: Notes, store: FeatureStore) -> None:
    named: dict[str, str] = {}
    for split in dict.fromkeys(notes.split(sample) for sample in store.samples):
        if (other := named.setdefault(split_name(split), split)) != split:
            raise ExportError(f"the splits {other!r} and {split!r} would share files; rename one in the annotations")
