"""Results as runs hold them; pictures, whole or not there at all. Knows nothing of what they show."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pipeline.files import whole

# Names are the users': a dollar sign in one begins no formula.
plt.rcParams["text.parse_math"] = False


class ReportError(ValueError):
    """Results of which no report can be made; the message names what is wrong with which, and the remedy."""


def result_text(evaluation: Path | str, out: Path) -> str:
    """The result that an evaluation left in its folder, for `out`. Raises ReportError: there is none."""
    path = Path(evaluation) / "result.json"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(
            f"{path} is not there: this run has not been evaluated; `snakemake {out}` makes it with all that it needs"
        ) from None


def save_figure(figure: plt.Figure, path: Path) -> None:
    """A picture by rename, closed then; no software version in the file: equal results give equal pictures."""
    with whole(path) as scratch:
        figure.savefig(scratch, dpi=120, format="png", metadata={"Software": None})
    plt.close(figure)
