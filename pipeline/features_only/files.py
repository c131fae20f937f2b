"""Which files are meant, their ids, and the manifest of all that was ever extracted into a folder. Opens no store."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.config import Dataset
from pipeline.datasets import assign_shards, read_manifest, write_manifest
from pipeline.datasets.build import Finding, Job, Looking, examine_all, manifest_frame, remembered_findings
from pipeline.datasets.folders import UNUSABLE
from pipeline.datasets.layouts.images import SPLIT
from pipeline.datasets.layouts.videos import TAKEN
from pipeline.datasets.manifest import FACTS_VERSION

SHARD_SIZE = 256
# Paths in these manifests are absolute: below the root of everything they are what they say.
ANYWHERE = Dataset(layout="images", root=os.sep, allow_links=True)


class FilesError(ValueError):
    """Files that cannot be taken as they are named; the message gives the remedy."""


def named_files(paths: Sequence[str | os.PathLike], say: Callable[[str], None]) -> list[tuple[str, str]]:
    """(name, absolute path) of each file, once: those named, and the videos and pictures in folders that are.

    A name is POSIX: below the folder that was named, or the file's own.

    Raises:
        FilesError: a path that is not there, a folder without a video or picture, a name that no table can hold.
    """
    found: dict[str, str] = {}
    for path in map(os.fspath, [paths] if isinstance(paths, str | os.PathLike) else paths):
        place = os.path.abspath(os.path.expanduser(path))
        if os.path.isdir(place):
            below, ignored = _below(place)
            if not below:
                raise FilesError(
                    f"{path} holds no video and no picture among its {ignored.total()} files; name another"
                )
            if ignored:
                kinds = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common())
                say(f"{path}: {len(below)} files; passed over as no videos or pictures: {kinds}")
            found |= {os.path.join(place, name): name for name in below if os.path.join(place, name) not in found}
        elif os.path.exists(place):
            found.setdefault(place, os.path.basename(place))
        else:
            raise FilesError(
                f"{path}: there is no such file or folder; correct it (a feature of a params file's data set is "
                "extracted by `python -m pipeline extract DATASET FEATURE`)"
            )
    if not found:
        raise FilesError("no file is named; name videos, pictures, or folders of them")
    for name in found.values():
        if UNUSABLE.search(name):
            raise FilesError(f"the name {name!r} holds a control character or is not UTF-8; rename that file or folder")
    return [(name, place) for place, name in found.items()]


def _below(folder: str) -> tuple[list[str], Counter]:
    """POSIX paths of the videos and pictures below a folder, sorted; suffixes of the other files. Hidden ones do not
    count; links to folders are followed, but to none that they lie in."""
    found, ignored = [], Counter()
    for name in _walk(folder, "", (os.path.realpath(folder),)):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in TAKEN:
            found.append(name)
        else:
            ignored[suffix or "without suffix"] += 1
    return sorted(found), ignored


def _walk(top: str, prefix: str, trail: tuple[str, ...]) -> Iterator[str]:
    for entry in sorted(os.scandir(os.path.join(top, prefix)), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            yield prefix + entry.name
        elif (real := os.path.realpath(entry.path)) not in trail:
            yield from _walk(top, f"{prefix}{entry.name}/", (*trail, real))


def with_ids(files: Sequence[tuple[str, str]], known: Mapping[str, str]) -> dict[str, str]:
    """id -> path. An id is the file's name without its suffix; with it, where two files would share one.

    Args:
        files: (name, path).
        known: path -> id, of those that have one already.

    Raises:
        FilesError: two files of one name.

    >>> with_ids([("a/1.mp4", "/x/a/1.mp4"), ("2.mp4", "/x/2.mp4"), ("2.png", "/x/2.png")], {})
    {'a/1': '/x/a/1.mp4', '2.mp4': '/x/2.mp4', '2.png': '/x/2.png'}
    """
    short = Counter(_stem(name) for name, path in files if path not in known)
    taken = {sample: path for path, sample in known.items()}
    found: dict[str, str] = {}
    for name, path in files:
        sample = known.get(path, _stem(name))
        if path not in known and (short[sample] > 1 or sample in taken):
            sample = name
        if taken.setdefault(sample, path) != path:
            raise FilesError(
                f"{path} and {taken[sample]} would both be {sample!r}; name the folder that both lie in, or another "
                "--out for one of them"
            )
        found[sample] = path
    return found


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def note_files(
    path: Path, files: Sequence[tuple[str, str]], workers: int, say: Callable[[str], None]
) -> tuple[list[str], list[int], dict[str, str]]:
    """Adds files to a manifest, or what is new of them: it holds all that were ever named, each in its shard for good.

    Args:
        path: of the manifest.
        files: (name, path).
        workers: processes that look at files.
        say: called with a line now and then.

    Returns:
        ids of the files, in order; the shards that hold them; id -> why, in a sentence, of those that cannot be read.

    Raises:
        FilesError: as `with_ids`. DatasetError: the manifest is damaged.
    """
    previous = read_manifest(path) if path.exists() else None
    before = [] if previous is None else list(zip(previous["path"], previous["sample"], strict=True))
    named = with_ids(files, dict(before))
    looked = dict(named)
    if previous is not None and previous.attrs.get("facts_version") != str(FACTS_VERSION):
        looked |= {sample: place for place, sample in before}
    ids = list(dict.fromkeys([*(sample for _, sample in before), *named]))
    assigned = {} if previous is None else dict(zip(previous["sample"], previous["shard"].tolist(), strict=True))
    shards = assign_shards(ids, assigned, SHARD_SIZE)
    remembered, findings = remembered_findings(previous), []
    jobs = [Job(place, None, remembered.get(place)) for place in looked.values()]
    told = Looking(len(jobs), "files", say)
    for chunk in examine_all(jobs, workers if len(jobs) > 1 else 0):
        findings += chunk
        told(chunk)
    frame = _frame(looked, findings, shards)
    if previous is not None:
        kept = previous[~previous["sample"].isin(list(looked))]
        frame = pd.concat([kept, frame]).set_index("sample", drop=False).loc[ids].reset_index(drop=True)
        frame.attrs = {"facts_version": str(FACTS_VERSION)}
    write_manifest(frame, path)
    details = {id: of.detail for id, of in zip(looked, findings, strict=True) if of.status != "ok"}
    return list(named), sorted({shards[id] for id in named}), details


def _frame(files: Mapping[str, str], findings: Sequence[Finding], shards: Mapping[str, int]) -> pd.DataFrame:
    annotations = pd.DataFrame({"sample": list(files), "path": list(files.values())}, dtype=object)
    annotations[["label", "template"]] = None
    annotations["split"] = SPLIT
    return manifest_frame(annotations, None, findings, {sample: shards[sample] for sample in files})
