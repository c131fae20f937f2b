"""Claims about tables and pictures: they say what the results say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from pipeline.config import Ablation
from pipeline.reports import ablation_table, publish


def result(top1: float, classes: int = 3) -> dict:
    matrix = np.diag(np.arange(1, classes + 1)).tolist()
    return {
        "top1": top1,
        "top5": 1.0,
        "ece": 0.1,
        "top1_reversed": 0.5,
        "top1_shuffled": 0.25,
        "ci95": [top1 - 0.1, top1 + 0.1],
        "samples": {"evaluated": 6},
        "confusion": {"classes": [f"class {i}" for i in range(classes)], "matrix": matrix},
    }


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two variants of two seeds."""
    folders = []
    for number, top1 in enumerate((0.8, 0.9, 0.5, 0.7)):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(result(top1)))
        folders.append(folder)
    return folders


def test_a_table_has_a_row_a_variant_with_mean_and_sample_deviation_over_seeds(runs, tmp_path):
    ablation = Ablation(head="gasm_cast", seeds=[0, 1], variants={"full": {}, "concat": {"model.fusion": "concat"}})
    markdown = ablation_table(ablation, runs, tmp_path / "out/table")
    rows = json.loads((tmp_path / "out/table.json").read_text())["variants"]
    assert rows["full"]["mean"]["top1"] == pytest.approx(0.85)
    assert rows["full"]["sd"]["top1"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert rows["concat"]["changes"] == {"model.fusion": "concat"} and rows["concat"]["per_seed"] == [0.5, 0.7]
    assert "**0.850 ± 0.071**" in markdown and "| concat | 0.600 ± 0.141" in markdown
    assert pd.read_csv(tmp_path / "out/table.csv")["top1"].tolist() == pytest.approx([0.85, 0.6])
    assert (tmp_path / "out/table.md").read_text() == markdown


def test_a_single_seed_has_no_deviation(runs, tmp_path):
    ablation_table(Ablation(head="h", seeds=[0], variants={"only": {}}), runs[:1], tmp_path / "one")
    assert json.loads((tmp_path / "one.json").read_text())["variants"]["only"]["sd"]["top1"] is None


@pytest.mark.parametrize("classes", [2, 174])
def test_publishing_copies_the_result_and_draws_its_pictures_at_any_number_of_classes(tmp_path, classes):
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text(json.dumps(result(0.9, classes)))
    history = {"epoch": [1, 2], "train_loss": [2.0, 1.0], "holdout_loss": [2.1, 1.5], "holdout_accuracy": [0.2, 0.6]}
    pd.DataFrame(history).to_csv(run / "history.csv", index=False)
    out = tmp_path / "results/x.json"
    publish(run, out)
    assert out.read_text() == (run / "result.json").read_text()
    for name in ("confusion", "training"):
        picture = imread(out.with_name(f"x_{name}.png"))
        assert picture.shape[0] > 300 and picture.std() > 0.01
    before = out.with_name("x_confusion.png").read_bytes()
    publish(run, out)
    assert out.with_name("x_confusion.png").read_bytes() == before
