"""Files of features that somebody else computed, one a sample: where they lie, their digests. Opens none as such."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from pipeline.config import NpyFeature
from pipeline.datasets.digests import digest_now

HASHING_THREADS = 4


def npy_path(feature: NpyFeature, sample: str) -> Path:
    """Where a sample's file lies. Raises ValueError for an id that would lead out of the root."""
    relative = PurePosixPath(sample + feature.extension)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"the id {sample!r} leads out of the features' root; correct the annotations")
    return Path(feature.root) / relative


def npy_files(feature: NpyFeature, samples: Sequence[str]) -> list[Path]:
    """Where the files of all samples would lie, but of ids that lead out of the root."""
    found = []
    for sample in samples:
        try:
            found.append(npy_path(feature, sample))
        except ValueError:
            continue  # why it has none is told when the sample is read
    return found


def imported_files(
    features: Mapping[str, NpyFeature], samples: Sequence[str], previous: pd.DataFrame | None, afresh: bool = False
) -> list[list[dict[str, Any]] | None]:
    """What the manifest keeps of each sample's imported files, a record a store; None where nothing is imported.

    A file whose size and time are those of `previous` is not hashed again, unless `afresh`. What `previous` holds of
    stores that are not asked for stays.

    Args:
        features: the name of the store (`<feature>-<key>`) -> the feature that it is made from.
        samples: ids.
        previous: the manifest as it was.
        afresh: trust no size and no time.

    Returns:
        Of each sample, {feature, digest, bytes, mtime_ns} by the stores' names; the digest is sha256 of the file, empty
        where it could not be read, and the numbers are None where it is not there.
    """
    remembered: dict[str, dict[str, dict[str, Any]]] = {}
    if previous is not None:
        for sample, records in zip(previous["sample"], previous["imported"], strict=True):
            remembered[sample] = {record["feature"]: record for record in records or ()}

    def look(job: tuple[str, str]) -> dict[str, Any]:
        store, sample = job
        record = {"feature": store, "digest": "", "bytes": None, "mtime_ns": None}
        try:
            path = npy_path(features[store], sample)
            status = os.stat(path)
            record |= {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            old = {} if afresh else remembered.get(sample, {}).get(store, {})
            known = old.get("digest", ""), old.get("bytes"), old.get("mtime_ns")
            return record | {"digest": digest_now(path, status, known)}
        except (OSError, ValueError):
            return record  # why, is told when the sample is read

    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        found = iter(list(threads.map(look, [(store, sample) for sample in samples for store in features])))
    records = []
    for sample in samples:
        of_sample = remembered.get(sample, {}) | {store: next(found) for store in features}
        records.append([of_sample[store] for store in sorted(of_sample)] or None)
    return records
