"""Claims about the report of out-of-distribution scores: its table and pictures say what the result says."""

import re

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.ood_metrics import lambda_sweep, ood_intervals, ood_metrics
from pipeline.reports import publish
from pipeline.reports.files import beside
from pipeline.reports.ood import FIGURES, SCORES, lambda_figure, ood_markdown, scores_figure, titles
from tests.evaluations import leave
from tests.later import Later

plt = Later("matplotlib.pyplot")
image = Later("matplotlib.image")

LAMBDAS = [0.0, 0.5, 1.0]


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


@pytest.fixture
def made():
    """(result, table) of two OOD sets, as an evaluation leaves them."""
    random, parts = np.random.default_rng(0), []
    for name, shift in (("id", 1.0), ("near", 0.6), ("far", -1.0)):
        for part, count in (("reference", 20), ("evaluated", 40)):
            scores = {"neglabel": random.normal(size=count) + shift, "p_align": random.normal(size=count)}
            parts.append(pd.DataFrame({"set": name, "part": part, **scores}))
    table = pd.concat(parts, ignore_index=True)
    table["star"] = table["neglabel"] + 0.1
    table["negalign"] = table["star"] + 0.5 * table["p_align"]
    of = {name: rows for name, rows in table[table["part"] == "evaluated"].groupby("set")}
    sets = {}
    for name in ("near", "far"):
        columns = [rows[column] for rows in (of["id"], of[name]) for column in ("star", "p_align")]
        sweep = {f"{lam:g}": found for lam, found in lambda_sweep(*columns, LAMBDAS).items()}
        sets[name] = {kind: ood_metrics(of["id"][kind], of[name][kind]) for kind in SCORES}
        sets[name] |= {"ci95": ood_intervals(of["id"]["negalign"], of[name]["negalign"], 20, 0), "lambda_sweep": sweep}

    def mean(pick):
        return {figure: np.mean([pick(found)[figure] for found in sets.values()]) for figure in FIGURES}

    average = {kind: mean(lambda found, kind=kind: found[kind]) for kind in SCORES}
    curve = {key: mean(lambda found, key=key: found["lambda_sweep"][key]) for key in ("0", "0.5", "1")}
    words = {"object": 7, "background": 5, "ambiguous": 2}
    result = {"task": "ood", "lambda": 0.5, "sets": sets, "average": average, "lambda_sweep": curve, "words": words}
    return result, table


def cells_of(markdown: str) -> dict[tuple[str, str], list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    return {(row[0], row[1]): row[2:] for row in rows[2:]}


def test_the_table_says_what_the_result_says_a_row_a_set_and_score_and_their_means(made):
    result, _ = made
    found = cells_of(ood_markdown(result))
    assert len(found) == 3 * len(SCORES)
    for name, of in {**result["sets"], "mean": result["average"]}.items():
        for kind, title in titles(result).items():
            firsts = [cell.split()[0] for cell in found[name, title]]
            assert firsts == [f"{of[kind][figure]:.2f}" for figure in FIGURES]
    low, high = result["sets"]["near"]["ci95"]["auroc"]
    assert found["near", titles(result)["negalign"]][0].endswith(f"({low:.1f} to {high:.1f})")
    assert "(" not in "".join(found["near", SCORES["neglabel"]] + found["mean", titles(result)["negalign"]])


@pytest.mark.parametrize(
    ("local", "title"),
    [("max", "e + λ max e of a patch"), ("p_align", "S_NegLabel* + λ P_align"), ("none", "S_NegLabel* alone")],
)
def test_the_table_says_what_the_final_score_is_the_sum_of(made, local, title):
    assert ("near", title) in cells_of(ood_markdown(made[0] | {"local": local}))


def test_the_table_names_lambda_and_how_many_words_have_each_role(made):
    assert ood_markdown(made[0]).endswith("\n\nλ = 0.5; negative words: 7 object, 5 background, 2 ambiguous.\n")


def test_histograms_show_the_evaluated_pictures_of_each_set_beside_those_in_distribution(made):
    result, table = made
    figure = scores_figure(table[table["part"] == "evaluated"], result)
    assert len(figure.axes) == 2 * len(SCORES)
    for axes in figure.axes:
        assert sum(patch.get_height() for patch in axes.patches) == pytest.approx(200), "two times 100 percent"
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "ID, 40",
        "OOD, 40",
        "95 % of ID above",
    ]
    assert figure.axes[1].get_title() == "AUROC {auroc:.1f}, FPR95 {fpr95:.1f}".format(
        **result["sets"]["far"]["neglabel"]
    )


def test_curves_run_over_lambda_in_order_and_end_where_the_result_says(made):
    result, _ = made
    result["sets"]["near"]["lambda_sweep"]["10"] = result["sets"]["near"]["lambda_sweep"]["0.5"]
    for axes, key in zip(lambda_figure(result).axes, ("auroc", "fpr95"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        assert lines["near"].get_xdata().tolist() == [0.0, 0.5, 1.0, 10.0], "as numbers, not as texts"
        assert lines["mean"].get_ydata()[1] == result["lambda_sweep"]["0.5"][key]
        (chosen,) = (line for name, line in lines.items() if re.match(r"λ = 0\.5 \(chosen\)", name))
        assert list(chosen.get_xdata()) == [0.5, 0.5]


def test_publishing_copies_the_result_and_puts_pictures_and_table_beside_it(made, tmp_path):
    result, table = made
    run, out = tmp_path / "run", tmp_path / "results" / "x.json"
    leave(run, {"task": "ood", **result["average"]["negalign"], **result}, table)
    publish(run, out)
    assert out.read_text() == (run / "result.json").read_text()
    assert beside(out, "table.md").read_text() == ood_markdown(result)
    for name in ("scores", "lambda"):
        picture = image.imread(beside(out, f"{name}.png"))
        assert picture.shape[0] > 300 and picture.std() > 0.01
    before = beside(out, "scores.png").read_bytes()
    publish(run, out)
    assert beside(out, "scores.png").read_bytes() == before
    assert {path.name for path in out.parent.iterdir()} == {"x.json", "x"}
    assert {path.name for path in beside(out, "").rglob("*.*")} == {"table.md", "scores.png", "lambda.png"}
