"""Claims about runs that one job makes: whoever asks for one of them asks for all, and enough jobs for all devices."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import Wildcards

from pipeline import together
from pipeline.config import parse_params, read_documents
from pipeline.config.costs import divide
from pipeline.config.params import Compute
from pipeline.jobs.needs import Needs
from pipeline.jobs.reads import Reads
from pipeline.jobs.several import Several
from pipeline.plan import Plan
from pipeline.together import Runs

ROOT = Path(__file__).parents[1]


def plan_of(**compute) -> Plan:
    document = read_documents([ROOT / "params.yaml"]).document
    document["compute"] |= compute
    return Plan(parse_params(document))


@pytest.fixture(scope="module")
def plan():
    return plan_of(device="cuda")


@pytest.fixture
def nothing_there(tmp_path, monkeypatch):
    """No run is finished and nothing is rendered, though it is known how many samples there will be."""
    monkeypatch.chdir(tmp_path)
    for name in ("weights", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setattr(Plan, "samples", lambda plan, dataset, split: 1000)


def jobs_on(plan: Plan, cores: int | None, gpus: int | None, local: bool = True) -> Several:
    given = {name: SimpleNamespace(value=value) for name, value in (("_cores", cores), ("gpu", gpus)) if value}
    settings = SimpleNamespace(targets=set(), forceall=False, forcerun=set())
    workflow = SimpleNamespace(global_resources=given, is_main_process=True, local_exec=local, dag_settings=settings)
    return Several(plan, workflow, Reads(plan, workflow, None, [], None), Needs(plan, workflow))


def test_only_ablations_runs_are_made_together_and_always_by_all_who_ask_for_one(plan):
    runs = Runs(plan)
    shown = {(run.head, run.key) for run in plan.results.values()}
    trained = [(run.head, run.key) for of in runs.trained.lists for run in of]
    assert len(trained) == len({*trained}) and not shown & {*trained}
    for of in (*runs.trained.lists, *runs.evaluated.lists):
        for name in plan.params.ablations:
            asked = {(run.head, run.key, run.evaluation) for run in plan.ablation_runs(name)}
            both = [(run.head, run.key, run.evaluation) in asked for run in of]
            assert all(both) or not any(both)
        assert all(run.result_file for run in of) and runs.ablation_of(of)
    everything = {(run.head, run.key) for name in plan.params.ablations for run in plan.ablation_runs(name)}
    learned = {place for place in everything - shown if plan.runs[place].config.trains}
    assert learned == {*trained}


def test_a_name_says_which_runs_and_is_short(plan, nothing_there, monkeypatch):
    trained = Runs(plan).trained
    runs = max(trained.lists, key=len)
    for chosen in (runs, runs[:1], runs[::2], [*runs[:3], runs[7]]):
        name = trained.name(chosen)
        assert trained.named(runs[0].head, name) == list(chosen) and len(name) < 200
    assert trained.name(trained.named("fact", "002-004_007")) == "002-004_007"
    monkeypatch.setattr(together, "LONGEST_NAME", 20)
    jobs = trained.cut(runs[::2], 1)
    assert [run for job in jobs for run in job] == runs[::2] and all(len(trained.name(job)) <= 20 for job in jobs)


@pytest.mark.parametrize(("gpus", "of_streams"), [(1, 1), (8, 8)])
def test_the_jobs_of_an_ablation_of_the_toy_world(plan, nothing_there, gpus, of_streams):
    jobs = jobs_on(plan, 64, gpus)
    study = {(run.head, run.key): run for run in plan.ablation_runs("gasm_cast_streams")}
    wildcards = [
        Wildcards(fromdict={"head": head, "key": key}) for head, key in study if (head, key) in jobs.runs.trained
    ]
    marks = {jobs.trained_in(of) for of in wildcards}
    made = [run for mark in marks for run in jobs.runs.trained.named("gasm_cast", Path(mark).stem)]
    assert len(made) == len({run.key for run in made}) == len(study) - 1, "the result's run is a job of its own"
    # Two lists: two of these runs stand in other ablations, too.
    assert len(marks) == of_streams + min(2, of_streams)
    mark = min(marks)
    share = jobs.needs.cores_to_train(jobs.runs_to_train)(
        Wildcards(fromdict={"head": "gasm_cast", "runs": Path(mark).stem})
    )
    assert share == plan.params.compute.threads + plan.params.compute.decode_workers


@pytest.mark.parametrize(
    ("count", "minutes", "at_once", "jobs"),
    [
        (48, 0.5, 8, 8),  # 24 minutes: on all devices
        (48, 0.5, 1, 2),  # on one in jobs of ten minutes
        (48, 60.0, 8, 48),  # a training of an hour is a job
        (48, 5.0, 100, 48),  # on a cluster each, if so many run at once
        (3, 0.1, 8, 3),
        (3, 0.0, 1, 1),  # of samples that are not known yet
        (0, 1.0, 8, 0),
    ],
)
def test_runs_are_jobs_of_ten_minutes_or_as_many_as_can_run_at_once(count, minutes, at_once, jobs):
    made = divide(count, 60 * minutes, Compute(), at_once)
    assert len(made) == jobs and [n for a, b in made for n in range(a, b)] == list(range(count))


def test_how_many_run_at_once_is_what_params_say_and_this_machine_lets_start(plan):
    runs = Runs(plan).trained.lists[0]
    for given, found in (((4, 8), 2), ((64, 2), 2), ((64, 8), 8), ((1, 1), 1), ((64, None), 8), ((4, 2, False), 8)):
        assert jobs_on(plan, *given)._at_once("train", runs) == found


def test_trainings_of_several_devices_are_a_job_each():
    assert Runs(plan_of(device="cuda", devices=2)).trained.lists == []
    assert Runs(plan_of(device="cpu", strategy="ddp")).evaluated.lists == []


def test_a_head_s_cost_is_its_own_and_params_correct_it():
    dear = plan_of(device="cuda", seconds_a_sample={"gasm_cast": 1.0})
    run = dear.results["ssv2_top1"]
    runs = Runs(dear)
    dear.samples = lambda dataset, split: 100
    assert runs.training_seconds(run) == 20 * 100 and runs.evaluation_seconds(run) == 100
    with pytest.raises(ValueError, match=r"compute\.seconds_a_sample names 'gasm'"):
        plan_of(seconds_a_sample={"gasm": 1.0})
