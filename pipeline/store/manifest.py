"""The manifest of a shard: written last, by rename; a shard without one is not there. Knows no array."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.keys import KEY_LENGTH

from .errors import StoreCorrupt, StoreError, StoreMissing
from .journal import guard, unguard

FORMAT = 1
_SHARD_FILE = re.compile(r"(shard-\d+)\.(json|journal|zarr|h5)")
# Where labels are, for readers that know only the data file; its path is relative to the shard's folder.
LABELS = {"manifest": "../manifest.parquet", "id": "sample", "label": "label", "split": "split"}
LOCK_FILE = re.compile(r"shard-\d+\.lock")
# <feature>-<key>; what a folder of another form holds, its name does not say.
_KEYED = re.compile(rf".+-([0-9a-f]{{{KEY_LENGTH}}})")


def beside(base: Path, suffix: str) -> Path:
    """features/.../shard-000 and ".json" -> features/.../shard-000.json."""
    return base.with_name(base.name + suffix)


def is_store(path: Path) -> bool:
    """Whether a folder is a store, by its name or by a shard in it, whole or not."""
    if not path.is_dir():
        return False
    return bool(_KEYED.fullmatch(path.name)) or any(_SHARD_FILE.fullmatch(inside.name) for inside in path.iterdir())


def stores_below(path: Path) -> list[Path]:
    """A store itself; of any other folder, such as features/<dataset> or features, the stores in it, sorted.

    Raises:
        StoreMissing: there is none.
    """
    if is_store(path):
        return [path]
    below = sorted(found for pattern in ("*", "*/*") for found in path.glob(pattern) if is_store(found))
    found = [store for store in below if not any(part.startswith(".") for part in store.relative_to(path).parts)]
    if not found:
        raise StoreMissing(f"{path} is no store and holds none; name features/<dataset>/<feature>-<key>, or a data set")
    return found


def expect_key(manifest: Mapping[str, Any], base: Path) -> None:
    """Raises StoreError where a shard lies in a folder that is named by another key than its own."""
    named = _KEYED.fullmatch(base.parent.name)
    if named and named[1] != manifest["key"]:
        raise StoreError(
            f"{base}: its key is {manifest['key']}, and its folder is named by {named[1]}: it was computed by other "
            "params or weights; move it to the folder of its key, or delete it and run `extract`"
        )


def shard_bases(directory: Path) -> tuple[list[Path], list[Path]]:
    """Shards with a manifest, and shards that were begun but have none; both sorted by name.

    Raises:
        StoreMissing: the directory does not exist or holds no shard at all.
    """
    found: dict[str, set[str]] = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        if match := _SHARD_FILE.fullmatch(path.name):
            found.setdefault(match[1], set()).add(match[2])
    if not found:
        raise StoreMissing(f"{directory} holds no shard; run `extract` for this feature, or `dvc pull`")
    whole = sorted(name for name, suffixes in found.items() if "json" in suffixes)
    return [directory / name for name in whole], [directory / name for name in sorted(found.keys() - set(whole))]


def check_format(document: dict[str, Any], path: Path) -> None:
    """Raises StoreError for a store that a later version of this code has written."""
    if document["format"] > FORMAT:
        raise StoreError(
            f"{path} has store format {document['format']}, this code reads up to {FORMAT}; update the code, "
            "or extract into another directory"
        )


def encode_manifest(document: dict[str, Any]) -> bytes:
    return guard(document)[0] + b"\n"


def read_manifest(base: Path) -> dict[str, Any]:
    """The manifest of a shard.

    Raises:
        StoreMissing: there is none: the shard is unfinished or was never begun.
        StoreCorrupt: its text does not fit its checksum.
        StoreError: a newer format.
    """
    path = beside(base, ".json")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise StoreMissing(f"{path} does not exist: the shard is not finished; run `extract` to complete it") from None
    try:
        document, _ = unguard(raw.removesuffix(b"\n"))
    except ValueError as error:
        raise StoreCorrupt(f"{path} is damaged: {error}; delete it and run `extract` to have it rewritten") from None
    check_format(document, path)
    return document
