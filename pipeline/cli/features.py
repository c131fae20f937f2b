"""The commands of stage 1: feature stores are made, planned, verified and listed."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pipeline.projects import FEATURES

from .base import Lines, ParamsOption, ShardsOption, app, console, fitting, params_of, plan_of, say

if TYPE_CHECKING:
    from pipeline.config import Params


@app.command()
def extract(
    dataset: str,
    features: Annotated[list[str], typer.Argument(help="Several are extracted in one pass over the videos.")],
    shards: ShardsOption = None,
    params: ParamsOption = "params.yaml",
    root: Path = FEATURES,
) -> None:
    """Run frozen backbones over a dataset into feature stores. A killed extraction resumes where it was."""
    from pipeline.extraction import extract_range as run

    chosen = params_of(params, datasets=dataset, features=features)
    chosen = fitting(chosen, chosen.compute.extract_threads)
    run(chosen, dataset, features, numbers(chosen, dataset, shards, root), root, say)


@app.command()
def derive(
    dataset: str,
    feature: str,
    shards: ShardsOption = None,
    params: ParamsOption = "params.yaml",
    root: Path = FEATURES,
) -> None:
    """Compute a feature from another feature's store; no backbone runs."""
    from pipeline.extraction import derive_range as run

    chosen = params_of(params, datasets=dataset, features=feature)
    run(chosen, dataset, feature, numbers(chosen, dataset, shards, root), root, say)


def numbers(params: "Params", dataset: str, asked: str | None, root: Path) -> list[int]:
    """The shards of a dataset that were asked for: all, `3`, or of `3-66` those that there are."""
    from pipeline.datasets import DatasetError, read_shards

    if asked is None:
        from pipeline.plan import Plan

        return Plan(params).shards(dataset)
    told = re.fullmatch(r"(\d+)(?:-(\d+))?", asked, re.ASCII)
    first, last = map(int, (told[1], told[2] or told[1])) if told else (1, 0)
    if first > last:
        raise typer.BadParameter(f"--shards {asked!r}: expected a number, or the first and the last as in 3-66")
    manifest = root / dataset / "manifest.parquet"
    if first == last or not manifest.exists():  # what is not there is told where it is read
        return [first]
    there = sorted(set(read_shards(manifest).values()))
    found = [number for number in there if first <= number <= last]
    if not found:
        raise DatasetError(f"--shards {asked}: {manifest} has no shard between them; it has {there[0]} to {there[-1]}")
    if first < there[0] or last > there[-1]:
        say(f"--shards {asked}: {dataset} has shards {there[0]} to {there[-1]}; {found[0]} to {found[-1]} are made")
    return found


@app.command()
def plan(
    params: ParamsOption = "params.yaml",
    devices: Annotated[
        list[int] | None,
        typer.Option("--devices", min=1, help="Jobs at once; repeatable; by default 1 and 8."),
    ] = None,
) -> None:
    """List the jobs of extraction and training that are to be done, and how long they take by the declared costs."""
    from pipeline.config.costs import START_SECONDS, makespan
    from pipeline.together import Runs

    chosen = plan_of(params)
    work = chosen.extractions()
    table = Table()
    for column in ("dataset", "features", "ms a sample", "shards", "to do", "jobs", "shards a job", "minutes a job"):
        table.add_column(column, justify="left" if column in ("dataset", "features") else "right", overflow="fold")
    for of in work:
        most = max(of.jobs, default=0)
        table.add_row(
            of.dataset,
            ", ".join(of.features),
            f"{1000 * of.sample_seconds:.3g}",
            str(of.shards),
            str(sum(of.jobs)),
            str(len(of.jobs)),
            str(most),
            f"{most * of.shard_seconds / 60:.1f}",
        )
    console.print(table)
    for name, owner in chosen.unrendered.items():
        say(f"{name} is not rendered yet, and not in this plan; `python -m pipeline toyworld {owner}` renders it")
    jobs = [count * of.shard_seconds for of in work for count in of.jobs]
    for count in devices or [1, 8]:
        hours = makespan(jobs, count) / 3600
        say(f"{count} at once: {len(jobs)} jobs, {hours:.2f} hours, {START_SECONDS:.0f} s of each job's start included")
    runs = Runs(chosen)
    for count in devices or [1, 8]:
        trained = runs.trainings(min(count, chosen.params.compute.jobs))
        jobs = [of.seconds * size for of in trained for size in of.jobs]
        todo, all_of_them = sum(sum(of.jobs) for of in trained), sum(of.runs for of in trained)
        hours = makespan(jobs, count) / 3600
        say(f"{count} at once: {todo} of {all_of_them} trainings in {len(jobs)} jobs, {hours:.2f} hours")


@app.command()
def verify(
    stores: Annotated[list[Path], typer.Argument(help="Stores, or folders of stores: features, features/DATASET.")],
) -> None:
    """Check every checksum of stores: data, index, journal, manifest. Reports missing and foreign files."""
    from pipeline.store import StoreError, stores_below

    wrong = 0
    for named in stores:
        try:
            for store in stores_below(named):
                wrong += _verified(store)
        except StoreError as error:
            wrong += 1
            say(str(error))
    raise typer.Exit(1 if wrong else 0)


def _verified(store: Path) -> int:
    """Verifies a store. Returns the number of findings."""
    from pipeline.datasets import DatasetError, read_shards
    from pipeline.store import StoreMissing
    from pipeline.store import verify as run

    told, expected, manifest = [], None, store.absolute().parent / "manifest.parquet"
    try:
        expected = set(read_shards(manifest).values()) if manifest.exists() else None
    except DatasetError as error:  # it may be of a later version, or damaged: the store can be read all the same
        told.append(str(error))
    try:
        for found in run(store, Lines(f"{store}: shards verified"), expected):
            where = ", ".join(part for part in (found.shard, found.sample, found.field) if part)
            told.append(f"{where}: {found.what}")
    except StoreMissing as error:
        told.append(str(error))
    for line in told:
        say(f"{store}: {line}")
    say(f"{store}: {f'{len(told)} not as it was written' if told else 'intact'}")
    return len(told)


@app.command()
def info(params: ParamsOption = "params.yaml", root: Path = FEATURES) -> None:
    """List the stores: what they hold, what it was computed from, how large it is, and which heads read it."""
    from pipeline.store import StoreError, describe

    chosen = params_of(params)
    users, damaged = _users(chosen, root), 0
    table = Table(title=str(root))
    for column in ("store", "fields", "ok", "failed", "shards", "unfinished", "MB", "weights", "made by", "used by"):
        table.add_column(column, overflow="fold")
    for store in sorted(path for path in root.glob("*/*-*") if path.is_dir()):
        user = ", ".join(users.get(store, ())) or "nothing in these params"
        try:
            facts = describe(store)
        except StoreError as error:
            damaged += 1
            say(f"{store}: {error}")
            unknown = [""] * (len(table.columns) - 3)
            table.add_row(str(store.relative_to(root)), "cannot be read, see above", *unknown, user)
            continue
        shapes = ", ".join(f"{name} {tuple(f['shape'])} {f['dtype']}" for name, f in facts["fields"].items())
        table.add_row(
            str(store.relative_to(root)),
            shapes,
            str(facts["counts"]["ok"]),
            str(facts["counts"]["failed"]),
            str(facts["shards"]),
            str(len(facts["unfinished"])),
            f"{facts['bytes'] / 1e6:.1f}",
            _digests(facts["provenance"].get("weights", {})),
            _makers(facts["environments"].values()),
            user,
        )
    console.print(table)
    raise typer.Exit(1 if damaged else 0)


def _digests(weights: dict[str, str] | str) -> str:
    """How the digests of a feature's weights begin; the first stores had one, not one a network."""
    return ", ".join(digest[:12] for digest in ([weights] if isinstance(weights, str) else weights.values()))


def _makers(chain: Iterable[list[dict[str, Any]]]) -> Text:
    """Devices that computed a store and what it rests on; where one feature has several environments, what differs."""
    from pipeline.store import apart

    devices, mixed = {}, []
    for environments in chain:
        devices |= {" ".join(of["device"].values()): None for of in environments if "device" in of}
        mixed += [Text(f"mixed: {apart(environments)}", "red")] if len(environments) > 1 else []
    return Text("; ").join([Text(", ".join(devices)), *mixed])


def _users(params: "Params", root: Path) -> dict[Path, list[str]]:
    """Store -> the heads and features that read it, and its data set where that asks for it by name."""
    from pipeline.config import ParamsError, feature_dir

    users: dict[Path, list[str]] = {}

    def note(dataset: str, feature: str, user: str) -> None:
        try:
            store = feature_dir(params, dataset, feature, root)
        except ParamsError as error:
            say(f"the store of {feature} cannot be told: {error}")
            return
        users.setdefault(store, []).append(user)
        for other in params.features[feature].reads:
            note(dataset, other, feature)

    for name, head in params.heads.items():
        for read in head.evaluation_inputs.values():
            note(read.dataset, read.feature, name)
    for name, dataset in params.datasets.items():
        for feature in dataset.features:
            note(name, feature, f"datasets.{name}")
    return users
