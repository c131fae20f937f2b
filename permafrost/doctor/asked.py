"""What params ask of a machine: weights that are whole and fit, data sets that decode, disk for features."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from permafrost.doctor.findings import Finding, refused, size_of
from permafrost.doctor.machine import SPARE, nearest
from pipeline.config import Dataset, Imported, Params, Weights
from pipeline.config.base import shown
from pipeline.plan import Plan, manifest_path
from pipeline.projects import FEATURES
from pipeline.resources import sample_bytes

PROBED = 20  # samples of a data set
SECONDS_OF_PROBES = 30.0  # of a data set: films of hours are decoded whole

# Of each data set its annotations, or what is found where they cannot be read, or not yet.
Tables = Mapping[str, pd.DataFrame | Finding]


def look(params: Params) -> Iterator[Finding]:
    """All that is found of it; annotations are read once, whoever looks at them."""
    yield from weights(params)
    plan = Plan(params)
    read = tables(plan)
    yield from chain(datasets(params, read), imports(plan, read), disk(plan, read))


def tables(plan: Plan) -> Tables:
    """The annotations of all data sets."""
    from pipeline.datasets import read_annotations

    found: dict[str, pd.DataFrame | Finding] = {}
    for name, dataset in plan.params.datasets.items():
        if plan.rendered_with(name) and not Path(dataset.root).exists():
            found[name] = Finding("ok", f"data set {name}", "rendered by the workflow when it is first asked for")
            continue
        try:
            found[name] = read_annotations(dataset)
        except (ValueError, OSError) as error:
            found[name] = refused(f"data set {name}", error, "correct its root in params")
    return found


def weights(params: Params) -> Iterator[Finding]:
    """Whether each checkpoint is there, whole, and one that its features take; of a hub's, whether it can be had."""
    from pipeline.backbones import expect_fits

    used: dict[Weights, list[str]] = {}
    for name, feature in params.features.items():
        for of in feature.sources.values():
            used.setdefault(of, []).append(name)
    here: dict[Weights, Path] = {}
    for of, names in used.items():
        what, told = f"weights of {', '.join(dict.fromkeys(names))}", f"{of.hub}@{of.revision}: " if of.hub else ""
        if of.random is not None:
            said = f"random, of seed {of.random}: every result says so"
            yield Finding("note", what, said, "give weights.path or weights.hub")
            continue
        try:
            place = _place(of)
            yield Finding("ok", what, told + (_on_hub(of) if place is None else _on_disk(place)))
        except (ValueError, OSError) as error:
            yield refused(what, error, "download it again, or correct its path")
            continue
        here |= {} if place is None else {of: place}
    for name, feature in params.features.items():
        if feature.sources and all(of in here for of in feature.sources.values()):
            try:
                expect_fits(feature, here)
            except (ValueError, OSError) as error:
                yield refused(f"feature {name}", error, "name a checkpoint of its backbone")


def _place(of: Weights) -> Path | None:
    """Where a checkpoint lies, or should; None of a hub's that is not here yet."""
    from pipeline.backbones.checkpoints import cached

    return cached(str(of.hub), str(of.revision)) if of.hub else Path(str(of.path))


def _on_disk(path: Path) -> str:
    from pipeline.backbones.checkpoints import expect_whole

    return f"{path}, {size_of(sum(file.stat().st_size for file in expect_whole(path)))}"


def _on_hub(of: Weights) -> str:
    from pipeline.backbones.checkpoints import expect_reachable

    if str(of.hub).startswith("torchvision/"):
        return "torchvision's, downloaded when it is first used"
    return f"not here yet; {size_of(expect_reachable(str(of.hub), str(of.revision)))} to download"


def datasets(params: Params, tables: Tables) -> Iterator[Finding]:
    """Decodes some samples of each data set of videos or pictures, spread over all of it."""
    for name, table in tables.items():
        if isinstance(table, Finding):
            yield table
        else:
            yield _probed(f"data set {name}", params.datasets[name], table)


def _probed(what: str, dataset: Dataset, annotations: pd.DataFrame) -> Finding:
    from pipeline.datasets.annotations import located
    from pipeline.datasets.build import Job, examine
    from pipeline.datasets.folders import check_folder, home_of

    if dataset.kind == "text" or dataset.videos is None:
        return Finding("ok", what, f"{len(annotations)} samples, none of them to decode")
    # In no order that the table has: the first ones may be all of one class.
    chosen = annotations.iloc[:: max(1, -(-len(annotations) // PROBED))]
    try:
        folder, home, still = check_folder(dataset), home_of(dataset), dataset.kind == "image"
        paths, _ = located(dataset, chosen)
    except (ValueError, OSError) as error:
        return refused(what, error, "correct its root in params")
    began, found = time.monotonic(), []
    for path in paths:
        if found and time.monotonic() - began > SECONDS_OF_PROBES:
            break
        found.append(examine(Job(os.path.join(folder, path), home, None, still)))
    return _decoded(what, paths, found, len(annotations))


def _decoded(what: str, paths: list[str], found: list[Any], samples: int) -> Finding:
    wrong = [(path, of) for path, of in zip(paths, found, strict=False) if of.status != "ok"]
    said = f"{len(found) - len(wrong)} of {len(found)} probed samples decode ({samples} in all)"
    if not wrong:
        return Finding("ok", what, said)
    path, first = wrong[0]
    remedy = "`manifest` lists all of them in quality.md; fetch them again, or encode them anew"
    said += f"; {path}: {first.status}: {first.detail.partition('; ')[0]}"
    return Finding("bad" if len(wrong) == len(found) else "note", what, said, remedy)


def imports(plan: Plan, tables: Tables) -> Iterator[Finding]:
    """Whether the files of features that were computed elsewhere hold the samples of the data sets that read them."""
    from pipeline.datasets.imported import Held

    features = plan.params.features
    for name, table in tables.items():
        if isinstance(table, Finding):
            continue
        try:
            read = [of for of in plan.features(name) if isinstance(features[of], Imported)]
        except (OSError, ValueError):  # said where weights are looked at
            continue
        for feature in read:
            yield _held(f"feature {feature} of {name}", Held(features[feature]), table["sample"].tolist())


def _held(what: str, held: Any, ids: list[str]) -> Finding:
    place = held.feature.root
    try:
        sources, damage = held.sources(ids), held.found.damage
    except (OSError, ValueError) as error:
        return Finding("bad", what, f"{place} cannot be read: {error}", "correct the feature's root, or fetch it again")
    lacking = [sample for sample in ids if sample not in sources or not sources[sample].exists()]
    said = f"{place} holds {len(ids) - len(lacking)} of {len(ids)} samples"
    if not lacking:
        return Finding("ok", what, said)
    said += f", not {shown(lacking[0])}" + (f" ({damage})" if damage else "")
    remedy = "correct the feature's root or extension; samples that it does not hold are failed ones"
    return Finding("bad" if len(lacking) == len(ids) else "note", what, said, remedy)


def disk(plan: Plan, tables: Tables) -> Iterator[Finding]:
    """What features that are not there yet will take, against what is free."""
    size, unknown = 0, {}
    for dataset, table in tables.items():
        try:
            features = plan.features(dataset)
            seconds = None if isinstance(table, Finding) else _seconds(table, manifest_path(dataset))
        except (OSError, ValueError):  # said where weights are looked at
            seconds = None
        if seconds is None:
            unknown[dataset] = ["all features"]
            continue
        for feature in features:
            try:
                size += _to_store(plan, dataset, feature, seconds)
            except LookupError:
                unknown.setdefault(dataset, []).append(feature)
    place = nearest(FEATURES)
    free = shutil.disk_usage(place).free
    said = f"{size_of(size)} of features to store, {size_of(free)} free"
    if unknown:
        told = (f"{', '.join(features)} of {dataset}" for dataset, features in unknown.items())
        said += f"; not known before `manifest` and `extract`: {'; '.join(told)}"
    if size + SPARE > free:
        remedy = "free some space, or make features/ a link to a folder on a larger disk"
        yield Finding("bad", "disk", said, remedy)
    else:
        yield Finding("ok", "disk", said)


def _seconds(annotations: pd.DataFrame, manifest: Path) -> dict[int | None, Counter]:
    """How many samples last how long, by shard; without a manifest neither is known, and each is None."""
    from pipeline.datasets import read_manifest

    if not manifest.exists():
        return {None: Counter({None: len(annotations)})}
    frame = read_manifest(manifest)
    frame = frame[frame["sample"].isin(annotations["sample"])]
    return {shard: Counter(of.fillna(0.0)) for shard, of in frame.groupby("shard")["duration"]}


def _to_store(plan: Plan, dataset: str, feature: str, seconds: Mapping[int | None, Counter]) -> int:
    """Bytes of the shards that are not there yet, before compression.

    Raises:
        LookupError: what a sample takes is not known before extraction.
    """
    contents, chosen = plan.params.gives(feature), plan.params.features[feature]
    size = 0
    for shard, samples in seconds.items():
        if shard is None or not os.path.exists(plan.shard_path(dataset, feature, int(shard))):
            size += sum(count * sum(sample_bytes(contents, chosen, lasts)) for lasts, count in samples.items())
    return size
