"""Classifiers on new videos: gasm_cast, and clip_align with a clinician's map or without. Knows no decoder.

Shape suffixes: N videos, C classes.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.accelerator import deterministic
from pipeline.evaluation.classification import TOP, logits, softmax
from pipeline.evaluation.metrics import ranked
from pipeline.evaluation.provenance import batches, inference
from pipeline.explanation.pictures import cropped
from pipeline.prediction.answers import Answered, Answers, Question
from pipeline.prediction.files import Extracted, extracted, in_turn, placed
from pipeline.reports.files import save_figure
from pipeline.reports.maps import Marked, maps_figure
from pipeline.runs import Run
from pipeline.training.clips import Clips, map_stream
from pipeline.training.dataset import Samples, fixed_stream, token_stream
from pipeline.training.frames import IGNORE
from pipeline.transfers import returned
from pipeline.video import VideoError, read_frames


class Classified(NamedTuple):
    """The likeliest classes of a video with their probabilities, in order; of clip_align under which map, and where the
    picture of the map that it predicts lies, if it predicts one."""

    file: str
    run: str
    top: list[tuple[str, float]]
    map: str | None = None
    picture: str | None = None

    columns = ("file", "class", "probability")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A line a class."""
        return [("" if place else self.file, name, f"{p:.4f}") for place, (name, p) in enumerate(self.top)]

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        top = [{"class": name, "probability": probability} for name, probability in self.top]
        more = {name: of for name in ("map", "picture") if (of := getattr(self, name))}
        return {"file": self.file, "run": self.run, "top": top, **more}


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
    """`prediction.predict` of clip_align: under the file's map; without one under the map that it predicts, or under
    the mean map of its training. Of a head that predicts maps a picture of each file is written, named like it: .png.
    """
    _ = question.run.record
    if not question.run.config.predicts_map:
        yield from in_turn(question, question.files, partial(_diagnosed, question, {}))
        return
    pictures, refused = placed(question, ".png")
    yield refused
    files = [file for file in question.files if file not in refused]
    yield from in_turn(question, files, partial(_diagnosed, question, pictures))


def _diagnosed(question: Question, pictures: Mapping[str, Path], files: Sequence[str]) -> Answers:
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
            answers = [*returned(_said(model(*map(of.get, given))) for of in of_batches)]
        of_files = {name: np.concatenate([of[name] for of in answers]) for name in answers[0]}
        without = "the one that it predicts" if pictures else "the mean of its training"
        said = _answers(
            question, found, softmax(of_files["logits"]), str(question.map) if question.map else f"none: {without}"
        )
        for row, file in enumerate(found.files if pictures else ()):
            drawn_TRL = of_files["drawn"][row] if question.map else None
            save_figure(
                _picture(question.run, found, said[file], of_files["predicted"][row], drawn_TRL), pictures[file]
            )
            said[file] = said[file]._replace(picture=str(pictures[file]))
        return said


def _said(output: Any) -> dict[str, torch.Tensor]:
    """Of a batch: logits, and where it predicts maps, both maps."""
    said = {"logits": output.logits}
    return said if output.log_map is None else {**said, "predicted": output.log_map.exp(), "drawn": output.step_map}


def _picture(run: Run, found: Extracted, said: "Classified", predicted_RL: np.ndarray, drawn_TRL: Any) -> Any:
    """The figure of one file."""
    file, tokens = said.file, run.config.features.tokens
    times = found.stores["tokens"].meta(file)["times"]
    try:
        frames, why = cropped(run.params, tokens)(read_frames(Path(file), times, facts=found.facts[file])), ""
    except VideoError as error:
        frames, why = None, str(error)
    name, probability = said.top[0]
    title = f"{name}, p = {probability:.2f}"
    return maps_figure({"": [Marked(Path(file).name, title, times, frames, why, predicted_RL, drawn_TRL)]})


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
