"""The table of runs: what is finished, what it has otherwise, what refers to it; nothing on disk ends it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from permafrost.cli import app as installed
from pipeline.cli import app
from pipeline.config import load_params
from pipeline.digests import read_json, write_json
from pipeline.finished import ABSENT, Finished, Line, cells, columns_of, ordered
from pipeline.plan import Plan
from pipeline.tasks import TASKS
from tests.reports.made_up import ROOT, MadeUp

HOSTILE = "[red]x[/red]\x1b[31m\n<b>"


def invoke(*line: object) -> str:
    done = CliRunner().invoke(app, ["runs", *map(str, line)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def project_at(root: Path, **options: object) -> MadeUp:
    """A project of one head, with the weights that keys are told from."""
    for name in ("weights", "configs"):
        (root / name).symlink_to(ROOT / name)
    document = json.loads(load_params(ROOT / "params.yaml").part(head="gasm_cast"))
    rows = {"reference": {}, "concat": {"model.fusion": "concat"}}
    document["ablations"] = {"streams": {"head": "gasm_cast", "seeds": [0, 1, 2], "variants": rows}}
    (root / "params.yaml").write_text(json.dumps(document), encoding="utf-8")
    project = MadeUp(root, **options)
    project.plan = Plan(load_params(root / "params.yaml"))
    return project


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> MadeUp:
    """A result, its ablations' variants, its baselines; a run of another rate, and one of other code."""
    project = project_at(tmp_path_factory.mktemp("finished"))
    streams = project.plan.ablation_runs("streams")
    project.finish("gasm_cast").evaluate(*streams, *project.plan.baselines["ssv2_top1"].values())
    other = project.plan.run("gasm_cast", {"lr": 0.5, "model.layers": 1, "model.radii": [1]})
    now = project.plan.results["ssv2_top1"]
    project.evaluate(other, replace(now, folder=Path("runs/gasm_cast/0123456789")))
    return project


@pytest.fixture
def lines(made, monkeypatch):
    monkeypatch.chdir(made.root)
    return {f"{line.key}/{line.evaluation}": line for line in Finished(made.plan).chosen()}


def line_of(lines, run):
    return lines[f"{run.key}/{run.evaluation}"]


def test_a_line_says_what_its_result_says_and_what_it_has_otherwise_than_the_head_of_params(made, lines):
    now = made.plan.results["ssv2_top1"]
    line, result = line_of(lines, now), read_json(made.root / now.result_file, "")
    assert (line.head, line.dataset, line.split, line.seed) == ("gasm_cast", "toy-ssv2", "validation", 0)
    assert line.figures["top1"] == result["top1"] and next(iter(line.figures)) == "top1" and line.ci95 == result["ci95"]
    assert line.used[0] == "results/ssv2_top1" and not line.differs and not line.why and not line.fault
    concat = made.plan.ablated("streams")["concat", 0]
    assert line_of(lines, concat).differs == {"model.fusion": "concat"}
    assert "ablations.streams: concat, seed 0" in line_of(lines, concat).used
    role, probe = next(iter(made.plan.baselines["ssv2_top1"].items()))
    assert line_of(lines, probe).used == [f"baseline of results/ssv2_top1: {role}"]
    assert line_of(lines, probe).why == "a linear probe of dinov3_patches"


def test_what_no_params_refer_to_says_why_it_is_another_run(made, lines):
    other = next(line for line in lines.values() if "lr" in line.differs)
    assert other.used == [] and other.differs == {"model.layers": 1, "model.radii": [1], "lr": 0.5}
    (stale,) = (line for line in lines.values() if line.key == "0123456789")
    assert stale.used == [] and stale.differs == {} and stale.why == "made of other features"  # of made-up keys


def test_damaged_and_old_results_are_lines_with_their_reasons(made, tmp_path, monkeypatch):
    project = project_at(tmp_path)
    monkeypatch.chdir(tmp_path)
    runs = list(project.plan.evaluations.values())
    project.evaluate(*runs)
    files = [tmp_path / run.result_file for run in runs]
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_text("[" * 100_000, encoding="utf-8")
    document = read_json(files[2], "")
    write_json(files[2], {"task": "classification", "top1": 0.5})
    write_json(files[3], {**document, "task": "astrology"})
    write_json(files[4], {**document, "provenance": {**document["provenance"], "params": None}})
    write_json(files[5], {**document, "top1": "high", "ci95": None})
    (files[6].parents[1] / "run.json").write_text("{}", encoding="utf-8")
    files[7].unlink()
    files[7].mkdir()
    lines = {f"{line.key}/{line.evaluation}": line for line in Finished(project.plan).chosen()}
    faults = [line_of(lines, run).fault for run in runs]
    assert all(word in fault for word, fault in zip(
        ["is damaged: it is no JSON", "no JSON object", "earlier version (KeyError: 'provenance')", "astrology",
         "earlier version (TypeError", "", "run.json has no digest", "cannot be read: Is a directory"],
        faults, strict=True)), faults  # fmt: skip
    assert faults[5] == "" and line_of(lines, runs[6]).figures["top1"] is not None
    text = invoke("--sort", "top1")
    assert all(run.key in text for run in runs)
    assert len([json.loads(line) for line in invoke("--json").splitlines()]) == len(runs)


def test_names_that_are_markup_or_control_a_terminal_are_names(tmp_path, monkeypatch):
    project = project_at(tmp_path, name=HOSTILE)
    monkeypatch.chdir(tmp_path)
    run = project.plan.results["ssv2_top1"]
    project.evaluate(run)
    document = read_json(tmp_path / run.result_file, "")
    document["provenance"]["features"] = {"x": {"name": HOSTILE, "key": HOSTILE}}
    document["provenance"]["params"] |= {"dataset": HOSTILE, "eval_split": HOSTILE}
    write_json(tmp_path / run.result_file, document)
    os.rename(tmp_path / "runs/gasm_cast", os.fsencode(tmp_path / "runs") + b"/[red]\xff\x1b")
    text = invoke()
    assert "\x1b" not in text and text.count("[red]x[/red]") >= 1 and "[red]" in text.replace("x[/red]", "")
    (line,) = map(json.loads, invoke("--json").splitlines())
    assert line["dataset"] == HOSTILE and line["why"] == "params have no head of this name"


def test_lines_are_sorted_by_a_figure_its_best_first_and_chosen_by_head_and_dataset(made, lines, monkeypatch):
    tops = [line.figures["top1"] for line in ordered(list(lines.values()), "top1")]
    assert tops == sorted(tops, reverse=True)
    errors = [line.figures["ece"] for line in ordered(list(lines.values()), "ece")]
    assert errors == sorted(errors) and len(errors) == len(tops)
    assert invoke("--head", "gasm_cast", "--dataset", "toy-ssv2", "--sort", "trainable").count("gasm_cast/") == len(
        lines
    )
    for line, said in (
        (("--head", "nope"), "--head nope: runs has no finished run of it; it has of gasm_cast"),
        (("--dataset", "nope"), "--dataset nope: runs has no finished run of it; it has of toy-ssv2"),
        (("--sort", "nope"), "--sort nope: no finished run has this figure; known are top1, top5, ece"),
    ):
        done = CliRunner().invoke(app, ["runs", *line])
        assert said in str(done.exception)


def test_where_keys_cannot_be_told_the_runs_are_listed_all_the_same(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made.root)
    text = (made.root / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("weights/mini-dinov3", "nowhere"), encoding="utf-8")
    said = invoke("--params", tmp_path / "params.yaml")
    assert "what params refer to cannot be told: features.dinov3_patches: weights nowhere" in said and "concat" in said


def test_both_programs_have_the_verb_and_every_task_has_columns():
    assert {"runs", "search"} <= {command.callback.__name__ for command in installed.registered_commands}
    for task in TASKS:
        assert columns_of(task)[0].name == TASKS[task].headline
    assert ABSENT and cells


def test_two_hundred_runs_are_listed_without_a_heavy_import(tmp_path):
    project = project_at(tmp_path)
    runs = list(project.plan.evaluations.values())
    project.evaluate(runs[0])
    document = (tmp_path / runs[0].result_file).read_bytes()
    for number in range(1, 200):  # more than these heads have: the others' keys are made up
        path = (
            runs[number].result_file if number < len(runs) else f"runs/gasm_cast/{number:010d}/0123456789/result.json"
        )
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(document)
    code = (
        "import sys, time; began = time.process_time(); from pipeline.cli import app\n"
        "app(['runs', '--sort', 'top1'], standalone_mode=False)\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'matplotlib', 'lightning', 'snakemake', 'optuna', 'av'}\n"
        "print('HEAVY', *(heavy & sys.modules.keys())); print('SECONDS', time.process_time() - began)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    assert sum(line.startswith(" gasm_cast/") for line in said) == 200 and said[-2] == "HEAVY"
    assert float(said[-1].removeprefix("SECONDS ")) < 8  # of a processor; benchmarks/README.md says what is usual


def test_a_feature_that_several_roles_read_is_named_once_in_the_table():
    line = Line("ood", "a", "b", features={"image": "clip_image", "cam": "clip_cam", "in background": "clip_image"})
    assert cells(line)[2] == "clip_image, clip_cam"
