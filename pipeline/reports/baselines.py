"""What a classifier's headline stands beside: chance, the majority, linear probes of its inputs. Reads results only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.reports.files import read_result
from pipeline.tasks import TASKS


def beside(result: Mapping[str, Any], probes: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """The block `baselines` of a result that is published.

    Args:
        result: of an evaluation.
        probes: role -> the folder of the evaluation of a linear probe of that input.
        out: results/<name>.json.

    Returns:
        figure: the headline's name; chance, and majority where a probe knows it; linear: role -> feature, figure, ci95,
        samples, whether these are the result's own, and the evaluation's folder.

    Raises:
        ReportError: a probe has not been evaluated. Damaged: its result is not what was written.
    """
    figure = TASKS[result["task"]].headline
    found = {role: read_result(folder, out) for role, folder in probes.items()}
    knows = result if "majority" in result else next(iter(found.values()), {})
    return {
        "figure": figure,
        **{name: knows[name] for name in ("chance", "majority") if name in knows},
        "linear": {role: _probe(result, of, figure, probes[role]) for role, of in found.items()},
    }


def _probe(result: Mapping[str, Any], of: Mapping[str, Any], figure: str, folder: Path) -> dict[str, Any]:
    # Both have the name of their task for it: top-1, mAP, R².
    (feature,) = of["provenance"]["features"].values()
    return {
        "feature": feature["name"],
        figure: of[figure],
        "ci95": of["ci95"],
        "samples": of["samples"]["evaluated"],
        "same_samples": of["provenance"]["evaluated"] == result["provenance"]["evaluated"],
        "evaluation": folder.as_posix(),
    }
