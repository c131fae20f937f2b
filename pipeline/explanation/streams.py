"""The inputs of each kind of head, replaced by their mean or permuted: what `importance` measures.

Shape suffixes: B samples of a batch, T rows of a video, D width, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.accelerator import device
from pipeline.config import I3DFeature
from pipeline.evaluation.ood import TERMS, combined
from pipeline.evaluation.ood_metrics import ood_metrics
from pipeline.evaluation.provenance import batches, inference, read
from pipeline.evaluation.segmentation import Decision, row_scores
from pipeline.evaluation.zeroshot_metrics import class_counts, seen_unseen
from pipeline.explanation.errors import ExplanationError
from pipeline.explanation.importance import Change, order
from pipeline.heads.probe.model import MASK
from pipeline.runs import Run
from pipeline.training.registry import predict
from pipeline.training.table import Batch
from pipeline.transfers import returned, sent


class _Task:
    """What all share: the run, and that its numbers are found again."""

    metric: str

    def __init__(self, run: Run) -> None:
        self.run = run

    def found_again(self, answer: Any) -> None:
        """Raises ExplanationError where the answers without any change are not those of the result."""
        again, stood = self.score(answer, np.arange(len(self.strata))), self.run.result[self.metric]
        said = self.run.task.scale * stood
        if abs(again - said) > 1e-6 * max(abs(said), 1):
            raise ExplanationError(
                f"{self.run.folder}: its result says {self.metric} {said:.4g}, and its weights and features say "
                f"{again:.4g} now; evaluate the head again (`evaluate {self.run.head}`)"
            )


class Recognition(_Task):
    """The streams that a classifier reads; the answer is (N,) bool, who was right."""

    metric = "top1"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.keys = self.roles()
        self.streams = {name: run.config.inputs[name].feature for name in self.keys}
        self.rows = run.table(run.samples.parts["evaluated"])
        self.strata = np.zeros(len(self.rows), dtype=np.int64)

    def roles(self) -> dict[str, tuple[str, ...]]:
        """Stream -> its keys in a batch: of a head that says so, those that it reads."""
        return {name: (name,) for name in getattr(self.run.model, "streams", self.run.samples.streams)}

    def answers(self, changes: Sequence[Change | None]) -> list[np.ndarray]:
        """One pass over the samples for all changes."""
        orders = [order(change, len(self.rows)) for change in changes if change and change.seed]
        with inference(self.run):
            there, means = device(self.run.params.compute), self.means
            means = {name: sent(mean, there) for name, mean in means.items()}
            said = list(returned(self._said(changes, orders, means)))
        found = [np.concatenate([of["answer"] for of in said[at :: len(changes)]]) for at in range(len(changes))]
        self.found_again(found[changes.index(None)])
        return found

    def _said(
        self, changes: Sequence[Change | None], orders: Sequence[np.ndarray], means: Mapping[str, Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        """Of each batch the answer with each change."""
        model, streams = self.run.model, self.run.samples.streams
        there = batches(self.run, self.rows, orders)
        for batch in there:
            for change in changes:
                other = next(there) if change and change.seed else None
                logits = predict(model, self.changed(batch, change, other, means), streams)
                yield {"answer": self.answer(logits, batch)}

    def answer(self, logits: Tensor, batch: Batch) -> Tensor:
        """(B,) bool, who was right."""
        return logits.argmax(dim=1) == batch["label"]

    @cached_property
    def means(self) -> dict[str, Tensor]:
        """Stream -> the mean of its first key over all samples; of maps, over those that are there."""
        sums: dict[str, Tensor] = {}
        counts = dict.fromkeys(self.keys, 0)
        for batch in read(self.run, self.rows):
            for name, (key, *flag) in self.keys.items():
                there = batch[flag[0]] if flag else torch.ones_like(batch["row"], dtype=torch.bool)
                total = batch[key][there].double().sum(dim=0)
                sums[name] = sums[name] + total if name in sums else total
                counts[name] += int(there.sum())
        return {name: (total / max(counts[name], 1)).float() for name, total in sums.items()}

    def changed(self, batch: Batch, change: Change | None, other: Batch | None, means: Mapping[str, Tensor]) -> Batch:
        """The batch with one stream replaced, by its mean or by that of the samples in the other batch."""
        if change is None:
            return batch
        keys = self.keys[change.stream]
        if other is None:
            return {**batch, keys[0]: means[change.stream].expand(len(batch["row"]), *means[change.stream].shape)}
        return {**batch, **{key: other[key] for key in keys}}

    def score(self, answer: np.ndarray, rows: np.ndarray) -> float:
        """Share that was right."""
        return 100 * float(answer[rows].mean())


class Probing(Recognition):
    """The features that a probe reads; the answer is (N, C) scores."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.metric, self.learns = run.task.headline, run.samples.learns
        self.targets = run.samples.targets_of("evaluated")

    def roles(self) -> dict[str, tuple[str, ...]]:
        """A ragged stream's mask goes with it."""
        samples = self.run.samples
        ragged = {} if samples.is_pooled else {name for name, of in samples.streams.items() if of.is_ragged}
        return {name: (name, f"{name}{MASK}") if name in ragged else (name,) for name in samples.streams}

    def answer(self, logits: Tensor, batch: Batch) -> Tensor:
        """(B, C)."""
        return logits

    @cached_property
    def means(self) -> dict[str, Tensor]:
        """Stream -> the mean over all samples: of rows, over all of them, as one row."""
        return {name: mean[None] if self.keys[name][1:] else mean for name, mean in super().means.items()}

    def changed(self, batch: Batch, change: Change | None, other: Batch | None, means: Mapping[str, Tensor]) -> Batch:
        """The batch with one stream replaced, and its mask."""
        found = super().changed(batch, change, other, means)
        if change is not None and other is None and (mask := self.keys[change.stream][1:]):
            there = torch.ones(len(batch["row"]), 1, dtype=torch.bool, device=batch["target"].device)
            return {**found, mask[0]: there}
        return found

    def score(self, answer: np.ndarray, rows: np.ndarray) -> float:
        """Top-1, mAP or R²."""
        from pipeline.heads.probe.figures import figure

        return 100 * figure(self.learns, answer[rows].astype(np.float64), self.targets[rows])


class Diagnosis(Recognition):
    """The tokens and the maps of clip_align."""

    metric = "accuracy"

    def roles(self) -> dict[str, tuple[str, ...]]:
        """A map goes with whether there is one."""
        return {"tokens": ("tokens",), "maps": ("maps", "has_map")}


class Segmentation(_Task):
    """The halves of two-stream features, and the texts of a vocabulary; the answer is frames and right ones by class.

    A video that gets another's rows gets them stretched to its own length.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        samples, config = run.samples, run.config
        name = config.features.frames
        feature, half = run.params.features[name], samples.streams["frames"].width // 2
        both = isinstance(feature, I3DFeature) and feature.rgb is not None and feature.flow is not None
        self.channels = {"rgb": slice(half), "flow": slice(half, None)} if both else {"frames": slice(None)}
        self.streams = {stream: f"{name}, {stream}" if both else name for stream in self.channels}
        if samples.text is not None:
            self.streams["texts"] = config.vocabulary.feature
        self.metric = "acc" if samples.text is None else "harmonic"
        self.rows = run.table(samples.parts["evaluated"])
        self.strata = np.zeros(len(self.rows), dtype=np.int64)

    def answers(self, changes: Sequence[Change | None]) -> list[tuple[np.ndarray, np.ndarray]]:
        """A pass over the videos for each change."""
        with inference(self.run):
            found = [self._answer(change) for change in changes]
        self.found_again(found[changes.index(None)])
        return found

    def _answer(self, change: Change | None) -> tuple[np.ndarray, np.ndarray]:
        samples, ids = self.run.samples, self.run.samples.parts["evaluated"]
        if change and change.stream == "texts":
            samples = replace(samples, text=other_texts(samples.text, change))
            change = None
        scores = row_scores(self.run.model, self.run.config, samples, self._batches(change))
        decision = Decision.of(self.run)
        predictions = [
            decision.classes(of[samples.row_of_label[sample]], samples.seen)
            for sample, of in zip(ids, scores, strict=True)
        ]
        return class_counts(predictions, [samples.truth[sample] for sample in ids], len(samples.classes))

    def _batches(self, change: Change | None) -> Iterator[Batch]:
        """All videos, with a stream replaced."""
        orders = [order(change, len(self.rows))] if change and change.seed else []
        there = batches(self.run, self.rows, orders)
        for batch in there:
            if change is not None:
                other = next(there) if orders else None
                batch = {**batch, "frames": self._changed(batch, self.channels[change.stream], other)}
            yield batch

    def _changed(self, batch: Batch, channels: slice, other: Batch | None) -> Tensor:
        frames_BTD = batch["frames"].to(torch.float32, copy=True)
        mean_D = None if other else sent(self.mean_D[channels], frames_BTD.device)
        for place, (own_TD, row) in enumerate(zip(frames_BTD, batch["row"].tolist(), strict=True)):
            length = self._length(row)
            if other is None:
                own_TD[:length, channels] = mean_D
            else:
                other_TD = other["frames"][place, : self._length(int(other["row"][place]))]
                own_TD[:length, channels] = stretched(other_TD, length)[:, channels].float()
        return frames_BTD

    def _length(self, row: int) -> int:
        """Rows of a video, as the host knows them."""
        samples = self.run.samples
        return len(samples.labels[samples.parts["evaluated"][row]])

    @cached_property
    def mean_D(self) -> Tensor:
        """The mean over all rows of all videos."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for batch in read(self.run, self.rows):
            there_ND = batch["frames"][batch["mask"]].double()
            total, count = total + there_ND.sum(dim=0), count + len(there_ND)
        return (total / count).float()

    def score(self, answer: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> float:
        """Accuracy over frames, or the harmonic mean of seen and unseen classes'."""
        frames_VC, right_VC = (counts[rows] for counts in answer)
        if self.metric == "acc":
            return 100 * float(right_VC.sum() / frames_VC.sum())
        whole = np.ones((1, len(rows)), dtype=np.int64)
        return float(np.nan_to_num(seen_unseen(frames_VC, right_VC, self.run.samples.seen, whole)["harmonic"][0]))


def other_texts(text_CE: np.ndarray, change: Change) -> np.ndarray:
    """All the same, their mean, or those of other classes."""
    if change.seed:
        return text_CE[order(change, len(text_CE))]
    return np.broadcast_to(text_CE.mean(axis=0), text_CE.shape).copy()


def stretched(rows_TD: Tensor, length: int) -> Tensor:
    """(length, D): the row at the same share of the video.

    >>> stretched(torch.tensor([[1], [2]]), 4).flatten().tolist()
    [1, 1, 2, 2]
    """
    return rows_TD[sent(((torch.arange(length) + 0.5) * len(rows_TD) / length).long(), rows_TD.device)]


class Detection(_Task):
    """The terms of NegAlign's score, pictures in and out of distribution alike; the answer is (N,) scores."""

    metric = "auroc"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        features = run.config.features
        said = {
            "evidence": f"the whole picture: {features.image} against classes and negative words",
            "local": f"the best patch in {features.cam} against classes and negative words",
            "star": f"S*: {features.image} against classes and negative words",
            "p_align": f"P_align: the background in {features.cam} against background words",
        }
        self.streams = {term: said[term] for term in TERMS[run.config.score.local] if term is not None}
        rows: pd.DataFrame = run.predictions
        self.rows = rows[rows["part"] == "evaluated"].reset_index(drop=True)
        self.names = list(run.config.sets)
        self.strata = self.rows["set"].map(self.names.index).to_numpy()

    def answers(self, changes: Sequence[Change | None]) -> list[np.ndarray]:
        """Arithmetic on the scores that the run kept."""
        found = [self._answer(change) for change in changes]
        self.found_again(found[changes.index(None)])
        return found

    def _answer(self, change: Change | None) -> np.ndarray:
        terms = {name: self.rows[name].to_numpy() for name in self.streams}
        if change is not None:
            own = terms[change.stream]
            terms[change.stream] = own[order(change, len(own))] if change.seed else np.full_like(own, own.mean())
        return combined(self.run.config, terms, self.run.result["lambda"])

    def score(self, answer: np.ndarray, rows: np.ndarray) -> float:
        """AUROC, the mean over the OOD sets."""
        of = [answer[rows[self.strata[rows] == number]] for number in range(len(self.names))]
        return float(np.mean([ood_metrics(of[0], other)["auroc"] for other in of[1:]]))
