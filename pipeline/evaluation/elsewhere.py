"""A trained classifier on other data sets with the same classes, of which nothing was learned. Knows no head."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.datasets.manifest import read_manifest
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.training.dataset import (
    SHOWN,
    DataError,
    Samples,
    Stream,
    content_digest,
    fixed_stream,
    refuse_mixed,
    usable,
)


def elsewhere(run: Run, name: str) -> Run:
    """A run's weights over the eval_split of the data set that `elsewhere.<name>` of its head names.

    Its samples have an evaluated part alone, are labelled with the classes that were learned, and have a digest of
    their names, contents and labels.

    Raises:
        DataError: manifest and stores that do not belong together, features of another shape than was learned from, a
            class that the head does not know, a sample that it has learned from, or nothing to evaluate.
    """
    dataset, split, own = run.config.elsewhere[name], run.config.eval_split, run.samples
    place = f"heads.{run.head}.elsewhere.{name} ({dataset})"
    frame = read_manifest(run.root / dataset / "manifest.parquet")
    stores = {role: FeatureStore(run.root / dataset / path.name, verify=True) for role, path in run.features.items()}
    refuse_mixed(run.params.compute, stores.values())
    streams = {role: fixed_stream(role, store) for role, store in stores.items()}
    _refuse_unlike(place, own.streams, streams)
    found = usable(frame, stores, [split], frame["label"].notna())
    chosen = found.splits[split]
    if not chosen:
        known = sorted({part for joined in frame["split"] for part in joined.split("+")})
        raise DataError(
            f"{place}: no sample of the split {split!r} is usable: {len(found.failed)} failed, {found.unlabelled} have "
            f"no label, and its splits are {known}; name another data set"
        )
    index = {label: number for number, label in enumerate(own.classes)}
    if unknown := sorted({row.label for row in found.rows} - index.keys()):
        raise DataError(
            f"{place}: {unknown[:SHOWN]} are no classes of {run.dataset}, which {run.head} has learned; give both data "
            "sets the same names of classes"
        )
    contents = read_manifest(run.manifest).set_index("sample")["digest"]
    learned = set(contents.loc[[*own.parts["train"], *own.parts["holdout"]]])
    if seen := [row.sample for row in found.rows if row.digest in learned]:
        raise DataError(
            f"{place}: {len(seen)} samples are byte for byte among those that were learned from, the first is "
            f"{seen[0]}; take them out of the split {split!r}"
        )
    labels = {row.sample: index[row.label] for row in found.rows}
    content = [(sample, found.digests[sample], labels[sample]) for sample in chosen]
    digest = content_digest({"dataset": dataset, "evaluated": content})
    parts = {"evaluated": chosen}
    return run.over(Samples(own.classes, parts, labels, found.failed, found.unlabelled, found.skipped, digest, streams))


def worst(per_class: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of the class that is recognised least, of those that occur; of equals the first.

    >>> worst([{"class": "a", "recall": None}, {"class": "b", "recall": 0.5}, {"class": "c", "recall": 0.25}])["class"]
    'c'
    """
    return min((row for row in per_class if row["recall"] is not None), key=lambda row: row["recall"])


def _refuse_unlike(place: str, own: Mapping[str, Stream], streams: Mapping[str, Stream]) -> None:
    for role, stream in streams.items():
        there, here = ((of.name, of.grid, of.width) for of in (stream, own[role]))
        if there != here:
            raise DataError(
                f"{place}: {role} is {there} (field, grid, width), and {here} was learned from; extract both data sets "
                "with the same features"
            )
