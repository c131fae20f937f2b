"""Searches of hyper-parameters: trials, the best one's values to paste, what mattered. Knows documents, no file."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.reports.page.blocks import Bar, Cell, Listing, Note, Section, Table, picture, slug
from pipeline.reports.page.gather import Found, Searched
from pipeline.reports.page.overview import DASH
from pipeline.reports.search import ranked, said

OPEN = 10  # trials that are shown at once


def searches(found: Found) -> Section:
    """A part a finished search."""
    parts = [_search(of, of.document) for of in found.searches if of.document is not None]
    lead = "Each trial is a training, judged on its holdout; no trial has seen the evaluated split."
    return Section("searches", "Searches", [], lead, parts)


def _search(of: Searched, document: Mapping[str, Any]) -> Section:
    best, names, judged = document["best"], sorted(document["space"]), document["figure"]
    trials = ranked(document["trials"], best)
    values = [trial["value"] for trial in trials if trial["value"] is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    rows = [_trial(trial, names, low, high, best) for trial in trials]
    columns = ["trial", f"holdout {judged}", f"{low:.3g} to {high:.3g}", *names, "holdout loss", "epoch", "run"]
    without = len(trials) - len(values)
    caption = f"{len(trials)} trials of the sampler {document['sampler']}, seed {document['seed']}, the best first."
    caption += f" {without} could not be trained." if without else ""
    blocks: list[Any] = []
    if not of.now:
        blocks.append(Note("Made with other params, features or code than these now.", tone="bad"))
    blocks.append(Table(columns, rows[:OPEN], caption))
    if rest := rows[OPEN:]:
        blocks.append(
            Table(columns, rest, "Those behind the first, in the same way.", folded=f"the other {len(rest)} trials")
        )
    if best is not None:
        blocks.append(Listing(f"the values of trial {best['number']}, to lay over the params", best["paste"]))
    if document["importance"]:
        blocks.append(_importance(document["importance"]))
    if of.picture is not None:
        alt = f"Holdout {judged} of the trials of {of.name}, in turn and over each parameter"
        blocks.append(picture(of.picture, alt, "The trials in turn, and over the values of each parameter."))
    return Section(slug(f"search-{of.name}"), f"{of.name}: {of.head}", blocks, contents=of.name)


def _trial(
    trial: Mapping[str, Any], names: Sequence[str], low: float, high: float, best: Mapping[str, Any] | None
) -> list[str | Cell]:
    value, loss = trial["value"], trial["holdout_loss"]
    top = best is not None and trial["number"] == best["number"]
    return [
        str(trial["number"]),
        Cell(trial["state"], tone="bad", title=trial["reason"]) if value is None else Cell(f"{value:.3f}", best=top),
        Cell(bar=None if value is None else Bar(100 * (value - low) / (high - low or 1), None)),
        *(Cell(said(trial["params"][name])) for name in names),
        DASH if loss is None else f"{loss:.4f}",
        DASH if trial["best_epoch"] is None else str(trial["best_epoch"]),
        Cell(trial["run"] or DASH, tone="code"),
    ]


def _importance(shares: Mapping[str, float]) -> Table:
    rows = [[name, Cell(bar=Bar(100 * share)), f"{share:.2f}"] for name, share in shares.items()]
    caption = "The share of each parameter in the variance of the figure over the space (fANOVA)."
    return Table(["parameter", "0 to 1", "importance"], rows, caption)
