"""Training as the command line runs it: whole, resumed, refused, shared by two processes."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline.datasets.manifest import read_manifest, write_manifest
from pipeline.runs import WEIGHTS, Run, only_writer
from pipeline.store import StoreMissing
from pipeline.training import DataError, RunBusy
from pipeline.training.registry import TooLarge
from tests.later import Later, train
from tests.training.learnable import EPOCHS, FEATURES, Made, made_params, make

callbacks = Later("pipeline.training.callbacks")
trainer = Later("pipeline.training.trainer")


class Started:
    """A training in a process of its own, forked from a server that has imported what it needs."""

    def __init__(self, made: Made, run: Path, compute: dict | None = None, **changes) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "pipeline.training.trainer"])
        reader, writer = context.Pipe(duplex=False)
        words = (made.manifest.parent, run, compute or {}, changes, writer)
        self.process = context.Process(target=_train, args=words)
        self.process.start()
        writer.close()
        self.lines = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")

    def finish(self) -> list[str]:
        """Waits for its end; what it said."""
        lines = self.lines.read().splitlines()
        self.process.join(300)
        assert self.process.exitcode == 0, "\n".join(lines)
        return lines

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _train(root: Path, run: Path, compute: dict, changes: dict, said: Connection) -> None:
    # Of workers that read, as in any other training: a fork server of theirs would outlive who is killed.
    multiprocessing.set_start_method("fork", force=True)
    os.dup2(said.fileno(), sys.stderr.fileno())
    features = {role: root / f"{FEATURES[role]}-key{role}" for role in FEATURES}
    train(Made(made_params(compute), root / "manifest.parquet", features).run(run, **changes))


def test_a_run_leaves_weights_history_and_its_record(made, run):
    record = json.loads((run / "run.json").read_text())
    history = pd.read_csv(run / "history.csv")
    assert list(history) == ["epoch", "train_loss", "holdout_loss", "holdout_accuracy", "lr"]
    assert list(history["epoch"]) == list(range(1, EPOCHS + 1))
    best = history.sort_values(["holdout_accuracy", "holdout_loss"], ascending=[False, True]).iloc[0]
    assert (record["best_epoch"], record["holdout_accuracy"]) == (best["epoch"], best["holdout_accuracy"])
    assert record["trainable"] == sum(tensor.numel() for tensor in load_file(run / "weights.safetensors").values())
    assert record["samples"] == {"train": 64, "holdout": 16, "failed": 0, "unlabelled": 0}
    assert record["device"] == "cpu" and "torch" in record["versions"]
    assert record["features"]["motion"]["key"] == "keymotion"
    assert record["classes"] == ["falling", "rising", "sitting", "walking"]
    assert (run / "dvclive" / "metrics.json").exists()


def test_the_loss_falls(run):
    history = pd.read_csv(run / "history.csv")
    assert history["holdout_loss"].iloc[-1] < 0.8 * history["holdout_loss"].iloc[0]


def test_the_checkpoint_loads_with_weights_only(run):
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == EPOCHS - 1


def test_a_second_run_of_the_same_training_trains_nothing(made, run):
    before = (run / "run.json").read_bytes()
    (run / "run.json").unlink()  # as a scheduler does before it runs a rule
    lines: list[str] = []
    train(made.run(run, epochs=EPOCHS), progress=lines.append)
    assert "trained 0 epochs" in lines[-1]
    assert (run / "run.json").read_bytes() == before


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(made, run, tmp_path):
    for name, seed in (("same", 3), ("other", 4)):
        train(made.run(tmp_path / name, epochs=EPOCHS, seed=seed), progress=lambda line: None)
    weights = (run / "weights.safetensors").read_bytes()
    assert (tmp_path / "same" / "weights.safetensors").read_bytes() == weights
    assert (tmp_path / "same" / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    assert (tmp_path / "other" / "weights.safetensors").read_bytes() != weights


def test_a_head_learns_by_what_repeats_alone(made, tmp_path, monkeypatch):
    def asked(*given):
        raise RuntimeError(f"mode {torch.get_deterministic_debug_mode()}")

    monkeypatch.setattr("pipeline.training.trainer.build", asked)
    with pytest.raises(RuntimeError, match="mode 2"):
        train(made.run(tmp_path / "run"), progress=lambda line: None)
    assert torch.get_deterministic_debug_mode() == 0


def test_training_ends_when_the_holdout_stops_gaining(made, tmp_path):
    record = train(made.run(tmp_path / "run", epochs=30, patience=2, lr=1e-9), progress=lambda line: None)
    assert record["timings"]["epochs"] == record["best_epoch"] + 2 < 30


def test_features_read_from_disk_train_to_the_same_weights(made, run, tmp_path):
    chosen = made.run(tmp_path / "run", epochs=EPOCHS)
    compute = chosen.params.compute.model_copy(update={"cache_memory_gb": 0.0, "decode_workers": 1})
    train(replace(chosen, params=chosen.params.model_copy(update={"compute": compute})), progress=lambda line: None)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()


def test_training_leaves_the_repository_around_it_alone(made, tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    train(made.run(tmp_path / "run", epochs=1), progress=lambda line: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "run"]
    assert not subprocess.run(["git", "diff", "--cached", "--name-only"], capture_output=True, check=True).stdout


def test_a_folder_in_which_another_process_trains_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.PATIENCE", 0.0)
    with only_writer(tmp_path), pytest.raises(RunBusy, match="another process"):
        train(made.run(tmp_path))


def test_a_loss_that_is_no_number_ends_the_training(made, tmp_path):
    with pytest.raises(callbacks.TrainingDiverged, match="lower lr"):
        train(with_lr(made.run(tmp_path / "run", warmup_epochs=0.0), 1e30), progress=lambda line: None)


def with_lr(run: Run, lr: float) -> Run:
    """A run with a learning rate that params refuse."""
    return replace(run, params=run.params.replacing(run.head, run.config.model_copy(update={"lr": lr})))


def test_a_training_whose_loss_ends_far_above_chance_says_so(made, tmp_path):
    lines: list[str] = []
    train(with_lr(made.run(tmp_path / "run", epochs=2, warmup_epochs=0.0), 300.0), progress=lines.append)
    assert any("warning: the loss ends at" in line and "10 times chance; lower lr" in line for line in lines)


def test_sixteen_bits_on_the_cpu_are_bfloat16_and_the_record_and_the_log_say_so(made, tmp_path):
    lines: list[str] = []
    record = train(made.run(tmp_path / "run", epochs=1, precision="16-mixed"), progress=lines.append)
    assert (record["config"]["precision"], record["precision"]) == ("16-mixed", "bf16-mixed")
    assert "  precision 16-mixed runs as bf16-mixed on the CPU" in lines


def test_a_batch_that_the_set_cannot_fill_is_told(made, tmp_path):
    lines: list[str] = []
    train(made.run(tmp_path / "run", epochs=1, batch_size=512), progress=lines.append)
    assert "  batch_size is 512, and train has 64 samples: a step takes them all" in lines


@pytest.mark.parametrize("split", ["nowhere", "test"])
def test_a_split_to_evaluate_that_is_not_there_or_has_no_label_is_told_before_training(split, tmp_path):
    made = make(tmp_path, train=4, validation=2)
    table = read_manifest(made.manifest)
    table.loc[table["split"] == "validation", ["label", "split"]] = [None, "test"]
    write_manifest(table, made.manifest)
    with pytest.raises(DataError, match=rf"no sample of the split '{split}' is usable.*correct eval_split in params"):
        train(made.run(tmp_path / "run", eval_split=split))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["everywhere", "in train"])
def test_one_class_is_nothing_to_learn(where, tmp_path):
    made = make(tmp_path, train=4, validation=2)
    table = read_manifest(made.manifest)
    table.loc[(table["split"] == "train") | (where == "everywhere"), "label"] = "walking"
    write_manifest(table, made.manifest)
    with pytest.raises(DataError, match=r"fewer than two classes.*correct the labels"):
        train(made.run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_head_that_is_too_large_is_refused_before_training(made, tmp_path):
    with pytest.raises(TooLarge, match="max_trainable allows 1,000"):
        train(made.run(tmp_path / "run", max_trainable=1000), progress=lambda line: None)


def test_a_manifest_newer_than_its_stores_is_refused(tmp_path):
    made = make(tmp_path, train=4, validation=2)
    table = read_manifest(made.manifest)
    table.loc[0, "digest"] = "0" * 64
    write_manifest(table, made.manifest)
    with pytest.raises(DataError, match="stale"):
        train(made.run(tmp_path / "run"))
    (tmp_path / f"{FEATURES['motion']}-keymotion" / "shard-000.json").unlink()
    with pytest.raises(StoreMissing):
        train(made.run(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1.0, 0.0], ids=["held", "read"])
def test_a_killed_and_resumed_training_ends_bitwise_equal_to_one_that_was_not(made, run, tmp_path, memory):
    folder, rng, resumed = tmp_path / "killed", random.Random(5), 0
    for kill in range(4):
        process = Started(made, folder, {"cache_memory_gb": memory}, epochs=EPOCHS)
        for line in process.lines:
            resumed += line.startswith("resumed")
            if line.startswith("epoch   ") and int(line[5:9]) > kill:
                break
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
    lines = Started(made, folder, {"cache_memory_gb": memory}, epochs=EPOCHS).finish()
    assert resumed + any(line.startswith("resumed") for line in lines) >= 1
    for name in ("weights.safetensors", "history.csv"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
    curve = "dvclive/plots/metrics/holdout_accuracy.tsv"
    assert (folder / curve).read_bytes() == (run / curve).read_bytes()


def test_compile_has_the_head_compiled_before_the_first_step_and_is_in_the_record(made, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("pipeline.training.trainer.compiled", lambda model, there: asked.append((model, there)))
    record = train(made.run(tmp_path / "compiled", epochs=1, compile=True), progress=lambda line: None)
    ((model, there),) = asked
    assert there == torch.device("cpu") and hasattr(model, "logits") and record["config"]["compile"] is True
    train(made.run(tmp_path / "eager", epochs=1), progress=lambda line: None)
    assert len(asked) == 1


@pytest.mark.proof
def test_a_compiled_training_learns_what_an_eager_one_learns_and_its_record_says_so(made, tmp_path, monkeypatch):
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("pipeline.compiling.COMPILER", counted)
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        compiled = made.run(tmp_path / "compiled", epochs=1, compile=True)
        record = train(compiled, progress=lambda line: None)
    torch._dynamo.reset()
    assert len(graphs) > 1  # beside what is tried first
    eager = made.run(tmp_path / "eager", epochs=1)
    train(eager, progress=lambda line: None)
    weights = [load_file(run.folder / WEIGHTS) for run in (compiled, eager)]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    assert record["config"]["compile"] is True
