"""Claims about the table of claims: it says what the runs say, and no more."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy

from pipeline.config import Claim, Figure
from pipeline.reports import claims_table
from pipeline.reports.claims import paired_interval
from pipeline.tables import write_frame
from tests.evaluations import leave

MEASURED = {"full": (0.9, 0.8, 0.7), "half": (0.5, 0.6, 0.75)}


def evaluation(folder, top1, draws=None, units=50):
    """A result, with resamples of its figure or without."""
    folder.mkdir()
    result = {"top1": top1, "chance": 0.25, "classes": ["a"], "at": {"top1": top1 / 2}}
    if draws is not None:
        write_frame(pd.DataFrame({"top1": draws, "chance": np.full(len(draws), 0.25)}), folder / "draws.parquet")
        result["provenance"] = {"resampled": {"draws": len(draws), "units": units}}
    return str(leave(folder, result))


@pytest.fixture
def runs(tmp_path):
    """An ablation of two variants and three seeds, of which no resamples were kept."""
    return {
        ("streams", variant): [evaluation(tmp_path / f"{variant}{seed}", of) for seed, of in enumerate(values)]
        for variant, values in MEASURED.items()
    }


def resampled(tmp_path, variants, **more):
    """Variants by the figure of each seed and the deviations of its draws from that."""
    return {
        ("streams", variant): [
            evaluation(tmp_path / f"{variant}-{seed}", of, of + apart, **more) for seed, of in enumerate(values)
        ]
        for variant, (values, apart) in variants.items()
    }


def figure(variant="full", name="top1"):
    return Figure(ablation="streams", variant=variant, figure=name)


def check(runs, tmp_path, **claim):
    """The one claim's entry, and its line in Markdown."""
    markdown = claims_table({"it": Claim(says="so it is", **claim)}, runs, tmp_path / "out/claims.json")
    assert (tmp_path / "out/claims.md").read_text() == markdown
    return json.loads((tmp_path / "out/claims.json").read_text())["it"], markdown.splitlines()[2]


def test_over_seeds_alone_the_interval_is_that_of_the_paired_t_test(runs, tmp_path):
    found, line = check(runs, tmp_path, of=figure(), over=figure("half"))
    assert found["mean"] == pytest.approx(0.8) and found["sd"] == pytest.approx(0.1)
    assert found["difference"]["per_seed"] == pytest.approx([0.4, 0.2, -0.05])
    wanted = scipy.stats.ttest_rel(*MEASURED.values()).confidence_interval(0.95)
    assert found["difference"]["ci95"] == pytest.approx([wanted.low, wanted.high])
    assert (found["seeds"], found["seeds_that_agree"], found["units"]) == (3, 2, None)
    assert found["verdict"] == "undecided" and found["difference"]["sd_over_samples"] is None
    assert found["undecided"].endswith("holds the bound 0: more seeds would tell; nothing is known of other samples")
    assert found["wants"] == "> 0.617 (top1 of half)"
    apart = "0.183 ± 0.23 (-0.377 to 0.743)"
    assert line == f"| it: so it is | **undecided** | 0.8 ± 0.1 | > 0.617 (top1 of half) | {apart} | 2 of 3 | - |"


def test_samples_add_their_variance_to_that_of_seeds(tmp_path):
    apart = np.random.default_rng(0).normal(0, 0.02, 400)
    still = resampled(
        tmp_path, {"full": (np.array([0.9, 0.8, 0.7]), apart), "half": (np.array([0.5, 0.4, 0.3]), np.zeros(400))}
    )
    found, line = check(still, tmp_path, of=figure(), over=figure("half"))
    # Seeds agree to a rounding, so all of it is the samples'.
    half = scipy.stats.t.ppf(0.975, 49) * apart.std(ddof=1)
    assert found["difference"]["ci95"] == pytest.approx([0.4 - half, 0.4 + half], rel=1e-6)
    assert found["verdict"] == "holds" and found["units"] == 50 and line.endswith("| 3 of 3 | 50 |")


def test_what_moves_both_sides_alike_moves_no_difference(tmp_path):
    apart = np.random.default_rng(0).normal(0, 0.1, 400)
    both = {"full": (np.array([0.65, 0.64, 0.66]), apart), "half": (np.array([0.6, 0.6, 0.6]), apart)}
    found, _ = check(resampled(tmp_path, both), tmp_path, of=figure(), over=figure("half"))
    assert found["verdict"] == "holds" and found["difference"]["sd_over_samples"] == pytest.approx(0, abs=1e-12)
    (tmp_path / "level").mkdir()
    found, _ = check(resampled(tmp_path / "level", both), tmp_path, of=figure(), over=0.6)
    assert found["verdict"] == "undecided"


def test_a_claim_that_fails_is_in_the_table_with_its_figures(runs, tmp_path):
    found, line = check(runs, tmp_path, of=figure("half"), over=figure(), by=0.8)
    assert found["verdict"] == "fails" and found["seeds_that_agree"] == 0 and "| **fails** |" in line


def test_a_level_a_multiple_and_a_margin_can_be_wanted(runs, tmp_path):
    assert check(runs, tmp_path, of=figure(), over=0.54)[0]["verdict"] == "holds"
    level, _ = check(runs, tmp_path, of=figure(), over=0.81)
    assert level["verdict"] == "undecided" and level["wants"] == "> 0.81"
    chance, _ = check(runs, tmp_path, of=figure(), over=figure(name="chance"), times=2.0)
    assert chance["verdict"] == "holds" and chance["wants"] == "> 0.5 (2 × chance of full)"
    assert check(runs, tmp_path, of=figure(), over=figure(name="chance"), times=4.3)[0]["verdict"] == "fails"
    near, _ = check(runs, tmp_path, of=figure("half"), over=figure(), by=-0.75)
    assert near["verdict"] == "holds" and near["wants"] == "> 0.05 (top1 of full -0.75)"


def test_dots_lead_into_a_result(runs, tmp_path):
    found, _ = check(runs, tmp_path, of=figure(name="at.top1"), over=0.3)
    assert found["mean"] == pytest.approx(0.4)


def test_what_is_equal_does_not_exceed(runs, tmp_path):
    assert check(runs, tmp_path, of=figure(), over=figure())[0]["verdict"] == "fails"


def test_one_seed_is_undecided(runs, tmp_path):
    found, line = check({key: of[:1] for key, of in runs.items()}, tmp_path, of=figure(), over=0.5)
    assert found["sd"] is None and found["difference"]["sd"] is None and found["difference"]["ci95"] is None
    assert found["verdict"] == "undecided" and "| 0.9 | > 0.5 | 0.4 | 1 of 1 | - |" in line
    assert found["undecided"] == "one seed says nothing of others; give the ablation more"


def test_what_is_undecided_says_whether_seeds_or_samples_are_too_few(tmp_path):
    steady, loud = np.full(400, 0.0), np.random.default_rng(0).normal(0, 0.1, 400)
    few_seeds = {"full": (np.array([0.9, 0.5]), steady + loud / 1000), "half": (np.array([0.6, 0.6]), np.zeros(400))}
    found, _ = check(resampled(tmp_path, few_seeds), tmp_path, of=figure(), over=figure("half"))
    assert found["undecided"].endswith("holds the bound 0: more seeds would tell")
    (tmp_path / "b").mkdir()
    few_samples = {"full": (np.array([0.65, 0.66]), loud), "half": (np.array([0.6, 0.6]), np.zeros(400))}
    found, _ = check(resampled(tmp_path / "b", few_samples), tmp_path, of=figure(), over=figure("half"))
    assert "50 samples are too few for this difference" in found["undecided"]


def test_a_figure_that_one_side_did_not_resample_is_judged_over_seeds(runs, tmp_path):
    mixed = {**runs, **resampled(tmp_path, {"full": (np.array([0.9, 0.8, 0.7]), np.zeros(40))})}
    found, _ = check(mixed, tmp_path, of=figure(), over=figure("half"))
    assert found["units"] is None and found["difference"]["ci95"] is not None


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Seeds of sd 1 and samples of sd 0.7 about a difference of 0, each time drawn anew."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(600):
        of_samples = random.normal(0, 0.7)
        apart = random.normal(0, 1, 4) + of_samples
        low, high = paired_interval(apart, random.normal(0, 0.7, 300), 40)
        covered += low <= 0 <= high
    assert 0.93 <= covered / 600 <= 0.985


@pytest.mark.parametrize("name", ["top2", "classes", "at", "at.top2", "top1.top1"])
def test_a_figure_that_the_results_do_not_have_is_an_error_that_names_the_claim(runs, tmp_path, name):
    with pytest.raises(ValueError, match=rf"claims\.it: the results of full in streams have no number '{name}'"):
        check(runs, tmp_path, of=figure(name=name), over=0.5)
