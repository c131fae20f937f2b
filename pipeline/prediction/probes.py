"""Probes on new videos: the likeliest classes, or numbers. Knows no decoder."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.accelerator import deterministic
from pipeline.config import MapsFeature
from pipeline.evaluation.classification import softmax
from pipeline.evaluation.metrics import TOP, ranked
from pipeline.evaluation.probes import scores
from pipeline.prediction.answers import Answered, Answers, PredictionError, Question
from pipeline.prediction.files import Extracted, extracted, in_turn
from pipeline.prediction.videos import Classified
from pipeline.training.dataset import IGNORE
from pipeline.training.probed import ProbedSamples, probed_stream


class Measured(NamedTuple):
    """The numbers of a video, in order."""

    file: str
    run: str
    numbers: list[tuple[str, float]]

    columns = ("file", "number", "value")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A line a number."""
        return [("" if place else self.file, name, f"{of:.4g}") for place, (name, of) in enumerate(self.numbers)]

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"file": self.file, "run": self.run, "numbers": dict(self.numbers)}


def probe(question: Question) -> Answered:
    """`prediction.predict` of a probe. Neighbours vote with the features of their data set, as evaluated.

    Raises:
        PredictionError: it reads maps, which no new file has.
        RunError, DataError: no finished run, or features that are not there.
    """
    run = question.run
    inputs = (of.feature for of in run.config.inputs.values())
    if maps := [name for name in inputs if isinstance(run.params.features[name], MapsFeature)]:
        raise PredictionError(f"{run.head} reads {maps[0]}, maps that somebody drew, and a new file has none")
    torch.set_num_threads(run.params.compute.threads)
    if run.config.trains:
        classes = run.record["classes"]
    else:
        classes, _ = run.samples.classes, run.model  # remembered once, however many files are asked about
    return in_turn(question, question.files, partial(_probed, question, classes))


def _probed(question: Question, classes: list[str], files: Sequence[str]) -> Answers:
    with extracted(question, files) as found:
        if not found.files:
            return dict(found.refused)
        run = question.run.over(_unlabelled(question, classes, found))
        with deterministic():
            scores_NC, _ = scores(run)
        return {**_answers(question, classes, found.files, scores_NC), **found.refused}


def _unlabelled(question: Question, classes: list[str], found: Extracted) -> ProbedSamples:
    config = question.run.config
    is_pooled, learns = config.probe != "attentive", config.targets
    nothing = IGNORE if learns == "label" else np.zeros(len(classes))
    return ProbedSamples(
        classes=classes,
        parts={"train": [], "holdout": [], "evaluated": found.files},
        labels=dict.fromkeys(found.files, IGNORE),
        failed={},
        unlabelled=len(found.files),
        skipped=0,
        digest="",
        streams={role: probed_stream(role, store, is_pooled) for role, store in found.stores.items()},
        targets=dict.fromkeys(found.files, nothing),
        learns=learns,
        is_pooled=is_pooled,
        # The run's weights hold them.
        centre=(0.0,) * len(classes),
        spread=(1.0,) * len(classes),
    )


def _answers(question: Question, classes: list[str], files: Sequence[str], scores_NC: np.ndarray) -> Answers:
    run, learns = str(question.run.folder), question.run.config.targets
    if learns == "target":
        each = zip(files, scores_NC.tolist(), strict=True)
        return {file: Measured(file, run, list(zip(classes, of, strict=True))) for file, of in each}
    one = softmax(scores_NC) if learns == "label" else torch.from_numpy(scores_NC).double().sigmoid().numpy()
    each = zip(files, ranked(one, TOP), one, strict=True)
    return {file: Classified(file, run, [(classes[c], float(of[c])) for c in best]) for file, best, of in each}
