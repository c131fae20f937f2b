"""Tables of ablations, what is known of the data sets, and what all of it cost. Knows documents and tables, no file."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from pipeline.reports.ablation import best, cell_text
from pipeline.reports.page.blocks import Bar, Cell, Note, Section, Table, picture, slug
from pipeline.reports.page.gather import Ablated, Found
from pipeline.reports.page.overview import DASH, duration
from pipeline.tasks import TASKS, Column

OPEN = 20  # classes of a data set whose counts are shown at once
SPLITS = ("train", "val", "validation", "test")


def ablations(found: Found) -> Section:
    """A part a finished table."""
    parts = [_ablation(table, table.document) for table in found.ablations if table.document is not None]
    lead = "Mean and standard deviation over seeds, in percent unless between 0 and 1; the best of a column is bold."
    return Section("ablations", "Ablations", [], lead, parts)


def _ablation(table: Ablated, document: Mapping[str, Any]) -> Section:
    id, title = slug(f"ablation-{table.name}"), f"{table.name}: {table.head}"
    variants = document["variants"]
    columns = _columns(table.task, variants)
    seeds = document["seeds"]
    first = next((of for of in columns if of.name == TASKS[table.task].headline), columns[0])
    seen = [best(column, [of["mean"][column.name] for of in variants.values()]) for column in columns]
    low, high = _reach(first, variants)
    rows = [
        [name, _dot(first, of, low, high), *(_cell(column, of, top) for column, top in zip(columns, seen, strict=True))]
        for name, of in variants.items()
    ]
    names = [column.title or column.name for column in columns]
    caption = (
        f"{len(variants)} variants, {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'} each. Dots are "
        f"{first.title or first.name}, lines one standard deviation over seeds to either side."
    )
    drawn = f"{first.title or first.name}, {low:.3g} to {high:.3g}"
    blocks: list[Any] = [Table(["variant", drawn, *names], rows, caption)]
    if table.picture is not None:
        alt = f"Seen over unseen accuracy of the variants of {table.name}"
        blocks.append(
            picture(table.picture, alt, "Seen over unseen accuracy as γ goes, a line a seed; dots: chosen γ.")
        )
    changes = [[name, Cell(_said(of["changes"]), tone="code")] for name, of in variants.items()]
    blocks.append(
        Table(
            ["variant", "params that differ"],
            changes,
            "Against the head as params have it.",
            folded="what the variants change",
        )
    )
    return Section(id, title, blocks, contents=table.name)


def _columns(task: str, variants: Mapping[str, Any]) -> list[Column]:
    """Those of the task that are in the table, and recalls by class, whose names are the data's."""
    there = next(iter(variants.values()))["mean"]
    known = [column for column in TASKS[task].code("columns") if column.name in there]
    return [*known, *(Column(name, 1) for name in there if name.startswith("recall."))]


def _reach(column: Column, variants: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the largest of a column, deviations included; 0 to 1 where nothing is known."""
    known = [(of["mean"][column.name], of["sd"][column.name] or 0) for of in variants.values()]
    ends = [mean + side * sd for mean, sd in known if mean is not None for side in (-1, 1)]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _dot(column: Column, variant: Mapping[str, Any], low: float, high: float) -> Cell:
    """Where a variant's mean and deviation lie in that."""
    mean, sd = variant["mean"][column.name], variant["sd"][column.name] or 0
    if mean is None:
        return Cell()
    at, *ends = (100 * (value - low) / (high - low or 1) for value in (mean, mean - sd, mean + sd))
    return Cell(bar=Bar(at, None, *ends))


def _cell(column: Column, variant: Mapping[str, Any], top: float | None) -> Cell:
    mean, sd = variant["mean"][column.name], variant["sd"][column.name]
    if mean is None:
        return Cell(DASH, tone="faint")
    return Cell(
        cell_text(column, mean, sd),
        best=mean == top,
        title=", ".join(f"{of:.4g}" for of in variant["per_seed"][column.name] if of is not None),
    )


def _said(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in changes.items()) or "nothing"


# --- data -------------------------------------------------------------------------------------------------------------


def data(found: Found) -> Section:
    """What is in the data sets, and what deserves a look."""
    there = {name: of for name, of in found.quality.items() if of is not None}
    rows = [_dataset(name, of) for name, of in there.items()]
    blocks: list[Any] = []
    if rows:
        columns = ["data set", "of", "samples", "ok", "splits", "classes", "length", "frames/s", "size", "worth a look"]
        caption = "Every sample was opened once. quality.md beside each manifest has the samples by name."
        blocks.append(Table(columns, rows, caption))
    blocks += [drawn for name, of in there.items() for drawn in _counts(name, of)]
    return Section("data", "Data", blocks or [Note("No data set was read yet.")])


def _dataset(name: str, of: Mapping[str, Any]) -> list[str | Cell]:
    splits = "; ".join(
        f"{split} {counts.get('ok', 0)}" + "".join(f", {n} {status}" for status, n in counts.items() if status != "ok")
        for split, counts in of["splits"].items()
    )
    classes = of.get("classes", {}).get("count") or len(of.get("labels", {}).get("classes", {})) or DASH
    spread, unit = (of["duration"], "s") if "duration" in of else (of.get("words"), "words")
    length, hours, fps = DASH, "", DASH
    if spread and spread["median"] is not None:  # a set of labels alone has no video, as one of which none is ok
        length = f"{spread['median']:.3g} {unit} ({spread['min']:.3g} to {spread['max']:.3g})"
        hours = f", {of['duration']['hours']:.2f} h in all" if "duration" in of else ""
        fps = f"{of['fps']['median']:.4g}" if "fps" in of else DASH
    size = f"{of['bytes'] / 1e6:,.1f} MB" if "bytes" in of else DASH
    worries = "; ".join(_worries(of))
    look = Cell(worries, tone="bad") if worries else Cell("nothing", tone="good")
    ok = Cell(str(of["ok"]), tone="" if of["ok"] == of["samples"] else "bad")
    return [name, of["kind"], str(of["samples"]), ok, splits, str(classes), length + hours, fps, size, look]


def _worries(of: Mapping[str, Any]) -> Iterator[str]:
    for reason, failed in of["not_ok"].items():
        yield f"{failed['count']} {reason}"
    if count := of.get("listed_twice", {}).get("count"):
        yield f"{count} listed twice"
    same = of.get("same_content", {})
    for key, count in same.items():
        if key.startswith("across_") and count:
            yield f"{count} files the same across {key.removeprefix('across_')}"
    if names := of.get("classes", {}).get("not_in_train"):
        yield f"{len(names)} classes not in train"
    if names := of.get("labels", {}).get("never"):
        yield f"{len(names)} classes never occur"
    if count := of.get("labels", {}).get("without", {}).get("count"):
        yield f"{count} videos without labels"
    if count := of.get("maps", {}).get("unreadable", {}).get("count"):
        yield f"{count} maps unreadable"
    if count := of.get("maps", {}).get("refused", {}).get("count"):
        yield f"{count} maps refused"
    for what, alike in of.get("alike", {}).items():
        yield f"{alike['count']} groups of {what} with names alike"


def _counts(name: str, of: Mapping[str, Any]) -> Iterator[Any]:
    if counts := of.get("classes", {}).get("counts"):
        order = sorted(counts, key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split))
        table, what = pd.DataFrame(counts)[order].fillna(0).astype(int), "samples of each class, by split"
    elif classes := of.get("labels", {}).get("classes"):
        table, what = (
            pd.DataFrame({"segments": {label: row["segments"] for label, row in classes.items()}}),
            "segments of each class",
        )
    else:
        return
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    sums = table.sum(axis=1)
    rows = [
        [str(label), Cell(bar=Bar(100 * sums[label] / max(sums.max(), 1))), *map(str, table.loc[label])]
        for label in table.index
    ]
    folded = "" if len(rows) <= OPEN else f"{name}: {what.partition(',')[0]}, all {len(rows)}"
    columns = ["class", f"0 to {sums.max()}", *map(str, table.columns)]
    yield Table(columns, rows, f"{name}: {what}, the most frequent first.", folded=folded)


# --- cost -------------------------------------------------------------------------------------------------------------


def cost(found: Found) -> Section:
    """Time and bytes of each stage, from the logs of its jobs."""
    blocks: list[Any] = []
    if len(found.jobs):
        stages = found.jobs.groupby("stage").agg(
            jobs=("seconds", "size"),
            seconds=("seconds", "sum"),
            longest=("seconds", "max"),
            cpu=("cpu", "sum"),
            megabytes=("megabytes", "max"),
        )
        stages = stages.sort_values("seconds", ascending=False, kind="stable")
        most = max(stages["seconds"].max(), 1)
        rows = [
            [
                str(of.Index),
                Cell(bar=Bar(100 * of.seconds / most)),
                str(of.jobs),
                *map(duration, (of.seconds, of.longest, of.cpu)),
                f"{of.megabytes:,.0f} MB",
            ]
            for of in stages.fillna(0).itertuples()
        ]
        caption = (
            "Of each stage's finished jobs, the last time that they ran. Jobs run side by side, so that their sum is "
            "more than what a person waits; a job shorter than a second may count as no processor time."
        )
        columns = [
            "stage",
            f"wall time, 0 to {duration(most)}",
            "jobs",
            "wall time",
            "longest job",
            "processor time",
            "most memory",
        ]
        blocks.append(Table(columns, rows, caption))
    if found.stores:
        rows = [
            [
                of.dataset,
                Cell(of.name, tone="code"),
                f"{of.shards}",
                f"{of.ok:,}",
                Cell(f"{of.failed:,}", tone="bad" if of.failed else "faint"),
                f"{of.bytes / 1e6:,.1f} MB",
                f"{of.bytes / max(of.ok, 1) / 1e3:,.1f} kB",
                DASH if of.seconds is None else duration(of.seconds),
            ]
            for of in found.stores
        ]
        size = sum(of.bytes for of in found.stores) / 1e6
        columns = ["data set", "feature", "shards", "samples", "failed", "size", "a sample", "wall time"]
        caption = f"Features on disk, {size:,.1f} MB in all; each is extracted once and read by every training since."
        blocks.append(Table(columns, rows, caption))
    return Section("cost", "Cost", blocks or [Note("Nothing has run yet.")])
