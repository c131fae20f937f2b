"""Claims about the table of claims: it says what the runs say, and no more."""

import json

import pytest

from pipeline.config import Claim, Figure
from pipeline.reports import claims_table
from tests.evaluations import leave


@pytest.fixture
def runs(tmp_path):
    """An ablation of two variants and three seeds."""
    measured = {"full": (0.9, 0.8, 0.7), "half": (0.5, 0.6, 0.75)}
    folders = {}
    for variant, values in measured.items():
        for seed, top1 in enumerate(values):
            folder = tmp_path / f"{variant}{seed}"
            result = {"top1": top1, "chance": 0.25, "classes": ["a"], "at": {"top1": top1 / 2}}
            leave(folder, result)
            folders.setdefault(("streams", variant), []).append(str(folder))
    return folders


def figure(variant="full", name="top1"):
    return Figure(ablation="streams", variant=variant, figure=name)


def check(runs, tmp_path, **claim):
    """The one claim's entry, and its line in Markdown."""
    markdown = claims_table({"it": Claim(says="so it is", **claim)}, runs, tmp_path / "out/claims.json")
    assert (tmp_path / "out/claims.md").read_text() == markdown
    return json.loads((tmp_path / "out/claims.json").read_text())["it"], markdown.splitlines()[2]


def test_one_variant_over_another_is_judged_by_the_mean_of_differences_seed_by_seed(runs, tmp_path):
    found, line = check(runs, tmp_path, of=figure(), over=figure("half"))
    assert found["holds"] and found["mean"] == pytest.approx(0.8) and found["sd"] == pytest.approx(0.1)
    assert found["difference"]["per_seed"] == pytest.approx([0.4, 0.2, -0.05])
    assert found["difference"]["mean"] == pytest.approx(0.55 / 3)
    assert (found["seeds"], found["seeds_that_agree"]) == (3, 2)
    assert found["wants"] == "> 0.617 (top1 of half)"
    assert line == "| it: so it is | yes | 0.8 ± 0.1 | > 0.617 (top1 of half) | 0.183 ± 0.23 | 2 of 3 |"


def test_a_claim_that_fails_is_in_the_table_with_its_figures(runs, tmp_path):
    found, line = check(runs, tmp_path, of=figure("half"), over=figure())
    assert not found["holds"] and found["seeds_that_agree"] == 1 and "| **no** |" in line


def test_a_level_a_multiple_and_a_margin_can_be_wanted(runs, tmp_path):
    assert check(runs, tmp_path, of=figure(), over=0.79)[0]["holds"]
    level, _ = check(runs, tmp_path, of=figure(), over=0.81)
    assert not level["holds"] and level["wants"] == "> 0.81"
    chance, _ = check(runs, tmp_path, of=figure(), over=figure(name="chance"), times=3.0)
    assert chance["holds"] and chance["wants"] == "> 0.75 (3 × chance of full)"
    assert not check(runs, tmp_path, of=figure(), over=figure(name="chance"), times=3.3)[0]["holds"]
    near, _ = check(runs, tmp_path, of=figure("half"), over=figure(), by=-0.2)
    assert near["holds"] and near["wants"] == "> 0.6 (top1 of full -0.2)"


def test_dots_lead_into_a_result(runs, tmp_path):
    found, _ = check(runs, tmp_path, of=figure(name="at.top1"), over=0.3)
    assert found["mean"] == pytest.approx(0.4)


def test_what_is_equal_does_not_exceed(runs, tmp_path):
    assert not check(runs, tmp_path, of=figure(), over=figure())[0]["holds"]


def test_one_seed_has_no_deviation(runs, tmp_path):
    found, line = check({key: of[:1] for key, of in runs.items()}, tmp_path, of=figure(), over=0.5)
    assert found["sd"] is None and found["difference"]["sd"] is None and "| 0.9 | > 0.5 | 0.4 | 1 of 1 |" in line


@pytest.mark.parametrize("name", ["top2", "classes", "at", "at.top2", "top1.top1"])
def test_a_figure_that_the_results_do_not_have_is_an_error_that_names_the_claim(runs, tmp_path, name):
    with pytest.raises(ValueError, match=rf"claims\.it: the results of full in streams have no number '{name}'"):
        check(runs, tmp_path, of=figure(name=name), over=0.5)
