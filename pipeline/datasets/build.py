"""Builds a data set's manifest: digests, facts and verdicts of every sample. Knows no store and no backbone."""

import hashlib
import itertools
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from pipeline.config import Dataset, Imported
from pipeline.datasets.annotations import located, read_annotations, read_labels
from pipeline.datasets.cuts import cut
from pipeline.datasets.digests import digest_now
from pipeline.datasets.folders import check_folder, home_of, is_inside, video_folder
from pipeline.datasets.imported import imported_files, imported_quality
from pipeline.datasets.labels import Labels, digest_of
from pipeline.datasets.looks import looks
from pipeline.datasets.manifest import FACTS, FACTS_VERSION, LATER, LATER_FACTS, SCHEMA, to_frame
from pipeline.datasets.map_files import MapFinding, map_digests, mask_paths
from pipeline.datasets.names import DatasetError
from pipeline.datasets.quality import NOUNS, summarise
from pipeline.datasets.rates import expect_label_rate, time_frames
from pipeline.datasets.shards import assign_shards
from pipeline.memory import Shortage, refuse_shortage

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
    still: bool = False  # the first frame of a picture that moves is meant
    afresh: bool = False  # whether it is hashed even where its size and time are those remembered


class MapJob(NamedTuple):
    """One map to look at, and the real folder that a link must not leave, or None."""

    path: str
    home: str | None


AnyJob, AnyFinding = Job | MapJob, Finding | MapFinding


def build_manifest(
    dataset: Dataset,
    previous: pd.DataFrame | None = None,
    workers: int = 0,
    progress: Callable[[str], None] | None = None,
    imported: Mapping[str, Imported] | None = None,
    afresh: bool = False,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Looks at every video or picture of a data set, and reads the labels of frames; a text needs no looking at.

    A file whose size and modification time are those of `previous` is not hashed again, and one of the same digest that
    was ok not probed again: a rebuild costs one `stat` a file. What was not ok is probed afresh: the cause may be gone.
    Several samples of one file share one look at it. Maps are hashed each time.

    Args:
        dataset: where it lies and how it is laid out.
        previous: the manifest as it was, which also fixes the shards of the samples it has; None at first.
        workers: processes; 0 works in this one.
        progress: called with a line every few seconds, and once at the end.
        imported: the name of a store (`<feature>-<key>`) -> the imported feature whose files' digests are kept.
        afresh: hash every file: one may have been replaced by another of the same size and time.

    Returns:
        The manifest (columns of `manifest.SCHEMA`, rows in annotation order) and the quality report, JSON-able.
        `status` is ok, or a reason of video.VideoError, or missing, not_a_file, outside_root, or of a clip
        past_end. Where the set has no videos, a sample with labels is ok, and its digest is theirs.

    Raises:
        DatasetError: the annotations or a file of labels cannot be used, labels are at another rate than `label_fps`,
            the videos' folder is absent or outside the root, not one video lies where a layout of many places looks
            for it.
    """
    annotations = read_annotations(dataset)
    annotations["path"], absent = located(dataset, annotations)
    _expect_some(dataset, len(annotations), absent)
    if dataset.masks is not None:
        annotations["map"] = pd.Series(mask_paths(dataset, annotations["path"].tolist()), dtype=object)
    samples = annotations["sample"].tolist()
    # Before anything is read: what is replaced meanwhile looks otherwise to the next plan, and is read again.
    now = looks(dataset, samples, annotations["path"].tolist(), annotations.get("map", ()), imported or {})
    if "map" in annotations:
        annotations["map_digest"] = pd.Series(map_digests(dataset, annotations["map"].tolist()), dtype=object)
    annotations["imported"] = pd.Series(imported_files(imported or {}, samples, previous, afresh), dtype=object)
    labels = read_labels(dataset, samples)
    known = labels.metadata(dataset) if labels else {}
    maps: dict[str, MapFinding] = {}
    say = Looking(len(annotations), NOUNS[dataset.kind], progress)
    if dataset.kind == "text":
        findings = [Finding("ok", hashlib.sha256(text.encode()).hexdigest()) for text in annotations["sample"]]
        say(findings)
    elif dataset.videos is None:
        findings = [_of_labels(dataset, sample, labels) for sample in annotations["sample"]]
        say(findings)
    else:
        looked, paths = [], list(dict.fromkeys(annotations["path"]))
        say.total = len(paths)
        for chunk in examine_all(_jobs(dataset, paths, previous, afresh), workers):
            looked += chunk
            say(chunk)
        of_file = dict(zip(paths, looked, strict=True))
        findings = cut(dataset, annotations, [of_file[path] for path in annotations["path"]])
        maps = _looked_at_maps(dataset, annotations, workers)
    findings, annotations["uneven"] = _timed(dataset, annotations, labels, findings, previous)
    assigned = {} if previous is None else dict(zip(previous["sample"], previous["shard"].tolist(), strict=True))
    shards = assign_shards(samples, assigned, dataset.shard_size)
    frame = manifest_frame(annotations, labels, findings, shards)
    # How the files of other stores looked stays, as what is kept of them does.
    earlier = {} if previous is None else previous.attrs.get("looks", {})
    stores = {record["feature"] for records in annotations["imported"] for record in records or ()}
    if targets := annotations.attrs["targets"]:
        frame.attrs["targets"] = list(targets)
    frame.attrs |= known | {"looks": {name: look for name, look in earlier.items() if name in stores} | now}
    expect_label_rate(dataset, frame)
    # Without the folder, so that the report of a set is the same wherever it lies.
    folder = f"{Path(dataset.root) if dataset.videos is None else video_folder(dataset)}{os.sep}"
    sentences = (finding.detail.replace(folder, "") for finding in findings)
    details = dict(zip(annotations["sample"], sentences, strict=True))
    details |= {sample: f"{' or '.join(paths)} does not exist" for sample, paths in absent.items()}
    asked = {**annotations.attrs, "notes": labels.notes if labels else {}, "label_fps": dataset.label_fps, "maps": maps}
    asked["drawn"] = dataset.split is not None
    quality = summarise(frame, dataset.kind, asked, details)
    return frame, quality | ({"imported": imported_quality(imported, samples)} if imported else {})


def _expect_some(dataset: Dataset, samples: int, absent: Mapping[str, tuple[str, ...]]) -> None:
    """Raises DatasetError where not one video lies where it may."""
    if absent and len(absent) == samples:
        sample, paths = next(iter(absent.items()))
        raise DatasetError(
            f"none of the {len(absent)} videos is in {video_folder(dataset)}: that of {sample!r} was looked for at "
            f"{' and '.join(paths)}; correct videos, extension or video_paths of the data set in params, or set "
            "videos: null and import published features"
        )


def _looked_at_maps(dataset: Dataset, annotations: pd.DataFrame, workers: int) -> dict[str, MapFinding]:
    """What is found in each map that can be read, by its path."""
    if "map" not in annotations:
        return {}
    read = zip(annotations["map"], annotations["map_digest"], strict=True)
    paths, home = list(dict.fromkeys(path for path, digest in read if digest)), home_of(dataset)
    jobs = [MapJob(os.path.join(dataset.root, path), home) for path in paths]
    # A few are read sooner than a process starts.
    chunks = examine_all(jobs, workers if len(jobs) > CHUNK else 0)
    return dict(zip(paths, itertools.chain.from_iterable(chunks), strict=True))


def _of_labels(dataset: Dataset, sample: str, labels: Labels | None) -> Finding:
    """What is known of a sample without a video; where frames have no labels either, its id is all that it is."""
    if labels is None:
        return Finding("ok", hashlib.sha256(sample.encode()).hexdigest())
    if sample in labels.segments:
        return Finding("ok", digest_of(labels.segments[sample]))
    return Finding("missing", detail=f"{Path(dataset.root, dataset.labels)} has no labels of it, and it has no video")


def _jobs(dataset: Dataset, paths: Sequence[str], previous: pd.DataFrame | None, afresh: bool) -> list[Job]:
    folder, home, remembered = check_folder(dataset), home_of(dataset), remembered_findings(previous)
    still = dataset.kind == "image"
    return [Job(os.path.join(folder, path), home, remembered.get(path), still, afresh) for path in paths]


def remembered_findings(previous: pd.DataFrame | None) -> dict[str, Finding]:
    """Findings of an earlier manifest, by path; their facts only if this version would find the same."""
    if previous is None:
        return {}
    same_version = previous.attrs.get("facts_version") == str(FACTS_VERSION)
    names = ["path", "status", "digest", "file_digest", "bytes", "mtime_ns", *FACTS]
    found: dict[str, Finding] = {}
    columns = [previous[name].astype(object).where(previous[name].notna(), None) for name in names]
    for path, status, digest, of_file, size, mtime_ns, *facts in zip(*columns, strict=True):
        # Of several clips of one file, any whose facts are known says them.
        if digest and not (path in found and found[path].facts):
            keep = status == "ok" and same_version
            found[path] = Finding(status, of_file or digest, tuple(facts) if keep else None, size, mtime_ns)
    return found


def _timed(
    dataset: Dataset,
    annotations: pd.DataFrame,
    labels: Labels | None,
    findings: Sequence[Finding],
    previous: pd.DataFrame | None,
) -> tuple[list[Finding], pd.Series]:
    """The findings, and of each video with labels of frames how unevenly it shows them: remembered, or timed now."""
    if not labels or dataset.videos is None:
        return list(findings), pd.Series([None] * len(findings), dtype=object)
    from pipeline.video import VideoError  # as in `examine`

    known: dict[str, float] = {}
    if previous is not None and previous.attrs.get("facts_version") == str(FACTS_VERSION):
        told = previous.dropna(subset=["uneven"])
        known = dict(zip(told["digest"], told["uneven"].tolist(), strict=True))
    found, uneven = list(findings), []
    for place, (sample, path) in enumerate(annotations[["sample", "path"]].itertuples(index=False)):
        finding, off = found[place], None
        if finding.facts is not None and sample in labels.segments:
            try:
                off = known.get(finding.digest)
                if off is None:
                    facts = dict(zip(FACTS, finding.facts, strict=True))
                    off = known[finding.digest] = time_frames(Path(video_folder(dataset), path), facts)
            except VideoError as error:
                found[place] = finding._replace(status=error.reason, facts=None, detail=str(error))
        uneven.append(off)
    return found, pd.Series(uneven, dtype=object)


def manifest_frame(
    annotations: pd.DataFrame, labels: Labels | None, findings: Sequence[Finding], shards: dict[str, int]
) -> pd.DataFrame:
    columns: dict[str, Any] = {name: annotations[name] for name in ("sample", "path", "label", "template", "split")}
    columns |= {name: [getattr(f, name) for f in findings] for name in ("digest", "status", "bytes", "mtime_ns")}
    columns |= {name: [f.facts[i] if f.facts else None for f in findings] for i, name in enumerate(FACTS)}
    columns["shard"], absent = list(shards.values()), [None] * len(annotations)
    columns |= {name: annotations.get(name, absent) for name in LATER - LATER_FACTS - {"segments"}}
    columns["segments"] = [labels.segments.get(sample) if labels else None for sample in annotations["sample"]]
    arrays = [pa.array(list(columns[field.name]), type=field.type) for field in SCHEMA]
    return to_frame(pa.Table.from_arrays(arrays, schema=SCHEMA))


# --- one file ---------------------------------------------------------------------------------------------------------


def examine(job: Job) -> Finding:
    """Looks at one file; whatever is wrong with it becomes its status, never an exception.

    Raises:
        Shortage: the machine is at fault.
    """
    # Here and not at the top: the face of this package is imported at plan time, where no decoder should be loaded.
    from pipeline.video import VideoError, blaming, probe

    digest, seen = "", {}
    try:
        if job.home is not None and os.path.islink(job.path):
            target = os.path.realpath(job.path)
            if not is_inside(target, job.home):
                return Finding(
                    "outside_root",
                    detail=f"{job.path} links to {target}, outside {job.home}; set allow_links: true for this data set "
                    "if that is meant",
                )
        found = os.stat(job.path)
        seen = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
        if not stat.S_ISREG(found.st_mode):
            return Finding("not_a_file", **seen, detail=f"{job.path} is not a regular file")
        old = job.remembered
        known = ("", None, None) if old is None or job.afresh else (old.digest, old.bytes, old.mtime_ns)
        digest = digest_now(job.path, found, known)
        if old is not None and old.digest == digest and old.facts is not None:
            return Finding("ok", digest, old.facts, **seen)
        with blaming(Path(job.path), passing=(OSError,)):
            facts = probe(Path(job.path), job.still)
        return Finding("ok", digest, tuple(getattr(facts, name) for name in FACTS), **seen)
    except FileNotFoundError:
        return Finding("missing", detail=f"{job.path} does not exist")
    except VideoError as error:
        return Finding(error.reason, digest, **seen, detail=str(error))
    except OSError as error:
        refuse_shortage(error, job.path)
        return Finding("unreadable", digest, **seen, detail=f"{job.path} cannot be read: {error.strerror}")


def examine_map(job: MapJob) -> MapFinding:
    """Looks at one map, all of it; whatever is wrong with it becomes its finding, never an exception. Raises Shortage
    as `examine` does."""
    from pipeline.datasets.map_content import MapError, open_map

    try:
        found = open_map(Path(job.path), job.home)
    except MapError as error:
        return MapFinding(refused=str(error))
    except Exception as error:  # as of any file: nobody else's manifest waits for what these bytes do
        refuse_shortage(error, job.path)
        return MapFinding(refused=f"cannot be read: {type(error).__name__}: {error}; export it again")
    return MapFinding(found.largest, found.unit)


# --- all files --------------------------------------------------------------------------------------------------------


def _examine_chunk(jobs: list[AnyJob]) -> list[AnyFinding]:
    return [examine_map(job) if isinstance(job, MapJob) else examine(job) for job in jobs]


def examine_all(jobs: list[AnyJob], workers: int) -> Iterator[list[AnyFinding]]:
    """Findings in the order of `jobs`, a chunk at a time, whatever the number of workers."""
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    if workers == 0:
        yield from map(_examine_chunk, chunks)
        return
    done = 0
    while done < len(chunks):
        with _workers(workers) as pool:
            try:
                for findings in pool.map(_examine_chunk, chunks[done:]):
                    yield findings
                    done += 1
                return
            except BrokenProcessPool:
                pass
        # A worker died at this chunk, or at one of those that the others had: the first is looked at file by file.
        yield _one_by_one(chunks[done])
        done += 1


def _workers(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"))


def _one_by_one(jobs: Sequence[AnyJob]) -> list[AnyFinding]:
    """Findings of files of which one may end the process that looks at it: that is its status then, and no other's.

    Raises:
        DatasetError: such a process ends before it looks at a file.
        Shortage: the system killed it, as it does where memory is short.
    """
    found: list[AnyFinding] = []
    while len(found) < len(jobs):
        others = set(active_children())
        with _workers(1) as pool:
            try:
                pool.submit(_examine_chunk, []).result()
            except BrokenProcessPool as error:
                raise DatasetError(
                    f"{jobs[len(found)].path}: the process that should look at it ended before it began, as where "
                    "memory is short; no file is judged by that: free some, or lower compute.threads, and run again"
                ) from error
            looking = [process for process in active_children() if process not in others]
            try:
                for one in pool.map(_examine_chunk, [[job] for job in jobs[len(found) :]]):
                    found += one
            except BrokenProcessPool:
                found.append(_deadly(jobs[len(found)], looking))
    return found


def _deadly(job: AnyJob, looking: Sequence[BaseProcess]) -> AnyFinding:
    for process in looking:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            raise Shortage(
                f"{job.path}: the system killed the process that looked at it, as it does where memory is short, which "
                "says nothing of the file; free some, give the job more, or lower compute.threads, and run again"
            )
    why = "ends the process that reads it (the decoder crashes); write it anew"
    return MapFinding(refused=why) if isinstance(job, MapJob) else Finding("decode_error", detail=f"{job.path} {why}")


class Looking:
    """A line for people every few seconds, and one at the end."""

    def __init__(self, total: int, noun: str, say: Callable[[str], None] | None) -> None:
        self.total, self.noun, self.say = total, noun, say
        self.done = self.failed = 0
        self.start = self.last = time.monotonic()

    def __call__(self, findings: Sequence[Finding]) -> None:
        """Counts what was just found."""
        self.done += len(findings)
        self.failed += sum(finding.status != "ok" for finding in findings)
        now = time.monotonic()
        if self.say is not None and (self.done == self.total or now - self.last >= SECONDS_BETWEEN_LINES):
            self.last, rate = now, self.done / max(now - self.start, 1e-9)
            left = "" if self.done == self.total else f", {(self.total - self.done) / rate:.0f} s left"
            self.say(
                f"{self.done} of {self.total} {self.noun} looked at, {self.failed} not ok, "
                f"{rate:.1f} {self.noun}/s{left}"
            )
