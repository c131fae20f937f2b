"""Joins a manifest with the stores of a head's streams into samples to learn from. Knows no head and no trainer.

Shape suffixes: B videos, T steps, N tokens a step, D width.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Compute, canonical_json
from pipeline.config.contents import Part, part_of, same_part

# The manifest's own module, not the package: the package's other half opens videos.
from pipeline.datasets.manifest import classes, imported_digest_of, map_digest_of, read_manifest
from pipeline.runs import Run
from pipeline.store import FeatureStore, apart, by_feature

TIME_TOLERANCE = 1e-3  # seconds: far below the 40 ms of a frame
IGNORE = -1  # the label of a row that no loss may see
SHOWN = 5  # samples named in an error or a report


class DataError(ValueError):
    """Manifest and stores that do not belong together; the message gives the remedy."""


@dataclass(frozen=True)
class Stream:
    """One feature as a head reads it, stored in `name`, of `width` channels.

    Attributes:
        grid: (T, rows, columns) of T steps of tokens; (T,) of T vectors; () of one vector a sample.
    """

    store: FeatureStore
    name: str
    grid: tuple[int, ...]
    width: int

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(T, N, D), (T, D) or (D,)."""
        return (*self.grid[:1], *([math.prod(self.grid[1:])] if len(self.grid) > 1 else []), self.width)

    @property
    def steps(self) -> int:
        """T; 1 where a sample has no steps."""
        return self.grid[0] if self.grid else 1


@dataclass(frozen=True)
class Samples:
    """What can be learned from, and what cannot and why.

    Attributes:
        classes: names of the classes, sorted; a label is an index into them.
        parts: "train", "holdout" and "evaluated" -> sample ids, in the manifest's order.
        labels: sample id -> class index, of every sample of the parts.
        failed: sample id -> reason, of every split.
        unlabelled: how many samples that did not fail have no label.
        skipped: how many labelled samples lie in splits that are neither trained on nor evaluated.
        digest: sha256 of everything that training reads: samples, contents, labels, carve, feature keys.
        streams: role -> Stream.
    """

    classes: list[str]
    parts: dict[str, list[str]]
    labels: dict[str, int]
    failed: dict[str, str]
    unlabelled: int
    skipped: int
    digest: str
    streams: dict[str, Stream] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Every row of the manifest counted exactly once."""
        return {
            **{part: len(samples) for part, samples in self.parts.items()},
            "failed": len(self.failed),
            "unlabelled": self.unlabelled,
            "skipped": self.skipped,
        }

    @property
    def learned_from(self) -> dict[str, int]:
        """The counts that do not depend on what is evaluated."""
        return {name: self.counts[name] for name in ("train", "holdout", "failed", "unlabelled")}


def labelled_samples(run: Run) -> Samples:
    """The samples of a classifier as its params ask for them. Raises as `join` and `sound`."""
    config = run.config
    splits = {"train": config.train_split, "evaluated": config.eval_split}
    return sound(run, open_samples(run.manifest, run.features, **splits, holdout=config.holdout, seed=config.seed))


def sound(run: Run, samples: Samples) -> Samples:
    """The samples, if a head can learn from them.

    Raises:
        DataError: as `refuse_mixed`; or all that can be learned from is of one class.
    """
    refuse_mixed(run.params.compute, (stream.store for stream in samples.streams.values()))
    learned = {int(label) for sample in samples.parts["train"] for label in np.unique(samples.labels[sample])}
    if len(learned - {IGNORE}) < 2:
        held_out = f", or the list {unseen} of unseen" if (unseen := getattr(run.config, "unseen", None)) else ""
        raise DataError(
            f"{run.manifest}: what {run.head} can learn from is of fewer than two classes, and the data set has "
            f"{samples.classes[:SHOWN]}; correct the labels, or train_split in params{held_out}"
        )
    return samples


def open_samples(
    manifest: Path, features: Mapping[str, Path], *, train: str, evaluated: str, holdout: float, seed: int
) -> Samples:
    """Reads the manifest, opens the stores and joins them. Arguments, result and errors: see `join`."""
    frame = read_manifest(manifest)
    # A flipped bit must not become a number: reading with checksums is still far faster than a training step.
    stores = {role: FeatureStore(directory, verify=True) for role, directory in features.items()}
    return join(frame, stores, train=train, evaluated=evaluated, holdout=holdout, seed=seed)


def join(
    frame: pd.DataFrame, stores: Mapping[str, FeatureStore], *, train: str, evaluated: str, holdout: float, seed: int
) -> Samples:
    """Keeps the labelled samples that are ok in every store, and counts the others.

    Args:
        frame: the manifest; columns sample, label, split, digest, status.
        stores: role -> store.
        train, evaluated: names of the split that is learned from and of the one that is reported.
        holdout: share of the train split carved out for early stopping, stratified.
        seed: decides the carve.

    Raises:
        DataError: a store made from other content than the manifest's, a sample that a store has not seen, streams
            whose times or crops differ, or nothing to train on.
    """
    streams = {role: fixed_stream(role, store) for role, store in stores.items()}
    _same_box(streams)
    names = classes(frame)
    index = {name: i for i, name in enumerate(names)}
    found = learnable(frame, stores, train, evaluated, labelled=frame["label"].notna())
    labels = {row.sample: index[row.label] for row in found.rows}
    _same_times(streams, labels)
    held = carve(found.splits[train], labels, holdout, seed)
    if not held:
        raise DataError(
            f"no class of the split {train!r} has two usable samples, so nothing can be held out of training; add "
            "samples, or take kind: probe, which learns from one a class too"
        )
    parts = found.parts(train, evaluated, held)
    content = {
        "classes": names,
        "features": {role: stream.store.key for role, stream in streams.items()},
        **{
            part: [(sample, found.digests[sample], labels[sample]) for sample in parts[part]]
            for part in ("train", "holdout")
        },
    }
    return Samples(
        names, parts, labels, found.failed, found.unlabelled, found.skipped, content_digest(content), streams
    )


@dataclass(frozen=True)
class Usable:
    """What remains of a manifest: rows of some splits, labelled and ok in every store; and how many others, and why."""

    rows: list[Any]
    splits: dict[str, list[str]]
    digests: dict[str, str]
    failed: dict[str, str]
    unlabelled: int
    skipped: int

    def parts(self, train: str, evaluated: str, held: set[str]) -> dict[str, list[str]]:
        """ "train", "holdout" and "evaluated" -> sample ids, in the manifest's order."""
        return {
            "train": [sample for sample in self.splits[train] if sample not in held],
            "holdout": [sample for sample in self.splits[train] if sample in held],
            "evaluated": self.splits[evaluated],
        }


def learnable(
    frame: pd.DataFrame, stores: Mapping[str, FeatureStore], train: str, evaluated: str, labelled: pd.Series
) -> Usable:
    """`usable`, of two splits of which one is learned from.

    Raises:
        DataError: the splits are one, or one of them holds nothing to learn from or to evaluate.
    """
    if train == evaluated:
        raise DataError(f"train_split and eval_split are both {train!r}; a split that was learned from says nothing")
    found = usable(frame, stores, (train, evaluated), labelled)
    for name, split in (("train_split", train), ("eval_split", evaluated)):
        if not found.splits[split]:
            known = sorted({split for joined in frame["split"] for split in joined.split("+")})
            raise DataError(
                f"no sample of the split {split!r} is usable: {len(found.failed)} failed, {found.unlabelled} have no "
                f"label. The manifest's splits are {known}; correct {name} in params"
            )
    return found


def usable(
    frame: pd.DataFrame,
    stores: Mapping[str, FeatureStore],
    wanted: Collection[str],
    labelled: pd.Series,
    spared: Collection[str] = (),
) -> Usable:
    """Sorts the manifest's rows; each is counted once.

    A row may be of several splits, joined by "+", as where a data set has several folds.

    Args:
        frame: the manifest.
        stores: role -> store.
        wanted: names of splits.
        labelled: bool, a row each.
        spared: reasons to have failed in a store that do not make a sample unusable.

    Raises:
        DataError: a sample in two of the splits, a store made from other content than the manifest's, or a sample that
            a store has not seen.
    """
    failed: dict[str, str] = {}
    unlabelled, skipped = 0, 0
    splits: dict[str, list[str]] = {split: [] for split in wanted}
    rows, digests = [], {}
    stored = {role: set(store.samples) for role, store in stores.items()}
    for role, store in stores.items():
        refuse_stale(frame, role, store)
    # What a sample is: its own file alone, unless a store rests on another one.
    others = [expected for expected in map(expected_digest, stores.values()) if expected is not _own_digest]
    for row, has_label in zip(frame.itertuples(index=False), labelled, strict=True):
        reason = None if row.status == "ok" else row.status
        for store in stores.values():
            why = store.failed.get(row.sample)
            reason = reason or (None if why in spared else why)
        chosen = splits.keys() & row.split.split("+")
        if len(chosen) > 1:
            both = " and in ".join(repr(split) for split in splits if split in chosen)
            raise DataError(f"sample {row.sample} is both in {both}; correct the splits")
        if reason:
            failed[row.sample] = reason
        elif not has_label:
            unlabelled += 1
        elif not chosen:
            skipped += 1
        else:
            for role, store in stores.items():
                if row.sample not in stored[role] and row.sample not in store.failed:
                    raise DataError(_stale(row.sample, role, store, "is not in it"))
            splits[chosen.pop()].append(row.sample)
            rows.append(row)
            digests[row.sample] = _joined([expected(row) for expected in others] or [row.digest])
    return Usable(rows, splits, digests, failed, unlabelled, skipped)


def refuse_mixed(compute: Compute, stores: Iterable[FeatureStore]) -> None:
    """Raises DataError, where params refuse it, for a feature of several environments among all these rest on."""
    if compute.mixed == "report":
        return
    for name, found in by_feature(store.provenance for store in stores).items():
        if len(found) > 1:
            raise DataError(
                f"{name} was computed by {len(found)} environments: {apart(found)}; compute.mixed refuses that: delete "
                f"features/*/{name} and extract it in one place, or set mixed: report"
            )


def refuse_stale(frame: pd.DataFrame, role: str, store: FeatureStore) -> None:
    """Raises DataError where a store was made from other files than the manifest's: names the first such sample."""
    held, expected = {*store.samples, *store.failed}, expected_digest(store)
    for row in frame.itertuples(index=False):
        if row.sample in held and store.digest(row.sample) != expected(row):
            raise DataError(_stale(row.sample, role, store, "was made from another file than the manifest's"))


def expected_digest(store: FeatureStore) -> Callable[[Any], str | None]:
    """Row of a manifest -> the digest that the row's sample must have in a store: of its file, its map, its import."""
    made = store.provenance
    kind, name = made["config"]["backbone"], f"{made['feature']}-{store.key}"
    others = {"maps": map_digest_of, **dict.fromkeys(("npy", "imported"), lambda row: imported_digest_of(row, name))}
    return others.get(kind, _own_digest)


def _own_digest(row: Any) -> str:
    return row.digest


def _joined(digests: Sequence[str]) -> str:
    """One digest of several, of one itself."""
    return digests[0] if len(digests) == 1 else content_digest(list(digests))


def content_digest(content: Any) -> str:
    """sha256 of canonical JSON."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def carve(samples: Sequence[str], labels: Mapping[str, int], share: float, seed: int) -> set[str]:
    """The samples held out of training: `share` of each class, rounded, at least one where a class has two.

    A hash of seed and sample decides, so the choice does not depend on the samples' order, and adding samples moves
    few of the others.
    """
    groups: dict[int, list[str]] = {}
    for sample in samples:
        groups.setdefault(labels[sample], []).append(sample)
    held: set[str] = set()
    for group in groups.values():
        ranked = shuffled(group, seed)
        count = min(max(round(share * len(group)), 1), len(group) - 1)
        held.update(ranked[:count])
    return held


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """In the order of a hash of seed and name: adding names moves none of the others past each other."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def fixed_stream(role: str, store: FeatureStore) -> Stream:
    """What a store holds of each sample, in a shape that is the same for all: tokens, or else the only field.

    Raises:
        DataError: several fields of which none, or more than one, is of tokens; rows whose number differs.
    """
    shapes = {name: shape for name, (shape, _) in store.fields.items()}
    if len(shapes) > 1 or any(len(shape) == 3 for shape in shapes.values()):
        return token_stream(role, store)
    ((name, shape),) = shapes.items()
    if None in shape or not shape:
        raise DataError(
            f"{role}: {name} has another number of rows in each sample, and a classifier reads what has one shape; "
            "name a feature of a fixed number of steps in params"
        )
    return Stream(store, name, tuple(shape[:-1]), shape[-1])


def token_stream(role: str, store: FeatureStore) -> Stream:
    """The token field of a store: the one whose samples have three axes, steps x tokens x width."""
    fields = {name: shape for name, (shape, _) in store.fields.items() if len(shape) == 3}
    if len(fields) != 1:
        raise DataError(
            f"{role}: a head needs exactly one field of shape (steps, tokens, width), but the store holds "
            f"{ {name: shape for name, (shape, _) in store.fields.items()} }; name another feature in params"
        )
    ((name, shape),) = fields.items()
    grid = tuple(store.provenance["grid"])
    if (grid[0], grid[1] * grid[2]) != tuple(shape[:2]):
        raise DataError(f"{role}: the provenance's grid {grid} does not fit {name} {tuple(shape)}; extract it again")
    return Stream(store, name, grid, shape[2])


def _same_box(streams: Mapping[str, Stream]) -> None:
    boxes = {role: _seen(stream.store.provenance) for role, stream in streams.items() if len(stream.grid) == 3}
    boxes = {role: box for role, box in boxes.items() if box is not None}
    if len(boxes) < 2:
        return
    first = next(iter(boxes.values()))
    if not all(same_part(first, box) for box in boxes.values()):
        said = "; ".join(f"{role} {box} ({kind})" for role, (kind, box) in boxes.items())
        raise DataError(
            f"the streams see different parts of the frame: {said}. Cells and patches would not lie on each other; "
            "give both features the same crop under preprocess in params"
        )


def _seen(provenance: Mapping[str, Any]) -> Part | None:
    """The part of the frame that a feature saw; None where its checkpoint's own preprocessing does not say."""
    geometry = provenance["config"].get("preprocess", {})
    if geometry is None:
        return None
    return part_of(provenance["box"], geometry.get("resize"), geometry.get("crop"))


def _same_times(streams: Mapping[str, Stream], samples: Mapping[str, int]) -> None:
    stepped = [(role, stream) for role, stream in streams.items() if stream.steps > 1]
    if len(stepped) < 2:
        return
    (first, reference), *others = stepped
    for sample in samples:
        wanted = reference.store.meta(sample)["times"]
        for role, stream in others:
            times = stream.store.meta(sample)["times"]
            if len(times) != len(wanted) or not np.allclose(times, wanted, rtol=0, atol=TIME_TOLERANCE):
                raise DataError(
                    f"sample {sample}: the tokens of {first} are at {_rounded(wanted)} s, those of {role} at "
                    f"{_rounded(times)} s; choose sampling.frames in params so that both have the same steps"
                )


def _rounded(times: Sequence[float]) -> list[float]:
    return [round(time, 3) for time in times]


def _stale(sample: str, role: str, store: FeatureStore, what: str) -> str:
    provenance = store.provenance
    return (
        f"the {role} store ({provenance.get('feature', role)}-{store.key}) is stale: sample {sample} {what}. "
        "Run `snakemake`, or `python -m pipeline extract` for this feature, and only that sample is computed"
    )
