"""Joins a manifest with token grids and attention maps into clips with a diagnosis. Knows no head and no trainer.

Shape suffixes: B clips, T steps, N tokens a step, D width, C channels of a map.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.datasets.manifest import NO_MAP, classes, read_manifest
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.training.dataset import DataError, Samples, content_digest, shuffled, sound, token_stream, usable
from pipeline.training.table import Batch
from pipeline.training.tokens import Tokens


class MapStream(NamedTuple):
    """The maps of a token grid: (C, T, rows * scale, columns * scale) each, stored in `name`."""

    store: FeatureStore
    name: str
    channels: int
    scale: int


@dataclass(frozen=True)
class Clips(Samples):
    """Clips to learn a diagnosis and a clinician's attention from.

    Attributes (beside those of Samples):
        maps: sample id -> digest of its map, the same for the same map; None where there is none.
        patients: sample id -> patient.
        clinicians: sample id -> who drew the map; None where nobody is named.
    """

    maps: dict[str, str | None] = field(repr=False, default_factory=dict)
    patients: dict[str, str] = field(repr=False, default_factory=dict)
    clinicians: dict[str, str | None] = field(repr=False, default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Every row of the manifest counted exactly once, and how many of those that are used have no map."""
        return {**super().counts, "without_map": sum(digest is None for digest in self.maps.values())}

    @property
    def learned_from(self) -> dict[str, int]:
        learned = [*self.parts["train"], *self.parts["holdout"]]
        return {**super().learned_from, "without_map": sum(self.maps[sample] is None for sample in learned)}

    @property
    def mean_map(self) -> Tensor:
        """(C, T, H, W) float32: the mean over the clips of train that have a map; zeros where none has."""
        ids = [sample for sample in self.parts["train"] if self.maps[sample] is not None]
        stream = self.streams["maps"]
        shape, _ = stream.store.fields[stream.name]
        if not ids:
            return torch.zeros(shape, dtype=torch.float32)
        return torch.from_numpy(stream.store.read(ids, stream.name).astype(np.float64).mean(axis=0)).float()

    @property
    def class_weights(self) -> Tensor:
        """(classes,) float32: the inverse of each one's share of train, 0 where it has none; of mean 1 over clips."""
        labels = [self.labels[sample] for sample in self.parts["train"]]
        count = torch.bincount(torch.tensor(labels), minlength=len(self.classes)).float()
        present = count > 0
        return torch.where(present, len(labels) / (int(present.sum()) * count.clamp_min(1)), 0.0)


def clip_samples(run: Run) -> Clips:
    """The clips of a head as its params ask for them. Raises as `open_clips` and `sound`."""
    config, drawn = run.config, run.config.clinicians
    clips = open_clips(
        run.manifest,
        run.features,
        train=config.train_split,
        holdout=config.holdout_split,
        evaluated=config.eval_split,
        seed=config.seed,
        learned_from=drawn and drawn.train,
        evaluated_with=drawn and drawn.evaluated,
        fraction=config.fraction,
    )
    return sound(run, clips)


def open_clips(
    manifest: Path,
    features: Mapping[str, Path],
    *,
    train: str,
    holdout: str,
    evaluated: str,
    seed: int,
    learned_from: Sequence[str] | None = None,
    evaluated_with: Sequence[str] | None = None,
    fraction: float = 1.0,
) -> Clips:
    """Reads the manifest, opens the stores and joins them.

    Args:
        manifest: the data set's Parquet manifest.
        features: the directories of "tokens", a token grid, and of "maps", made from it.
        train, holdout, evaluated: names of three splits.
        seed: decides which patients a fraction holds.
        learned_from, evaluated_with: clinicians whose clips train and holdout, and the evaluated split, are made of;
            None is all of them. Clips of the others count as skipped.
        fraction: the share of the patients of train that is learned from, of each diagnosis, rounded up; a smaller
            one is part of a larger one. Clips of the others count as skipped.

    Raises:
        DataError: manifest and stores that do not belong together, a patient in two of the splits, a clinician whom
            nobody knows, or a split without a usable clip.
    """
    frame = read_manifest(manifest)
    tokens, maps = (FeatureStore(features[role], verify=True) for role in ("tokens", "maps"))
    streams = {"tokens": token_stream("tokens", tokens), "maps": map_stream(tokens, maps)}
    names = classes(frame)
    index = {name: number for number, name in enumerate(names)}
    splits = {"train": train, "holdout": holdout, "evaluated": evaluated}
    stores = {"tokens": tokens, "maps": maps}
    found = usable(frame, stores, tuple(splits.values()), frame["label"].notna(), spared=(NO_MAP,))
    rows = {row.sample: row for row in found.rows}
    patients = {sample: row.patient if row.patient is not None else sample for sample, row in rows.items()}
    one_split_each({name: found.splits[name] for name in splits.values()}, patients)
    known = {row.clinician for row in rows.values()}
    parts = {}
    for part, split in splits.items():
        wanted = evaluated_with if part == "evaluated" else learned_from
        if wanted is not None and (strangers := sorted(set(wanted) - known)):
            raise DataError(
                f"no usable clip is of the clinician {strangers[0]!r}; known are {sorted(filter(None, known))}: "
                "correct clinicians in params"
            )
        parts[part] = [s for s in found.splits[split] if wanted is None or rows[s].clinician in wanted]
    labels = {sample: index[row.label] for sample, row in rows.items()}
    parts["train"] = few(parts["train"], patients, labels, fraction, seed)
    for part, ids in parts.items():
        if not ids:
            splits_of_manifest = sorted(set(frame["split"]))
            raise DataError(
                f"the split {splits[part]!r} holds no usable clip for {part}: {len(found.failed)} failed, "
                f"{found.unlabelled} have no label. The manifest's splits are {splits_of_manifest}; correct params"
            )
    used = [sample for ids in parts.values() for sample in ids]
    drawn = {sample: None if sample in maps.failed else rows[sample].map_digest for sample in used}
    content = {
        "classes": names,
        "features": {role: store.key for role, store in stores.items()},
        **{
            part: [(sample, found.digests[sample], labels[sample], patients[sample]) for sample in parts[part]]
            for part in ("train", "holdout")
        },
    }
    return Clips(
        names,
        parts,
        {sample: labels[sample] for sample in used},
        found.failed,
        found.unlabelled,
        found.skipped + len(rows) - len(used),
        content_digest(content),
        streams,
        maps=drawn,
        patients={sample: patients[sample] for sample in used},
        clinicians={sample: rows[sample].clinician for sample in used},
    )


def map_stream(tokens: FeatureStore, maps: FeatureStore) -> MapStream:
    """The maps' field, if they were rendered on the frames and the crop of these very tokens.

    Raises:
        DataError: they were made from another feature, or the store holds no maps.
    """
    made = maps.provenance
    if made["config"]["backbone"] != "maps":
        raise DataError(f"maps: {made['feature']} holds no maps; name a feature with backbone: maps in params")
    sources = {name: read["key"] for name, read in made["reads"].items()}
    if tokens.key not in sources.values():
        raise DataError(
            f"maps: {made['feature']} lies on the grid of {', '.join(sources)}, but the tokens are "
            f"{tokens.provenance['feature']}; let its source in params be what the head reads as tokens"
        )
    ((name, (shape, _)),) = maps.fields.items()
    return MapStream(maps, name, shape[0], made["config"]["scale"])


def one_split_each(splits: Mapping[str, Sequence[str]], patients: Mapping[str, str]) -> None:
    """Refuses a patient of whom there are clips in two splits: what is learned of a person must not be tested on him.

    Raises:
        DataError: names the patient, both splits and a clip of each.
    """
    first: dict[str, tuple[str, str]] = {}
    for split, ids in splits.items():
        for sample in ids:
            other, clip = first.setdefault(patients[sample], (split, sample))
            if other != split:
                raise DataError(
                    f"patient {patients[sample]} is in {other} ({clip}) and in {split} ({sample}); move all clips of "
                    "a patient to one split"
                )


def few(
    samples: Sequence[str], patients: Mapping[str, str], labels: Mapping[str, int], share: float, seed: int
) -> list[str]:
    """The clips of a share of the patients, of each diagnosis, rounded up; a smaller share is part of a larger one."""
    groups: dict[int, dict[str, None]] = {}
    for sample in samples:
        groups.setdefault(labels[sample], {})[patients[sample]] = None
    chosen: set[str] = set()
    for group in groups.values():
        chosen.update(shuffled(group, seed)[: math.ceil(round(share * len(group), 9))])
    return [sample for sample in samples if patients[sample] in chosen]


class ClipTable(Tokens):
    """Clips by lists of rows: a batch of tokens with the maps of it.

    The maps are small, and are held whatever the memory.
    """

    def __init__(self, samples: Clips, ids: Sequence[str], memory: float) -> None:
        super().__init__(samples, ids, memory, roles=("tokens",))
        stream = samples.streams["maps"]
        (shape, dtype), drawn = stream.store.fields[stream.name], [samples.maps[sample] for sample in ids]
        self.has_map = torch.tensor([digest is not None for digest in drawn])
        self.maps = torch.from_numpy(np.zeros((len(self.ids), *shape), dtype))
        if there := [sample for sample, digest in zip(ids, drawn, strict=True) if digest is not None]:
            self.maps[self.has_map] = torch.from_numpy(stream.store.read(there, stream.name))
        self.map = torch.from_numpy(numbered(drawn))
        self.group = torch.from_numpy(numbered([samples.patients[sample] for sample in ids]))

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """A batch: tokens (B, T, N, D) and maps (B, C, T, H, W) as stored, zeros where has_map (B,) is False; map and
        group (B,) int64, equal for the same map and for the same patient; times, label and row as of `Tokens`."""
        batch = super().__getitem__(rows)
        own = {name: getattr(self, name)[batch["row"]] for name in ("maps", "has_map", "map", "group")}
        return {**batch, **own}


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """(N,) int64: a number a name, in the order in which they come.

    >>> numbered(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    index = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([index[name] for name in names], dtype=np.int64)
