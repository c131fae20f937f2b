"""Claims about the rule of the page: it never starts a training by itself, and follows all that a call makes."""

import zipfile

import pytest

from pipeline.config import load_params
from pipeline.digests import read_json, write_json
from pipeline.plan import Plan
from tests.reports.made_up import MadeUp
from tests.workflow.conftest import Project


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


def test_the_page_alone_starts_nothing_else(project):
    assert project.jobs("snakemake --cores 1 results/report.html") == {"page": 1}


def test_plain_snakemake_writes_it_after_every_result(project):
    out = project.plan("snakemake --cores 1").stdout
    assert {"train", "page"} <= set(project.jobs("snakemake --cores 1"))
    inputs = next(line for line in out.split("rule page:")[1].splitlines() if "input:" in line)
    for name in Plan(load_params(str(project.root / "params.yaml"))).results:
        assert f"results/{name}.json" in inputs


def test_asked_for_with_a_result_it_waits_for_that_one_alone(project):
    jobs = project.jobs("snakemake --cores 1 results/ssv2_top1.json results/report.html")
    assert jobs["page"] == jobs["train"] == 1 and "explain" not in jobs


def test_what_an_explanation_holds_is_no_input_more_once_it_is_there(project):
    line = "snakemake --cores 1 results/ssv2_top1/explanation results/report.html"

    def inputs() -> str:
        planned = project.plan(line).stdout.split("rule page:")[1]
        return next(line for line in planned.splitlines() if "input:" in line)

    before = inputs()
    folder = project.root / "results/ssv2_top1/explanation"
    folder.mkdir(parents=True)
    write_json(folder / "features.json", {})
    assert inputs() == before


def test_it_is_made_of_what_is_there_and_again_when_that_changed_only(project):
    made_up = MadeUp(project.root).finish("fact")
    line = "snakemake --cores 1 results/report.html"
    project.run(line)
    text = (project.root / "results/report.html").read_text()
    assert "1 of 5 results are finished" in text and "snakemake results/ssv2_top1.json --cores all" in text
    assert project.jobs(line) == {}
    path = project.root / "results/assembly_segmentation.json"
    write_json(path, read_json(path, "") | {"acc": 12.3})
    assert project.jobs(line) == {"page": 1}
    project.run(line)
    made_up.finish("gasm_cast")
    assert project.jobs(line) == {"page": 1}


def test_commands_on_the_page_name_the_params_that_it_is_of(project):
    out = project.plan("snakemake -p --cores 1 --configfile params.yaml results/report.html").stdout
    assert "--snakemake 'snakemake --cores all --configfile params.yaml'" in out


def test_it_is_in_snakemake_s_own_report(project):
    MadeUp(project.root).finish("fact")
    project.run("snakemake --cores 1 results/report.html")
    project.run("snakemake results/report.html --report all.zip")
    with zipfile.ZipFile(project.root / "all.zip") as archive:
        inside = [archive.read(name) for name in archive.namelist() if name.endswith("/report.html")]
    assert (project.root / "results/report.html").read_bytes() in inside
