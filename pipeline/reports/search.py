"""What a search came to: its trials as tables, the best one's values to paste, a picture. Reads no run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.digests import write_json
from pipeline.files import write_text
from pipeline.markdown import escaped, table
from pipeline.reports.drawing import pyplot
from pipeline.reports.files import save_figure
from pipeline.reports.names import shortened, told_apart

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

PANELS, ACROSS = 11, 4  # parameters that are drawn, the most important first; pictures in a row
LONGEST = 28  # letters of a name, and 14 of a value


def search_table(found: Mapping[str, Any], out: Path) -> str:
    """Writes what `search` returned as JSON, CSV, Markdown and a picture; the JSON last.

    Args:
        found: key, head, figure, sampler, seed, space, trials, best and importance.
        out: path without a suffix.

    Returns:
        The table in Markdown, and the best values as YAML.
    """
    names = sorted(found["space"])
    rows = [
        {name: trial[name] for name in ("number", "state")}
        | {name: said(trial["params"][name]) for name in names}
        | {name: trial[name] for name in ("value", "holdout_loss", "best_epoch", "trainable", "run", "reason")}
        for trial in found["trials"]
    ]
    markdown = _markdown(found, names)
    save_figure(search_figure(found), out.with_name(f"{out.name}.png"))
    write_text(out.with_name(f"{out.name}.csv"), pd.DataFrame(rows).astype({"best_epoch": "Int64"}).to_csv(index=False))
    write_text(out.with_name(f"{out.name}.md"), markdown)
    write_json(out.with_name(f"{out.name}.json"), found, ordered=True)
    return markdown


def said(value: Any) -> str:
    """A value of a parameter as YAML has it on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def ranked(trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Finished trials, the best one first and the others by their figure; then those without one, by number."""
    top = None if best is None else best["number"]
    return sorted(
        trials, key=lambda of: (of["value"] is None, of["number"] != top, -(of["value"] or 0.0), of["number"])
    )


def _markdown(found: Mapping[str, Any], names: Sequence[str]) -> str:
    best, rows = found["best"], []
    for trial in ranked(found["trials"], best):
        value = trial["state"] if trial["value"] is None else f"{trial['value']:.3f}"
        bold = best is not None and trial["number"] == best["number"]
        values = [escaped(said(trial["params"][name])) for name in names]
        rows.append([str(trial["number"]), *values, f"**{value}**" if bold else value])
    lines = table(["trial", *map(escaped, names), f"holdout {escaped(found['figure'])}"], rows) + "\n"
    if best is None:
        return f"{lines}\nNo trial was finished.\n"
    return f"{lines}\nThe best values, to lay over the params:\n\n```yaml\n{best['paste']}```\n"


def search_figure(found: Mapping[str, Any]) -> plt.Figure:
    """The figure of each trial in turn with the best so far, and over the values of each parameter."""

    from matplotlib.ticker import MaxNLocator

    known = [trial for trial in found["trials"] if trial["value"] is not None]
    order = list(found["importance"] or sorted(found["space"]))[:PANELS]
    down = -(-(1 + len(order)) // ACROSS)
    across = min(1 + len(order), ACROSS)
    figure, axes = pyplot().subplots(
        down, across, figsize=(3.1 * across, 2.9 * down), sharey=True, squeeze=False, layout="constrained"
    )
    first, *others = axes.flat
    numbers, values = [of["number"] for of in known], [of["value"] for of in known]
    first.plot(
        numbers, pd.Series(values, dtype=float).cummax(), color="0.6", drawstyle="steps-post", label="best so far"
    )
    first.scatter(numbers, values, s=14)
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    first.set_xlabel("trial")
    if known:
        first.legend(frameon=False, fontsize=8)
    for panel, name, title in zip(others, order, told_apart(order, LONGEST), strict=False):
        _over(panel, found["space"][name], [of["params"][name] for of in known], values)
        share = (found["importance"] or {}).get(name)
        panel.set_xlabel(title if share is None else f"{title}\nimportance {share:.2f}")
    for panel in others[len(order) :]:
        panel.set_visible(False)
    for row in axes:
        row[0].set_ylabel(f"holdout {found['figure']}")
    return figure


def _over(panel: plt.Axes, axis: Mapping[str, Any], at: Sequence[Any], values: Sequence[float]) -> None:
    from matplotlib.ticker import NullFormatter

    if "choices" not in axis:
        panel.scatter(at, values, s=14)
        if axis.get("log"):
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the default is a formula
            panel.xaxis.set_minor_formatter(NullFormatter())
        return
    told = [said(choice) for choice in axis["choices"]]
    places = [told.index(said(value)) for value in at]
    panel.scatter(places, values, s=14)
    panel.set_xticks(range(len(told)), [shortened(text, LONGEST // 2) for text in told], rotation=30, ha="right")
    panel.set_xlim(-0.5, len(told) - 0.5)
