"""What the page says of several labels, of numbers, and of what a result stands beside."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.target_metrics import label_summary, number_summary
from pipeline.reports.baselines import stood_beside
from pipeline.reports.page import overview
from pipeline.reports.page.probes import baseline_parts, label_parts, number_parts
from tests.evaluations import leave

NAMES = ["cat <b>", "dog", "none"]


@pytest.fixture(scope="module")
def several() -> dict:
    random = np.random.default_rng(0)
    truth = random.integers(2, size=(30, 3))
    truth[:, 2] = 0
    found = label_summary(truth, np.clip(0.6 * truth + 0.4 * random.random((30, 3)), 0, 1), NAMES, 20, 0)
    return {**found, "chance": 0.5, "majority": 0.5, "samples": {"evaluated": 30}}


def result(task: str, table: pd.DataFrame | None = None) -> SimpleNamespace:
    return SimpleNamespace(name="mine", head="mine", task=task, pictures={}, predictions=lambda *columns: table)


def test_several_labels_have_a_row_a_class_and_one_that_does_not_occur_a_dash(several):
    (section,) = label_parts(result("multilabel"), several)
    table = section.blocks[0]
    assert [row[0] for row in table.rows].count("cat <b>") == 1 and len(table.rows) == 3
    assert table.rows[0][0] == "none" and "–" in table.rows[0]
    assert [of.name for of in overview.headlines("multilabel", several)] == ["mAP", "micro F1"]
    assert overview.headlines("multilabel", several)[0].guessed == "50.0 %"


def test_numbers_have_a_row_each_in_their_own_unit_and_the_largest_errors():
    truth = np.array([[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]])
    found = truth + np.array([[0.0, 0.0], [0.0, 100.0], [0.1, 0.0]])
    document = number_summary(truth, found, ["age", "weight"], 10, 0)
    table = pd.DataFrame({"sample": ["a", "b", "c"], "label": truth.tolist(), "prediction": found.tolist()})
    numbers, errors = number_parts(result("regression", table), document)
    assert [row[0] for row in numbers.blocks[0].rows] == ["age", "weight"]
    assert errors.blocks[0].rows[0][:3] == ["b", "2, 30", "2, 130"]
    assert overview.headlines("regression", document)[0].said.endswith(" %")


def test_what_a_result_stands_beside_is_in_its_own_unit_and_other_samples_are_marked(tmp_path):
    """A diagnosis has percent, and its linear probes shares."""
    features = {"tokens": {"name": "clips"}}
    probe = {"task": "probe", "top1": 0.5, "ci95": [0.4, 0.6], "chance": 0.25, "majority": 0.3,
             "samples": {"evaluated": 9}, "provenance": {"features": features, "evaluated": "b"}}  # fmt: skip
    own = {"task": "alignment", "accuracy": 75.0, "provenance": {"evaluated": "a"}}
    block = stood_beside(own, {"tokens": leave(tmp_path / "runs/x/y", probe)}, tmp_path / "out.json")
    assert (block["figure"], block["chance"], block["majority"]) == ("accuracy", 25.0, 30.0)
    assert block["linear"]["tokens"]["accuracy"] == 50.0 and not block["linear"]["tokens"]["same_samples"]
    retrieval = {"unguided": {"video_to_map": {"r1": None, "chance_r1": None}}}
    document = {**own, "ci95": [70.0, 80.0], "per_class": [1, 2], "accuracy_without_map": 1.0, "macro_f1": 1.0,
                "retrieval": retrieval, "samples": {"evaluated": 10}, "baselines": block}  # fmt: skip
    (section,) = baseline_parts(result("alignment"), document)
    rows = section.blocks[0].rows
    assert rows[0][1:] == ["75.0", "70.0 to 80.0", "10"]
    assert rows[1] == ["linear probe of clips", "50.0", "40.0 to 60.0", "9 *"]
    assert [row[1] for row in rows[2:]] == ["30.0", "25.0"] and "* of other samples" in section.blocks[0].caption
    assert list(baseline_parts(result("alignment"), {})) == []
