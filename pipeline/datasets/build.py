"""Builds a data set's manifest: digests, facts and verdicts of every video. Knows no store and no backbone."""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from pipeline.config import Dataset
from pipeline.datasets.annotations import read_annotations, video_folder
from pipeline.datasets.manifest import FACTS, FACTS_VERSION, SCHEMA, to_frame
from pipeline.datasets.names import DatasetError
from pipeline.datasets.quality import summarise
from pipeline.datasets.shards import assign_shards

CHUNK = 32  # files a worker takes at once
SECONDS_BETWEEN_LINES = 5.0


class Finding(NamedTuple):
    """What is known of one file. `facts` are the values of FACTS in order, None unless the status is ok."""

    status: str
    digest: str = ""
    facts: tuple[Any, ...] | None = None
    bytes: int | None = None
    mtime_ns: int | None = None
    detail: str = ""  # a sentence for people; not kept in the manifest


class Job(NamedTuple):
    """One file to look at, and what an earlier manifest remembers of it."""

    path: str
    home: str | None  # the real folder that a link must not leave; None where links may lead anywhere
    remembered: Finding | None


def build_manifest(
    dataset: Dataset,
    previous: pd.DataFrame | None = None,
    workers: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Looks at every video of a data set.

    A file whose size and modification time are those of `previous` is not hashed again, and if it was ok, not probed
    again either: a rebuild costs one `stat` a file. What was not ok is probed afresh, since the cause may be gone.

    Args:
        dataset: where it lies and how it is laid out.
        previous: the manifest as it was, which also fixes the shards of the samples it has; None at first.
        workers: processes; 0 works in this one.
        progress: called with a line every few seconds, and once at the end.

    Returns:
        The manifest (columns of `manifest.SCHEMA`, rows in annotation order) and the quality report, JSON-able.
        `status` is ok, or a reason of video.VideoError, or missing, not_a_file, outside_root.

    Raises:
        DatasetError: the annotations cannot be used, the videos' folder is absent or outside the root, a worker died.
    """
    annotations = read_annotations(dataset)
    home = None if dataset.allow_links else os.path.realpath(dataset.root)
    folder = _checked_folder(dataset, home)
    remembered = _remembered(previous)
    jobs = [
        Job(os.path.join(folder, path), home, remembered.get((sample, path)))
        for sample, path in zip(annotations["sample"], annotations["path"], strict=True)
    ]
    findings = _collected(_examine_all(jobs, workers), len(jobs), progress)
    assigned = {} if previous is None else dict(zip(previous["sample"], previous["shard"].tolist(), strict=True))
    shards = assign_shards(annotations["sample"].tolist(), assigned, dataset.shard_size)
    frame = _frame(annotations, findings, shards)
    # Without the folder, so that the report of a set is the same wherever it lies.
    sentences = (finding.detail.replace(f"{folder}{os.sep}", "") for finding in findings)
    details = dict(zip(annotations["sample"], sentences, strict=True))
    return frame, summarise(frame, annotations.attrs["listed_twice"], details)


def _checked_folder(dataset: Dataset, home: str | None) -> Path:
    folder = video_folder(dataset)
    if not folder.is_dir():
        raise DatasetError(
            f"the videos' folder {folder} does not exist; correct the data set's root or videos in params.yaml"
        )
    if home is not None and not _is_inside(os.path.realpath(folder), home):
        raise DatasetError(
            f"the videos' folder {folder} leads to {os.path.realpath(folder)}, outside the root {home}; "
            "set allow_links: true for this data set if that is meant"
        )
    return folder


def _remembered(previous: pd.DataFrame | None) -> dict[tuple[str, str], Finding]:
    """Findings of an earlier manifest, by sample and path; their facts only if this version would find the same."""
    if previous is None:
        return {}
    same_version = previous.attrs.get("facts_version") == str(FACTS_VERSION)
    names = ["sample", "path", "status", "digest", "bytes", "mtime_ns", *FACTS]
    found = {}
    columns = [previous[name].astype(object).where(previous[name].notna(), None) for name in names]
    for sample, path, status, digest, size, mtime_ns, *facts in zip(*columns, strict=True):
        if digest:
            keep = status == "ok" and same_version
            found[sample, path] = Finding(status, digest, tuple(facts) if keep else None, size, mtime_ns)
    return found


def _frame(annotations: pd.DataFrame, findings: Sequence[Finding], shards: dict[str, int]) -> pd.DataFrame:
    columns: dict[str, Any] = {name: annotations[name] for name in ("sample", "path", "label", "template", "split")}
    columns |= {name: [getattr(f, name) for f in findings] for name in ("digest", "status", "bytes", "mtime_ns")}
    columns |= {name: [f.facts[i] if f.facts else None for f in findings] for i, name in enumerate(FACTS)}
    columns["shard"] = list(shards.values())
    arrays = [pa.array(list(columns[field.name]), type=field.type) for field in SCHEMA]
    return to_frame(pa.Table.from_arrays(arrays, schema=SCHEMA))


# --- one file ---------------------------------------------------------------------------------------------------------


def examine(job: Job) -> Finding:
    """Looks at one file; whatever is wrong with it becomes its status, never an exception."""
    # Here and not at the top: the face of this package is imported at plan time, where no decoder should be loaded.
    from pipeline.video import VideoError, probe

    digest, seen = "", {}
    try:
        if job.home is not None and os.path.islink(job.path):
            target = os.path.realpath(job.path)
            if not _is_inside(target, job.home):
                return Finding("outside_root", detail=f"{job.path} links to {target}, outside {job.home}")
        found = os.stat(job.path)
        seen = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
        if not stat.S_ISREG(found.st_mode):
            return Finding("not_a_file", **seen, detail=f"{job.path} is not a regular file")
        old = job.remembered
        if old is not None and (old.bytes, old.mtime_ns) == (found.st_size, found.st_mtime_ns):
            digest = old.digest
            if old.facts is not None:
                return Finding("ok", digest, old.facts, **seen)
        if not digest:
            with open(job.path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        facts = probe(Path(job.path))
        return Finding("ok", digest, tuple(getattr(facts, name) for name in FACTS), **seen)
    except FileNotFoundError:
        return Finding("missing", detail=f"{job.path} does not exist")
    except VideoError as error:
        return Finding(error.reason, digest, **seen, detail=str(error))
    except OSError as error:
        return Finding("unreadable", digest, **seen, detail=f"{job.path} cannot be read: {error.strerror}")


def _is_inside(path: str, home: str) -> bool:
    return path == home or path.startswith(home.rstrip(os.sep) + os.sep)


# --- all files --------------------------------------------------------------------------------------------------------


def _examine_chunk(jobs: list[Job]) -> list[Finding]:
    return [examine(job) for job in jobs]


def _examine_all(jobs: list[Job], workers: int) -> Iterator[list[Finding]]:
    """Findings in the order of `jobs`, a chunk at a time, whatever the number of workers."""
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    if workers == 0:
        yield from map(_examine_chunk, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = 0
        try:
            for findings in pool.map(_examine_chunk, chunks):
                yield findings
                done += 1
        except BrokenProcessPool:
            first = chunks[done][0].path
            raise DatasetError(
                f"a worker died (out of memory, or a crash in the decoder) at {first} or one of the {workers * CHUNK} "
                "files after it; rebuild with 0 workers to see which, and remove that file"
            ) from None


def _collected(chunks: Iterator[list[Finding]], total: int, progress: Callable[[str], None] | None) -> list[Finding]:
    """All findings, with a line for people every few seconds and one at the end."""
    findings: list[Finding] = []
    failed, start = 0, time.monotonic()
    last = start
    for chunk in chunks:
        findings += chunk
        failed += sum(finding.status != "ok" for finding in chunk)
        done, now = len(findings), time.monotonic()
        if progress is not None and (done == total or now - last >= SECONDS_BETWEEN_LINES):
            last, rate = now, done / max(now - start, 1e-9)
            left = "" if done == total else f", {(total - done) / rate:.0f} s left"
            progress(f"{done} of {total} videos looked at, {failed} not ok, {rate:.1f} videos/s{left}")
    return findings
