"""Samples of stores as a torch Dataset, and their batches. Imports torch; knows no head and no backbone.

Shape suffixes: B samples, T rows.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from permafrost.stores import Store
from pipeline.datasets.manifest import classes
from pipeline.training.dataset import IGNORE, DataError, usable

EVERY = "every"  # the split of all samples, where none is named
TAKEN = ("label", "id")
STARTS = ("fork", "spawn", "forkserver")  # how worker processes may start


class FeatureDataset(Dataset[dict[str, Any]]):
    """The samples of a manifest that are ok in every store: {feature: tensor, "label": int, "id": str}.

    Only paths are pickled: a worker opens the stores itself, forked or spawned.

    Args:
        frame: the manifest.
        stores: feature -> store.
        split: None takes every sample.
        keep: samples without a label too, whose label is -1.
        dtype: of float tensors; None is as stored.

    Attributes:
        ids: of the samples, in the manifest's order.
        labels: (len(ids),) int64, indices into `classes`.
        classes: names, of the whole data set whatever the split.
        failed: id -> reason, of samples of any split that failed.
        unlabelled: how many samples were left out since they have no label.
        split: its name, or None.

    Raises:
        DataError: as `pf.dataset` says.
    """

    def __init__(
        self, frame: pd.DataFrame, stores: Mapping[str, Store], split: str | None, *, keep: bool, dtype: str | None
    ) -> None:
        if wrong := [name for name in stores if name in TAKEN or name.endswith("_lengths")]:
            raise DataError(f"a feature called {wrong[0]!r} would hide that entry of a sample; rename it in params")
        self.stores, self.split = dict(stores), split
        self.dtype = None if dtype is None else getattr(torch, dtype)
        named = EVERY if split is None else split
        labelled = frame["label"].notna()
        chosen = frame if split is not None else frame.assign(split=EVERY)
        found = usable(chosen, {name: store.reader for name, store in stores.items()}, (named,), labelled | keep)
        self.ids, self.failed, self.unlabelled = found.splits[named], found.failed, found.unlabelled
        if not self.ids:
            splits = sorted({one for joined in frame["split"] for one in joined.split("+")})
            hint = 'pass unlabelled="keep" for samples without labels, ' if found.unlabelled else ""
            raise DataError(
                f"no sample of {'any split' if split is None else f'the split {split!r}'} is usable: "
                f"{len(found.failed)} failed, {found.unlabelled} have no label; {hint}or name one of the manifest's "
                f"splits, {', '.join(splits)}"
            )
        self.classes = classes(frame)
        index = {name: number for number, name in enumerate(self.classes)}
        label_of = dict(zip(frame["sample"], frame["label"], strict=True))
        self.labels = np.array([index.get(label_of[sample], IGNORE) for sample in self.ids], np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        of = "all samples" if self.split is None else f"split {self.split}"
        return f"<FeatureDataset of {of}: {len(self)} samples of {len(self.classes)} classes; {', '.join(self.stores)}>"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample. Raises StoreCorrupt where what is read does not fit its checksum."""
        return self.sample(index)

    def sample(self, index: int, rows: int | None = None, draw: float | None = None) -> dict[str, Any]:
        """A sample, of ragged features `rows` rows at most.

        Args:
            index: of `ids`.
            rows: None reads all.
            draw: in [0, 1): where the window lies in what there is; None is the middle.
        """
        sample = self.ids[index]
        found: dict[str, Any] = {}
        for name, store in self.stores.items():
            found[name] = self._tensor(store, sample, rows, draw)
        return found | {"label": int(self.labels[index]), "id": sample}

    def _tensor(self, store: Store, sample: str, rows: int | None, draw: float | None) -> Tensor:
        if rows is None or not store.ragged:
            array = store[sample]
        else:
            left = store.length(sample) - rows
            start = 0 if left <= 0 else left // 2 if draw is None else int(draw * (left + 1))
            array = store.rows(sample, start, start + rows + min(left, 0))
        tensor = torch.from_numpy(array)
        return tensor.to(self.dtype) if self.dtype is not None and tensor.is_floating_point() else tensor


class Batches(Sampler[list[tuple[int, int]]]):
    """(epoch, index) of each sample of each batch: seed and epoch alone decide the order, whoever reads.

    Args:
        count: samples.
        size: of a batch.
        shuffle: a new order each epoch; `set_epoch` chooses one, else each pass is the next.
        seed: with the epoch, decides.
        drop_last: leaves out a last batch of fewer samples.
    """

    def __init__(self, count: int, size: int, shuffle: bool, seed: int, drop_last: bool) -> None:
        self.count, self.size, self.shuffle, self.seed, self.drop_last = count, size, shuffle, seed, drop_last
        self.epoch = 0

    def __len__(self) -> int:
        return self.count // self.size if self.drop_last else -(-self.count // self.size)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass: a resumed training goes on where it was."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.arange(self.count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        for batch in range(len(self)):
            yield [(epoch, int(index)) for index in order[batch * self.size : (batch + 1) * self.size]]


class _Windows(Dataset[dict[str, Any]]):
    """Samples by (epoch, index), cropped as these and the seed say."""

    def __init__(self, data: FeatureDataset, rows: int | None, seed: int | None) -> None:
        self.data, self.rows, self.seed = data, rows, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        epoch, index = place
        if self.rows is None or self.seed is None:
            return self.data.sample(index, self.rows)
        digest = hashlib.sha256(f"{self.seed}:{epoch}:{self.data.ids[index]}".encode()).digest()
        return self.data.sample(index, self.rows, int.from_bytes(digest[:6]) / 2**48)


class _Collate:
    """A batch of samples; ragged features are padded to `rows`, or to the longest."""

    def __init__(self, ragged: Sequence[str], rows: int | None) -> None:
        self.ragged, self.rows = frozenset(ragged), rows

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for name in samples[0]:
            values = [sample[name] for sample in samples]
            if name in self.ragged:
                lengths = torch.tensor([len(value) for value in values])
                padded = values[0].new_zeros(len(values), self.rows or int(lengths.max()), *values[0].shape[1:])
                for place, value in zip(padded, values, strict=True):
                    place[: len(value)] = value
                batch |= {name: padded, f"{name}_lengths": lengths}
            elif name == "id":
                batch[name] = values
            else:
                batch[name] = torch.tensor(values) if name == "label" else torch.stack(values)
        return batch


def _seed_worker(worker: int) -> None:
    """numpy and random follow torch, which the loader seeds in each worker from its generator."""
    seed = torch.initial_seed()
    np.random.seed(seed % 2**32)
    random.seed(seed)


def make_loader(
    data: FeatureDataset,
    batch_size: int,
    shuffle: bool | None,
    rows: int | None,
    seed: int,
    workers: int,
    start: str | None,
    drop_last: bool,
) -> DataLoader:
    """See `permafrost.loader`."""
    if not isinstance(data, FeatureDataset):
        raise DataError(f"expected what pf.dataset gives, got {type(data).__name__}; torch's DataLoader takes that")
    shuffle = data.split == "train" if shuffle is None else shuffle
    numbers = (("batch_size", batch_size, 1), ("rows", rows, 1), ("seed", seed, 0), ("workers", workers, 0))
    for name, value, least in numbers:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not (whole and value >= least) and not (name == "rows" and value is None):
            raise DataError(f"{name} is {value!r}, expected a whole number, {least} or more")
    if start is not None and start not in STARTS:
        raise DataError(f"start is {start!r}, expected None or one of {', '.join(STARTS)}")
    ragged = [name for name, store in data.stores.items() if store.ragged]
    return DataLoader(
        _Windows(data, rows, seed if shuffle else None),
        batch_sampler=Batches(len(data), batch_size, shuffle, seed, drop_last),
        collate_fn=_Collate(ragged, rows),
        num_workers=workers,
        multiprocessing_context=start if workers else None,
        worker_init_fn=_seed_worker,
        generator=torch.Generator().manual_seed(seed),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
