"""What a classifier's headline stands beside: chance, the majority, linear probes of its inputs. Reads results only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.reports.files import read_result
from pipeline.tasks import TASKS


def stood_beside(result: Mapping[str, Any], probes: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """The block `baselines` of a result that is published.

    Args:
        result: of an evaluation.
        probes: role -> the folder of the evaluation of a linear probe of that input.
        out: results/<name>.json.

    Returns:
        figure: the headline's name; chance, and majority where a probe knows it; linear: role -> feature, figure, ci95,
        samples, whether these are the result's own, and the evaluation's folder. Figures in the result's own unit.

    Raises:
        ReportError: a probe has not been evaluated. Damaged: its result is not what was written.
    """
    found = {role: read_result(folder, out) for role, folder in probes.items()}
    knows = result if "majority" in result else next(iter(found.values()), {})
    unit = _unit(result, knows)
    return {
        "figure": TASKS[result["task"]].headline,
        **{name: unit * knows[name] for name in ("chance", "majority") if name in knows},
        "linear": {role: _probe(result, of, probes[role]) for role, of in found.items()},
    }


def _probe(result: Mapping[str, Any], of: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    (feature,) = of["provenance"]["features"].values()
    unit, value = _unit(result, of), of[TASKS[of["task"]].headline]
    return {
        "feature": feature["name"],
        TASKS[result["task"]].headline: None if value is None else unit * value,
        "ci95": [unit * edge for edge in of["ci95"]],
        "samples": of["samples"]["evaluated"],
        "same_samples": of["provenance"]["evaluated"] == result["provenance"]["evaluated"],
        "evaluation": folder.as_posix(),
    }


def _unit(result: Mapping[str, Any], of: Mapping[str, Any]) -> float:
    """What a figure of a probe is multiplied by: results of some tasks hold percent, and those of others shares."""
    return TASKS[of["task"]].scale / TASKS[result["task"]].scale if of else 1.0
