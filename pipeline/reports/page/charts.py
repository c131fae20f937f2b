"""Plotly figures of results, without a colour of their own where the page's light and dark templates have one.

Pure functions of what results hold; knows no file and no page.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pipeline.reports.figures import best_epoch
from pipeline.reports.names import told_apart
from pipeline.reports.numbers import significant

# Okabe & Ito, "Color Universal Design", 2008: told apart by colour-blind readers; brighter ones on dark ground.
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B", "#8C6D1F")
DARK = ("#56B4E9", "#E8894A", "#2CC79B", "#DD9BBF", "#F0B541", "#9AD0F5", "#B5B5B5", "#D9C36A")
MUTED = "rgba(128,128,128,0.75)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
LOW = {
    "annotation_position": "bottom right",
    "annotation_font_size": 10,
}  # of what a line stands for: clear of the legend
NAMED = 40  # classes: beyond this many, their names would only be a grey smear
EDGE = 15  # classes shown of the worst and of the best


def templates() -> dict[str, Any]:
    """The page's two plotly templates: "light" and "dark"."""
    return {
        "light": _template("#1d2530", "#d9dee5", LIGHT, "#ffffff", [[0, "#f3f6fa"], [0.5, "#6aa5d4"], [1, "#08306b"]]),
        "dark": _template("#dfe5ec", "#363e49", DARK, "#20262e", [[0, "#1b2129"], [0.5, "#2f78ad"], [1, "#d2ebff"]]),
    }


def _template(ink: str, line: str, colours: Sequence[str], ground: str, scale: list[Any]) -> dict[str, Any]:
    axis = {"gridcolor": line, "linecolor": line, "zerolinecolor": line, "automargin": True, "title": {"standoff": 8}}
    bar = {"outlinewidth": 0, "thickness": 10, "len": 0.9}
    return {
        "layout": {
            "font": {"family": FONT, "size": 12, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(colours),
            # By default half opaque: of a transparent ground, a grey box.
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": ink},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": ground,
                "bordercolor": line,
                "font": {"color": ink, "family": FONT},
                "align": "left",
            },
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
            "margin": {"l": 12, "r": 12, "t": 34, "b": 12},
            "bargap": 0.22,
        },
        "data": {"heatmap": [{"colorscale": scale, "colorbar": bar}], "bar": [{"error_x": {"color": ink}}]},
    }


def shown(text: str) -> str:
    """A name as plotly may have it: its markup switched off.

    >>> shown("<b>")
    '&lt;b&gt;'
    """
    return html.escape(text, quote=False)


def cut_names(names: Sequence[str], longest: int) -> list[str]:
    """Names as an axis shows them: cut, and still told apart."""
    return [shown(name) for name in told_apart(names, longest)]


def confusion(classes: Sequence[str], counts_CC: Sequence[Sequence[int]], of: str) -> go.Figure:
    """Shares of the true class in percent, a row a true class; hovering tells names and counts of `of`."""
    counts = np.asarray(counts_CC, dtype=np.float64)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names, few = [shown(name) for name in classes], len(classes) <= NAMED
    figure = go.Figure(
        go.Heatmap(
            z=shares.astype(np.float32),
            x=names,
            y=names,
            customdata=counts.astype(np.int32),
            zmin=0,
            zmax=100,
            hovertemplate=f"true: %{{y}}<br>predicted: %{{x}}<br>%{{customdata}} {of}, "
            "%{z:.1f} % of the true class<extra></extra>",
            colorbar={"title": {"text": "%", "side": "top"}},
        )
    )
    ticks = {"tickvals": names, "ticktext": cut_names(classes, 24)} if few else {}
    axis = {"type": "category", "showticklabels": few, "showgrid": False, "constrain": "domain", "ticks": "", **ticks}
    figure.update_xaxes(title="predicted", tickangle=-60, tickfont_size=10, **axis)
    figure.update_yaxes(title="true", autorange="reversed", tickfont_size=10, scaleanchor="x", **axis)
    return figure


def class_bars(rows: Sequence[Mapping[str, Any]], figure_of: str, name: str) -> tuple[go.Figure, int]:
    """A bar a class, worst on top; of many only the worst and the best. In percent already. And how many are shown."""
    known = sorted((row for row in rows if row[figure_of] is not None), key=lambda row: (row[figure_of], row["class"]))
    if len(known) > NAMED:
        known = [*known[:EDGE], *known[-EDGE:]]
    names = [shown(row["class"]) for row in known]
    figure = go.Figure(
        go.Bar(
            x=[row[figure_of] for row in known],
            y=names,
            orientation="h",
            customdata=[[row["n"], *(row["recall_ci95"] or (None, None))] for row in known],
            error_x=_reach([row[figure_of] for row in known], [row["recall_ci95"] for row in known]),
            hovertemplate=f"%{{y}}<br>{name} %{{x:.1f}} % (%{{customdata[1]:.1f}} to %{{customdata[2]:.1f}}), "
            "n = %{customdata[0]}<extra></extra>",
        )
    )
    figure.update_xaxes(title=f"{name}, %", range=[0, 100])
    ticktext = cut_names([row["class"] for row in known], 36)
    figure.update_yaxes(autorange="reversed", tickfont_size=10, showgrid=False, **_names(names, ticktext))
    return figure, len(known)


def reliability(bins: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Accuracy over confidence by bin, with the diagonal of a calibrated model; hovering tells how many samples."""
    filled = [row for row in bins if row["n"]]
    total = sum(row["n"] for row in filled)
    figure = go.Figure()
    figure.add_bar(
        x=[50 * (row["lower"] + row["upper"]) for row in filled],
        y=[100 * row["accuracy"] for row in filled],
        width=[96 * (row["upper"] - row["lower"]) for row in filled],
        customdata=[[row["n"], 100 * row["confidence"], 100 * row["n"] / total] for row in filled],
        hovertemplate="confidence %{customdata[1]:.1f} %<br>accuracy %{y:.1f} %<br>%{customdata[0]} samples, "
        "%{customdata[2]:.1f} %<extra></extra>",
        name="accuracy",
        error_y=_reach(
            [100 * row["accuracy"] for row in filled],
            [[100 * edge for edge in row["accuracy_ci95"]] for row in filled],
        ),
        opacity=0.55,
    )
    figure.add_scatter(
        x=[100 * row["confidence"] for row in filled],
        y=[100 * row["accuracy"] for row in filled],
        mode="markers",
        marker={"size": [6 + 18 * (row["n"] / total) ** 0.5 for row in filled]},
        hoverinfo="skip",
        name="at its mean confidence, by size",
    )
    _diagonal(figure, "calibrated")
    figure.update_xaxes(title="confidence, %", range=[0, 100])
    figure.update_yaxes(title="accuracy, %", range=[0, 105])
    return figure


def training(history: pd.DataFrame, columns: Mapping[str, str], title: str, percent: bool) -> go.Figure:
    """Columns of a training's history by epoch; dotted, the best one on the holdout, whose weights are kept."""
    figure = go.Figure()
    for column, name in columns.items():
        values = history[column] * (100 if percent else 1)
        figure.add_scatter(x=history["epoch"], y=values.round(4), name=name, mode="lines")
    best = best_epoch(history)
    figure.add_vline(
        best, line={"dash": "dot", "color": MUTED}, annotation_text=f"best, {best}", annotation_font_size=10
    )
    figure.update_xaxes(title="epoch")
    floor = min(0, 100 * float(history[[*columns]].min().min()))  # R² may be below
    figure.update_yaxes(title=title, **({"range": [floor, 103]} if percent else {"rangemode": "tozero"}))
    return figure


def gamma(result: Mapping[str, Any]) -> tuple[go.Figure, go.Figure]:
    """S, U and H over γ; and S over U, the curve whose area is AUSUC."""
    curve, lines = result["curve"], go.Figure()
    for key, name in {"seen": "S, seen", "unseen": "U, unseen", "harmonic": "H, harmonic mean"}.items():
        lines.add_scatter(x=_short(curve["gamma"]), y=_short(curve[key]), name=name, mode="lines")
    lines.add_vline(result["gamma"], line={"dash": "dot", "color": MUTED}, annotation_text="chosen", **LOW)
    lines.update_xaxes(title="γ, taken from the scores of seen classes")
    lines.update_yaxes(title="%", range=[0, 103])
    area = go.Figure()
    area.add_scatter(x=_short(curve["unseen"]), y=_short(curve["seen"]), fill="tozeroy", mode="lines", name="over γ")
    if result["unseen"] is not None and result["seen"] is not None:
        area.add_scatter(x=[result["unseen"]], y=[result["seen"]], mode="markers", marker_size=11, name="chosen γ")
    area.add_vline(result["chance"], line={"dash": "dot", "color": MUTED}, annotation_text="chance", **LOW)
    area.update_xaxes(title="U, unseen classes, %", range=[0, 103])
    area.update_yaxes(title="S, seen classes, %", range=[0, 103])
    return lines, area


def retrieval(forms: Mapping[str, str], found: Mapping[str, Mapping[str, Any]], chance: float | None) -> go.Figure:
    """R@1 and R@5 of one direction by form: how the video was embedded."""
    figure = go.Figure()
    for key, name in (("r1", "R@1"), ("r5", "R@5")):
        values = [found[form][key] for form in forms]
        figure.add_bar(x=list(forms.values()), y=values, name=name, texttemplate="%{y:.1f}", textposition="outside")
    if chance is not None:
        line, ends = {"dash": "dot", "color": MUTED}, list(forms.values())
        name = f"R@1 by chance, {chance:.1f}"
        figure.add_scatter(x=ends, y=[chance] * len(ends), mode="lines", line=line, name=name, hoverinfo="skip")
    figure.update_yaxes(title="%", range=[0, 108])
    figure.update_xaxes(tickangle=0)
    return figure


def score_histogram(inside: np.ndarray, outside: np.ndarray, threshold: float, bins: int = 40) -> go.Figure:
    """Shares of ID and OOD pictures by score, and the score that 95 % of ID reach."""
    edges = np.histogram_bin_edges(np.concatenate([inside, outside]), bins)
    figure = go.Figure()
    for values, name in ((inside, "ID"), (outside, "OOD")):
        share = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        figure.add_bar(
            x=_short((edges[:-1] + edges[1:]) / 2),
            y=_short(share),
            width=_short(np.diff(edges)),
            name=f"{name}, {len(values)}",
            opacity=0.6,
            hovertemplate=f"{name}: %{{y:.1f}} % at %{{x:.3f}}<extra></extra>",
        )
    line = {"dash": "dash", "color": MUTED}
    figure.add_vline(threshold, line=line, annotation_text="95 % of ID above", annotation_font_size=10)
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_xaxes(title="score")
    figure.update_yaxes(title="pictures, %")
    return figure


def over_lambda(
    sweeps: Mapping[str, Mapping[str, Mapping[str, float]]], chosen: float, key: str, name: str
) -> go.Figure:
    """A figure over λ, a line a set; dotted, the λ that was chosen without them."""
    figure = go.Figure()
    for label, sweep in sweeps.items():
        lambdas = sorted(sweep, key=float)
        width = 3.5 if label == "mean" else 1.5
        values = _short([sweep[lam][key] for lam in lambdas])
        figure.add_scatter(
            x=[float(lam) for lam in lambdas], y=values, name=shown(label), mode="lines", line_width=width
        )
    figure.add_vline(chosen, line={"dash": "dot", "color": MUTED}, annotation_text=f"chosen, {chosen:.3g}", **LOW)
    figure.update_xaxes(title="λ")
    figure.update_yaxes(title=f"{name}, %")
    return figure


def spread(means: Mapping[str, float], deviations: Mapping[str, float | None], title: str) -> go.Figure:
    """A dot a row with its deviation, in the order given, top to bottom."""
    names = [shown(name) for name in means]
    figure = go.Figure(
        go.Scatter(
            x=list(means.values()),
            y=names,
            error_x={"type": "data", "array": [deviations[name] or 0 for name in means], "thickness": 1.5, "width": 4},
            mode="markers",
            marker_size=9,
            hovertemplate="%{y}<br>%{x:.4g} ± %{error_x.array:.2g}<extra></extra>",
        )
    )
    ticktext = cut_names(list(means), 34)
    figure.update_xaxes(title=title)
    figure.update_yaxes(range=[len(names) - 0.5, -0.5], **_names(names, ticktext))
    return figure


def bars(values: Mapping[str, float], title: str, hover: str) -> go.Figure:
    """Horizontal bars in the order given, top to bottom."""
    names = [shown(name) for name in values]
    figure = go.Figure(
        go.Bar(x=_short(list(values.values())), y=names, orientation="h", hovertemplate=f"{hover}<extra></extra>")
    )
    ticktext = cut_names(list(values), 34)
    figure.update_xaxes(title=title)
    figure.update_yaxes(autorange="reversed", **_names(names, ticktext))
    return figure


def drops(kinds: Mapping[str, Mapping[str, tuple[float, float]]]) -> go.Figure:
    """Bars of a drop and its deviation, in percentage points: kind -> input -> both."""
    figure = go.Figure()
    for kind, of in kinds.items():
        figure.add_bar(
            x=[drop for drop, _ in of.values()],
            y=[shown(name) for name in of],
            error_x={
                "type": "data",
                "array": [deviation for _, deviation in of.values()],
                "thickness": 1.5,
                "width": 4,
            },
            orientation="h",
            name=kind,
            hovertemplate="%{y}<br>%{x:.2f} ± %{error_x.array:.2f} points<extra></extra>",
        )
    names = list(next(iter(kinds.values())))
    figure.update_xaxes(title="drop, percentage points")
    ticktext = cut_names(names, 60)
    figure.update_yaxes(autorange="reversed", **_names([shown(name) for name in names], ticktext))
    return figure


def stacked(table: pd.DataFrame, title: str) -> go.Figure:
    """A bar a row of the table, its columns on top of each other. Named where short names tell the rows apart."""
    figure = go.Figure()
    names, cut = [shown(str(name)) for name in table.index], cut_names([str(name) for name in table.index], 20)
    for column in table:
        hover = "%{x}<br>%{fullData.name}: %{y}<extra></extra>"
        figure.add_bar(x=names, y=table[column].to_numpy(), name=shown(str(column)), hovertemplate=hover)
    few = len(names) <= NAMED // 2
    figure.update_layout(barmode="stack")
    ticks = {"tickvals": names, "ticktext": cut} if few else {}
    figure.update_xaxes(type="category", showticklabels=few, tickangle=-60, tickfont_size=10, **ticks)
    figure.update_yaxes(title=title)
    return figure


def _names(values: Sequence[str], ticktext: Sequence[str]) -> dict[str, Any]:
    """An axis of names; one that looks like a number or a date stays a name."""
    return {"type": "category", "tickvals": values, "ticktext": ticktext}


def _reach(values: Sequence[float], intervals: Sequence[Sequence[float] | None]) -> dict[str, Any]:
    """Error bars from a value to the ends of its interval; none where it has no interval."""
    ends = [(value, value) if of is None else of for value, of in zip(values, intervals, strict=True)]
    below, above = (
        _short([max(0.0, sign * (end[side] - value)) for value, end in zip(values, ends, strict=True)])
        for side, sign in ((0, -1), (1, 1))
    )
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3}


def _diagonal(figure: go.Figure, name: str) -> None:
    line = {"dash": "dot", "color": MUTED}
    figure.add_scatter(x=[0, 100], y=[0, 100], mode="lines", line=line, name=name, hoverinfo="skip")


def _short(values: Any) -> list[float | None]:
    """Four significant digits: more is not seen, and costs bytes."""
    return [None if value is None or np.isnan(value) else significant(value) for value in values]
