"""Samples of a probe, with one label, several, or numbers, and what it reads of them. Knows no head and no trainer.

Shape suffixes: B samples, T steps, N tokens a step, L tokens, D width, C classes or numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.accelerator import device
from pipeline.datasets.manifest import classes, read_manifest
from pipeline.heads.probe.model import MASK
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.training.dataset import (
    DataError,
    Samples,
    carve,
    content_digest,
    learnable,
    refuse_mixed,
    sound,
    token_stream,
)
from pipeline.training.registry import build, trained
from pipeline.training.table import Batch, Table

CLS = "cls"  # the field beside a grid of tokens that holds one a step
CHUNK = 256  # samples whose tokens are in memory at once while they are pooled
BINS = 10  # of numbers: the holdout has of each tenth its share
# Of numbers: float32, in which they are learned, keeps seven digits, and the squares of what it holds must fit.
LEAST_SPREAD, LARGEST = 1e-5, 1e18


@dataclass(frozen=True)
class ProbedStream:
    """One feature as a probe reads it, stored in `name`: its tokens, of `width` channels, or their mean.

    Attributes:
        shape: of a sample; None stands for as many rows as the sample has.
        cls: the field of the CLS tokens beside them, and their width; None where there is none.
    """

    store: FeatureStore
    name: str
    shape: tuple[int | None, ...]
    cls: tuple[str, int] | None = None

    @property
    def width(self) -> int:
        """D."""
        return self.shape[-1]

    @property
    def is_map(self) -> bool:
        """Whether it is maps, of which a mean would say little: they are read whole, as (C, T, rows, columns)."""
        return len(self.shape) == 4

    @property
    def is_ragged(self) -> bool:
        """Whether each sample has as many rows as it is long."""
        return self.shape[0] is None

    @property
    def pooled(self) -> int:
        """The width of `pool`'s vectors."""
        return math.prod(self.shape) if self.is_map else self.width + (self.cls[1] if self.cls else 0)

    def pool(self, ids: Sequence[str]) -> Tensor:
        """(B, pooled) float32: the mean of a sample's tokens, and beside it that of its CLS tokens; a map as it is."""
        if self.is_ragged:
            return torch.stack([torch.from_numpy(rows).float().mean(dim=0) for rows in self._rows(ids)])
        parts = [self._flat(torch.from_numpy(self.store.read(ids, self.name)).float())]
        if self.cls:
            parts.append(self._flat(torch.from_numpy(self.store.read(ids, self.cls[0])).float()))
        return torch.cat(parts, dim=1)

    def _flat(self, values: Tensor) -> Tensor:
        if self.is_map or values.ndim == 2:
            return values.flatten(1)
        return values.flatten(1, -2).mean(dim=1)

    def tokens(self, ids: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """(B, L, D) as stored, zero where padded, and (B, L) bool, which are there; None where all are."""
        if not self.is_ragged:
            values = torch.from_numpy(self.store.read(ids, self.name))
            return values.reshape(len(ids), -1, self.width), None
        rows = [torch.from_numpy(of) for of in self._rows(ids)]
        lengths = torch.tensor([len(of) for of in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.arange(lengths.max()) < lengths[:, None]

    def _rows(self, ids: Sequence[str]) -> list[np.ndarray]:
        return [np.ascontiguousarray(rows) for rows in self.store.read_ragged(ids, self.name)]


@dataclass(frozen=True)
class ProbedSamples(Samples):
    """What a probe learns from.

    Attributes (beside those of Samples):
        classes: names of the classes, or of the numbers.
        labels: sample id -> class index; of several labels (n,) of them; of numbers the tenth that the first is in.
        targets: sample id -> what is learned: class index; (C,) of 0 and 1; (C,) float64.
        learns: "label", "labels" or "target".
        is_pooled: whether a vector of each stream is read, and not its tokens.
        centre, spread: (C,) of numbers: their mean and standard deviation over what is learned from.
    """

    targets: dict[str, Any] = field(repr=False, default_factory=dict)
    learns: str = "label"
    is_pooled: bool = True
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    def targets_of(self, *parts: str) -> np.ndarray:
        """(N,) class indices, or (N, C), of "train", "holdout" or "evaluated", or of several of them."""
        return np.array([self.targets[sample] for part in parts for sample in self.parts[part]])


def probed_samples(run: Run) -> ProbedSamples:
    """The samples of a probe as its params ask for them. Raises as `join_probed`, and as `sound`."""
    config, frame = run.config, read_manifest(run.manifest)
    stores = {role: FeatureStore(directory, verify=True) for role, directory in run.features.items()}
    found = join_probed(
        frame,
        stores,
        learns=config.targets,
        train=config.train_split,
        evaluated=config.eval_split,
        holdout=config.holdout if config.trains else 0.0,
        seed=config.seed,
        is_pooled=config.probe != "attentive",
    )
    if found.learns == "label":
        return sound(run, found)
    refuse_mixed(run.params.compute, stores.values())
    return found


def join_probed(
    frame: pd.DataFrame,
    stores: Mapping[str, FeatureStore],
    *,
    learns: str,
    train: str,
    evaluated: str,
    holdout: float,
    seed: int,
    is_pooled: bool,
) -> ProbedSamples:
    """Keeps the samples that have targets and are ok in every store, and counts the others.

    Args:
        frame: the manifest; columns sample, split, digest, status, and `learns`.
        stores: role -> store. They are read each for itself: their times and crops may differ.
        learns: "label", a name; "labels", a list of names; "target", a number or a list of them.
        train, evaluated: names of the split that is learned from and of the one that is reported.
        holdout: share of the train split carved out for early stopping, stratified by class, or by tenth of the first
            number; of several labels by the rarest. 0 holds nothing out, as where no class has two samples.
        seed: decides the carve.
        is_pooled: whether a vector of each stream is read.

    Raises:
        DataError: no such targets, a store made from other content than the manifest's, a sample that a store has not
            seen, a number that is not finite or that float32 cannot tell from the others, nothing to train on, or all
            of one kind, or nothing to evaluate.
    """
    streams = {role: probed_stream(role, store, is_pooled) for role, store in stores.items()}
    if learns not in frame or not frame[learns].notna().any():
        raise DataError(
            f"no sample of the manifest has {learns!r}, which the probe learns; name a data set that has it, or "
            "correct targets in params"
        )
    found = learnable(frame, stores, train, evaluated, labelled=frame[learns].notna())
    told = {row.sample: getattr(row, learns) for row in found.rows}
    names, targets = _TARGETS[learns](frame, told)
    groups = _groups(learns, targets, found.splits[train])
    held = carve(found.splits[train], groups, holdout, seed) if holdout else set()
    parts = found.parts(train, evaluated, held)
    learned, judged = (np.array([targets[sample] for sample in parts[part]]) for part in ("train", "evaluated"))
    scale = _scale(names, learned) if learns == "target" else ((), ())
    _expect_differences(learns, learned, judged, evaluated)
    content = {
        "classes": names,
        "learns": learns,
        "features": {role: stream.store.key for role, stream in streams.items()},
        **{
            part: [(sample, found.digests[sample], np.asarray(targets[sample]).tolist()) for sample in parts[part]]
            for part in ("train", "holdout")
        },
    }
    return ProbedSamples(
        classes=names,
        parts=parts,
        labels=_labels(learns, targets, groups),
        failed=found.failed,
        unlabelled=found.unlabelled,
        skipped=found.skipped,
        digest=content_digest(content),
        streams=streams,
        targets=targets,
        learns=learns,
        is_pooled=is_pooled,
        centre=scale[0],
        spread=scale[1],
    )


def probed_stream(role: str, store: FeatureStore, is_pooled: bool = True) -> ProbedStream:
    """What a store holds of each sample: tokens with the CLS beside them, vectors, rows or maps.

    Raises:
        DataError: several fields of which none, or more than one, is of tokens; a field of no shape that is read.
    """
    shapes = {name: shape for name, (shape, _) in store.fields.items()}
    if len(shapes) > 1:
        name = token_stream(role, store).name
        cls = shapes.get(CLS)
        return ProbedStream(store, name, shapes[name], (CLS, cls[-1]) if cls and len(cls) == 2 else None)
    ((name, shape),) = shapes.items()
    stream = ProbedStream(store, name, shape)
    if not 1 <= len(shape) <= 4 or None in shape[1:] or (stream.is_ragged and len(shape) != 2):
        raise DataError(f"{role}: {name} is {shape} a sample, and a probe reads tokens, vectors, rows or maps")
    if stream.is_map and not is_pooled:
        raise DataError(f"{role}: {name} is maps, whose cells say little alone; probe: linear reads a map whole")
    return stream


# --- targets ----------------------------------------------------------------------------------------------------------


def _one_label(frame: pd.DataFrame, told: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    names = classes(frame)
    index = {name: number for number, name in enumerate(names)}
    return names, {sample: index[label] for sample, label in told.items()}


def _several_labels(frame: pd.DataFrame, told: Mapping[str, Sequence[str]]) -> tuple[list[str], dict[str, np.ndarray]]:
    names = frame.attrs.get("classes") or sorted({name for of in frame["labels"].dropna() for name in of})
    if not names:
        raise DataError("the labels of all samples are empty: there is nothing to learn; write them")
    index = {name: number for number, name in enumerate(names)}
    targets = {}
    for sample, labels in told.items():
        targets[sample] = np.zeros(len(names))
        targets[sample][[index[name] for name in labels]] = 1
    return names, targets


def _numbers(frame: pd.DataFrame, told: Mapping[str, Any]) -> tuple[list[str], dict[str, np.ndarray]]:
    targets = {sample: np.atleast_1d(np.asarray(value, np.float64)) for sample, value in told.items()}
    first = max(len(next(iter(targets.values()))), 1)
    for sample, of in targets.items():
        if len(of) != first or not np.isfinite(of).all():
            raise DataError(
                f"sample {sample} has the target {of.tolist()}, expected {first} finite numbers, as the others have; "
                "correct it"
            )
    names = frame.attrs.get("targets") or (["target"] if first == 1 else [f"target {i}" for i in range(1, first + 1)])
    return names, targets


_TARGETS = {"label": _one_label, "labels": _several_labels, "target": _numbers}


def _groups(learns: str, targets: Mapping[str, Any], samples: Sequence[str]) -> dict[str, int]:
    """What the holdout has its share of: sample -> class; its rarest class, -1 of none; the tenth of its number."""
    if learns == "label":
        return {sample: targets[sample] for sample in samples}
    values = np.array([targets[sample] for sample in samples])
    if learns == "target":
        edges = np.quantile(values[:, 0], np.linspace(0, 1, BINS + 1)[1:-1])
        # Where most are the least, or the largest, number there is, one side tells them from the others.
        places = (np.searchsorted(edges, values[:, 0], side=side) for side in ("right", "left"))
        return dict(zip(samples, max(places, key=lambda of: len(np.unique(of))).tolist(), strict=True))
    counts = np.where(values > 0, values.sum(axis=0), np.inf)
    rarest = np.where(values.any(axis=1), counts.argmin(axis=1), -1)
    return dict(zip(samples, rarest.tolist(), strict=True))


def _labels(learns: str, targets: Mapping[str, Any], groups: Mapping[str, int]) -> dict[str, Any]:
    """As `ProbedSamples.labels`; what is not learned from has no tenth."""
    if learns == "labels":
        return {sample: np.flatnonzero(of) for sample, of in targets.items()}
    return dict(targets) if learns == "label" else {sample: groups.get(sample, 0) for sample in targets}


def _expect_differences(learns: str, learned: np.ndarray, judged: np.ndarray, evaluated: str) -> None:
    """Refuses labels that are the same in all that is learned from, and what no figure is defined of."""
    if learns == "labels" and (learned == learned[0]).all():
        raise DataError(
            f"all {len(learned)} samples that are learned from have the same labels: there is nothing to learn; "
            "correct them, or train_split in params"
        )
    if learns == "labels" and not judged.any():
        raise DataError(
            f"none of the {len(judged)} samples of the split {evaluated!r} has any label, so no precision of them is "
            "defined; correct the labels, or eval_split in params"
        )
    if learns == "target" and not np.ptp(judged, axis=0).any():
        raise DataError(
            f"all {len(judged)} usable samples of the split {evaluated!r} have the target {judged[0].tolist()}, so no "
            "R² of them is defined; correct the targets, or eval_split in params"
        )


def _scale(names: Sequence[str], values_NC: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    with np.errstate(over="ignore"):
        spread, largest = values_NC.std(axis=0), np.abs(values_NC).max(axis=0)
    for name, values, of, most in zip(names, values_NC.T, spread, largest, strict=True):
        if not np.ptp(values):
            raise DataError(
                f"{name} is {values[0]:g} in all {len(values)} samples that are learned from: there is nothing to "
                "learn; correct the targets, or train_split in params"
            )
        if most > LARGEST or of < max(LEAST_SPREAD * most, 1 / LARGEST):
            raise DataError(
                f"{name} has a mean of {values.mean():g} and a standard deviation of {of:g}, which float32 cannot hold "
                "or tell apart; give the target another unit, or as its distance from a number near the mean"
            )
    return tuple(values_NC.mean(axis=0).tolist()), tuple(spread.tolist())


def ready(run: Run) -> nn.Module:
    """The probe with its run's weights; neighbours with all that may be learned from."""
    if run.config.trains:
        return trained(run)
    model, there = build(run.head, run.config, run.samples), device(run.params.compute)
    rows = run.table(run.samples.parts["train"])
    directions = [
        model.reader.direction(rows[range(at, min(at + CHUNK, len(rows)))]).to(there)
        for at in range(0, len(rows), CHUNK)
    ]
    said = rows.labels if run.samples.learns == "label" else rows.targets
    model.reader.remember(torch.cat(directions), (said.bool() if run.samples.learns == "labels" else said).to(there))
    return model.to(there).eval()


class Probed(Table):
    """Samples by lists of row numbers: a vector of each stream, or its tokens.

    What fits into the memory allowed is held: vectors, once pooled, smallest stream first; tokens as stored. The rest
    is read when it is asked for.

    Args:
        samples: the joined samples.
        ids: the samples that rows count, in order.
        memory: bytes that may be held.
    """

    def __init__(self, samples: ProbedSamples, ids: Sequence[str], memory: float) -> None:
        self.ids, self.streams, self.is_pooled = list(ids), samples.streams, samples.is_pooled
        self.labels = torch.tensor([samples.labels[sample] for sample in ids]) if samples.learns == "label" else None
        self.targets = torch.tensor(np.array([samples.targets[sample] for sample in ids], np.float32))
        self.held: dict[str, Tensor] = {}
        sizes = {role: self._bytes(stream) for role, stream in self.streams.items()}
        for role in sorted(sizes, key=lambda role: sizes[role]):
            if sizes[role] <= memory:
                memory -= sizes[role]
                self.held[role] = self._load(self.streams[role])
        self.in_memory = len(self.held) == len(self.streams)
        ragged = [stream.store.lengths(stream.name) for stream in self.streams.values() if stream.is_ragged]
        self.longest = max(
            range(len(self.ids)), key=lambda row: sum(lengths[self.ids[row]] for lengths in ragged), default=0
        )

    def _bytes(self, stream: ProbedStream) -> float:
        if self.is_pooled:
            return 4 * len(self.ids) * stream.pooled
        if stream.is_ragged:  # of padded rows one length would be that of the longest
            return math.inf
        itemsize = np.dtype(stream.store.fields[stream.name][1]).itemsize
        return itemsize * len(self.ids) * math.prod(stream.shape)

    def _load(self, stream: ProbedStream) -> Tensor:
        if not self.is_pooled:
            return stream.tokens(self.ids)[0]
        return torch.cat([stream.pool(self.ids[at : at + CHUNK]) for at in range(0, len(self.ids), CHUNK)])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """A batch: role -> (B, D) float32 or (B, L, D) as stored, of ragged ones with role.mask (B, L) bool; target
        (B,) or (B, C) float32; row (B,) int64; of one label a sample label (B,) int64."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        batch = {"target": self.targets[index], "row": index}
        if self.labels is not None:
            batch["label"] = self.labels[index]
        for role, stream in self.streams.items():
            if role in self.held:
                batch[role] = self.held[role].index_select(0, index)
                continue
            ids = [self.ids[row] for row in index.tolist()]
            if self.is_pooled:
                batch[role] = stream.pool(ids)
                continue
            batch[role], mask_BL = stream.tokens(ids)
            if mask_BL is not None:
                batch[f"{role}{MASK}"] = mask_BL
        return batch
