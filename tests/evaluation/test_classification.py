"""A result as people read it: its keys, its counts, its provenance, byte for byte the same twice."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config import canonical_json
from pipeline.datasets.manifest import read_manifest, write_manifest
from pipeline.digests import read_json
from pipeline.evaluation import evaluate
from pipeline.evaluation.classification import reorder
from pipeline.evaluation.metrics import share_interval
from pipeline.runs import only_writer
from pipeline.training import DataError, RunBusy, RunError
from tests.evaluations import evaluation_of
from tests.later import train
from tests.training.learnable import CLASSES, frame, made_params, make, write_store
from tests.training.learnable import Made as MadeSet

KEYS = {"top1", "top5", "ece", "per_class", "confusion", "ci95", "calibration", "samples", "provenance"}


def silent(line: str) -> None:
    """No line."""


def without_timings(path) -> str:
    """The bytes of a result that must repeat."""
    result = read_json(path, "")
    del result["provenance"]["timings"]
    return json.dumps(result, sort_keys=False)


@pytest.fixture(scope="module")
def result(trained):
    made, run = trained
    return evaluate(made.run(run), progress=silent)


def test_the_result_has_the_promised_keys(result, trained):
    assert set(result) >= KEYS | {"task", "ece_ci95", "top1_tokens_reversed", "top1_tokens_shuffled"}
    assert read_json(evaluation_of(trained[1]) / "result.json", "") == result
    assert result["samples"] == {
        "train": 64,
        "holdout": 16,
        "evaluated": 32,
        "failed": 0,
        "unlabelled": 0,
        "skipped": 0,
        "failures": [],
    }
    assert set(result["per_class"][0]) == {"class", "n", "accuracy", "precision", "recall", "recall_ci95", "f1"}
    for row in result["per_class"]:
        assert row["recall_ci95"] == share_interval(round(row["n"] * row["recall"]), row["n"])
    assert len(result["calibration"]) == 15
    low, high = result["ci95"]
    assert low <= result["top1"] <= high


def test_provenance_names_everything_that_the_numbers_rest_on(result):
    provenance = result["provenance"]
    named = {"params", "features", "environments", "mixed", "weights", "code", "seed", "versions", "device", "trained"}
    assert set(provenance) == named | {"precision", "timings", "evaluated", "files", "read", "resampled"}
    assert provenance["trained"] == {name: provenance[name] for name in ("versions", "device")}
    assert provenance["features"]["motion"] == {
        "name": "clips",
        "key": "keymotion",
        "backbone": "r3d18",
        "weights": "random:1",
        "dataset": "made",
        "failed": 0,
    }
    assert provenance["weights"] == "random"
    assert provenance["params"]["lr"] == 0.04
    assert set(provenance["versions"]) == {"python", "torch", "lightning", "numpy", "transformers", "torchvision"}
    assert (provenance["device"], provenance["seed"], len(provenance["code"])) == ("cpu", 3, 64)


def test_the_figures_agree_with_the_table_of_predictions(result, trained):
    table = pd.read_parquet(evaluation_of(trained[1]) / "predictions.parquet")
    assert len(table) == 32
    assert (table["prediction"] == table["label"]).mean() == result["top1"]
    assert (table["prediction_tokens_reversed"] == table["label"]).mean() == result["top1_tokens_reversed"]
    assert (table["prediction_tokens_shuffled"] == table["label"]).mean() == result["top1_tokens_shuffled"]
    counts = np.array(result["confusion"]["matrix"])
    assert counts.trace() / counts.sum() == result["top1"]
    assert result["confusion"]["classes"] == sorted(CLASSES)
    draws = pd.read_parquet(evaluation_of(trained[1]) / "draws.parquet")
    assert result["provenance"]["resampled"] == {"draws": len(draws), "units": 32}
    assert abs(draws["top1"].mean() - result["top1"]) < 0.05 and {
        "top1_tokens_reversed",
        "top1_tokens_shuffled",
    } <= set(draws)
    for row in table.itertuples():
        assert row.top[0] == row.prediction and len(set(row.top)) == 4
        assert sum(row.probabilities) == pytest.approx(1) and list(row.probabilities) == sorted(row.probabilities)[::-1]


def test_the_same_params_and_seed_twice_give_the_same_bytes(trained, result, tmp_path):
    made, run = trained
    train(made.run(tmp_path / "again"), progress=silent)
    evaluate(made.run(tmp_path / "again"), progress=silent)
    one, other = map(evaluation_of, (run, tmp_path / "again"))
    assert without_timings(one / "result.json") == without_timings(other / "result.json")
    assert (one / "predictions.parquet").read_bytes() == (other / "predictions.parquet").read_bytes()


def test_a_training_serves_many_evaluations_and_none_touches_anothers_files(tmp_path):
    made, run, lines = make(tmp_path, train=10, validation=4, test=6), tmp_path / "run", []
    results = {}
    for changes in ({}, {"eval_split": "test"}, {"bootstrap": 7}, {"calibration_bins": 3}):
        train(made.run(run, epochs=1, **changes), progress=lines.append)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        results[canonical_json(changes)] = evaluate(made.run(run, epochs=1, **changes), progress=silent)
        assert all(path.read_bytes() == content for path, content in before.items())
    assert sum("complete already" in line for line in lines) == 3
    assert len(list(run.glob("*/result.json"))) == len(list(run.glob("*/predictions.parquet"))) == 4
    counts = [of["samples"]["evaluated"] for of in results.values()]
    assert counts == [16, 24, 16, 16]
    held = json.loads((run / "run.json").read_text())
    assert not {"eval_split", "bootstrap", "calibration_bins", "result", "max_trainable"} & set(held["config"])
    assert set(held["samples"]) == {"train", "holdout", "failed", "unlabelled"}


def test_another_training_takes_the_evaluations_of_the_earlier_one_with_it(tmp_path):
    made, run = make(tmp_path, train=10, validation=4), tmp_path / "run"
    train(made.run(run, epochs=1), progress=silent)
    evaluate(made.run(run, epochs=1), progress=silent)
    assert evaluation_of(run)
    train(made.run(run, epochs=2), progress=silent)
    assert not list(run.glob("*/result.json"))


def test_two_evaluations_of_one_kind_are_not_mixed_the_second_is_refused(trained, result, monkeypatch):
    made, run = trained
    place = evaluation_of(run)
    monkeypatch.setattr("pipeline.runs.PATIENCE", 0.0)
    before = (place / "predictions.parquet").stat()
    with only_writer(place), pytest.raises(RunBusy, match="trains or evaluates here; wait for it or end it"):
        evaluate(made.run(run), progress=silent)
    assert (place / "predictions.parquet").stat() == before


def test_reading_from_disk_gives_the_same_result(trained, result, tmp_path):
    made, run = trained
    shutil.copytree(run, tmp_path / "run")
    chosen = made.run(tmp_path / "run")
    compute = chosen.params.compute.model_copy(update={"cache_memory_gb": 0.0, "decode_workers": 0})
    again = evaluate(replace(chosen, params=chosen.params.model_copy(update={"compute": compute})), progress=silent)
    del again["provenance"], result["provenance"]
    assert again == result


def test_reversing_turns_a_direction_into_its_opposite(tmp_path):
    made = make(tmp_path, train=40, validation=10)
    changes = {"epochs": 25, "mixup": 0.0, "model__dropout": 0.0, "model__token_dropout": 0.0}
    train(made.run(tmp_path / "run", **changes), progress=silent)
    result = evaluate(made.run(tmp_path / "run", **changes), progress=silent)
    table = pd.read_parquet(evaluation_of(tmp_path / "run") / "predictions.parquet")
    assert result["top1"] >= 0.9
    directions = table[table["prediction"].isin(["rising", "falling"])]
    opposite = directions["prediction"].map({"rising": "falling", "falling": "rising"})
    assert (directions["prediction_tokens_reversed"] == opposite).mean() >= 0.8
    others = table[table["prediction"].isin(["sitting", "walking"])]
    assert (others["prediction_tokens_reversed"] == others["prediction"]).mean() >= 0.9


def _steps(order: str, seed: int = 0) -> torch.Tensor:
    batch = {"semantic": torch.arange(24.0).view(2, 6, 2, 1), "motion": torch.arange(12.0).view(2, 6, 1, 1)}
    batch |= {"times": torch.rand(2, 6), "row": torch.tensor([4, 9])}
    changed = reorder(batch, ("semantic", "motion"), order, seed)
    assert torch.equal(changed["times"], batch["times"])
    assert torch.equal(changed["semantic"][:, :, 0, 0], 2 * changed["motion"][:, :, 0, 0])  # one order in both streams
    return changed["motion"][:, :, 0, 0]


def test_frames_are_reversed_or_shuffled_alike_in_both_streams_and_times_stay():
    as_is = torch.arange(12.0).view(2, 6)
    assert torch.equal(_steps("as_is"), as_is)
    assert torch.equal(_steps("tokens_reversed"), as_is.flip(1))
    shuffled = _steps("tokens_shuffled")
    assert torch.equal(shuffled.sort(dim=1).values, as_is)
    assert (shuffled != as_is).any(dim=1).all()
    assert torch.equal(_steps("tokens_shuffled"), shuffled)
    assert not torch.equal(_steps("tokens_shuffled", seed=1), shuffled)


def test_failed_samples_and_absent_classes_are_reported_as_such(tmp_path):
    table = frame({"train": 5, "validation": 2})
    table = table[~((table["split"] == "validation") & (table["label"] == "walking"))].reset_index(drop=True)
    write_manifest(table, tmp_path / "manifest.parquet")
    reasons = {"validation-rising-1": "short: 3 of 40 frames"}
    features = {role: write_store(tmp_path, role, table, reasons, weights="ab12") for role in ("semantic", "motion")}
    made = MadeSet(made_params(), tmp_path / "manifest.parquet", features)
    train(made.run(tmp_path / "run", epochs=1), progress=silent)
    result = evaluate(made.run(tmp_path / "run", epochs=1), progress=silent)
    assert result["samples"]["failed"] == 1
    assert result["samples"]["failures"] == [{"sample": "validation-rising-1", "reason": "short: 3 of 40 frames"}]
    assert result["provenance"]["weights"] == "trained"
    walking = result["per_class"][-1]
    assert (walking["class"], walking["n"], walking["recall"], walking["f1"]) == ("walking", 0, None, None)
    assert "NaN" not in (evaluation_of(tmp_path / "run") / "result.json").read_text()


def test_a_run_that_is_not_complete_or_damaged_is_refused(trained, tmp_path):
    made, run = trained
    with pytest.raises(RunError, match="train the head first"):
        evaluate(made.run(tmp_path))
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"delete .*run\.json and train again, which goes on from the last checkpoint"):
        evaluate(made.run(tmp_path / "run"))


def test_a_run_that_learned_from_other_samples_is_refused(trained, tmp_path):
    made, run = trained
    table = read_manifest(made.manifest)
    write_manifest(table[table["sample"] != "train-rising-0"], tmp_path / "manifest.parquet")
    with pytest.raises(RunError, match="other samples"):
        evaluate(MadeSet(made.params, tmp_path / "manifest.parquet", made.features).run(run))


def test_an_evaluation_split_without_samples_is_refused(trained):
    made, run = trained
    with pytest.raises(DataError, match="eval_split"):
        evaluate(made.run(run, eval_split="nowhere"))
