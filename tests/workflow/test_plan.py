"""What the workflow plans, before any job runs."""

import re
import sys

import pytest
import yaml

from pipeline.config import load_params
from pipeline.jobs.several import Several
from pipeline.plan import Plan
from pipeline.refusals import RUN_NOTHING
from tests.workflow.conftest import ROOT, Project, small

LINE = "snakemake --cores 8 --resources gpu=2 results/ssv2_top1.json"


def test_a_fresh_project_plans_from_video_files_to_the_result(project):
    jobs = project.jobs(LINE)
    assert {"toyworld", "manifest", "train", "evaluate", "result"} <= set(jobs)


def test_what_is_evaluated_elsewhere_is_awaited_by_the_evaluation_and_not_by_the_training(tmp_path, monkeypatch):
    project = Project(tmp_path)
    project.change(small)
    names = {"elsewhere": {"reversed_video": "toy-ssv2-reversed"}}
    project.change(lambda document: document["heads"]["gasm_cast"].update(names))
    monkeypatch.chdir(tmp_path)
    run = Plan(load_params("params.yaml")).run("gasm_cast")
    training = project.plan(f"snakemake --cores 1 {run.folder}/run.json").stdout
    assert "data/toy-ssv2/.rendered" in training and "toy-ssv2-reversed" not in training
    evaluation = project.plan(f"snakemake --cores 1 {run.result_file}").stdout
    assert "data/toy-ssv2/.rendered" in evaluation and "data/toy-ssv2-reversed/.rendered" in evaluation


def test_plain_snakemake_makes_every_result(project):
    assert "result" in project.jobs("snakemake --cores 1")


def test_lint_finds_nothing(project):
    assert "Congratulations" in project.run("snakemake --lint").stdout


def test_the_picture_in_the_readme_draws_the_rules_of_plain_snakemake():
    drawn = set(re.findall(r"<text[^>]*>(\w+)</text>", (ROOT / "docs/rulegraph.svg").read_text()))
    files = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]
    rules = {
        name
        for file in files
        for name in re.findall(r"^(?:rule|checkpoint|use rule \w+ as) (\w+)", file.read_text(), re.MULTILINE)
    }
    asked_for_by_name = {"features", "claims", "ablations", "search", "searches", "pretrain_mini"}
    several = {"train_runs", "evaluate_runs"}  # of ablations
    assert drawn == rules - asked_for_by_name - several - {*RUN_NOTHING}


def test_an_unknown_key_stops_the_workflow_before_any_job_and_is_named(project, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text((project.root / "params.yaml").read_text().replace("patience:", "patiance:"))
    done = project.run(f"snakemake --configfile {broken} --cores 1", check=False)
    assert done.returncode != 0
    assert "broken.yaml cannot be used:" in done.stdout
    assert "heads.gasm_cast.patiance: unknown key" in done.stdout
    assert not (project.root / "data").exists()


def test_nested_values_of_config_reach_params_as_numbers(project, monkeypatch):
    done = project.plan('snakemake --cores 1 results/ssv2_top1.json --config heads={"gasm_cast":{"lr":1e-3}}')
    monkeypatch.chdir(project.root)
    assert str(Plan(load_params("params.yaml")).run("gasm_cast", {"lr": 0.001}).folder) in done.stdout


def test_absent_weights_stop_the_workflow_before_any_job_with_the_remedy(project, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text((project.root / "params.yaml").read_text().replace("weights/mini-dinov3", "weights/absent"))
    done = project.plan(f"snakemake --configfile {broken} --cores 1", check=False)
    assert done.returncode != 0 and "weights/absent do not exist" in done.stdout


def test_labels_that_are_missing_are_one_sentence_where_runs_are_cut_into_jobs(tmp_path):
    def two_rows(document):
        document["datasets"] = {"toy-ssv2": {"layout": "ssv2", "root": "mine"}}
        document["heads"] = {"gasm_cast": document["heads"]["gasm_cast"] | {"elsewhere": {}}}
        document["features"] = {name: document["features"][name] for name in ("dinov3_patches", "r3d18_clips")}
        rows = {"variants": {"slow": {"lr": 0.1}, "fast": {"lr": 0.2}}, "seeds": [0]}
        document |= {"claims": {}, "searches": {}, "ablations": {"two": {"head": "gasm_cast", **rows}}}
        del document["toyworld"]
        document["compute"]["device"] = "cpu"

    project = Project(tmp_path)
    project.change(two_rows)
    done = project.plan("snakemake --cores 1 results/ablations/two.json", check=False)
    assert done.returncode != 0 and done.stdout.count("json of Something-Something-V2 is missing") == 1
    assert "get the label files" in done.stdout and "Traceback" not in done.stdout and 'File "' not in done.stdout


def test_toyworld_never_writes_where_a_real_data_set_lies(project):
    real = project.root / "data/ssv2"
    real.mkdir(parents=True)
    (real / "labels.json").write_text("{}")
    done = project.plan("snakemake --configfile configs/ssv2.yaml --cores 1 --forcerun toyworld", check=False)
    assert "rule toyworld" not in done.stdout


def test_a_real_data_set_that_is_not_there_is_one_error_with_the_remedy_and_nothing_is_made(project):
    done = project.plan("snakemake --configfile configs/breakfast.yaml --cores 1", check=False)
    told = "no list of videos (*.bundle) in data/breakfast/splits; put the data set's files there"
    assert done.returncode != 0 and done.stdout.count(told) == done.stdout.count("CannotPlan:") == 1, done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.root / "data/breakfast").exists()


@pytest.fixture
def planned(tmp_path):
    """A project over annotations of 60 videos in shards of 20, which are there, and videos, which need not be."""
    from tests.datasets.made_up import write_annotations

    project = Project(tmp_path)
    write_annotations(project.root / "data/ssv2", {"train": 40, "validation": 10, "test": 10})

    def ours(document: dict) -> None:
        document.pop("toyworld")
        document["datasets"] = {"toy-ssv2": {"layout": "ssv2", "root": "data/ssv2", "shard_size": 20}}
        document["heads"] = {"gasm_cast": document["heads"]["gasm_cast"] | {"elsewhere": {}}}
        for name in ("clip_cam", "object_masks"):  # they are of other data sets
            document["features"].pop(name)
        kept = {name: of for name, of in document["ablations"].items() if name.startswith("gasm_cast")}
        document["ablations"] = kept
        document.pop("claims")
        document["compute"]["job_minutes"] = 0.001  # a job a shard

    project.change(ours)
    return project


def test_short_shards_of_a_feature_are_one_job(planned):
    planned.change(lambda document: document["compute"].pop("job_minutes"))
    assert planned.jobs("snakemake --cores 8 results/ssv2_top1.json")["extract"] == 2
    # A fused pass is one job too, and what is derived waits for the job of its source.
    planned.change(lambda document: document.update(fused=[["dinov3_patches", "r3d18_clips"]]))
    jobs = planned.jobs("snakemake --cores 8 results/ablations/gasm_cast_storage.json")
    assert (jobs["extract_dinov3_patches_and_r3d18_clips"], jobs["extract"], jobs["derive"]) == (1, 1, 2)


def test_features_that_share_a_decode_are_one_job_a_shard(planned):
    planned.change(lambda document: document.update(fused=[["dinov3_patches", "r3d18_clips"]]))
    jobs = planned.jobs("snakemake --cores 8 results/ssv2_top1.json")
    assert jobs["extract_dinov3_patches_and_r3d18_clips"] == 3 and "extract" not in jobs


def test_a_feature_waits_for_the_shards_that_it_is_made_from_and_for_no_other(planned):
    jobs = planned.jobs("snakemake --cores 8 results/ablations/gasm_cast_storage.json")
    # dinov3_full, dinov3_patches and r3d18_clips from videos; the two int8 ones from dinov3_full.
    assert (jobs["extract"], jobs["derive"]) == (3 * 3, 2 * 3)


def test_an_ablation_over_what_training_does_not_see_trains_once_and_evaluates_each_row(planned):
    variants = {"reference": {}, "on_test": {"eval_split": "test"}, "short": {"bootstrap": 7}}
    table = {"head": "gasm_cast", "seeds": [0], "variants": variants}
    planned.change(lambda document: document["ablations"].update(judged=table))
    jobs = planned.jobs("snakemake --cores 8 results/ssv2_top1.json results/ablations/judged.json")
    assert (jobs["train"], jobs["evaluate"], jobs["result"], jobs["ablation_classification"]) == (1, 3, 1, 1)
    assert jobs["baselines_ssv2_top1"] == 1, "one job makes the linear probes of both inputs"


def test_a_job_asks_for_what_it_takes_and_idle_gpus_are_told_once(planned):
    planned.change(lambda document: document["compute"].update(device="cuda", threads=2, decode_workers=11))
    out = planned.run("snakemake -n --cores 16 --resources gpu=8 -- results/ssv2_top1.json").stdout
    asked = r"^rule (\w+):\n(?:    .*\n)*?    threads: (\d+)\n    resources: .*mem_mb="
    found = set(re.findall(asked, out, re.MULTILINE))
    assert found == {("extract", "12"), ("train", "13"), ("evaluate", "13"), ("baselines_ssv2_top1", "13")}
    (idle,) = re.findall(r"^\d of 8 GPUs stay idle: an extraction .*", out, re.MULTILINE)
    assert idle.endswith(
        "takes 12 cores of 16; give --cores 96, or lower compute.extract_threads + decode_workers to 2"
    )


def test_an_edit_of_a_study_is_an_edit_of_the_params(planned):
    study = planned.root / "studies/mine.yaml"
    variants = {"reference": {}, "wide": {"model.width": 96}}
    table = {"head": "gasm_cast", "seeds": [0], "variants": variants}
    planned.change(lambda document: document.update(studies="studies", ablations={}))
    for other in study.parent.iterdir():
        other.unlink()
    study.write_text(yaml.safe_dump({"ablations": {"mine": table}}), encoding="utf-8")
    out = planned.run("snakemake -n --cores 8 results/ablations/mine.json").stdout
    inputs = r"^rule ablation_classification:\n    input: .*, params\.yaml, studies/mine\.yaml, (.*)"
    (code,) = re.findall(inputs, out, re.MULTILINE)
    assert "pipeline/evaluation/metrics.py" in code  # a column that is added there is one of these tables'
    assert len(re.findall(r"^rule train:", out, re.MULTILINE)) == 2
    study.write_text(yaml.safe_dump({"ablations": {"mine": table | {"seeds": [0.5]}}}), encoding="utf-8")
    done = planned.run("snakemake -n --cores 8 results/ablations/mine.json", check=False)
    assert done.returncode and "studies/mine.yaml: ablations.mine.seeds.0: " in done.stdout


def test_a_data_set_may_ask_for_features_that_no_head_reads(planned):
    planned.change(lambda document: document["datasets"]["toy-ssv2"].update(features=["i3d_frames"]))
    # Those of the head, and I3D's with the flow that it is made from.
    assert planned.jobs("snakemake --cores 8 features")["extract"] == 4 * 3


def test_a_picture_that_is_added_to_a_folder_is_extracted_by_the_same_call_that_finds_it(tmp_path):
    from tests.datasets.made_up import write_images

    project = Project(tmp_path)
    write_images(project.root / "pictures", {"cat": 3, "dog": 2})

    def ours(document: dict) -> None:
        for section in ("toyworld", "heads", "ablations", "claims", "fused"):
            document.pop(section)
        document["datasets"] = {"pets": {"layout": "images", "root": "pictures", "features": ["dinov3_full"]}}
        document["features"] = {"dinov3_full": document["features"]["dinov3_full"] | {"sampling": {"frames": 1}}}

    project.change(ours)
    line = "snakemake --cores 2 features"
    project.run(line)
    assert project.jobs(line) == {}
    write_images(project.root / "pictures", {"cow": 1}, seed=9)
    assert "manifest" in project.jobs(line)
    project.run(line)
    assert project.jobs(line) == {}
    assert "computed 1 of 1" in "".join(log.read_text() for log in project.root.glob("logs/extract/**/*.log"))


@pytest.mark.slow
def test_the_real_data_set_is_planned_in_under_two_gigabytes(project):
    from tests.datasets.made_up import OFFICIAL_COUNTS, write_annotations

    write_annotations(project.root / "data/ssv2", OFFICIAL_COUNTS)
    line = "snakemake --configfile configs/ssv2.yaml --cores 8 --resources gpu=2 results/ssv2_top1.json -n"
    # A process of its own: the peak over all children of this one is that of whatever test ran before.
    script = project.root / "measured.py"
    script.write_text(
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print('kilobytes', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    out = project.run(f"{sys.executable} {script} {line}").stdout
    assert re.search(r"extract_dinov3_patches_and_r3d18_clips\s+8\b", out)
    assert int(re.search(r"^kilobytes (\d+)$", out, re.MULTILINE)[1]) * 1024 < 2e9


def test_each_run_is_made_by_one_rule_alone_or_with_others():
    plan = Plan(load_params(ROOT / "params.yaml"))
    jobs = Several(plan, None, None, None)
    for rule, wildcard in (("trained", jobs.trained_together()), ("evaluated", jobs.evaluated_together())):
        together = getattr(jobs.runs, rule)
        assert len({place[0] for place in together.places}) > 1
        for run in plan.runs.values():
            path = "/".join(together.place(run))
            taken = re.fullmatch(f"(?P<head>{wildcard})/.*", f"{path}/x")
            assert bool(taken) == (together.place(run) in together), path
