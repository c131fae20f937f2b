"""Names that users chose reach every picture, table, page and prediction file as they are, whatever they look like."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from pipeline import cli
from pipeline.config import Ablation, Dataset
from pipeline.datasets import build_manifest, quality_markdown
from pipeline.digests import read_json
from pipeline.markdown import escaped
from pipeline.reports import ablation_table, publish
from pipeline.reports.names import told_apart
from pipeline.reports.page import write_page
from pipeline.reports.segmentation import Timeline, timelines_figure, write_predictions
from pipeline.reports.space import space_figure
from tests.datasets.made_up import write_labelled
from tests.evaluations import leave
from tests.reports.made_up import MadeUp
from tests.reports.test_page import Outline

HOSTILE = [
    "[null]",
    "$5_$6",
    "<b>",
    "a|b",
    "{brace} %{x}",
    "%d",
    "=1+1",
    "‏ימין לשמאל",
    "γ → ∞",
    "2024-01-31",
    "12",
    "_hidden",
    "x" * 300,
    "x" * 299 + "y",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> MadeUp:
    heads = ("gasm_cast", "fact", "fact_clip", "clip_align")
    project = MadeUp(tmp_path_factory.mktemp("hostile"), names=HOSTILE, samples=56)
    return project.finish(*heads).explain("ssv2_top1")


def test_every_name_is_text_on_the_page(project):
    out = project.root / "results/report.html"
    write_page(project.plan, out, project.root)
    said = Outline(out.read_text(encoding="utf-8")).text
    for name in HOSTILE:
        assert name in said, name


@pytest.mark.parametrize("result", ["ssv2_top1", "clinic_clip_align"])
def test_pictures_of_a_result_are_drawn_whatever_its_classes_are_called(project, result, tmp_path):
    run = project.root / project.plan.results[result].evaluation_folder
    if result == "clinic_clip_align":
        cube = np.random.default_rng(0).random((2, 2, 3, 3))
        names = np.array(HOSTILE[:2], dtype=str)
        np.savez(run / "attention.npz", sample=names, label=names, prediction=names[::-1], token_map=cube, energy=cube)
        leave(run, read_json(run / "result.json", ""))
    publish(run, tmp_path / f"{result}.json")
    with Image.open(tmp_path / result / "report/pictures/confusion.png") as image:
        assert image.convert("L").getextrema()[0] < 50 and image.width < 4000


def test_timelines_and_feature_spaces_are_drawn_with_such_names(project):
    labels = np.repeat(np.arange(len(HOSTILE)), 4)
    timeline = Timeline("$a_$b" + "v" * 300, labels, labels[::-1].copy(), np.ones(len(labels)), {"acc": 1.0})
    for figure in (
        timelines_figure([timeline], HOSTILE, title="$x_$y"),
        space_figure(read_json(project.root / "results/ssv2_top1/explanation/features.json", "")),
    ):
        figure.savefig(io.BytesIO(), format="png")


def test_a_table_s_cells_stay_cells_in_markdown_and_csv(tmp_path):
    rows = {name: {"seed": number} for number, name in enumerate(HOSTILE)}
    runs = []
    for number in range(len(rows)):
        result = {"top1": 0.5, "top5": None, "ece": 0.1, "top1_tokens_reversed": 0.5, "top1_tokens_shuffled": 0.5}
        runs.append(leave(tmp_path / f"run{number}", {"task": "classification", **result}))
    ablation = Ablation.model_construct(head="h", seeds=[0], variants=rows, grid={})
    text = ablation_table(ablation, "classification", runs, tmp_path / "table")
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines()]
    assert len({len(row) for row in cells}) == 1
    assert [row[0].strip() for row in cells[2:]] == [escaped(name) for name in HOSTILE]
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["variant"] for row in csv.DictReader(stream)] == HOSTILE
    assert pd.read_csv(tmp_path / "table.csv")["top5"].isna().all()


def test_the_cells_of_a_data_set_s_quality_report_stay_cells(tmp_path):
    root = write_labelled(tmp_path, {"splits/train.split1.bundle": ["v1"], "splits/test.split1.bundle": ["v2"]}, {})
    (root / "mapping.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(HOSTILE)), encoding="utf-8")
    (root / "groundTruth/v1.txt").write_text("\n".join(HOSTILE), encoding="utf-8")
    quality = build_manifest(Dataset(layout="mstcn", root=str(root), videos=None))[1]
    assert list(quality["labels"]["classes"]) == HOSTILE
    lines = quality_markdown(quality).split("## Labels of frames\n\n")[1].split("\n\n")[0].splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    assert rows == [[f" {escaped(name)} ", " 1 ", " 1 ", " 1 "] for name in HOSTILE]
    assert quality["unseen"] == {"classes": {"count": 1, "names": ["\u200fימין לשמאל"]}}


def test_prediction_files_name_classes_without_a_space_and_tell_what_each_word_means(tmp_path):
    classes = [*HOSTILE, "pour tea", "pour_tea", "pour  tea"]
    write_predictions({"video 1": np.arange(len(classes))}, classes, tmp_path / "out")
    words = (tmp_path / "out/video 1").read_text(encoding="utf-8").splitlines()[1].split(" ")
    assert len(set(words)) == len(words) == len(classes)
    lines = (tmp_path / "out/mapping.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t") for line in lines] == [list(pair) for pair in zip(words, classes, strict=True)]


def test_names_are_no_markup_on_the_terminal():
    printed = Console(file=io.StringIO(), width=2000, markup=cli.console._markup, emoji=cli.console._emoji)
    for name in [*HOSTILE, "cam[red]1.webm", "a[/b].webm", ":smile:"]:
        printed.print(name)
        assert name in printed.file.getvalue()


def test_two_thousand_names_are_cut_and_stay_apart():
    names = [f"the {i} of all the very many things that a person may do with a thing" for i in range(2000)]
    cut = told_apart(names, 30)
    assert len(set(cut)) == 2000 and max(map(len, cut)) < max(map(len, names))
