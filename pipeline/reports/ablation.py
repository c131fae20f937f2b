"""One table an ablation: a row a variant, mean and standard deviation over seeds. Reads results only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Ablation
from pipeline.digests import write_json
from pipeline.files import write_text
from pipeline.markdown import escaped, table
from pipeline.plugins import load
from pipeline.reports.figures import figure_at
from pipeline.reports.files import ReportError, evaluate_again, read_result, save_figure
from pipeline.tasks import TASKS, Column

Result = Mapping[str, Any]


def ablation_table(ablation: Ablation, task: str, runs: Sequence[str | Path], out: Path) -> str:
    """Writes the table as JSON, CSV and Markdown, and of a zero-shot head S over U as a picture.

    Args:
        ablation: its variants and seeds.
        task: of its head, which decides the columns.
        runs: the folders of their evaluations, variants times seeds, in that order; each holds a result.json.
        out: path without a suffix; `out`_seen_unseen.png is the picture.

    Returns:
        The table in Markdown. The standard deviation is the sample's (n - 1), null with a single seed; what a result
        does not know is left out of the mean.

    Raises:
        ReportError: a run has not been evaluated, or its result lacks the figure of a column.
    """
    each = len(ablation.seeds)
    results = [read_result(run, out.with_name(f"{out.name}.json")) for run in runs]
    columns = TASKS[task].code("columns")
    if TASKS[task].recalls:
        recalls = {row["class"]: row["recall"] for row in results[0]["per_class"]}
        columns = (*columns, *(Column(f"recall.{name}", 1) for name in recalls))
        results = [
            {**result, "recall": {row["class"]: row["recall"] for row in result["per_class"]}} for result in results
        ]
    columns = [
        column for column in columns if not column.optional or any(_has(result, column.name) for result in results)
    ]
    for run, result in zip(runs, results, strict=True):
        for column in columns:
            if not column.optional and not _has(result, column.name):
                raise ReportError(
                    f"{Path(run, 'result.json')} has no figure {column.name}, which {TASKS[task].columns} has; "
                    f"{evaluate_again(run, out.with_name(f'{out.name}.json'))}, or correct the column"
                )
    groups = {name: results[i * each : (i + 1) * each] for i, name in enumerate(ablation.rows)}
    rows = {name: _statistics(group, columns) for name, group in groups.items()}
    document = {
        "head": ablation.head,
        "seeds": list(ablation.seeds),
        "variants": {
            name: {"changes": changes, "runs": list(map(str, runs[i * each : (i + 1) * each])), **rows[name]}
            for i, (name, changes) in enumerate(ablation.rows.items())
        },
    }
    flat = [
        {"variant": name, "seeds": each}
        | {f"{c.name}{end}": row[key][c.name] for c in columns for end, key in (("", "mean"), ("_sd", "sd"))}
        for name, row in rows.items()
    ]
    markdown = _markdown(rows, columns)
    for ending, figure in TASKS[task].compared.items():
        save_figure(load(figure)(groups), out.with_name(f"{out.name}_{ending}.png"))
    write_text(out.with_name(f"{out.name}.csv"), pd.DataFrame(flat).to_csv(index=False))
    write_text(out.with_name(f"{out.name}.md"), markdown)
    write_json(out.with_name(f"{out.name}.json"), document, ordered=True)
    return markdown


def _has(result: Result, figure: str) -> bool:
    """Whether a result has a figure: of a head of one step there are none of another order."""
    try:
        figure_at(result, figure)
    except KeyError:
        return False
    return True


def _statistics(results: Sequence[Result], columns: Sequence[Column]) -> dict[str, dict[str, Any]]:
    """mean, sd and per_seed of each column; None where unknown."""
    rows = [
        {c.name: figure_at(result, c.name) if _has(result, c.name) else None for c in columns} for result in results
    ]
    scores = pd.DataFrame(rows).astype(float)
    return {
        "mean": {name: _known(value) for name, value in scores.mean().items()},
        "sd": {name: _known(value) for name, value in scores.std().items()},
        "per_seed": {name: [_known(value) for value in scores[name]] for name in scores},
    }


def _markdown(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[Column]) -> str:
    heads = [column.title or column.name for column in columns]
    shown = []
    tops = {column: best(column, [row["mean"][column.name] for row in rows.values()]) for column in columns}
    for name, row in rows.items():
        cells = []
        for column in columns:
            mean, sd = row["mean"][column.name], row["sd"][column.name]
            cell = cell_text(column, mean, sd)
            cells.append(f"**{cell}**" if mean is not None and mean == tops[column] else cell)
        shown.append([escaped(name), *cells])
    return table(["variant", *map(escaped, heads)], shown) + "\n"


def cell_text(column: Column, mean: float | None, sd: float | None) -> str:
    """A mean with its deviation as the column shows them; a dash where none is known."""
    if mean is None:
        return "–"
    return f"{mean:.{column.digits}f}" + ("" if sd is None else f" ± {sd:.{column.digits}f}")


def best(column: Column, means: Sequence[float | None]) -> float | None:
    """The mean that is set in bold, if there is a contest and one that is known."""
    known = [mean for mean in means if mean is not None]
    if column.best is None or len(means) < 2 or not known:
        return None
    return max(known) if column.best == "high" else min(known)


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
