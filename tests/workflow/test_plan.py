"""What the workflow plans, before any job runs."""

import resource
import sys

import pytest

LINE = "snakemake --cores 8 --resources gpu=2 results/ssv2_top1.json"


def test_a_fresh_project_plans_from_video_files_to_the_result(project):
    jobs = project.jobs(LINE)
    assert {"toyworld", "manifest", "train", "evaluate", "result"} <= set(jobs)


def test_plain_snakemake_makes_every_result(project):
    assert "result" in project.jobs("snakemake --cores 1")


def test_lint_finds_nothing(project):
    assert "Congratulations" in project.run("snakemake --lint").stdout


def test_an_unknown_key_stops_the_workflow_before_any_job_and_is_named(project, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text((project.root / "params.yaml").read_text().replace("patience:", "patiance:"))
    done = project.run(f"snakemake --configfile {broken} --cores 1", check=False)
    assert done.returncode != 0
    assert "heads.gasm_cast.patiance: unknown key" in done.stdout
    assert not (project.root / "data").exists()


def test_absent_weights_stop_the_workflow_before_any_job_with_the_remedy(project, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text((project.root / "params.yaml").read_text().replace("weights/mini-dinov3", "weights/absent"))
    done = project.run(f"snakemake --configfile {broken} --cores 1", check=False)
    assert done.returncode != 0 and "weights/absent do not exist" in done.stdout


def test_toyworld_never_writes_where_a_real_data_set_lies(project):
    real = project.root / "data/ssv2"
    real.mkdir(parents=True)
    (real / "labels.json").write_text("{}")
    done = project.run("snakemake --configfile configs/ssv2.yaml -n --cores 1 --forcerun toyworld", check=False)
    assert "rule toyworld" not in done.stdout


@pytest.mark.slow
def test_the_real_data_set_is_planned_within_a_minute_and_two_gigabytes(project):
    from tests.datasets.made_up import OFFICIAL_COUNTS, write_annotations

    write_annotations(project.root / "data/ssv2", OFFICIAL_COUNTS)
    jobs = project.jobs("snakemake --configfile configs/ssv2.yaml --cores 8 --resources gpu=2 results/ssv2_top1.json")
    assert jobs["extract"] == 2 * 863
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert peak < 2e9
