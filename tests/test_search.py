"""A search: repeatable, resumable wherever it is killed, judged on the holdout alone. Each trial is an ordinary run."""

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import yaml

import pipeline.training
from pipeline.config import Input, ParamsError, Search, feature_key, load_params, parse_params, read_documents
from pipeline.config.heads import TrainedHead
from pipeline.datasets.manifest import write_manifest
from pipeline.digests import file_digest, read_json
from pipeline.evaluation import evaluate
from pipeline.plan import Plan
from pipeline.reports import search_table
from pipeline.runs import Run
from pipeline.search import best, importance, paste, proposed, search
from pipeline.store import StoreCorrupt
from tests.later import Later
from tests.training.learnable import CLASSES, FEATURES, frame, made_params, tokens, write_store

callbacks = Later("pipeline.training.callbacks")

ROOT = Path(__file__).parents[1]
SEED = 3
SPACE = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True},
    "ema_decay": {"choices": [0.0, 0.5]},
    "batch_size": {"low": 8, "high": 32, "step": 8},
    "features.video": {"choices": ["patches", "clips"]},
}


def document(trials: int | None, **changes: Any) -> dict[str, Any]:
    told = json.loads(made_params().model_dump_json())
    probe = {
        "kind": "probe", "dataset": "made", "features": {"video": "patches"}, "result": "probed", "seed": SEED,
        "eval_split": "validation", "holdout": 0.3, "epochs": 2, "warmup_epochs": 1, "batch_size": 16, "lr": 0.1,
    }  # fmt: skip
    asked = {"head": "probe", "trials": trials, "space": SPACE, "seed": 5, **changes}
    return {**told, "heads": {"probe": probe}, "searches": {"rates": asked}}


def plan_of(trials: int | None, **changes: Any) -> Plan:
    return Plan(parse_params(document(trials, **changes)))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A project with the stores of two features."""
    root = tmp_path_factory.mktemp("searched")
    table, plan = frame({"train": 8, "validation": 4}), plan_of(1)
    write_manifest(table, root / "features/made/manifest.parquet")
    for role, feature in FEATURES.items():
        key = feature_key(plan.params, feature)
        write_store(root, role, table, key=key).rename(root / f"features/made/{feature}-{key}")
    return root


@pytest.fixture
def project(data, tmp_path, monkeypatch) -> Path:
    """Another one, which has made nothing yet."""
    monkeypatch.chdir(tmp_path)
    Path("features").symlink_to(data / "features")
    return tmp_path


def made(plan: Plan, progress: Callable[[str], None] = lambda line: None) -> None:
    search_table(search(plan, "rates", progress=progress), Path("results/searches/rates"))


def files(root: Path) -> dict[str, bytes]:
    """What a search and its trainings leave that depends on no clock."""
    kept = [*root.glob("results/searches/**/*"), *root.glob("runs/*/*/*")]
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in kept
        if path.is_file() and path.name not in ("lock", "state.json", "run.json", "last.ckpt", "previous.ckpt")
    }


def killed(line: str, times: int, plan: Plan) -> None:
    """Searches in a process that is killed, for good, where a line is said for the n-th time."""
    child = os.fork()
    if child == 0:
        said = 0

        def progress(told: str) -> None:
            nonlocal said
            said += line in told
            if said == times:
                os.kill(os.getpid(), signal.SIGKILL)

        made(plan, progress)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("trials", [5, pytest.param(30, marks=pytest.mark.proof)])
def test_a_search_killed_twice_ends_byte_for_byte_as_one_that_nothing_disturbed(
    trials, project, data, tmp_path_factory, monkeypatch
):
    plan = plan_of(trials)
    made(plan)
    whole = files(project)
    assert len({path for path in whole if path.endswith("weights.safetensors")}) > trials / 2
    other = tmp_path_factory.mktemp("killed")
    monkeypatch.chdir(other)
    Path("features").symlink_to(data / "features")
    killed("epoch   2", trials // 3, plan)  # within a training, which goes on from its checkpoint
    assert not (other / "results/searches/rates.json").exists()
    lines: list[str] = []
    killed("searches.rates: trial", 2 * trials // 3, plan)  # between two
    made(plan, lines.append)
    assert sum("complete already" in line for line in lines) >= 2 * trials // 3
    assert files(other) == whole


def spoil(features: Path, split: str) -> int:
    """Overwrites what stores hold of a split's samples, where it lies on the disk. Returns how often."""
    spoilt, table = 0, frame({split: 4})
    held = {role: [tokens(row.sample, row.label, role).tobytes() for row in table.itertuples()] for role in FEATURES}
    for file in (path for path in features.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for values in (of for role in held.values() for of in role):
            spoilt += content.count(values)
            content = content.replace(values, b"\xff" * len(values))
        file.write_bytes(content)
    return spoilt


def test_no_trial_reads_a_feature_of_the_evaluated_split(project, data):
    Path("features").unlink()
    shutil.copytree(data / "features", "features")
    assert spoil(Path("features"), "validation") == len(FEATURES) * 4 * len(CLASSES)
    plan = plan_of(3)
    made(plan)
    found = read_json(Path("results/searches/rates.json"), "")
    assert {trial["state"] for trial in found["trials"]} == {"finished"}
    assert not list(Path("runs").glob("*/*/*/result.json"))
    with pytest.raises(StoreCorrupt, match="validation-"):  # the same head, once it is evaluated, does
        evaluate(plan.run("probe", found["best"]["params"]))


def figure(params: dict[str, Any]) -> float:
    return -abs(math.log10(params["lr"]) + 2) + params["ema_decay"]


def simulated(chosen: Search, trials: int) -> list[dict[str, Any]]:
    """Trials that a formula judges: every fifth fails."""
    found: list[dict[str, Any]] = []
    for number in range(trials):
        params = proposed(chosen, number, found)
        failed = number % 5 == 4
        value = None if failed else figure(params)
        state = "failed" if failed else "finished"
        found.append({"number": number, "state": state, "params": params, "value": value, "holdout_loss": 1.0})
    return found


def test_what_is_proposed_depends_on_seed_number_and_the_trials_before_and_not_on_the_order_of_keys():
    chosen = plan_of(30).params.searches["rates"]
    trials = simulated(chosen, 20)
    assert proposed(chosen, 20, trials) == proposed(chosen, 20, json.loads(json.dumps(trials)))
    turned = chosen.model_copy(update={"space": dict(reversed(chosen.space.items()))})
    assert simulated(turned, 20) == trials
    others = [simulated(chosen.model_copy(update={"seed": 6}), 20), [*trials[:12], *trials[13:]]]
    assert all(proposed(chosen, 20, other) != proposed(chosen, 20, trials) for other in others)
    assert len({json.dumps(trial["params"]) for trial in trials}) > 15


def test_tpe_finds_more_than_chance_and_says_what_mattered():
    chosen = plan_of(40).params.searches["rates"]
    found, drawn = (simulated(chosen.model_copy(update={"sampler": name}), 40) for name in ("tpe", "random"))
    late = lambda trials: [of["value"] for of in trials[20:] if of["value"] is not None]  # noqa: E731
    assert sum(late(found)) / len(late(found)) > sum(late(drawn)) / len(late(drawn)) + 0.1
    shares = importance(chosen, found)
    assert set(shares) == set(SPACE) and next(iter(shares)) == "lr"
    assert importance(chosen, found) == shares and importance(chosen, found[:1]) is None
    assert all(1e-3 <= of["params"]["lr"] <= 1 for of in found), "rounded numbers stay in their range"
    assert {of["params"]["batch_size"] for of in found} <= {8, 16, 24, 32}


def test_a_grid_is_every_point_once_and_any_value_is_a_choice():
    space = {"epochs": {"low": 1, "high": 3}, "clip_norm": {"choices": [1.0, 2]}, "label_smoothing": {
        "low": 0.0, "high": 0.2, "step": 0.1}}  # fmt: skip
    chosen = plan_of(None, space=space, sampler="grid").params.searches["rates"]
    points = [proposed(chosen, number, []) for number in range(chosen.count)]
    assert chosen.count == 18 == len({json.dumps(point) for point in points})
    assert {point["label_smoothing"] for point in points} == {0.0, 0.1, 0.2}
    space = {"holdout_": {"choices": [1, True, None, [1, 2]]}}
    odd = Search.model_validate({"head": "probe", "trials": 9, "space": space})
    seen = []
    for number in range(12):
        trial = {"state": "finished", "value": 0.0, "params": proposed(odd, number, seen)}
        seen.append(trial)
    assert {json.dumps(trial["params"]["holdout_"]) for trial in seen} <= {"1", "true", "null", "[1, 2]"}


def trained(run: Run, progress: Any) -> dict[str, Any]:
    """What a training leaves that a search reads."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "history.csv").write_text("epoch,holdout_loss\n1,inf\n")
    digest = file_digest(run.folder / "history.csv")
    return {"holdout_accuracy": 0.5, "best_epoch": 1, "trainable": 7, "history.csv": digest}


def test_values_that_do_not_fit_each_other_are_a_refused_trial_and_a_loss_that_is_no_number_a_failed_one(
    project, monkeypatch
):
    space = {"epochs": {"choices": [1, 2]}, "warmup_epochs": {"choices": [0.5, 2.0]}, "lr": {"choices": [0.1, 0.2]}}
    plan, seen = plan_of(None, space=space, sampler="grid"), []

    def train(run, progress):
        seen.append(run.key)
        if run.config.lr == 0.2:
            raise callbacks.TrainingDiverged("the loss of epoch 1 is not finite")
        return trained(run, progress)

    monkeypatch.setattr(pipeline.training, "train", train)
    made(plan)
    found = read_json(Path("results/searches/rates.json"), "")
    states = {json.dumps(trial["params"]): trial["state"] for trial in found["trials"]}
    fits = [trial["params"]["warmup_epochs"] <= trial["params"]["epochs"] for trial in found["trials"]]
    assert fits.count(False) == 2 == list(states.values()).count("refused") and len(seen) == 6
    assert list(states.values()).count("failed") == 3 and found["best"]["holdout_loss"] is None
    refused = next(trial for trial in found["trials"] if trial["state"] == "refused")
    assert "warmup_epochs is 2 of 1 epochs" in refused["reason"] and refused["run"] is None
    table = pd.read_csv("results/searches/rates.csv")
    assert len(table) == 8 and table["state"].tolist() == list(states.values())


def test_the_best_values_are_params_to_paste():
    plan = plan_of(2)
    params = {"lr": 0.0123, "features.video": "clips", "features.patches.pool": 2, "batch_size": 8}
    told = yaml.safe_load(paste(plan, "probe", params))
    assert told == {
        "heads": {"probe": {"lr": 0.0123, "batch_size": 8, "features": {"video": "clips"}}},
        "features": {"patches": {"pool": 2}},
    }
    assert best([]) is None


def test_a_search_that_is_killed_while_it_finds_its_trials_again_does_not_forget_the_others(project, monkeypatch):
    monkeypatch.setattr(pipeline.training, "train", trained)
    made(plan_of(3))
    known = plan_of(3).trials("rates")
    assert sorted(known) == [0, 1, 2]
    killed("searches.rates: trial 0", 1, plan_of(3))
    assert plan_of(3).trials("rates") == known  # `prune` would delete the others
    made(plan_of(2))
    assert sorted(plan_of(2).trials("rates")) == [0, 1]


def test_prune_and_a_part_of_params_keep_what_a_search_needs(project, monkeypatch):
    monkeypatch.setattr(pipeline.training, "train", trained)
    plan = plan_of(2)
    made(plan)
    record = read_json(Path("results/searches/rates/trials.json"), "")
    runs = {Path(trial["run"]) for trial in record["trials"]}
    assert len(runs) == 2 and runs <= plan.referenced(Path("features"), Path("runs"))
    assert runs <= plan_of(9).referenced(Path("features"), Path("runs")), "more trials go on from these"
    assert not runs & plan_of(2, seed=6).referenced(Path("features"), Path("runs"))
    Path("results/searches/rates/trials.json").write_text("{", encoding="utf-8")
    assert not runs & plan.referenced(Path("features"), Path("runs"))
    part = Plan(load_params(plan.part(search="rates")))
    assert part.search_key("rates") == plan.search_key("rates") and not part.params.ablations
    assert {read.feature for run in part.searched("rates") for read in run.config.inputs.values()} == {
        "patches",
        "clips",
    }


KNN = {"kind": "probe", "dataset": "made", "features": "patches", "result": "k", "probe": "knn",
       "eval_split": "validation"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "nope"}, "searches.rates.head names 'nope', which is not in heads: known are ['knn', 'probe']"),
        ({"head": "knn"}, "searches.rates.head names 'knn', which trains nothing, so no trial can be judged on a"),
        ({"space": {}}, "searches.rates.space: Dictionary should have at least 1 item"),
        ({"space": {"lr": {"low": 0.1}}}, "searches.rates.space.lr: needs low and high, or choices"),
        ({"space": {"lr": {"low": 0.1, "high": 0.1}}}, "low is 0.1 and high 0.1; expected low below high"),
        ({"space": {"lr": {"low": 0.0, "high": 0.1, "log": True}}}, "a logarithmic range begins above 0; raise low"),
        ({"space": {"lr": {"low": 0.1, "high": 0.2, "choices": [1]}}}, "has choices and a range; give either"),
        ({"space": {"lr": {"choices": [0.1, 0.1]}}}, "choices has 0.1 twice; remove one"),
        ({"space": {"epochs": {"low": 1, "high": 9, "step": 0.5}}}, "step is 0.5 in a range of whole numbers"),
        ({"space": {"epochs": {"low": 1, "high": 10**19}}}, "expected whole numbers of at most 2^53"),
        ({"space": {"epochs": {"low": 1, "high": 10**12}}}, "epochs = 1000000000000: epochs: Input should be less"),
        ({"space": {"lr": {"low": 0.1, "high": 0.2, "step": 5.0}}}, "step is 5 from 0.1 to 0.2; lower it"),
        ({"space": {"\x1b[31mlr\n": {"low": 0.1, "high": 0.2}}}, r"space has the key '\x1b[31mlr\n'; expected dotted"),
        ({"space": {"lrr": {"low": 0.1, "high": 0.2}}}, "space: lrr = 0.1: lrr: unknown key; remove it or correct"),
        ({"space": {"lr": {"low": 0.1, "high": 9.0}}}, "space: lr = 9.0: lr: Input should be less than or equal to 1"),
        ({"space": {"seed": {"low": 1, "high": 9}}}, "space.seed: decides which samples a trial is judged on"),
        ({"space": {"eval_split": {"choices": ["train"]}}}, "space.eval_split: decides which samples a trial is"),
        ({"space": {"probe": {"choices": ["linear", "knn"]}}}, "probe = 'knn': a head that trains nothing cannot be"),
        ({"space": {"features.video": {"choices": ["nope"]}}}, "names 'nope', which is not in features"),
        ({"space": {"features.patches.pool": {"low": 1, "high": 2}}}, "a store is made of each value of a feature's"),
        ({"sampler": "grid"}, "searches.rates: space.lr: is a continuous range, of which there is no grid"),
        ({"sampler": "grid", "space": {"epochs": {"low": 2, "high": 3}}}, "trials is 4, and the grid has 2 points"),
        ({"trials": None}, "trials is missing: say how many trainings the sampler tpe may have"),
        ({"sampler": "cma"}, "searches.rates.sampler: Input should be 'tpe', 'random' or 'grid', got 'cma'"),
    ],
)
def test_a_search_that_cannot_be_is_one_line_when_params_are_read(changes, message):
    told = document(**{"trials": 4, **changes})
    told["heads"]["knn"] = KNN
    with pytest.raises(ParamsError) as error:
        parse_params(told)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 2


def test_a_search_of_a_head_without_a_holdout_is_refused(monkeypatch):
    told = document(4)
    told["heads"]["probe"]["kind"] = "tests.test_search:Bare"
    for name in ("features", "holdout", "warmup_epochs"):
        told["heads"]["probe"].pop(name)
    told["heads"]["probe"] |= {"features": {"video": "patches"}, "weight_decay": 0.0, "patience": 2}
    with pytest.raises(ParamsError, match=r"searches\.rates\.head names 'probe', which holds nothing out of training"):
        parse_params(told)


class Bare:
    """A head of somebody else's that holds nothing out."""

    class Config(TrainedHead):
        task: ClassVar = "classification"
        features: dict[str, str]

        @property
        def inputs(self) -> dict[str, Input]:
            return {role: Input(self.dataset, feature) for role, feature in self.features.items()}


def test_the_examples_of_the_documentation_and_of_the_study_are_searches_of_the_shipped_params(monkeypatch):
    monkeypatch.chdir(ROOT)
    (shown,) = re.findall(r"```yaml\n(searches:.*?)```", Path("docs/ablations.md").read_text(encoding="utf-8"), re.S)
    _, mark, study = Path("studies/gasm_cast.yaml").read_text(encoding="utf-8").partition("# searches:\n")
    told = read_documents(["params.yaml"]).document
    for text in (shown, "\n".join(line[2:] for line in (mark + study).splitlines())):
        plan = Plan(parse_params({**told, **yaml.safe_load(text)}))
        assert plan.params.searches["gasm_cast_rates"].count == 30 and plan.search_key("gasm_cast_rates")
