"""What params claim of ablations, beside what was measured. Reads results only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Claim, Figure
from pipeline.digests import write_json
from pipeline.files import write_text
from pipeline.markdown import escaped, table
from pipeline.reports.figures import figure_at
from pipeline.reports.files import ReportError, read_result
from pipeline.reports.numbers import with_deviation

Results = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def claims_table(claims: Mapping[str, Claim], runs: Mapping[tuple[str, str], Sequence[str]], out: Path) -> str:
    """Checks every claim, over the seeds of its ablations, and writes what came out as JSON and Markdown.

    A claim holds if the mean of its differences, seed by seed, is above what it wants; how far that is from chance is
    for its standard deviation and the number of seeds that agree to say.

    Args:
        claims: by name.
        runs: (ablation, variant) -> the folders of its evaluations, a seed each; each holds a result.json.
        out: claims.json; claims.md is written beside it.

    Returns:
        The table in Markdown.

    Raises:
        ReportError: a run has not been evaluated, or a claim is of a figure that a result does not have.
    """
    results = {key: [read_result(run, out) for run in of] for key, of in runs.items()}
    checked = {name: _checked(name, claim, results) for name, claim in claims.items()}
    rows = []
    for name, found in checked.items():
        apart = found["difference"]
        measured, difference = (with_deviation(of["mean"], of["sd"]) for of in (found, apart))
        holds, seeds = "yes" if found["holds"] else "**no**", f"{found['seeds_that_agree']} of {found['seeds']}"
        wants = f"> {escaped(found['wants'].removeprefix('> '))}"
        rows.append([escaped(f"{name}: {found['says']}"), holds, measured, wants, difference, seeds])
    lines = [table(["claim", "holds", "measured", "wants", "difference", "seeds"], rows)]
    failed = {name: found["why"] for name, found in checked.items() if not found["holds"] and found["why"]}
    if reasons := [f"- {escaped(f'{name}: {why}')}" for name, why in failed.items()]:
        lines += ["", "Why, as far as it was looked into, where one does not hold:", "", *reasons]
    markdown = "\n".join(lines) + "\n"
    write_text(out.with_suffix(".md"), markdown)
    write_json(out, checked, ordered=True)
    return markdown


def _checked(name: str, claim: Claim, results: Results) -> dict[str, Any]:
    measured = _values(name, claim.of, results)
    paired = isinstance(claim.over, Figure)
    over = _values(name, claim.over, results) if paired else np.full_like(measured, claim.over)
    apart = measured - claim.times * over
    return {
        "says": claim.says,
        "why": claim.why,
        "holds": bool(apart.mean() > claim.by),
        "mean": float(measured.mean()),
        "sd": _deviation(measured),
        "wants": _wants(claim, float(claim.times * over.mean())),
        "difference": {"mean": float(apart.mean()), "sd": _deviation(apart), "per_seed": apart.tolist()},
        "seeds": len(apart),
        "seeds_that_agree": int((apart > claim.by).sum()),
    }


def _values(name: str, figure: Figure, results: Results) -> np.ndarray:
    """The figure of each seed."""
    try:
        found = [figure_at(result, figure.figure) for result in results[figure.ablation, figure.variant]]
    except KeyError:
        found = [None]
    if not all(isinstance(value, (int, float)) for value in found):
        raise ReportError(
            f"claims.{name}: the results of {figure.variant} in {figure.ablation} have no number {figure.figure!r}; "
            "name one of their figures"
        )
    return np.array(found, dtype=float)


def _wants(claim: Claim, bound: float) -> str:
    text = f"> {bound + claim.by:.3g}"
    if not isinstance(claim.over, Figure):
        return text
    times = "" if claim.times == 1 else f"{claim.times:g} × "
    by = "" if claim.by == 0 else f" {claim.by:+g}"
    return f"{text} ({times}{claim.over.figure} of {claim.over.variant}{by})"


def _deviation(values: np.ndarray) -> float | None:
    """The sample's standard deviation; None of one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
