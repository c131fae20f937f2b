"""Claims about explaining a run: all parts are there and whole, the same each time, and what is amiss is said."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from pipeline.evaluation.provenance import batches
from pipeline.explanation import ExplanationError, explain
from pipeline.explanation.streams import Recognition
from pipeline.reports.files import beside
from pipeline.training import RunError

PARTS = ["attention.png", "class_attention.png"]
PARTS += ["features.json", "features.png", "importance.json", "importance.png"]


def quiet(line: str) -> None:
    """Says nothing."""


def test_every_part_is_beside_the_result(explained):
    assert sorted(path.name for path in (explained / "explanation").rglob("*.*")) == PARTS


def test_points_are_the_evaluated_samples_with_their_classes_and_predictions(run, explained):
    document = json.loads((explained / "explanation/features.json").read_text())
    table = replace(run).predictions
    classes = document["classes"]
    assert document["samples"] == table["sample"].tolist()
    assert [classes[label] for label in document["labels"]] == table["label"].tolist()
    assert [classes[label] for label in document["predicted"]] == table["prediction"].tolist()
    assert document["probability"] == pytest.approx([of[0] for of in table["probabilities"]], rel=1e-3)
    for projection in document["projections"].values():
        assert len(projection["x"]) == len(projection["y"]) == len(table) and projection["note"]


def test_without_videos_there_are_no_thumbnails_and_the_document_says_so(explained):
    document = json.loads((explained / "explanation/features.json").read_text())
    assert document["thumbnails"] == {}
    assert document["thumbnails_note"].startswith("thumbnails of 0 of 20; 20 could not be shown, first: nowhere/")
    assert document["thumbnails_note"].endswith("is not there")


def test_an_explanation_is_the_same_to_the_byte_whenever_it_is_made(run, explained):
    again = explained.parent.parent / "again" / explained.name
    explain(run, again, progress=quiet)
    for part in PARTS:
        own, other = (beside(of, part, "explanation") for of in (explained, again))
        assert own.read_bytes() == other.read_bytes(), part


def test_the_base_of_importance_is_the_result_and_each_stream_has_both_measures(run, explained):
    document = json.loads((explained / "explanation/importance.json").read_text())
    assert document["base"] == pytest.approx(100 * replace(run).result["top1"], rel=1e-3)
    assert list(document["streams"]) == ["motion", "semantic"]
    for of in document["streams"].values():
        for kind in ("ablation", "permutation"):
            assert set(of[kind]) == {"drop", "deviation", "repeats"} and of[kind]["drop"] <= document["base"]


def test_a_result_that_its_weights_do_not_give_again_is_refused(run):
    finished = replace(run)
    finished.result["top1"] += 0.1
    with pytest.raises(ExplanationError, match="evaluate the head again"):
        Recognition(finished).answers([None])


def test_a_head_that_is_not_finished_is_named_with_the_remedy(run, tmp_path):
    with pytest.raises(RunError, match=r"gasm_cast has no finished run.*snakemake results/made_top1\.json"):
        explain(replace(run, folder=tmp_path / "none"), tmp_path / "x")


def test_a_part_that_a_head_has_not_is_refused(run, tmp_path):
    with pytest.raises(ExplanationError, match="no 'dreams' to explain; there are attention, features"):
        explain(run, tmp_path / "x", ["dreams"])


def test_an_explanation_that_is_cut_short_leaves_what_was_there_before(run, explained, tmp_path, monkeypatch):
    out = tmp_path / "x"
    explain(run, out, ["importance"], quiet)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}

    def cut(scratch, path):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", cut)
    with pytest.raises(KeyboardInterrupt):
        explain(run, out, ["importance"], quiet)
    assert {path: path.read_bytes() for path in before} == before


def test_ablation_is_the_mean_of_the_set_and_permutation_the_stream_of_another_by_loops(run):
    from pipeline.explanation.importance import Change, order

    task = Recognition(replace(run))
    rows = [task.rows[[row]] for row in range(len(task.rows))]
    mean = np.mean([row["motion"][0].double().numpy() for row in rows], axis=0)
    batch = task.rows[[3, 1]]
    changed = task.changed(batch, Change("motion"), None, task.means)
    assert np.allclose(changed["motion"].numpy(), np.stack([mean, mean]), atol=1e-6)
    assert changed["semantic"] is batch["semantic"]
    places = order(Change("motion", (1, 2)), len(rows))
    batch, other = islice(batches(task.run, task.rows, [places]), 2)
    changed = task.changed(batch, Change("motion", (1, 2)), other, task.means)
    for got, row in zip(changed["motion"], batch["row"].tolist(), strict=True):
        assert (got == rows[places[row]]["motion"][0]).all()
    assert (changed["label"] == batch["label"]).all()
