"""Segmentation heads on new videos: a label a frame, timelines beside frames; and frames for the timelines of results.

Shape suffixes: T rows of a video, L frames with a label, C classes; K H W 3 frames of a strip, uint8 RGB.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from pipeline.accelerator import deterministic
from pipeline.datasets import DatasetError, read_manifest, samples_by_name, unchanged, video_folder
from pipeline.datasets.labels import read_label_file
from pipeline.evaluation.segment_metrics import segments
from pipeline.evaluation.segmentation import Decision, confidence, scored
from pipeline.files import write_text
from pipeline.prediction.answers import Answered, Answers, PredictionError, Question
from pipeline.prediction.files import Extracted, extracted, in_turn, placed
from pipeline.reports.files import save_figure
from pipeline.reports.segmentation import Timeline, timelines_figure
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.training.frames import IGNORE, Videos, frame_stream, rows_of_labels, seen_classes, vocabulary
from pipeline.video import VideoError, VideoFacts, read_frames, segment_centres
from pipeline.video.facts import must_hold_bytes

FRAMES = 12  # of a strip
MOST_PIXELS = 160  # of a side of one


class Segment(NamedTuple):
    """Frames in a row of one class: from `start` to `stop` seconds, with the mean of the answer's scores."""

    label: str
    start: float
    stop: float
    frames: int
    confidence: float


class Segmented(NamedTuple):
    """The segments of a video, and where its labels and its timeline lie."""

    file: str
    run: str
    fps: float
    labels: str
    timeline: str
    segments: list[Segment]

    columns = ("file", "start, s", "stop, s", "frames", "class", "confidence")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A line a segment."""
        files = [self.file, *[""] * len(self.segments)]
        return [
            (file, f"{of.start:.2f}", f"{of.stop:.2f}", str(of.frames), of.label, f"{of.confidence:.3f}")
            for file, of in zip(files, self.segments, strict=False)
        ]

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return self._asdict() | {"segments": [of._asdict() for of in self.segments]}


def segment(question: Question) -> Answered:
    """`prediction.predict` of FACT and FACT_CLIP. Of each file two are written, named like it: .txt, .png.

    The text has the name of a class a line, one a frame, as groundTruth of MS-TCN's data sets.
    """
    classes, decision = question.run.record["classes"], Decision.of(question.run)
    texts, refused = placed(question, ".txt")
    given, without = _transcripts(question, classes)
    refused |= without
    yield refused
    files = [file for file in question.files if file not in refused]
    yield from in_turn(question, files, partial(_segmented, question, decision, texts, given))


def _segmented(
    question: Question,
    decision: Decision,
    texts: dict[str, Path],
    given: dict[str, np.ndarray],
    files: Sequence[str],
) -> Answers:
    with extracted(question, files) as found:
        answers: Answers = dict(found.refused)
        labels = _labels(question.run, found)
        brief = [file for file, count in labels.items() if not count]
        answers |= {file: PredictionError(f"{file}: is too short for one label; name a longer video") for file in brief}
        files = [file for file in labels if file not in brief]
        if not files:
            return answers
        samples = _videos(question.run, {file: labels[file] for file in files}, found, given)
        torch.set_num_threads(question.run.params.compute.threads)
        with deterministic():
            of_files = scored(question.run.over(samples), files)
        for file, scores_LC in zip(files, of_files.scores, strict=True):
            labels_L = decision.classes(scores_LC, samples.seen)
            answers[file] = _written(
                question, samples, file, found.facts[file], labels_L, confidence(scores_LC, labels_L), texts[file]
            )
        return answers


def _transcripts(question: Question, classes: list[str]) -> tuple[dict[str, np.ndarray], Answers]:
    """The classes of each file's segments in order, where the head wants them; and why a file has none."""
    given: dict[str, np.ndarray] = {}
    refused: Answers = {}
    for file in question.files if question.transcripts else ():
        try:
            segments = read_label_file(question.transcripts / f"{Path(file).stem}.txt", file, frozenset(classes))
        except DatasetError as error:
            refused[file] = PredictionError(f"{file}: its transcript: {error}")
        else:
            given[file] = np.array([classes.index(of["label"]) for of in segments])
    return given, refused


def _labels(run: Run, found: Extracted) -> dict[str, int]:
    """How many labels each file is to have."""
    if not found.files:
        return {}
    stream, fps = frame_stream(found.stores["frames"]), run.params.datasets[run.dataset].label_fps
    lengths = stream.store.lengths(stream.name)
    return {file: round(lengths[file] * (1.0 if fps is None else fps / stream.fps)) for file in found.files}


def _videos(run: Run, counts: dict[str, int], found: Extracted, given: dict[str, np.ndarray]) -> Videos:
    """The files as the head's samples, all of whose labels are to be told."""
    config, dataset, classes = run.config, run.params.datasets[run.dataset], run.record["classes"]
    frame = read_manifest(run.manifest)
    index = {name: number for number, name in enumerate(classes)}
    stream = frame_stream(found.stores["frames"])
    lengths, streams, text = stream.store.lengths(stream.name), {"frames": stream}, None
    if "text" in run.features:
        streams["text"], text = vocabulary(FeatureStore(run.features["text"], verify=True), classes)
    made_of = frame.attrs.get("parts", {"verbs": [], "nouns": [], "pairs": None})
    labels, truth, row_of_label = {}, {}, {}
    for file, count in counts.items():
        rows = lengths[file]
        row_of_label[file] = rows_of_labels(file, count, rows, stream.fps, dataset.label_fps, 0) // config.sample_rate
        labels[file] = np.full(-(-rows // config.sample_rate), IGNORE)
        truth[file] = np.full(count, IGNORE)
    return Videos(
        classes=classes,
        parts={"train": [], "holdout": [], "evaluated": list(counts)},
        labels=labels,
        failed={},
        unlabelled=len(counts),
        skipped=0,
        digest="",
        streams=streams,
        truth=truth,
        row_of_label=row_of_label,
        seen=seen_classes(frame, classes, getattr(config, "unseen", None)),
        background=tuple(index[name] for name in dataset.background),
        sample_rate=config.sample_rate,
        pairs=None if made_of["pairs"] is None else np.array(made_of["pairs"], np.int64),
        n_parts=(len(made_of["verbs"]), len(made_of["nouns"])),
        text=text,
        given=given,
    )


def _written(
    question: Question,
    samples: Videos,
    file: str,
    facts: VideoFacts,
    labels_L: np.ndarray,
    confidence_L: np.ndarray,
    text: Path,
) -> Segmented | VideoError:
    """Writes the labels and the timeline of a file."""
    run = question.run
    fps = run.params.datasets[run.dataset].label_fps or samples.streams["frames"].fps
    try:
        strip = strip_of(Path(file), facts)
    except VideoError as error:
        return error
    write_text(text, "".join(f"{samples.classes[label]}\n" for label in labels_L))
    picture = text.with_suffix(".png")
    timeline = Timeline(Path(file).name, None, labels_L, confidence_L, {}, strip)
    unseen = np.flatnonzero(~samples.seen).tolist()
    save_figure(timelines_figure([timeline], samples.classes, samples.background, unseen, fps=fps), picture)
    of = segments(labels_L)
    found = [
        Segment(samples.classes[c], start / fps, stop / fps, stop - start, float(confidence_L[start:stop].mean()))
        for c, start, stop in zip(of.label.tolist(), of.start.tolist(), of.stop.tolist(), strict=True)
    ]
    return Segmented(file, str(run.folder), fps, str(text), str(picture), found)


# --- frames beside timelines ------------------------------------------------------------------------------------------


def strip_of(path: Path, facts: VideoFacts) -> np.ndarray:
    """(K, H, W, 3) small frames, each from the middle of its share of the video. Raises VideoError."""
    must_hold_bytes(path)
    shown = read_frames(path, segment_centres(FRAMES, facts.duration), facts=facts)
    scale = min(1.0, MOST_PIXELS / max(facts.height, facts.width))
    size = max(1, round(facts.width * scale)), max(1, round(facts.height * scale))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in shown])


def strips(run: Run, shown: Sequence[str]) -> dict[str, np.ndarray | str]:
    """Frames of some videos of a run's data set, for its timelines, or why a video has none."""
    dataset = run.params.datasets[run.dataset]
    if dataset.videos is None:
        return dict.fromkeys(shown, "the data set has features only")
    rows, folder = samples_by_name(read_manifest(run.manifest)), video_folder(dataset)
    found: dict[str, np.ndarray | str] = {}
    for sample in shown:
        row = rows[sample]
        if row.facts is None:
            found[sample] = f"its video is {row.status}"
            continue
        try:
            found[sample] = strip_of(unchanged(folder, row), VideoFacts(**row.facts))
        except VideoError as error:
            found[sample] = f"its video is now {error.reason}"
    return found
