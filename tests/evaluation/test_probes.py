"""Probes from caches to a result: of one label a sample, of several, of numbers; trained, and without training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy

from pipeline.evaluation import evaluate, probes
from pipeline.evaluation.draws import Draws
from pipeline.evaluation.target_metrics import label_summary, number_figures, number_summary, resampled_precisions
from pipeline.explanation.importance import importance
from pipeline.explanation.streams import Probing
from pipeline.heads.probe.config import ProbeHead
from pipeline.reports import publish
from pipeline.reports.following import mean_average_precision, r2
from pipeline.reports.importance import importance_figure
from pipeline.runs import Run
from pipeline.training import probed
from pipeline.training.probed import Probed
from pipeline.training.registry import HeadError
from tests.evaluations import evaluation_of
from tests.later import Later, train
from tests.training.learnable import CLASSES, FEATURES, Made, make

sklearn = Later("sklearn")

QUIET = {"progress": lambda line: None}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make(tmp_path_factory.mktemp("made"), train=10, validation=5)


@pytest.fixture
def several(monkeypatch):
    """Manifests have several labels, and numbers."""
    read = probed.read_manifest

    def more(path: Path) -> pd.DataFrame:
        table = read(path)
        moves = table["label"].isin(["falling", "rising", "walking"])
        lists = [[label, "moves"] if moving else [label] for label, moving in zip(table["label"], moves, strict=True)]
        numbers = [[float(CLASSES.index(label)), 10.0 * (label == "sitting")] for label in table["label"]]
        return table.assign(labels=lists, target=numbers)

    monkeypatch.setattr(probed, "read_manifest", more)


def run_of(
    made: Made, folder: Path, targets: str = "label", roles: tuple[str, ...] = ("semantic",), **changes: Any
) -> Run:
    document = {
        "kind": "probe", "dataset": "made", "features": {role: FEATURES[role] for role in roles}, "result": "probe",
        "eval_split": "validation", "targets": targets, "holdout": 0.2, "bootstrap": 50, "epochs": 3, "lr": 0.1,
        "batch_size": 16, "warmup_epochs": 0, **changes,
    }  # fmt: skip
    head = ProbeHead.for_targets(targets).model_validate(document)
    features = {role: made.features[role] for role in roles}
    return Run(made.params.replacing("probe", head), "probe", made.manifest, features, folder)


def finished(run: Run) -> dict[str, Any]:
    if run.config.trains:
        train(run, **QUIET)
    return evaluate(run, **QUIET)


def test_a_linear_probe_recognises_and_says_what_answers_that_look_at_nothing_come_to(made, tmp_path):
    given = run_of(made, tmp_path / "run")
    result = finished(given)
    assert result["task"] == "probe" and result["top1"] >= 0.5
    assert (result["chance"], result["majority"]) == (0.25, 0.25)
    assert result["samples"]["evaluated"] == 20 and "top1_tokens_reversed" not in result
    assert json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))["trainable"] == 4 * (16 + 16) + 4
    before = (evaluation_of(tmp_path / "run") / "result.json").parent / "predictions.parquet"
    content = before.read_bytes()
    again = run_of(made, tmp_path / "again")
    finished(again)
    assert (evaluation_of(tmp_path / "again") / "predictions.parquet").read_bytes() == content


def test_an_attentive_probe_of_two_streams_and_a_light_one_learn(made, tmp_path):
    for blocks in (1, 2):
        given = run_of(
            made, tmp_path / str(blocks), roles=("semantic", "motion"), probe="attentive", blocks=blocks,
            attention_heads=4, lr=0.05, epochs=4,
        )  # fmt: skip
        assert finished(given)["top1"] > 0.25
    inputs = Probing(given)
    found = importance(inputs, 0, repeats=2, resamples=3)
    assert list(found["streams"]) == ["semantic", "motion"] and found["metric"] == "top1"


def test_the_same_answer_for_all_is_that_of_the_whole_train_split(made, tmp_path, monkeypatch):
    """Of which a holdout is a part: a class that is commonest only with it is what is answered."""
    given = run_of(made, tmp_path / "run", probe="knn")
    samples = given.samples
    one, other = (np.flatnonzero(np.array(list(samples.labels.values())) == of)[:3] for of in (0, 1))
    ids = list(samples.labels)
    parts = {"train": [*(ids[i] for i in one[:2]), ids[other[0]]], "holdout": [ids[i] for i in other[1:]],
             "evaluated": [ids[other[0]]]}  # fmt: skip
    chosen = replace(samples, parts=parts)
    logits = np.zeros((1, len(samples.classes)))
    figures, _, _ = probes._labelled(chosen, logits, given.config, Draws(parts["evaluated"], 1))
    assert figures["majority"] == 1


def test_one_sample_a_class_is_enough_for_neighbours_of_which_fewer_than_k_are_there(tmp_path):
    made = make(tmp_path / "made", train=1, validation=2)
    result = finished(run_of(made, tmp_path / "run", probe="knn"))
    assert result["samples"]["train"] == len(CLASSES) and result["samples"]["holdout"] == 0


def test_of_one_sample_a_class_a_linear_probe_holds_nothing_out_and_says_so(tmp_path):
    given, said = run_of(make(tmp_path / "made", train=1, validation=2), tmp_path / "run"), []
    train(given, said.append)
    assert "  nothing can be held out: epochs are judged by the samples that are learned from" in said
    counts = evaluate(given, **QUIET)["samples"]
    assert (counts["train"], counts["holdout"], counts["evaluated"]) == (len(CLASSES), 0, 2 * len(CLASSES))


def test_neighbours_are_scikit_learn_s_on_the_same_vectors_and_nothing_is_trained(made, tmp_path):
    given = run_of(made, tmp_path / "run", probe="knn", k=5, roles=("motion",))
    result = finished(given)
    assert not list((tmp_path / "run").glob("*.safetensors")) and "trained" not in result["provenance"]
    samples = given.samples
    known = samples.parts["train"]
    assert (result["samples"]["train"], result["samples"]["holdout"]) == (len(known), 0)
    vectors = {name: Probed(samples, ids, 1e9)[range(len(ids))] for name, ids in
               (("known", known), ("asked", samples.parts["evaluated"]))}  # fmt: skip
    known_ND, asked_ND = (
        of["motion"].double().numpy() / np.linalg.norm(of["motion"].double().numpy(), axis=1, keepdims=True)
        for of in vectors.values()
    )
    reference = sklearn.neighbors.KNeighborsClassifier(5, weights=lambda far: np.exp((1 - far**2 / 2) / 0.07))
    reference.fit(known_ND, vectors["known"]["label"])
    assert result["top1"] == reference.score(asked_ND, vectors["asked"]["label"])
    table = pd.read_parquet(evaluation_of(tmp_path / "run") / "predictions.parquet")
    expected = np.sort(reference.predict_proba(asked_ND), axis=1)[:, ::-1]
    assert np.allclose(np.array(table["probabilities"].tolist()), expected, atol=1e-4)
    with pytest.raises(HeadError, match=r"probe trains nothing; .* scores it from the caches"):
        train(given, **QUIET)


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_several_labels_are_judged_by_their_mean_average_precision(several, made, tmp_path, probe):
    given = run_of(made, tmp_path / "run", "labels", probe=probe, epochs=6)
    result = finished(given)
    table = pd.read_parquet(evaluation_of(tmp_path / "run") / "predictions.parquet")
    names = [row["class"] for row in result["per_class"]]
    truth = np.array([[name in labels for name in names] for labels in table["label"]])
    expected = sklearn.metrics.average_precision_score(
        truth, np.array(table["probabilities"].tolist()), average="macro"
    )
    assert result["task"] == "multilabel" and names == [*sorted([*CLASSES, "moves"])]
    assert abs(result["map"] - expected) < 1e-9
    assert mean_average_precision(table, result) == ("map", pytest.approx(result["map"], abs=1e-9))
    assert result["map"] > result["chance"] == pytest.approx(truth.mean(axis=0).mean())
    assert result["ci95"][0] <= result["map"] + 0.05 and result["majority"] == pytest.approx(result["chance"])
    publish(evaluation_of(tmp_path / "run"), tmp_path / "results/probe.json")
    shown = json.loads((tmp_path / "results/probe.json").read_text(encoding="utf-8"))
    assert shown["baselines"] == {"figure": "map", "chance": result["chance"], "majority": result["majority"],
                                  "linear": {}}  # fmt: skip
    assert (tmp_path / "results/probe/report/pictures/classes.png").exists()


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_numbers_are_judged_by_r2_in_their_own_unit(several, made, tmp_path, probe):
    given = run_of(made, tmp_path / "run", "target", probe=probe, epochs=12)
    result = finished(given)
    table = pd.read_parquet(evaluation_of(tmp_path / "run") / "predictions.parquet")
    truth, found = (np.array(table[name].tolist()) for name in ("label", "prediction"))
    assert result["task"] == "regression" and [of["target"] for of in result["per_target"]] == ["target 1", "target 2"]
    assert result["r2"] == pytest.approx(sklearn.metrics.r2_score(truth, found), abs=1e-9)
    assert result["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(truth, found), abs=1e-9)
    assert r2(table, result) == ("r2", pytest.approx(result["r2"], abs=1e-9))
    assert result["r2"] > 0.2 > result["majority"] and result["chance"] == 0
    publish(evaluation_of(tmp_path / "run"), tmp_path / "results/probe.json")
    assert (tmp_path / "results/probe/report/pictures/scatter.png").exists()
    told = importance(Probing(given), 0, repeats=2, resamples=3)
    assert told["metric"] == "r2"
    assert "R² " in importance_figure(told).axes[0].get_title()


def test_a_result_stands_beside_the_linear_probe_of_each_input_and_the_numbers_stay_as_evaluated(made, tmp_path):
    whole = run_of(made, tmp_path / "whole", roles=("semantic", "motion"))
    finished(whole)
    places = {}
    for role in ("semantic", "motion"):
        alone = run_of(made, tmp_path / role, roles=(role,))
        finished(alone)
        places[role] = evaluation_of(tmp_path / role)
    place = evaluation_of(tmp_path / "whole")
    before = (place / "result.json").read_bytes()
    publish(place, tmp_path / "results/probe.json", baselines=places)
    assert (place / "result.json").read_bytes() == before
    shown = json.loads((tmp_path / "results/probe.json").read_text(encoding="utf-8"))
    beside = shown.pop("baselines")
    shown.pop("_sha256")
    assert shown == {key: of for key, of in json.loads(before).items() if key != "_sha256"}
    assert list(beside["linear"]) == ["semantic", "motion"] and beside["figure"] == "top1"
    one = json.loads((places["motion"] / "result.json").read_text(encoding="utf-8"))
    assert beside["linear"]["motion"] == {
        "feature": "clips", "top1": one["top1"], "ci95": one["ci95"], "samples": 20, "same_samples": True,
        "evaluation": places["motion"].as_posix(),
    }  # fmt: skip


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_resample_s_average_precision_is_scikit_learn_s_of_the_repeated_samples(monkeypatch):
    random = np.random.default_rng(0)
    targets, scores = random.integers(2, size=(30, 3)), random.integers(6, size=(30, 3)) / 5.0  # with ties
    targets[:, 2] = 0
    weights = np.random.default_rng(7).multinomial(30, np.full(30, 1 / 30), size=4)
    for times, row in zip(weights, resampled_precisions(scores, targets, weights), strict=True):
        rows = np.repeat(np.arange(30), times)
        expected = [sklearn.metrics.average_precision_score(targets[rows, c], scores[rows, c]) for c in range(2)]
        assert np.allclose(row[:2], expected) and np.isnan(row[2])


def test_a_class_that_no_evaluated_sample_has_is_in_no_mean():
    targets = np.array([[1, 0], [0, 0], [1, 0]])
    found = label_summary(targets, np.array([[0.9, 0.8], [0.1, 0.3], [0.8, 0.1]]), ["a", "b"], 20, 0)
    assert found["map"] == 1 and found["evaluated_classes"] == 1
    absent = found["per_class"][1]
    assert absent["average_precision"] is None and absent["recall"] is None and absent["precision"] == 0


def test_figures_of_numbers_are_scikit_learn_s_and_scipy_s_and_what_is_not_defined_is_none():
    random = np.random.default_rng(0)
    truth = random.normal(size=(40, 2)).round(1)
    found = (truth + random.normal(size=(40, 2))).round(1)
    figures = number_figures(truth, found)
    assert np.allclose(figures["r2"], sklearn.metrics.r2_score(truth, found, multioutput="raw_values"))
    assert np.allclose(
        figures["spearman"], [scipy.stats.spearmanr(truth[:, c], found[:, c]).statistic for c in range(2)]
    )
    constant = number_summary(np.ones((5, 1)), np.arange(5.0)[:, None], ["age"], 10, 0)
    assert constant["r2"] is None and constant["per_target"][0]["spearman"] is None
    same = number_summary(np.full((3, 2), [0.1, 1.0]), np.arange(6.0).reshape(3, 2), ["age", "size"], 10, 0)
    assert same["r2"] is None and [of["r2_ci95"] for of in same["per_target"]] == [None, None]
    assert same["spearman_ci95"] is None
