"""Manifests and stores as tables, torch datasets and loaders. Imports torch and pandas where they are asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from permafrost.stores import Store, open_store

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch.utils.data import DataLoader

    from permafrost.batches import FeatureDataset

ROOT = Path("features")
MANIFEST = "manifest.parquet"
FLOATS = ("float16", "bfloat16", "float32", "float64")


def manifest(dataset: str | Path, root: str | Path = ROOT) -> pd.DataFrame:
    """The manifest of a data set: a row a sample, with `sample`, `path`, `label`, `split`, `status` and facts.

    Args:
        dataset: its name, or a folder with a manifest.parquet, such as the `out` of `extract`.
        root: the features' folder.

    Raises:
        DatasetError: there is none, or it is damaged: its own digest is checked.
    """
    from pipeline.datasets import read_manifest

    return read_manifest(folder_of(dataset, root) / MANIFEST)


def dataset(
    dataset: str | Path,
    features: Sequence[str],
    split: str | None = None,
    *,
    root: str | Path = ROOT,
    params: str | Path | None = None,
    unlabelled: Literal["drop", "keep"] = "drop",
    dtype: str | torch.dtype | None = "float32",
) -> FeatureDataset:
    """A torch Dataset of the samples that are ok in every one of some features: {feature: tensor, "label", "id"}.

    Args:
        dataset: its name, or a folder with a manifest.parquet and stores.
        features: their names; `name.field` for a field other than the one that `Store` reads by default.
        split: of the manifest; None takes every sample.
        root: the features' folder.
        params: a params file that says which key is meant, where there are several stores of a feature.
        unlabelled: whether samples without a label are left out, or kept with the label -1.
        dtype: of the tensors of floats; None leaves what is stored (float16, mostly).

    Raises:
        DataError: no such split, no usable sample, an argument that is none of these, or a store of other files than
            the manifest's.
        StoreMissing, StoreError: as `open`. DatasetError, ParamsError: as their files say.
    """
    from permafrost.batches import FeatureDataset
    from pipeline.training.dataset import DataError

    if unlabelled not in ("drop", "keep"):
        raise DataError(f"unlabelled is {unlabelled!r}, expected 'drop' or 'keep'")
    if type(dtype).__module__ == "torch":  # its own dtype, which is told by the name that it has here
        dtype = str(dtype).removeprefix("torch.") if str(dtype).removeprefix("torch.") in FLOATS else dtype
    if dtype is not None and not (isinstance(dtype, str) and dtype in FLOATS):
        raise DataError(f"dtype is {dtype!r}, expected None or one of {', '.join(FLOATS)}")
    if split is not None and not isinstance(split, str):
        raise DataError(f"split is {split!r}, expected the name of one split, or None for all samples")
    folder = folder_of(dataset, root)
    return FeatureDataset(
        manifest(folder), _stores(folder, features, params), split, keep=unlabelled == "keep", dtype=dtype
    )


def loader(
    data: FeatureDataset,
    batch_size: int = 64,
    *,
    shuffle: bool | None = None,
    rows: int | None = None,
    seed: int = 0,
    workers: int = 0,
    start: Literal["fork", "spawn", "forkserver"] | None = None,
    drop_last: bool = False,
) -> DataLoader:
    """A torch DataLoader of `dataset`: batches are the same whatever the number of workers and how they start.

    A batch is {feature: (B, *shape), "label": (B,) int64, "id": B strings}. A feature of ragged rows is padded with
    zeros at the end, to the longest of the batch or to `rows`, and `<feature>_lengths` (B,) int64 says how many rows
    are real. Memory is pinned where there is CUDA.

    Args:
        data: what `dataset` gives.
        batch_size: B.
        shuffle: a new order each epoch; by default where the data are of the split "train".
        rows: the most rows of a ragged feature; longer samples are cropped to a window, drawn anew each epoch where
            `shuffle`, else the middle one; it lies at the same part of the video in all ragged features of a sample.
        seed: decides order and windows, with the epoch. Workers' torch, numpy and random are seeded from it too.
        workers: processes that read; 0 reads in this one.
        start: how they start; None is the platform's way.
        drop_last: leaves out a last batch of fewer samples.

    Raises:
        DataError: what is no such dataset, or a number out of range. While it is read, as `Store`.
    """
    from permafrost.batches import make_loader

    return make_loader(data, batch_size, shuffle, rows, seed, workers, start, drop_last)


def folder_of(dataset: str | Path, root: str | Path = ROOT) -> Path:
    """The folder of a data set: <root>/<name>, or the named one where that holds a manifest.

    Raises:
        DatasetError: neither is there; lists the data sets of the root.
    """
    from pipeline.datasets import DatasetError

    named, folder = Path(dataset).expanduser(), Path(root).expanduser() / dataset
    for place in (named, folder) if named.is_absolute() or os.sep in str(dataset) else (folder, named):
        if (place / MANIFEST).is_file():
            return place
    known = sorted(path.parent.name for path in Path(root).expanduser().glob(f"*/{MANIFEST}"))
    raise DatasetError(
        f"neither {folder} nor {named} holds a {MANIFEST}; {root} has {', '.join(known) or 'no data set'}: correct the "
        "name, start where the folder features/ lies, or name it with root="
    )


def _stores(folder: Path, features: Sequence[str], params: str | Path | None) -> Mapping[str, Store]:
    """Feature, as it is named -> its store."""
    named = [features] if isinstance(features, str) else features
    if not isinstance(named, Sequence) or not all(isinstance(name, str) for name in named):
        from pipeline.training.dataset import DataError

        raise DataError(f"got the features {features!r}, expected a list of names")
    if not named or len(set(named)) < len(named):
        from pipeline.training.dataset import DataError

        raise DataError(f"got the features {named}, expected one or more, each once")
    stores = {}
    for name in named:
        feature, _, field = name.partition(".")
        stores[name] = open_store(_place(folder, feature, params), field or None)
    return stores


def _place(folder: Path, feature: str, params: Any) -> Path:
    if params is None:
        return folder / feature
    from pipeline.config import feature_dir, load_params

    return feature_dir(load_params(params, features=feature), folder.name, feature, folder.parent)
