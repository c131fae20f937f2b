"""Joins a manifest with a store of frame features into videos with a label a row. Knows no head and no trainer.

Shape suffixes: B videos, T rows, L labels of a video, C classes, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.datasets.manifest import classes, read_manifest
from pipeline.datasets.segments import frame_labels
from pipeline.datasets.twins import refuse_one_text
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.training.dataset import IGNORE, DataError, Samples, carve, content_digest, learnable, shuffled, sound
from pipeline.training.table import Table


@dataclass(frozen=True)
class FrameStream:
    """A feature of `width` channels, stored in `name`: `fps` rows a second, or None where it is one of texts.

    `sampled` rows are of moments 1/fps apart of a video; others are of whatever their maker counted.
    """

    store: FeatureStore
    name: str
    width: int
    fps: float | None = None
    sampled: bool = False


@dataclass(frozen=True)
class Videos(Samples):
    """Videos to learn segmentation from. `labels` are those that training may see.

    Attributes (beside those of Samples):
        labels: sample id -> (T,) int64, the class of each row that is read; IGNORE where it is held out or unlabelled.
        truth: sample id -> (L,) int64, the class of each labelled frame, held-out classes among them.
        row_of_label: sample id -> (L,) int64, the row that each label belongs to.
        seen: (C,) bool; False for classes that are held out of training.
        background: the classes that are background.
        sample_rate: one row in so many is read.
        pairs: (C, 2) int64, the verb and the noun of each class, where classes are such pairs; else None.
        n_parts: how many verbs and nouns the data set's vocabularies have, those among them that no class is made of.
        text: (C, e) float32, unit vectors of the classes' texts, where a vocabulary is read; else None.
        given: sample id -> (S,) int64, the classes of its segments in order, where they are not told by its labels.
    """

    truth: dict[str, np.ndarray] = field(repr=False, default_factory=dict)
    row_of_label: dict[str, np.ndarray] = field(repr=False, default_factory=dict)
    seen: np.ndarray = field(repr=False, default_factory=lambda: np.ones(0, bool))
    background: tuple[int, ...] = ()
    sample_rate: int = 1
    pairs: np.ndarray | None = field(repr=False, default=None)
    n_parts: tuple[int, int] = (0, 0)
    text: np.ndarray | None = field(repr=False, default=None)
    given: dict[str, np.ndarray] = field(repr=False, default_factory=dict)

    def transcript(self, sample: str) -> np.ndarray:
        """(S,) int64, the classes of a video's segments in order."""
        return self.given[sample] if sample in self.given else transcript(self.labels[sample])

    def standing_in(self, share: float, seed: int) -> "Videos":
        """The same videos with some of the seen classes hidden like the unseen ones, and those left aside.

        Args:
            share: of the seen classes that are no background; at least one.
            seed: decides which, by a hash of seed and name.

        Raises:
            DataError: no class is left to be seen, or none that can stand in.
        """
        able = [c for c in np.flatnonzero(self.seen).tolist() if c not in self.background]
        ranked = [self.classes.index(name) for name in shuffled([self.classes[c] for c in able], seed)]
        count = max(round(share * len(able)), 1)
        if len(able) <= count:
            raise DataError(
                f"{count} of {len(able)} seen classes cannot stand in for unseen ones: too few are left; lower "
                "stand_ins of the head, or hold fewer classes out"
            )
        hidden = sorted(ranked[:count])
        seen = self.seen.copy()
        seen[hidden] = False
        labels = {sample: np.where((of != IGNORE) & seen[of], of, IGNORE) for sample, of in self.labels.items()}
        return replace(self, labels=labels, seen=seen, digest=content_digest([self.digest, hidden]))


def frame_samples(run: Run) -> Videos:
    """The videos of a head as its params ask for them. Raises as `open_videos` and `sound`."""
    config, dataset = run.config, run.params.datasets[run.dataset]
    videos = open_videos(
        run.manifest,
        run.features,
        train=config.train_split,
        evaluated=config.eval_split,
        holdout=config.holdout,
        seed=config.seed,
        sample_rate=config.sample_rate,
        tolerance=config.tolerance,
        label_fps=dataset.label_fps,
        background=dataset.background,
        unseen=getattr(config, "unseen", None),
    )
    return sound(run, videos)


def open_videos(
    manifest: Path,
    features: Mapping[str, Path],
    *,
    train: str,
    evaluated: str,
    holdout: float,
    seed: int,
    sample_rate: int,
    tolerance: int,
    label_fps: float | None,
    background: Sequence[str],
    unseen: str | None,
) -> Videos:
    """Reads the manifest, opens the store and joins them.

    Args:
        manifest: the data set's Parquet manifest.
        features: {"frames": the directory of a store with a row a frame}, and with a vocabulary "text": that of a store
            with a vector a text.
        train, evaluated: names of splits.
        holdout: share of the train videos carved out for early stopping.
        seed: decides the carve.
        sample_rate: one row in so many is read; its label is the commonest of those it stands for.
        tolerance: frames by which labels and features of a video may differ in length; the longer is cut.
        label_fps: labels a second, each belonging to the row nearest in time; None is one label a row.
        background: names of classes.
        unseen: the list of the data set's class_lists that is held out of training; None holds out nothing.

    Raises:
        DataError: manifest and store that do not belong together, lengths that differ too much, a label a frame of a
            video of variable rate for rows a second, unknown names.
    """
    frame = read_manifest(manifest)
    streams = {"frames": frame_stream(FeatureStore(features["frames"], verify=True))}
    stream, names, text = streams["frames"], classes(frame), None
    if "text" in features:
        streams["text"], text = vocabulary(FeatureStore(features["text"], verify=True), names)
    seen = seen_classes(frame, names, unseen)
    found = learnable(frame, {"frames": stream.store}, train, evaluated, labelled=frame["segments"].notna())
    lengths = stream.store.lengths(stream.name)
    labels, truth, row_of_label = {}, {}, {}
    for row in found.rows:
        sample = row.sample
        whole = frame_labels(row.segments, names)
        if stream.sampled and label_fps is None:
            _expect_even(row, len(whole), stream.fps, tolerance)
        rows = rows_of_labels(sample, len(whole), lengths[sample], stream.fps, label_fps, tolerance)
        truth[sample], row_of_label[sample] = whole[: len(rows)], rows // sample_rate
        shown = np.where(seen[truth[sample]], truth[sample], IGNORE)
        labels[sample] = majority(shown, row_of_label[sample], -(-lengths[sample] // sample_rate))
    held = carve(found.splits[train], dict.fromkeys(found.splits[train], 0), holdout, seed)
    if not held:
        raise DataError(f"the split {train!r} has one usable video, so none can be held out of training")
    parts = found.parts(train, evaluated, held)
    made_of = frame.attrs.get("parts", {"verbs": [], "nouns": [], "pairs": None})
    content = {
        "classes": names,
        "features": {role: other.store.key for role, other in streams.items()},
        "background": list(background),
        "seen": seen.tolist(),
        **{
            part: [(sample, found.digests[sample], labels[sample].tolist()) for sample in parts[part]]
            for part in ("train", "holdout")
        },
    }
    return Videos(
        classes=names,
        parts=parts,
        labels=labels,
        failed=found.failed,
        unlabelled=found.unlabelled,
        skipped=found.skipped,
        digest=content_digest(content),
        streams=streams,
        truth=truth,
        row_of_label=row_of_label,
        seen=seen,
        background=tuple(_indices(background, names, "background")),
        sample_rate=sample_rate,
        pairs=None if made_of["pairs"] is None else np.array(made_of["pairs"], np.int64),
        n_parts=(len(made_of["verbs"]), len(made_of["nouns"])),
        text=text,
    )


def text_of(name: str) -> str:
    """What a class is called in a vocabulary: its name with spaces for underscores."""
    return name.replace("_", " ")


def vocabulary(store: FeatureStore, names: Sequence[str]) -> tuple[FrameStream, np.ndarray]:
    """The stream of texts, and the embeddings of the classes, (C, e) float32.

    Raises:
        DataError: one is not there.
        DatasetError: two classes have one, as `pour_tea` and `pour tea`.
    """
    texts = [text_of(name) for name in names]
    if absent := sorted(set(texts) - set(store.samples)):
        raise DataError(
            f"the vocabulary lacks {len(absent)} of {len(texts)} classes, first {absent[0]!r}; add a line for each to "
            "the data set of texts"
        )
    ((name, (shape, _)),) = store.fields.items()
    vectors_CE = store.read(texts, name).astype(np.float32)
    refuse_one_text(names, texts, "the vocabulary", vectors_CE)
    return FrameStream(store, name, shape[0]), vectors_CE


def frame_stream(store: FeatureStore) -> FrameStream:
    """The field of a store with a row a frame: the one whose samples have two axes, the first of any length."""
    fields = {name: shape for name, (shape, _) in store.fields.items() if len(shape) == 2 and shape[0] is None}
    if len(fields) != 1:
        raise DataError(
            f"frames: a segmentation head needs exactly one field of shape (None, width), but the store holds "
            f"{ {name: shape for name, (shape, _) in store.fields.items()} }; name another feature in params"
        )
    ((name, shape),) = fields.items()
    config = store.provenance["config"]
    sampled = "sampling" in config
    return FrameStream(store, name, shape[1], (config["sampling"] if sampled else config)["fps"], sampled)


def seen_classes(frame: pd.DataFrame, names: Sequence[str], unseen: str | None) -> np.ndarray:
    """(C,) bool: whether a class is shown in training. Raises DataError for a list that the data set does not have."""
    lists, seen = frame.attrs.get("class_lists", {}), np.ones(len(names), bool)
    if unseen is None:
        return seen
    if unseen not in lists:
        raise DataError(f"unseen names the list {unseen!r}; the data set's class_lists are {sorted(lists) or 'none'}")
    if not lists[unseen]:
        raise DataError(
            f"unseen names the list {unseen!r}, which holds no class; write one a line, or ask the fact head"
        )
    seen[_indices(lists[unseen], names, f"class_lists.{unseen}")] = False
    return seen


def _indices(chosen: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    index = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in chosen if name not in index]:
        raise DataError(f"{where} names the class {unknown[0]!r}, which the data set does not have")
    return [index[name] for name in chosen]


def rows_of_labels(
    sample: str, labels: int, rows: int, row_fps: float, label_fps: float | None, tolerance: int
) -> np.ndarray:
    """(L,) the row of each label that is kept, L being `labels` less what lies beyond the last row.

    Row i and label j stand for the times (i + 0.5) / row_fps and (j + 0.5) / label_fps.

    Raises:
        DataError: more than `tolerance` labels lie beyond the rows, or as many beyond the labels.
    """
    each = 1.0 if label_fps is None else row_fps / label_fps  # rows a label
    there = round(rows / each)
    kept = min(labels, there)
    if abs(labels - there) > tolerance:
        raise DataError(
            f"sample {sample}: {labels} labels and {rows} rows of features differ by {abs(labels - there)} "
            f"frames, more than the tolerance of {tolerance}; correct the files, or label_fps of the data set, or "
            "tolerance of the head"
        )
    return np.minimum(((np.arange(kept) + 0.5) * each).astype(np.int64), rows - 1)


def _expect_even(row: Any, labels: int, fps: float, tolerance: int) -> None:
    """Raises DataError where labels may count the frames of a video of variable rate, which rows of equal steps do not.

    Their number is no proof: a screen recording of bursts and pauses has as many frames as its mean rate promises.
    """
    if pd.isna(row.uneven) or row.uneven * fps <= 1 or abs(labels - row.frames) > tolerance:
        return
    raise DataError(
        f"sample {row.sample}: its {labels} labels are as many as the frames of its video, which are shown for unequal "
        f"times, up to {row.uneven:.2f} s from a constant rate, but the rows of the features are {fps:g} a second; "
        f"set label_fps: {fps:g} in the data set if the labels are so many a second, or else encode the video at a "
        "constant rate and label its frames, or use features with a row a frame"
    )


def majority(labels_L: np.ndarray, row_of_label_L: np.ndarray, rows: int) -> np.ndarray:
    """(T,) the commonest label of each row, of equals the one that comes first in time; IGNORE where it has none.

    Args:
        labels_L: class indices or IGNORE, which counts as a class of its own and wins no tie; in the order of time.
        row_of_label_L: the row of each.
        rows: T.

    Source: FACT's own downsampling of labels, which takes the commonest of a clip, of equals the first that it meets.

    >>> majority(np.array([3, 1, 1, 3, 2, -1]), np.array([0, 0, 0, 0, 1, 1]), 3).tolist()
    [3, 2, -1]
    """
    found, first, count = np.unique(np.stack([row_of_label_L, labels_L]), axis=1, return_index=True, return_counts=True)
    row, label = found
    order = np.lexsort((first, label == IGNORE, -count, row))
    row, best = np.unique(row[order], return_index=True)
    best_T = np.full(rows, IGNORE)
    best_T[row] = label[order][best]
    return best_T


def transcript(labels_T: np.ndarray) -> np.ndarray:
    """(S,) the classes of a video's segments in order: runs of one class, IGNORE left out.

    >>> transcript(np.array([4, 4, 7, -1, 7, 9])).tolist()
    [4, 7, 7, 9]
    """
    starts = np.flatnonzero(np.diff(labels_T, prepend=IGNORE - 1))
    return labels_T[starts][labels_T[starts] != IGNORE]


class Rows(Table):
    """Videos by lists of row numbers, a padded batch at a time; features that fit into the memory allowed stay in it.

    Args:
        samples: the joined videos.
        ids: the videos that numbers count, in order.
        memory: bytes that may be held.
    """

    def __init__(self, samples: Videos, ids: Sequence[str], memory: float) -> None:
        self.ids, self.samples = list(ids), samples
        self.stream: FrameStream = samples.streams["frames"]
        lengths = self.stream.store.lengths(self.stream.name)
        size = sum(lengths[sample] for sample in self.ids) * self.stream.width * 2
        self.longest = max(range(len(self.ids)), key=lambda row: lengths[self.ids[row]], default=0)
        self.in_memory = size <= memory
        self.held = {sample: self._read(sample) for sample in self.ids} if self.in_memory else {}

    def _read(self, sample: str) -> Tensor:
        (rows_TD,) = self.stream.store.read_ragged([sample], self.stream.name)
        return torch.from_numpy(np.ascontiguousarray(rows_TD[:: self.samples.sample_rate]))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """A batch: frames (B, T, D) as stored, zero where padded; mask (B, T) bool; labels (B, T) int64, IGNORE where
        padded; transcript (B, S) int64, -1 where padded; row (B,) int64."""
        chosen = [self.ids[row] for row in rows]
        features = [self.held[sample] if self.in_memory else self._read(sample) for sample in chosen]
        longest = max(len(rows_TD) for rows_TD in features)
        batch = {
            "frames": features[0].new_zeros(len(rows), longest, self.stream.width),
            "mask": torch.zeros(len(rows), longest, dtype=torch.bool),
            "labels": torch.full((len(rows), longest), IGNORE),
            "row": torch.as_tensor(rows, dtype=torch.int64),
        }
        transcripts = [torch.from_numpy(self.samples.transcript(sample)) for sample in chosen]
        batch["transcript"] = pad_sequence(transcripts, batch_first=True, padding_value=IGNORE)
        for place, (sample, rows_TD) in enumerate(zip(chosen, features, strict=True)):
            batch["frames"][place, : len(rows_TD)] = rows_TD
            batch["mask"][place, : len(rows_TD)] = True
            batch["labels"][place, : len(rows_TD)] = torch.from_numpy(self.samples.labels[sample])
        return batch
