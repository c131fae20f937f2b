"""What params claim of ablations, beside what was measured. Reads results only.

A claim compares two figures of the same seeds and the same samples, so what is judged is the paired difference d. Its
variance has two parts: that of other seeds, s² / n from the n differences, and that of other samples, v² from resamples
in which a sample counts alike on either side and in every seed. The 95 % interval is mean(d) ± t · sqrt(s² / n + v²),
the degrees of freedom by Satterthwaite. Both parts hold how seeds and samples act together, so it is on the wide side.

Source: Satterthwaite, "An Approximate Distribution of Estimates of Variance Components", Biometrics Bulletin, 1946.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.config import Claim, Figure
from pipeline.digests import write_json
from pipeline.files import write_text
from pipeline.markdown import escaped, table
from pipeline.reports.figures import figure_at
from pipeline.reports.files import ReportError, read_draws, read_result
from pipeline.reports.numbers import with_deviation

CONFIDENCE = 0.95
HOLDS, FAILS, UNDECIDED = ("holds", "fails", "undecided")


class Measured(NamedTuple):
    """An evaluation: its result, and the resamples of its figures, empty if it kept none."""

    result: Mapping[str, Any]
    draws: pd.DataFrame

    @property
    def units(self) -> int | None:
        """How many samples, or patients, were resampled."""
        return self.result["provenance"].get("resampled", {}).get("units")


class Values(NamedTuple):
    """A figure, a seed each.

    Attributes:
        seeds: (S,).
        draws: (S, D) over resamples; None where evaluations keep none of it.
        units: the fewest that one of them resampled.
    """

    seeds: np.ndarray
    draws: np.ndarray | None
    units: int | None

    def all_being(self, level: float) -> "Values":
        """As many, each this number."""
        drawn = None if self.draws is None else np.full_like(self.draws, level)
        return Values(np.full_like(self.seeds, level), drawn, self.units)


Results = Mapping[tuple[str, str], Sequence[Measured]]


def claims_table(claims: Mapping[str, Claim], runs: Mapping[tuple[str, str], Sequence[str]], out: Path) -> str:
    """Checks every claim, over the seeds of its ablations and their samples, and writes the outcome.

    A claim holds if the 95 % interval of its difference lies above what it wants, fails if it lies below, and is
    undecided otherwise.

    Args:
        claims: by name.
        runs: (ablation, variant) -> the folders of its evaluations, a seed each; each holds a result.json.
        out: claims.json; claims.md is written beside it.

    Returns:
        The table in Markdown.

    Raises:
        ReportError: a run has not been evaluated, or a claim is of a figure that a result does not have.
        Damaged: a file of an evaluation is not the one that was written.
    """
    results = {key: [_measured(run, out) for run in of] for key, of in runs.items()}
    checked = {name: _checked(name, claim, results) for name, claim in claims.items()}
    rows = []
    for name, found in checked.items():
        apart = found["difference"]
        verdict = found["verdict"] if found["verdict"] == HOLDS else f"**{found['verdict']}**"
        measured = with_deviation(found["mean"], found["sd"])
        wants = f"> {escaped(found['wants'].removeprefix('> '))}"
        difference = with_deviation(apart["mean"], apart["sd"])
        difference += f" ({between(apart['ci95'])})" if apart["ci95"] else ""
        seeds = f"{found['seeds_that_agree']} of {found['seeds']}"
        of = str(found["units"] or "-")
        rows.append([escaped(f"{name}: {found['says']}"), verdict, measured, wants, difference, seeds, of])
    columns = ["claim", "verdict", "measured", "wants", "difference, 95 % interval", "seeds", "samples"]
    lines = [table(columns, rows)]
    reasons = {
        name: "; ".join(filter(None, (found["undecided"], found["why"])))
        for name, found in checked.items()
        if found["verdict"] != HOLDS
    }
    if told := [f"- {escaped(f'{name}: {why}')}" for name, why in reasons.items() if why]:
        lines += ["", "Why, as far as it was looked into, where one does not hold:", "", *told]
    markdown = "\n".join(lines) + "\n"
    write_text(out.with_suffix(".md"), markdown)
    write_json(out, checked, ordered=True)
    return markdown


def between(edges: Sequence[float]) -> str:
    """An interval, for people.

    >>> between([0.0123, 1.5])
    '0.0123 to 1.5'
    """
    return f"{edges[0]:.3g} to {edges[1]:.3g}"


def paired_interval(apart_S: np.ndarray, drawn_D: np.ndarray | None, units: int | None) -> list[float] | None:
    """95 % interval of the mean of paired differences over seeds, and over samples if there are resamples.

    Args:
        apart_S: the difference of each seed.
        drawn_D: the mean over seeds of the differences, on resamples of the samples; NaN where there is none.
        units: how many samples were resampled.

    Returns:
        [low, high]; None of one seed, which says nothing of others.
    """
    if len(apart_S) < 2:
        return None
    parts = [(float(apart_S.var(ddof=1)) / len(apart_S), len(apart_S) - 1)]
    if drawn_D is not None:
        parts.append((float(np.nanvar(drawn_D, ddof=1)), max(units - 1, 1)))
    return _interval(float(apart_S.mean()), parts)


def _interval(mean: float, parts: Sequence[tuple[float, int]]) -> list[float]:
    """About a mean whose variance has these parts, each with its degrees of freedom."""
    from scipy.stats import t

    variance = sum(of for of, _ in parts)
    if not variance:
        return [mean, mean]
    freedom = variance**2 / sum(of**2 / n for of, n in parts)
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    return [mean - half, mean + half]


def _checked(name: str, claim: Claim, results: Results) -> dict[str, Any]:
    of = _values(name, claim.of, results)
    over = _values(name, claim.over, results) if isinstance(claim.over, Figure) else of.all_being(claim.over)
    apart_S, drawn_D, units = of.seeds - claim.times * over.seeds, None, None
    if of.draws is not None and over.draws is not None:
        n = min(of.draws.shape[-1], over.draws.shape[-1])  # a unit's stream begins alike however many draws are made
        drawn_D = (of.draws[:, :n] - claim.times * over.draws[:, :n]).mean(axis=0)
        units = min(of.units, over.units)
    edges = paired_interval(apart_S, drawn_D, units)
    verdict, undecided = _verdict(apart_S, drawn_D, units, edges, claim.by)
    return {
        "says": claim.says,
        "why": claim.why,
        "verdict": verdict,
        "undecided": undecided,
        "mean": float(of.seeds.mean()),
        "sd": _deviation(of.seeds),
        "wants": _wants(claim, float(claim.times * over.seeds.mean())),
        "difference": {
            "mean": float(apart_S.mean()),
            "sd": _deviation(apart_S),
            "sd_over_samples": None if drawn_D is None else float(np.nanstd(drawn_D, ddof=1)),
            "ci95": edges,
            "bound": claim.by,
            "per_seed": apart_S.tolist(),
        },
        "seeds": len(apart_S),
        "seeds_that_agree": int((apart_S > claim.by).sum()),
        "units": units,
    }


def _verdict(
    apart_S: np.ndarray, drawn_D: np.ndarray | None, units: int | None, edges: Sequence[float] | None, bound: float
) -> tuple[str, str | None]:
    """Whether a claim holds, and why that is undecided where it is."""
    if edges is None:
        return UNDECIDED, "one seed says nothing of others; give the ablation more"
    if edges[0] > bound:
        return HOLDS, None
    if edges[1] < bound or (edges[0] == edges[1] == bound):
        return FAILS, None
    told = f"the interval ({between(edges)}) holds the bound {bound:g}"
    if drawn_D is None:
        return UNDECIDED, f"{told}: more seeds would tell; nothing is known of other samples"
    still = _interval(float(apart_S.mean()), [(float(np.nanvar(drawn_D, ddof=1)), max(units - 1, 1))])
    if still[0] <= bound <= still[1]:
        return UNDECIDED, f"{told}, and would with any number of seeds: {units} samples are too few for this difference"
    return UNDECIDED, f"{told}: more seeds would tell"


def _measured(run: Path | str, out: Path) -> Measured:
    result = read_result(run, out)
    return Measured(result, read_draws(run, out, result))


def _values(name: str, figure: Figure, results: Results) -> Values:
    measured = results[figure.ablation, figure.variant]
    try:
        found = [figure_at(of.result, figure.figure) for of in measured]
    except KeyError:
        found = [None]
    if not all(isinstance(value, (int, float)) for value in found):
        raise ReportError(
            f"claims.{name}: the results of {figure.variant} in {figure.ablation} have no number {figure.figure!r}; "
            "name one of their figures"
        )
    seeds = np.array(found, dtype=float)
    if not all(figure.figure in of.draws for of in measured):
        return Values(seeds, None, None)
    drawn = [of.draws[figure.figure].to_numpy() for of in measured]
    fewest = min(map(len, drawn))
    return Values(seeds, np.stack([of[:fewest] for of in drawn]), min(of.units for of in measured))


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
