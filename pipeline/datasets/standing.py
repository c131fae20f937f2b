"""Lets a plan notice that a file of a data set was replaced, added or removed. Opens no video and no picture.

How the files look now (sizes and times) is compared with how they looked when the manifest was made. Where it was
pulled, times are chance: how the files look to the first plan is then remembered as what they are.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Dataset, Imported
from pipeline.datasets import read_looked_at, video_folder
from pipeline.datasets.digests import looked
from pipeline.datasets.imported import Held
from pipeline.datasets.looks import looks
from pipeline.datasets.manifest import LookedAt
from pipeline.digests import json_bytes, read_json
from pipeline.files import write_bytes

STAMPS = Path(".snakemake/looks")


@dataclass(frozen=True)
class Standing:
    """How a data set's manifest stands to its files.

    Attributes:
        stamp: a file that is newer than the manifest if, and only if, that is out of date.
        stale: whether it is; never where it is not there yet.
        pulled: whether it is as it was before this project's first plan: made elsewhere, for all that is known.
    """

    stamp: Path
    stale: bool
    pulled: bool


def standing(
    name: str,
    dataset: Dataset,
    manifest: Path,
    imported: Mapping[str, Imported],
    executes: bool = True,
    folder: Path = STAMPS,
) -> Standing:
    """Looks at a data set's files, and leaves the stamp.

    Args:
        name: of the data set.
        dataset: where it lies. Unless `watch`, its files are not looked at.
        manifest: of the data set; it need not be there.
        imported: the name of a store (`<feature>-<key>`) -> the imported feature that it is made from.
        executes: whether jobs follow: a manifest that is not there is then made here, and not pulled.
        folder: of the stamps, in this project: what is remembered is true of this machine alone.

    Raises:
        Damaged: the stamp is not what was left.
        DatasetError: the manifest cannot be read.
    """
    stamp = folder / name
    forgotten = f"delete it and make the manifest again: `python -m pipeline manifest {name} --afresh`"
    told = read_json(stamp, forgotten, unproved=True) if stamp.exists() else {}
    if not manifest.exists():
        _leave(stamp, {"made_here": True} if executes else told, 0)
        return Standing(stamp, stale=False, pulled=False)
    status, known = manifest.stat(), read_looked_at(manifest)
    version = [status.st_size, status.st_mtime_ns]
    here, found, met = told.get("made_here", False), told.get("found", {}), set(told.get("met", ()))
    pulled = None if here else told.get("pulled", version)
    now = looks(dataset, known.samples, known.paths, known.maps, imported) if dataset.watch else {}
    there = {group: look for group, look in now.items() if look is not None}
    # Asked for since the manifest was made; where their files are not on this machine, nothing can be made of them.
    stale = not known.proved or any(s not in known.looks and Path(of.root).exists() for s, of in imported.items())
    for group, look in there.items():
        then = known.looks.get(group)
        if look in (then, found.get(group)):
            continue
        # Of a manifest that was made elsewhere, or by an earlier version, times say nothing at first.
        if (then is None or not (here or group in met)) and not _differs(group, look, then, known, dataset, imported):
            found[group] = look
        else:
            stale = True
    # Content changes with the manifest, so that Snakemake does not take the stamp for one that it has acted on.
    reason = [version, there] if stale else None
    told = {"made_here": here, "found": found, "met": sorted(met | there.keys()), "pulled": pulled, "stale": reason}
    _leave(stamp, told, manifest.lstat().st_mtime_ns + 1_000_000 if stale else 0)
    return Standing(stamp, stale, pulled == version)


def _differs(
    group: str,
    look: list[str],
    then: list[str] | None,
    known: LookedAt,
    dataset: Dataset,
    imported: Mapping[str, Imported],
) -> bool:
    """Whether files that may be a copy were replaced: another size, or another time of some and not of all."""
    if then is not None and then[0] != look[0]:
        return True
    same = []
    for path, *remembered in _remembered(group, known, dataset, imported):
        try:
            size, mtime_ns = looked(path)
        except OSError:
            return True
        if size != remembered[0]:
            return True
        same.append(mtime_ns == remembered[1])
    return any(same) and not all(same)


def _remembered(
    group: str, known: LookedAt, dataset: Dataset, imported: Mapping[str, Imported]
) -> Iterator[tuple[Path, int, int]]:
    """(path, bytes, mtime_ns) of the files of which a manifest keeps these."""
    if group == "videos":
        folder = video_folder(dataset)
        for path, size, mtime_ns in zip(known.paths, known.bytes, known.mtime_ns, strict=True):
            if path is not None and size is not None:
                yield folder / path, size, mtime_ns
    elif group in imported:
        paths, told = Held(imported[group]).sources(known.samples), set()
        for sample, records in zip(known.samples, known.imported, strict=True):
            for record in records or ():
                path = paths.get(sample)
                if record["feature"] == group and record["bytes"] is not None and path is not None and path not in told:
                    told.add(path)
                    yield path, record["bytes"], record["mtime_ns"]


def _leave(stamp: Path, told: Mapping[str, Any], mtime_ns: int) -> None:
    content = json_bytes(told)
    if not stamp.exists() or stamp.read_bytes() != content:
        write_bytes(stamp, content)
    os.utime(stamp, ns=(mtime_ns, mtime_ns))
