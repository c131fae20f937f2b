"""The leaderboard and the searches of the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_params
from pipeline.digests import Damaged, read_json, write_json
from pipeline.plan import Plan
from pipeline.reports import search_table
from pipeline.reports.page import PageError, write_page
from tests.reports.made_up import ROOT, MadeUp
from tests.reports.test_page import HOSTILE, Outline

SPACE = {
    "lr": {"low": 1e-3, "high": 0.1, "log": True},
    "model.fusion": {"choices": ["cast", "concat"]},
    "label_smoothing": {"low": 0.0, "high": 0.2},
}


def project_at(root: Path, seeds: int = 3, **options: Any) -> MadeUp:
    """One head, whose evaluations are all there, its baselines among them, and a search."""
    document = json.loads(load_params(ROOT / "params.yaml").part(head="gasm_cast"))
    rows = {"reference": {}, "concat": {"model.fusion": "concat"}, "one_layer": {"model.layers": 1, "model.radii": [1]}}
    document["ablations"] = {"streams": {"head": "gasm_cast", "seeds": list(range(seeds)), "variants": rows}}
    document["searches"] = {"rates": {"head": "gasm_cast", "trials": 14, "space": SPACE}}
    project = MadeUp(root, **options)
    project.plan = Plan(load_params(json.dumps(document)))
    project.finish("gasm_cast").evaluate(*project.plan.evaluations.values())
    return project


def trial(number: int, **changes: Any) -> dict[str, Any]:
    params = {"lr": 0.001 * (number + 1), "model.fusion": "concat" if number % 2 else "cast", "label_smoothing": 0.1}
    value = {"value": 0.5 + (number * 7 % 11) / 30, "holdout_loss": 1.0, "best_epoch": 3, "trainable": 7}
    place = {"run": f"runs/gasm_cast/{number:010d}", "state": "finished", "reason": None}
    return {"number": number, "params": params, **value, **place, **changes}


def searched(project: MadeUp, trials: int = 14, key: str = "") -> None:
    """What a search came to, the second trial without a figure."""
    lost = {"value": None, "holdout_loss": None, "best_epoch": None, "state": "failed", "reason": HOSTILE}
    done = [trial(number, **(lost if number == 1 else {})) for number in range(trials)]
    key = key or project.plan.search_key("rates")
    project.write("results/searches/rates/trials.json", {"key": key, "trials": done})
    if trials < 14:
        return
    known = [of for of in done if of["value"] is not None]
    top = max(known, key=lambda of: of["value"])
    found = {
        "key": key, "head": "gasm_cast", "figure": "accuracy", "sampler": "tpe", "seed": 0, "space": SPACE,
        "trials": done, "best": {**top, "paste": "heads:\n  gasm_cast: {lr: 0.01}\n"},
        "importance": {"lr": 0.7, "model.fusion": 0.2, "label_smoothing": 0.1},
    }  # fmt: skip
    search_table(found, project.root / "results/searches/rates")


def page(project: MadeUp) -> str:
    out = project.root / "results/report.html"
    write_page(project.plan, out, project.root)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[MadeUp, str]:
    project = project_at(tmp_path_factory.mktemp("leaders"))
    searched(project)
    return project, page(project)


def section(text: str, id: str) -> str:
    """What stands between a section's heading and the next section's."""
    return re.search(rf'<section id="{id}".*?</section>', text, re.DOTALL)[0]


def test_the_best_evaluation_of_a_dataset_and_split_is_on_top_with_its_interval_and_what_differs(made):
    project, text = made
    part = section(text, "leaders-toy-ssv2-validation-accuracy")
    results = {run: read_json(project.root / run.result_file, "") for run in project.plan.evaluations.values()}
    values = sorted((100 * of["top1"] for of in results.values()), reverse=True)
    assert len(values) == 11  # nine of the ablation, one of which is the result's, and two probes
    shown = re.findall(r'<tr>\s*<th scope="row".*?</th>(.*?)</tr>', part, re.DOTALL)
    figures = [re.findall(r"<td[^>]*>(?:<strong>)?([\d.]+)(?:</strong>)?</td>", row)[0] for row in shown]
    assert figures == [f"{value:.1f}" for value in values]
    best = max(results, key=lambda run: results[run]["top1"])
    low, high = (100 * edge for edge in results[best]["ci95"])
    assert f"{low:.1f} to {high:.1f}" in shown[0] and "<strong>" in shown[0]
    assert "a linear probe of dinov3_patches" in part and "model.fusion: concat" in part
    assert "results/ssv2_top1" in part and "also ablations.streams: reference, seed 0" in part
    assert "the other 1</summary>" in part and part.count("<details>") == 1


def test_evaluations_of_other_samples_are_told_apart_and_what_cannot_be_read_ends_the_page(tmp_path):
    project = project_at(tmp_path, seeds=1)
    run = project.plan.ablated("streams")["concat", 0]
    path = tmp_path / run.result_file
    for other in project.plan.evaluations.values():
        document = read_json(tmp_path / other.result_file, "")
        document["provenance"]["evaluated"] = "b" if other.key == run.key else "a"
        write_json(tmp_path / other.result_file, document, ordered=True)
    text = page(project)
    assert text.count("other samples than most rows have") == 1
    path.write_text("{}", encoding="utf-8")
    with pytest.raises((PageError, Damaged), match="has no digest of itself"):
        page(project)
    path.unlink()
    assert "concat" not in section(page(project), "leaders-toy-ssv2-validation-accuracy")


def test_a_search_shows_its_trials_the_best_values_and_what_mattered(made):
    project, text = made
    part = section(text, "search-rates")
    assert "14 trials of the sampler tpe, seed 0, the best first. 1 could not be trained." in part
    assert re.search(r'<th scope="row"[^>]*>(\d+)</th>', part)[1] == "3" and "the other 4 trials" in part
    assert "heads:\n  gasm_cast: {lr: 0.01}" in part and "fANOVA" in part and "data:image/webp" in part
    assert "Made with other params" not in part and HOSTILE not in text
    outline = Outline(text)
    assert len(outline.ids) == len(set(outline.ids)) and {link[1:] for link in outline.links} <= set(outline.ids)
    searched(project, key="0123456789")
    assert "Made with other params, features or code than these now." in page(project)


def test_a_search_that_is_not_finished_is_named_with_how_far_it_is(tmp_path):
    project = project_at(tmp_path, seeds=1)
    searched(project, trials=5)
    said = Outline(page(project)).text
    assert (
        "a search over gasm_cast, 5 of 14 trials results/searches/rates.json snakemake results/searches/rates" in said
    )
