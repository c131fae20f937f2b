"""Classifiers on new videos: gasm_cast, and clip_align with a clinician's map or without. Knows no decoder.

Shape suffixes: N videos, C classes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.accelerator import accelerator
from pipeline.evaluation.classification import TOP, logits, softmax
from pipeline.evaluation.metrics import ranked
from pipeline.evaluation.provenance import deterministic, inference, trained
from pipeline.prediction.answers import Answered, Answers, Question
from pipeline.prediction.files import Extracted, extracted, in_turn
from pipeline.training.batches import OrderedBatches
from pipeline.training.clips import Clips, ClipTable, map_stream
from pipeline.training.dataset import Samples, fixed_stream, token_stream
from pipeline.training.frames import IGNORE
from pipeline.training.run_folder import read_run


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
    record, device = read_run(question.run), _device(question)
    return in_turn(question, question.files, partial(_classified, question, record, device))


def _classified(question: Question, record: dict[str, Any], device: torch.device, files: Sequence[str]) -> Answers:
    with extracted(question, files) as found:
        if not found.files:
            return dict(found.refused)
        streams = {role: fixed_stream(role, store) for role, store in found.stores.items()}
        samples = Samples(**_unlabelled(record, found), streams=streams)
        torch.set_num_threads(question.params.compute.threads)
        with deterministic():
            by_order, _ = logits(question.params, question.head, samples, question.run, device, orders=("as_is",))
        return _answers(question, found, record["classes"], softmax(by_order["as_is"]))


def diagnose(question: Question) -> Answered:
    """`prediction.predict` of clip_align: under the file's map; without one under the mean map of its training."""
    record, device = read_run(question.run), _device(question)
    return in_turn(question, question.files, partial(_diagnosed, question, record, device))


def _diagnosed(question: Question, record: dict[str, Any], device: torch.device, files: Sequence[str]) -> Answers:
    with extracted(question, files) as found:
        if not found.files:
            return dict(found.refused)
        tokens, maps = found.stores["tokens"], found.stores["maps"]
        samples = Clips(
            **_unlabelled(record, found),
            streams={"tokens": token_stream("tokens", tokens), "maps": map_stream(tokens, maps)},
            maps={file: None if file in maps.failed else file for file in found.files},
            patients={file: file for file in found.files},
        )
        torch.set_num_threads(question.params.compute.threads)
        model = trained(question.params, question.head, samples, question.run, device)
        table, parts = ClipTable(samples, found.files, question.params.compute.cache_memory_gb * 1e9), []
        loader = table.loader(OrderedBatches(range(len(table)), question.config.batch_size), 0)
        with deterministic(), inference(question.config.precision, device):
            for batch in loader:
                there = {name: tensor.to(device) for name, tensor in batch.items()}
                given = (there["maps"], there["has_map"]) if question.map else ()
                parts.append(model(there["tokens"], *given).logits.float().cpu().numpy())
        said = str(question.map) if question.map else "none: the mean of its training"
        return _answers(question, found, record["classes"], softmax(np.concatenate(parts)), said)


def _device(question: Question) -> torch.device:
    return torch.device(accelerator(question.params.compute))


def _unlabelled(record: dict[str, Any], found: Extracted) -> dict[str, Any]:
    """What `Samples` of files without labels hold beside their streams."""
    return {
        "classes": record["classes"],
        "parts": {"train": [], "holdout": [], "evaluated": found.files},
        "labels": dict.fromkeys(found.files, IGNORE),
        "failed": {},
        "unlabelled": len(found.files),
        "skipped": 0,
        "digest": "",
    }


def _answers(
    question: Question, found: Extracted, classes: list[str], probabilities_NC: np.ndarray, map: str | None = None
) -> Answers:
    best_NK = ranked(probabilities_NC, TOP)
    tops = ([(classes[c], float(of[c])) for c in best] for best, of in zip(best_NK, probabilities_NC, strict=True))
    said = {file: Classified(file, str(question.run), top, map) for file, top in zip(found.files, tops, strict=True)}
    return {**said, **found.refused}
