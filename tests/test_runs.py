"""Claims about a run as one object: what it reads is opened once, whoever asks, and no other run's is taken for it."""

from dataclasses import replace
from pathlib import Path

import pytest

import pipeline.runs as runs
import pipeline.training.dataset as dataset
import pipeline.training.registry as registry
from pipeline.config import load_params
from pipeline.evaluation import evaluate
from pipeline.explanation import explain
from pipeline.plan import Plan
from tests.later import train
from tests.training.learnable import make

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained and evaluated."""
    root = tmp_path_factory.mktemp("once")
    made = make(root / "made", train=4, validation=2).run(root / "run", epochs=1)
    train(made, progress=lambda line: None)
    evaluate(made, progress=lambda line: None)
    return made


@pytest.fixture
def counted(monkeypatch):
    """(module, name) -> how often that function is called from now on, as a list of one number."""

    def count(module, name):
        calls, function = [], getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: calls.append(1) or function(*args, **kwargs))
        return calls

    return count


def test_training_evaluation_and_explanation_of_one_object_open_its_samples_once(tmp_path, counted):
    opened = counted(dataset, "open_samples")
    made = make(tmp_path / "made", train=4, validation=2).run(tmp_path / "run", epochs=1)
    train(made, progress=lambda line: None)
    evaluate(made, progress=lambda line: None)
    explain(made, tmp_path / "x", ["importance"], lambda line: None)
    assert len(opened) == 1


def test_an_explanation_reads_the_result_the_predictions_and_the_weights_once(run, tmp_path, counted):
    reads = counted(runs, "read_json"), counted(runs, "read_frame"), counted(registry, "load_file")
    explain(replace(run), tmp_path / "x", ["attention", "importance"], lambda line: None)
    results, tables, weights = map(len, reads)
    assert results == 2, "the result, and the record of the run"
    assert tables == weights == 1


def test_weights_are_loaded_once_whatever_samples_are_asked_about_and_again_of_another_folder(run, tmp_path, counted):
    loaded = counted(registry, "load_file")
    own = replace(run)
    assert own.over(own.samples).model is own.over(own.samples).model is own.model and len(loaded) == 1
    other = own.over(own.samples, tmp_path)
    (tmp_path / "weights.safetensors").write_bytes((run.folder / "weights.safetensors").read_bytes())
    assert other.model is not own.model and len(loaded) == 2
    assert replace(own).model is not own.model, "a copy shares nothing"


def test_what_a_plan_names_is_what_is_opened(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan(load_params("params.yaml"))
    of = plan.run("gasm_cast", {"lr": 1e-3})
    assert of.config.lr == 1e-3 == of.params.head("gasm_cast").lr and plan.params.head("gasm_cast").lr != 1e-3
    assert of.folder == Path("runs/gasm_cast") / of.key and of.result_file == f"{of.folder}/{of.evaluation}/result.json"
    assert of.manifest == Path("features/toy-ssv2/manifest.parquet") and of.root == Path("features")
    shard = Path(plan.shard_path("toy-ssv2", of.config.inputs["motion"].feature, 0))
    assert of.features.keys() == of.config.inputs.keys() and of.features["motion"] == shard.parent
