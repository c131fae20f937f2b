"""Claims about tables and pictures: they say what the results say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.config import Ablation
from pipeline.digests import Damaged
from pipeline.evaluation.zeroshot_metrics import zeroshot_metrics
from pipeline.reports import ablation_table, publish
from pipeline.reports.files import ReportError, beside
from pipeline.reports.following import refuse_other_figures
from tests.evaluations import leave
from tests.later import Later

image = Later("matplotlib.image")


def result(top1: float, classes: int = 3) -> dict:
    matrix = np.diag(np.arange(1, classes + 1)).tolist()
    return {
        "task": "classification",
        "top1": top1,
        "top5": 1.0,
        "ece": 0.1,
        "top1_tokens_reversed": 0.5,
        "top1_tokens_shuffled": 0.25,
        "ci95": [top1 - 0.1, top1 + 0.1],
        "ece_ci95": [0.05, 0.2],
        "calibration": [
            {"lower": 0.0, "upper": 0.5, "n": 0, "confidence": None, "accuracy": None, "accuracy_ci95": None},
            {"lower": 0.5, "upper": 1.0, "n": 6, "confidence": 0.9, "accuracy": 0.8, "accuracy_ci95": [0.4, 1.0]},
        ],
        "samples": {"evaluated": 6},
        "confusion": {"classes": [f"class {i}" for i in range(classes)], "matrix": matrix},
    }


def predicted(top1: float) -> pd.DataFrame:
    """Ten samples, of which so many are recognised."""
    guesses = ["a" if row < round(10 * top1) else "b" for row in range(10)]
    return pd.DataFrame({"sample": range(10), "label": "a", "prediction": guesses})


def counted(confusion: dict) -> pd.DataFrame:
    """The samples that a confusion matrix counts."""
    classes, matrix = confusion["classes"], np.asarray(confusion["matrix"])
    truth, guess = (np.repeat(of.ravel(), matrix.ravel()) for of in np.indices(matrix.shape))
    names = {name: [classes[i] for i in of] for name, of in (("label", truth), ("prediction", guess))}
    return pd.DataFrame({"sample": range(len(truth))} | names)


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two variants of two seeds."""
    folders = []
    for number, top1 in enumerate((0.8, 0.9, 0.5, 0.7)):
        folder = tmp_path / f"run{number}"
        folders.append(leave(folder, result(top1)))
    return folders


def test_a_table_has_a_row_a_variant_with_mean_and_sample_deviation_over_seeds(runs, tmp_path):
    ablation = Ablation(head="gasm_cast", seeds=[0, 1], variants={"full": {}, "concat": {"model.fusion": "concat"}})
    markdown = ablation_table(ablation, "classification", runs, tmp_path / "out/table")
    rows = json.loads((tmp_path / "out/table.json").read_text())["variants"]
    assert list(rows) == ["full", "concat"]
    assert rows["full"]["mean"]["top1"] == pytest.approx(0.85)
    assert rows["full"]["sd"]["top1"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert rows["concat"]["changes"] == {"model.fusion": "concat"} and rows["concat"]["per_seed"]["top1"] == [0.5, 0.7]
    assert "**0.850 ± 0.071**" in markdown and "| concat | 0.600 ± 0.141" in markdown
    assert pd.read_csv(tmp_path / "out/table.csv")["top1"].tolist() == pytest.approx([0.85, 0.6])
    assert (tmp_path / "out/table.md").read_text() == markdown


def test_a_single_seed_has_no_deviation(runs, tmp_path):
    ablation_table(Ablation(head="h", seeds=[0], variants={"only": {}}), "classification", runs[:1], tmp_path / "one")
    assert json.loads((tmp_path / "one.json").read_text())["variants"]["only"]["sd"]["top1"] is None


def test_a_result_without_a_figure_that_the_table_shows_is_refused(runs, tmp_path):
    leave(runs[0], {})
    with pytest.raises(ReportError, match=r"run0/result\.json has no figure top1, .* delete .*run0 and run"):
        ablation_table(Ablation(head="h", seeds=[0], variants={"a": {}}), "classification", runs[:1], tmp_path / "one")


def test_a_figure_that_only_some_variants_can_have_is_a_dash_for_the_others(runs, tmp_path):
    leave(runs[0], result(0.8) | {"top1_tokens_reversed": 0.25})
    leave(runs[1], {name: value for name, value in result(0.9).items() if name != "top1_tokens_reversed"})
    ablation = Ablation(head="h", seeds=[0], variants={"eight_steps": {}, "one_step": {}})
    header, _, eight, one = ablation_table(ablation, "classification", runs[:2], tmp_path / "steps").splitlines()
    place = header.split(" | ").index("top1_tokens_reversed")
    assert ["0.250" in eight.split(" | ")[place], one.split(" | ")[place].strip(" |")] == [True, "–"]


def zeroshot(folder: Path, seed: int, signal: float, **changes) -> Path:
    """A run of a zero-shot head that is the better the stronger its signal."""
    random = np.random.default_rng(seed)
    truths = [random.integers(0, 8, 40) for _ in range(3)]
    scores = [random.normal(size=(40, 8)) + signal * np.eye(8)[truth] for truth in truths]
    result = zeroshot_metrics(scores, truths, np.arange(8) < 5, gamma=0.5, background={0}) | changes
    return leave(folder, result)


def test_zero_shot_variants_stand_side_by_side_in_percent_with_the_best_in_bold_and_their_curves(tmp_path):
    ablation = Ablation(head="fact_clip", seeds=[0, 1], variants={"logit": {}, "action_token": {}})
    runs = [
        zeroshot(tmp_path / "a", 0, 0.1, unseen=0.0, fraction_unseen=9.0),
        zeroshot(tmp_path / "b", 1, 0.1, unseen=2.0, fraction_unseen=1.0),
        zeroshot(tmp_path / "c", 0, 3.0, unseen=30.0, fraction_unseen=0.0),
        zeroshot(tmp_path / "d", 1, 3.0, unseen=33.0, fraction_unseen=0.0),
    ]
    markdown = ablation_table(ablation, "zeroshot", runs, tmp_path / "before_after")
    header, _, logit, action_token = (line.strip("| ").split(" | ") for line in markdown.splitlines())
    place = {name: header.index(name) for name in ("unseen", "fraction_unseen")}
    assert [logit[place["unseen"]], action_token[place["unseen"]]] == ["1.0 ± 1.4", "**31.5 ± 2.1**"]
    assert [logit[place["fraction_unseen"]], action_token[place["fraction_unseen"]]] == ["5.0 ± 5.7", "0.0 ± 0.0"]
    assert pd.read_csv(tmp_path / "before_after.csv")["unseen"].tolist() == [1.0, 31.5]
    picture = image.imread(tmp_path / "before_after_seen_unseen.png")
    assert picture.shape[0] > 300 and picture.std() > 0.01


def test_what_no_seed_knows_is_a_dash_and_null(tmp_path):
    ablation = Ablation(head="fact_clip", seeds=[0], variants={"a": {}, "b": {}})
    runs = [zeroshot(tmp_path / "a", 0, 1.0, unseen=None), zeroshot(tmp_path / "b", 0, 1.0, unseen=2.0)]
    markdown = ablation_table(ablation, "zeroshot", runs, tmp_path / "table")
    assert " | – | " in markdown.splitlines()[2] and " | **2.0** | " in markdown.splitlines()[3]
    rows = json.loads((tmp_path / "table.json").read_text())["variants"]
    assert rows["a"]["mean"]["unseen"] is None and rows["a"]["per_seed"]["unseen"] == [None]
    assert rows["b"]["sd"]["unseen"] is None


def test_a_result_whose_figures_do_not_follow_from_its_predictions_is_refused_with_the_remedy(tmp_path):
    run = leave(tmp_path / "run/evaluation", result(0.9), predicted(0.8))
    remedy = r"run/evaluation and run `snakemake .*x\.json`, or evaluate the head again"
    with pytest.raises(
        Damaged, match=rf"result\.json says top1 0\.9, and its predictions give 0\.8; delete .*{remedy}"
    ):
        publish(run, tmp_path / "results/x.json")
    assert not (tmp_path / "results").exists()


SEGMENTED = pd.DataFrame(
    {
        "sample": ["v", "w"],
        "truth": [[0, 1, -1], [1, 1]],
        "prediction": [[0, 0, 0], [1, 1]],
        "confidence": [[1.0] * 3] * 2,
    }
)
SCORED = pd.DataFrame(
    {
        "set": ["id", "id", "far", "far", "id"],
        "part": ["evaluated"] * 4 + ["reference"],
        "negalign": [0.9, 0.5, 0.5, 0.1, 0.0],
    }
)


@pytest.mark.parametrize(
    ("told", "predictions"),
    [
        ({"task": "classification", "top1": 0.7}, predicted(0.7)),
        ({"task": "alignment", "accuracy": 70.0}, predicted(0.7)),
        ({"task": "segmentation", "acc": 75.0}, SEGMENTED),
        ({"task": "zeroshot", "acc": 75.0}, SEGMENTED),
        ({"task": "segmentation", "acc": None}, SEGMENTED.assign(truth=[[-1] * 3, [-1] * 2])),
        ({"task": "ood", "auroc": 87.5, "sets": {"far": {}}}, SCORED),
    ],
    ids=lambda value: value.get("task", "") if isinstance(value, dict) else "",
)
def test_the_headline_of_every_task_follows_from_its_predictions(told, predictions):
    refuse_other_figures(told, predictions, Path("result.json"), "")
    name = next(name for name in told if name not in ("task", "sets"))
    for other in ((told[name] or 0) + 0.01, None if told[name] is not None else 1.0):
        with pytest.raises(Damaged, match=f"result.json says {name}"):
            refuse_other_figures({**told, name: other}, predictions, Path("result.json"), "")


@pytest.mark.parametrize("task", ["classification", "alignment"])
@pytest.mark.parametrize(("matrix", "classes"), [([[2, 1], [2, 1]], "ab"), ([[1, 2], [1, 2]], "ba"), ([[3]], "a")])
def test_a_confusion_matrix_follows_from_its_predictions_too(task, matrix, classes):
    """Accuracy alone is blind to which classes are taken for which."""
    told = {
        "task": task,
        "top1": 0.5,
        "accuracy": 50.0,
        "confusion": {"classes": ["a", "b"], "matrix": [[1, 2], [1, 2]]},
    }
    predictions = counted(told["confusion"])
    refuse_other_figures(told, predictions, Path("result.json"), "")
    with pytest.raises(Damaged, match="not that of its predictions"):
        other = told | {"confusion": {"classes": list(classes), "matrix": matrix}}
        refuse_other_figures(other, predictions, Path("result.json"), "")


@pytest.mark.parametrize("classes", [2, 174])
def test_publishing_copies_the_result_and_draws_its_pictures_at_any_number_of_classes(tmp_path, classes):
    history = {"epoch": [1, 2], "train_loss": [2.0, 1.0], "holdout_loss": [2.1, 1.5], "holdout_accuracy": [0.2, 0.6]}
    run = leave(tmp_path / "run/evaluation", told := result(1.0, classes), counted(told["confusion"]), history)
    out = tmp_path / "results/x.json"
    publish(run, out)
    assert out.read_text() == (run / "result.json").read_text()
    for name in ("confusion", "reliability", "training"):
        picture = image.imread(beside(out, f"{name}.png"))
        assert picture.shape[0] > 300 and picture.std() > 0.01
    before = beside(out, "confusion.png").read_bytes()
    publish(run, out)
    assert beside(out, "confusion.png").read_bytes() == before
    (tmp_path / "run/history.csv").unlink()
    with pytest.raises(Damaged, match=r"history\.csv is not there; restore it, or delete .*run\.json and train"):
        publish(run, out)
