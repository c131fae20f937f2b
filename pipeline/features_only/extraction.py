"""Files in, a store or files out, resumable at the batch: the very extraction of the workflow. Knows no head."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Compute, Params, feature_dir
from pipeline.datasets import shard_digest
from pipeline.exports import EXPORTS, ExportFolder
from pipeline.exports.folder import WORK, held
from pipeline.exports.notes import Notes
from pipeline.extraction import extract, extract_range
from pipeline.features_only.files import ANYWHERE, FilesError, named_files, note_files
from pipeline.features_only.presets import Choice
from pipeline.store import FeatureStore, remove

FORMATS = ("store", *EXPORTS)


@dataclass(frozen=True)
class Extracted:
    """What there is now.

    Attributes:
        folder: the store's, or that of the files.
        ids: of the files that were named.
        failed: id -> reason, of those of them that have no features.
    """

    folder: Path
    ids: list[str]
    failed: dict[str, str]


def extract_files(
    paths: Sequence[str | os.PathLike] | str | os.PathLike,
    choice: Choice,
    out: str | os.PathLike,
    form: str = "store",
    compute: Compute | None = None,
    say: Callable[[str], None] = print,
) -> Extracted:
    """Extracts a feature of files. What is there already is not computed again; a killed one resumes where it was.

    `out` may be used again for more files, and a store's for other features of them too: it is then a data set that
    grows. Its manifest lists every file that was ever named.

    Args:
        paths: videos, pictures, or folders of them.
        choice: of `choose`.
        out: folder: a manifest and <feature>-<key>/; or the files of the other formats with `index.json` (provenance,
            and of each sample its files and times) and `failures.json`.
        form: one of FORMATS.
        compute: device, threads and decode processes.
        say: called with a line now and then.

    Raises:
        FilesError: files that are not there. ExportError: `out` is in use, cannot be written, or holds files of another
        feature.
        ExtractionError, BackboneError, DatasetError, StoreError: with the remedy; what was computed is kept.
    """
    if form not in FORMATS:
        raise FilesError(f"--format {form}: expected one of {', '.join(FORMATS)}")
    if not os.fspath(out):
        raise FilesError("--out is empty; name a folder")
    out = Path(os.path.abspath(os.path.expanduser(os.fspath(out))))
    files = named_files(paths, say)
    home = out if form == "store" else out / WORK
    compute = compute or Compute()
    features = {choice.name: choice.feature}
    params = Params(compute=compute).model_copy(update={"features": features, "datasets": {home.name: ANYWHERE}})
    place = feature_dir(
        params, home.name, choice.name, home.parent
    )  # first: weights that are not there are told at once
    folder = None if form == "store" else ExportFolder(out, form, place.name)
    if folder is not None and not home.exists():
        folder.expect_mine(fresh=True)
    with held(home, out):
        if folder is not None:
            folder.expect_mine(fresh=False)
        ids, shards, details = note_files(home / "manifest.parquet", files, compute.decode_workers, say)
        failed: dict[str, str] = {}
        if folder is None:
            extract_range(params, home.name, choice.name, shards, home.parent, say, waits=False)
        for shard in shards:
            if folder is None:
                failed |= FeatureStore(place, shard).failed
            else:
                failed |= _exported(params, choice.name, place, folder, shard, say)
        if folder is not None:
            folder.finish(details, Notes(), {})
            if place.exists():  # of a killed run, between the note of a shard and its end
                remove(place)
    told = {id: details.get(id, failed[id]) for id in ids if id in failed}
    return Extracted(place if form == "store" else out, ids, told)


def _exported(
    params: Params, feature: str, place: Path, folder: ExportFolder, shard: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Exports a shard, if that was not done; its store is only there meanwhile. Returns its failures."""
    home = place.parent
    content = shard_digest(home / "manifest.parquet", shard)
    if (known := folder.known(shard, content)) is not None:
        say(f"shard {shard:03d}: {len(known['samples'])} samples are there")
        return known["failed"]
    extract(params, home.name, feature, shard, home.parent, say)
    store = FeatureStore(place, shard, verify=True)
    folder.write(store, shard, content, Notes())
    remove(place)
    return store.failed
