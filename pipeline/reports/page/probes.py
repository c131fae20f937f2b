"""Of a section of a result: what it stands beside, several labels a sample, numbers. Knows documents and tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.reports.page.blocks import Bar, Cell, Section, Table
from pipeline.reports.page.gather import Result
from pipeline.reports.page.overview import DASH, headlines
from pipeline.reports.page.stills import still
from pipeline.tasks import TASKS

WORST = 12  # samples of a table
AP = "average_precision"


def baseline_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    """The headline beside that of a linear probe of each input, of answers that look at nothing, and of chance."""
    if (known := document.get("baselines")) is None:
        return
    first, counts = headlines(result.task, document)[0], str(document["samples"]["evaluated"])
    scale, figure = TASKS[result.task].scale, known["figure"]

    def row(said: str | Cell, value: float | None, between: Sequence[float] | None, n: str) -> list[str | Cell]:
        shown = DASH if value is None else f"{scale * value:.1f}"
        return [said, shown, DASH if between is None else _between(between, scale), n]

    own = row(f"{result.head}, this head", document[figure], document["ci95"], counts)
    rows, others = [own], False
    for of in known["linear"].values():
        others |= not of["same_samples"]
        n = str(of["samples"]) + ("" if of["same_samples"] else " *")
        rows.append(row(f"linear probe of {of['feature']}", of[figure], of["ci95"], n))
    answers = {"majority": "the same answer for all, learned from train", "chance": "chance"}
    rows += [row(said, known[name], None, counts) for name, said in answers.items() if name in known]
    caption = (
        f"{first.name} in percent. A linear probe is one linear layer over the feature's mean, trained and evaluated "
        "on the same splits: what the backbone had already laid open."
        + (" * of other samples: another input failed for some." if others else "")
    )
    table = Table(["", f"{first.name}, %", "95 % interval", "samples"], rows, caption)
    yield Section(f"{result.name}-baselines", "Beside baselines", [table], contents="baselines")


def label_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    """The average precision of each class, and all figures of it."""
    table = [
        [
            row["class"],
            Cell()
            if row[AP] is None
            else Cell(bar=Bar(100 * row[AP], 0.0, *(100 * of for of in row[f"{AP}_ci95"] or ()))),
            str(row["n"]),
            *(_percent(row[key]) for key in ("prevalence", AP)),
            DASH if row[f"{AP}_ci95"] is None else _between(row[f"{AP}_ci95"]),
            *(_percent(row[key]) for key in ("precision", "recall", "f1")),
        ]
        for row in sorted(document["per_class"], key=lambda row: (row[AP] or 0, row["class"]))
    ]
    columns = ["class", "average precision, 0 to 100", "n", "share of samples", "average precision", "95 %"]
    columns += ["precision", "recall", "F1"]
    caption = (
        f"All {len(table)} classes in percent, worst first; lines are 95 % intervals. Precision, recall and F1 are of "
        "what is told with a probability of half or more."
    )
    blocks = [Table(columns, table, caption), *still(result, "classes")]
    yield Section(f"{result.name}-classes", "Classes", blocks, contents="classes")


def number_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    """The figures of each number, and the samples that are missed by most."""
    rows = [
        [
            of["target"],
            str(of["n"]),
            f"{of['mean']:.4g} ± {of['sd']:.2g}",
            *(cell for key in ("r2", "spearman") for cell in (_percent(of[key]), _between(of[f"{key}_ci95"]))),
            f"{of['mae']:.4g}",
            "{:.4g} to {:.4g}".format(*of["mae_ci95"]),
        ]
        for of in document["per_target"]
    ]
    columns = ["number", "n", "mean", "R², %", "95 %", "Spearman, %", "95 %", "MAE", "95 %"]
    said = "Errors in the number's own unit; intervals are the middle 95 % of bootstrap resamples of the samples."
    blocks = [Table(columns, rows, said), *still(result, "scatter")]
    yield Section(f"{result.name}-numbers", "Numbers", blocks, contents="numbers")
    table = result.predictions("sample", "label", "prediction")
    if table is not None:
        sds = [of["sd"] or 1.0 for of in document["per_target"]]
        table = table.assign(miss=[_miss(*both, sds) for both in zip(table["label"], table["prediction"], strict=True)])
        worst = table.sort_values(["miss", "sample"], ascending=[False, True], kind="stable").head(WORST)
        shown = [
            [of.sample, _numbers(of.label), _numbers(of.prediction), f"{of.miss:.2f}"] for of in worst.itertuples()
        ]
        caption = "Samples that are missed by most, in standard deviations of the number."
        missed = Table(["sample", "true", "predicted", "missed by"], shown, caption)
        yield Section(f"{result.name}-mistakes", "Largest errors", [missed], contents="largest errors")


def _bar(share: float, edges: Sequence[float] | None) -> Bar:
    return Bar(100 * share, 0.0, *(100 * edge for edge in edges or ()))


def _miss(label: Sequence[float], prediction: Sequence[float], sds: Sequence[float]) -> float:
    return max(abs(a - b) / sd for a, b, sd in zip(label, prediction, sds, strict=True))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f}"


def _between(edges: Sequence[float] | None, scale: float = 100) -> str:
    return DASH if edges is None else "{:.1f} to {:.1f}".format(*(scale * edge for edge in edges))
