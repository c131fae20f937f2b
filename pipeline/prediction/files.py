"""New videos through the features of a head, by the very extraction, in a temporary folder. Knows no head's code."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.config import Imported, Params, feature_dir
from pipeline.datasets import NO_MAP, write_manifest
from pipeline.datasets.build import Finding, Job, examine, manifest_frame
from pipeline.datasets.map_files import map_digests
from pipeline.extraction import TooMuch, derive, extract
from pipeline.memory import Shortage, is_out_of_memory
from pipeline.prediction.answers import Answered, Answers, PredictionError, Question
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.video import VideoFacts

# What to do about a file, where its own sentence does not say so.
REMEDIES = dict.fromkeys(("unreadable", "not_a_file"), "; name a video") | {
    "no_video": "; name a file with a picture track"
}


@dataclass(frozen=True)
class Extracted:
    """Files in stores of their own.

    Attributes:
        files: those that every feature holds, by which the stores know them. Only a store of maps may lack some.
        facts: of each of them.
        refused: the others, and why.
        stores: role -> store, of the features of videos; none where there are no files.
    """

    files: list[str]
    facts: dict[str, VideoFacts]
    refused: dict[str, PredictionError]
    stores: dict[str, FeatureStore]


def in_turn(question: Question, files: Sequence[str], answer: Callable[[Sequence[str]], Answers]) -> Answered:
    """Asks about a few files at a time: as many as extraction would compute, or decode, at once.

    A file that ends a decode process or does not fit the memory has that for its answer, and the others have theirs.

    Args:
        question: of which these are files.
        files: each once.
        answer: what is said of a few of them.
    """
    size = at_once(question.run)
    for start in range(0, len(files), size):
        yield from _apart(files[start : start + size], answer)


def at_once(run: Run) -> int:
    """How many files are asked about together: those of a fixed number of frames that would share a batch in a shard;
    rows know of no batch.
    """
    features = [run.params.features[name] for name in _read(run)]
    batches = [feature.batch for feature in features if not feature.derived and not feature.ragged]
    return max(batches or [run.params.compute.decode_workers, 1])


def placed(question: Question, ending: str) -> tuple[dict[str, Path], Answers]:
    """Where what is written of each file goes; and of files that would overwrite another's, why they have no answer.

    Raises:
        PredictionError: `out` is no folder.
    """
    if question.out.exists() and not question.out.is_dir():
        raise PredictionError(f"{question.out} is no folder; name another one with --out")
    owner: dict[Path, str] = {}
    refused: Answers = {}
    for file in question.files:
        place = question.out / f"{Path(file).stem}{ending}"
        if (other := owner.setdefault(place, file)) != file:
            refused[file] = PredictionError(f"{file}: {place} is that of {other} already; ask with another --out")
    return {file: place for place, file in owner.items()}, refused


def _apart(files: Sequence[str], answer: Callable[[Sequence[str]], Answers]) -> Answered:
    try:
        yield answer(files)
        return
    except (TooMuch, MemoryError, RuntimeError) as error:
        if not (isinstance(error, TooMuch | Shortage) or is_out_of_memory(error)):
            raise
        if len(files) == 1:
            yield {files[0]: PredictionError(f"{files[0]}: {str(error) or 'out of memory'}")}
            return
    for file in files:
        yield from _apart([file], answer)


def _read(run: Run) -> tuple[str, ...]:
    """The features of videos that the head reads, and all that they are made from, these first."""
    config = run.config
    return run.params.reading(*(of.feature for of in config.inputs.values() if of.dataset == config.dataset))


@contextmanager
def extracted(question: Question, of: Sequence[str]) -> Iterator[Extracted]:
    """Features of some files, as long as the context lasts: sampled, decoded, computed, rounded as those of a data set.

    Raises:
        PredictionError: a feature that is not made from videos here.
        BackboneError, ExtractionError: as `extract` says.
    """
    config, head, params = question.run.config, question.run.head, question.run.params
    roles = {role: read.feature for role, read in config.inputs.items() if read.dataset == config.dataset}
    names = _read(question.run)
    for name in names:
        if isinstance(params.features[name], Imported):
            raise PredictionError(
                f"{head} reads {name}, which somebody else computed: it cannot be made from a "
                "video here; train the head on features of a backbone, such as i3d"
            )
    findings = {file: question.found.get(file) or examine(Job(file, None, None)) for file in of}
    refused = {file: why for file, of in findings.items() if (why := _refusal(file, of, head)) is not None}
    usable = {file: of for file, of in findings.items() if file not in refused}
    if not usable:
        yield Extracted([], {}, refused, {})
        return
    # Whatever folder a path that begins at the root is put below, it is what it says.
    anywhere = params.datasets[config.dataset].model_copy(update={"root": os.sep, "videos": ".", "allow_links": True})
    params = params.model_copy(update={"datasets": {**params.datasets, config.dataset: anywhere}})
    with tempfile.TemporaryDirectory(prefix="permafrost-") as scratch:
        root = Path(scratch)
        manifest = _manifest(params, config.dataset, usable, question.map)
        write_manifest(manifest, root / config.dataset / "manifest.parquet")
        for name in names:
            run = derive if params.features[name].derived else extract
            run(params, config.dataset, name, 0, root, question.progress, max_failed=1.0)
        stores = {
            role: FeatureStore(feature_dir(params, config.dataset, name, root), verify=True)
            for role, name in roles.items()
        }
        for store in stores.values():
            failed = {file: reason for file, reason in store.failed.items() if reason != NO_MAP}
            refused |= {file: _failure(file, reason) for file, reason in failed.items() if file not in refused}
        files = [file for file in usable if file not in refused]
        facts = {file: VideoFacts(*findings[file].facts) for file in files}
        yield Extracted(files, facts, refused, stores)


def _refusal(file: str, found: Finding, head: str) -> PredictionError | None:
    """Why a file is not looked at."""
    if found.status != "ok":
        return PredictionError(found.detail + REMEDIES.get(found.status, ""))
    facts = VideoFacts(*found.facts)
    if facts.frames == 1:
        what = f"is a picture ({facts.codec})" if facts.still else "has a single frame"
        return PredictionError(f"{file}: {what}, and {head} reads videos; name a video")
    return None


def _failure(file: str, reason: str) -> PredictionError:
    return PredictionError(reason if file in reason else f"{file}: {reason}")


def _manifest(params: Params, dataset: str, files: dict[str, Finding], map_file: Path | None) -> pd.DataFrame:
    """Of one shard, with absolute paths."""
    annotations = pd.DataFrame({"sample": list(files)}, dtype=object)
    annotations["path"] = [os.path.abspath(file) for file in files]
    annotations[["label", "template"]] = None
    annotations["split"] = "new"
    if map_file is not None:
        annotations["map"] = os.path.abspath(map_file)
        annotations["map_digest"] = map_digests(params.datasets[dataset], annotations["map"].tolist())
    return manifest_frame(annotations, None, list(files.values()), dict.fromkeys(files, 0))
