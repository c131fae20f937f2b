"""Classifiers on new videos: gasm_cast, and clip_align with a clinician's map or without. Knows no decoder.

Shape suffixes: N videos, C classes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.accelerator import deterministic
from pipeline.evaluation.classification import TOP, logits, softmax
from pipeline.evaluation.metrics import ranked
from pipeline.evaluation.provenance import batches, inference
from pipeline.prediction.answers import Answered, Answers, Question
from pipeline.prediction.files import Extracted, extracted, in_turn
from pipeline.runs import Run
from pipeline.training.clips import Clips, map_stream
from pipeline.training.dataset import Samples, fixed_stream, token_stream
from pipeline.training.frames import IGNORE
from pipeline.transfers import returned


class Classified(NamedTuple):
    """The likeliest classes of a video with their probabilities, in order; of clip_align under which map."""

    file: str
    run: str
    top: list[tuple[str, float]]
    map: str | None = None

    columns = ("file", "class", "probability")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A line a class."""
        return [("" if place else self.file, name, f"{p:.4f}") for place, (name, p) in enumerate(self.top)]

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        top = [{"class": name, "probability": probability} for name, probability in self.top]
        return {"file": self.file, "run": self.run, "top": top} | ({"map": self.map} if self.map else {})


def classify(question: Question) -> Answered:
    """`prediction.predict` of a classifier."""
    _ = question.run.record  # before any video is decoded
    return in_turn(question, question.files, partial(_classified, question))


def _classified(question: Question, files: Sequence[str]) -> Answers:
    with extracted(question, files) as found:
        if not found.files:
            return dict(found.refused)
        streams = {role: fixed_stream(role, store) for role, store in found.stores.items()}
        run = question.run.over(Samples(**_unlabelled(question.run, found), streams=streams))
        torch.set_num_threads(run.params.compute.threads)
        with deterministic():
            by_order, _ = logits(run, orders=("as_is",))
        return _answers(question, found, softmax(by_order["as_is"]))


def diagnose(question: Question) -> Answered:
    """`prediction.predict` of clip_align: under the file's map; without one under the mean map of its training."""
    _ = question.run.record
    return in_turn(question, question.files, partial(_diagnosed, question))


def _diagnosed(question: Question, files: Sequence[str]) -> Answers:
    with extracted(question, files) as found:
        if not found.files:
            return dict(found.refused)
        tokens, maps = found.stores["tokens"], found.stores["maps"]
        samples = Clips(
            **_unlabelled(question.run, found),
            streams={"tokens": token_stream("tokens", tokens), "maps": map_stream(tokens, maps)},
            maps={file: None if file in maps.failed else file for file in found.files},
            patients={file: file for file in found.files},
        )
        run = question.run.over(samples)
        torch.set_num_threads(run.params.compute.threads)
        model, given = run.model, ("tokens", "maps", "has_map") if question.map else ("tokens",)
        with deterministic(), inference(run):
            of_batches = batches(run, run.table(found.files))
            answers = [*returned({"logits": model(*map(of.get, given)).logits} for of in of_batches)]
        said = str(question.map) if question.map else "none: the mean of its training"
        return _answers(question, found, softmax(np.concatenate([of["logits"] for of in answers])), said)


def _unlabelled(run: Run, found: Extracted) -> dict[str, Any]:
    """What `Samples` of files without labels hold beside their streams."""
    return {
        "classes": run.record["classes"],
        "parts": {"train": [], "holdout": [], "evaluated": found.files},
        "labels": dict.fromkeys(found.files, IGNORE),
        "failed": {},
        "unlabelled": len(found.files),
        "skipped": 0,
        "digest": "",
    }


def _answers(question: Question, found: Extracted, probabilities_NC: np.ndarray, map: str | None = None) -> Answers:
    classes, run = question.run.record["classes"], str(question.run.folder)
    best_NK = ranked(probabilities_NC, TOP)
    tops = ([(classes[c], float(of[c])) for c in best] for best, of in zip(best_NK, probabilities_NC, strict=True))
    said = {file: Classified(file, run, top, map) for file, top in zip(found.files, tops, strict=True)}
    return {**said, **found.refused}
