"""Of a section of a result: what it stands beside, several labels a sample, numbers. Knows documents and tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.reports.page import charts
from pipeline.reports.page.blocks import Cell, Section, Table, plot
from pipeline.reports.page.gather import Result
from pipeline.reports.page.overview import DASH, headlines

WORST = 12  # samples of a table


def baseline_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    """The headline beside that of a linear probe of each input, of answers that look at nothing, and of chance."""
    if (known := document.get("baselines")) is None:
        return
    first, counts = headlines(result.task, document)[0], str(document["samples"]["evaluated"])
    rows: list[list[str | Cell]] = [[f"{result.head}, this head", Cell(_percent(document[known["figure"]]), best=True),
                                     _between(document["ci95"]), counts]]  # fmt: skip
    others = False
    for of in known["linear"].values():
        others |= not of["same_samples"]
        n = str(of["samples"]) + ("" if of["same_samples"] else " *")
        rows.append([f"linear probe of {of['feature']}", _percent(of[known["figure"]]), _between(of["ci95"]), n])
    answers = {"majority": "the same answer for all, learned from train", "chance": "chance"}
    rows += [[said, _percent(known[name]), DASH, counts] for name, said in answers.items() if name in known]
    caption = (
        f"{first.name} in percent. A linear probe is one linear layer over the feature's mean, trained and evaluated "
        "on the same splits: what the backbone had already laid open."
        + (" * of other samples: another input failed for some." if others else "")
    )
    table = Table(["", f"{first.name}, %", "95 % interval", "samples"], rows, caption)
    yield Section(f"{result.name}-baselines", "Beside baselines", [table], contents="baselines")


def label_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    """The average precision of each class, and all figures of it."""
    every = document["per_class"]
    rows = [
        {
            "class": row["class"],
            "n": row["n"],
            "precision": None if row["average_precision"] is None else 100 * row["average_precision"],
            "recall_ci95": row["average_precision_ci95"] and [100 * edge for edge in row["average_precision_ci95"]],
        }
        for row in every
    ]
    name = "average precision"
    figure, shown = charts.class_bars(rows, "precision", name)
    some = "every class" if shown == len(rows) else f"{shown} of {len(rows)} classes, the worst and the best"
    caption = f"{name.capitalize()} of {some} with its 95 % interval, worst on top."
    bars = plot(f"{result.name}-classes-plot", figure, caption, 120 + 19 * shown, wide=True)
    table = [
        [
            row["class"],
            str(row["n"]),
            *(_percent(row[key]) for key in ("prevalence", "average_precision")),
            DASH if row["average_precision_ci95"] is None else _between(row["average_precision_ci95"]),
            *(_percent(row[key]) for key in ("precision", "recall", "f1")),
        ]
        for row in sorted(every, key=lambda row: (row[name.replace(" ", "_")] or 0, row["class"]))
    ]
    columns = ["class", "n", "share of samples", name, "95 %", "precision", "recall", "F1"]
    said = "In percent, worst first; precision, recall and F1 of what is told with a probability of half or more."
    folded = f"all {len(every)} classes as a table"
    blocks = [bars, Table(columns, table, said, folded=folded)]
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
    yield Section(f"{result.name}-numbers", "Numbers", [Table(columns, rows, said)], contents="numbers")
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


def _miss(label: Sequence[float], prediction: Sequence[float], sds: Sequence[float]) -> float:
    return max(abs(a - b) / sd for a, b, sd in zip(label, prediction, sds, strict=True))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f}"


def _between(edges: Sequence[float]) -> str:
    return "{:.1f} to {:.1f}".format(*(100 * edge for edge in edges))
