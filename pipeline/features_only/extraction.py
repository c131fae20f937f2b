"""Files in, a store or files out, resumable at the batch: the very extraction of the workflow. Knows no head."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Compute, Params, feature_dir
from pipeline.datasets import shard_digest
from pipeline.datasets.manifest import EXTRACTED
from pipeline.digests import read_json, write_json
from pipeline.extraction import extract
from pipeline.features_only.files import ANYWHERE, FilesError, named_files, note_files
from pipeline.features_only.formats import EXPORTS, export, whole_there
from pipeline.features_only.presets import Choice
from pipeline.files import lock
from pipeline.store import FeatureStore, remove

FORMATS = ("store", *EXPORTS)
WORK = ".permafrost"  # in a folder of exported files: their manifest, what is done, the shard that is being computed
INDEX, FAILURES = "index.json", "failures.json"
AGAIN = "delete it, and run the same command again"


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
        FilesError: files that are not there; `out` is in use, cannot be written, or holds files of another feature.
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
    if form != "store" and not home.exists():
        _expect_nobody_elses(out, form)
    try:
        held = lock(home / EXTRACTED)
    except BlockingIOError:
        raise FilesError(f"{out}: another extraction is writing there; wait for it, or name another --out") from None
    except OSError as error:
        raise FilesError(f"{out} is no folder that can be written ({error.strerror}); name another --out") from None
    try:
        if form != "store":
            _expect_alike(out, f"{place.name}.{form}")
        ids, shards, details = note_files(home / "manifest.parquet", files, compute.decode_workers, say)
        failed: dict[str, str] = {}
        for shard in shards:
            if form == "store":
                extract(params, home.name, choice.name, shard, home.parent, say)
                failed |= FeatureStore(place, shard).failed
            else:
                failed |= _exported(params, choice.name, place, out, form, shard, say)
        if form != "store":
            _index(out, f"{place.name}.{form}", form, details)
            if place.exists():  # of a killed run, between the note of a shard and its end
                remove(place)
    finally:
        os.close(held)
    told = {id: details.get(id, failed[id]) for id in ids if id in failed}
    return Extracted(place if form == "store" else out, ids, told)


# --- other formats ----------------------------------------------------------------------------------------------------


def _expect_nobody_elses(out: Path, form: str) -> None:
    suffix = {"webdataset": "tar"}.get(form, form)
    if (there := next(out.rglob(f"*.{suffix}"), None) or next(out.glob(INDEX), None)) is not None:
        raise FilesError(
            f"{there} was made by something else, and might be replaced; name another --out, or move that file away"
        )


def _expect_alike(out: Path, name: str) -> None:
    others = [path.name for path in (out / WORK).glob("*.*") if path.is_dir() and path.name != name]
    if others:
        raise FilesError(
            f"{out} holds {others[0].rpartition('.')[2]} files of {others[0].rpartition('.')[0]}, and these would be "
            f"{name.rpartition('.')[2]} of {name.rpartition('.')[0]}: one would replace the other; name another --out"
        )


def _exported(
    params: Params, feature: str, place: Path, out: Path, form: str, shard: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Exports a shard, if that was not done; its store is only there meanwhile. Returns its failures."""
    home = out / WORK
    done, content = (
        home / f"{place.name}.{form}" / f"shard-{shard:03d}.json",
        shard_digest(home / "manifest.parquet", shard),
    )
    if done.exists():
        known = read_json(done, AGAIN)
        if known["content"] == content and whole_there(out, known["files"]):
            say(f"shard {shard:03d}: {len(known['samples'])} samples are there")
            return known["failed"]
    extract(params, home.name, feature, shard, home.parent, say)
    store = FeatureStore(place, shard, verify=True)
    record: dict[str, Any] = {"content": content, "files": export(store, out, form, shard)}
    record |= {"samples": {id: store.meta(id) for id in store.samples}, "failed": store.failed}
    write_json(done, record | {"provenance": store.provenance})
    remove(place)
    return store.failed


def _index(out: Path, name: str, form: str, details: Mapping[str, str]) -> None:
    """What all shards hold together, for people and for other programs."""
    records = [read_json(path, AGAIN) for path in sorted((out / WORK / name).glob("shard-*.json"))]
    failed = {id: details.get(id, reason) for record in records for id, reason in record["failed"].items()}
    samples = {id: meta for record in records for id, meta in record["samples"].items()}
    files = [file for record in records for file in record["files"]]
    head = {"format": form, "feature": name.removesuffix(f".{form}"), "provenance": records[0]["provenance"]}
    write_json(out / FAILURES, failed, ordered=True)
    write_json(out / INDEX, head | {"files": files, "samples": samples}, ordered=True)
