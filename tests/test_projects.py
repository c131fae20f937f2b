"""Claims about a project outside the checkout, and about what the wheel carries for it."""

import fnmatch
import tomllib
from pathlib import Path

import pytest

from pipeline import projects
from pipeline.projects import ProjectExists, new_project

ROOT = Path(__file__).parents[1]
CARRIED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"][
    "wheel"
]


def test_a_project_has_what_the_main_job_reads_and_no_code(tmp_path):
    written = new_project(tmp_path / "own")
    assert all((tmp_path / "own" / path).exists() for path in written)
    assert {"Snakefile", "params.yaml", "studies", "configs", "profiles", "weights/mini-dinov3"} <= set(
        map(str, written)
    )
    assert [path.name for path in (tmp_path / "own").rglob("*.py")] == []


def test_its_snakefile_uses_the_installed_workflow_as_a_module(tmp_path):
    new_project(tmp_path)
    text = (tmp_path / "Snakefile").read_text(encoding="utf-8")
    assert "use rule * from permafrost" in text and "from pipeline.projects import SNAKEFILE" in text
    assert Path(projects.SNAKEFILE).is_file()


def test_what_lies_there_is_never_replaced(tmp_path):
    (tmp_path / "params.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(ProjectExists, match=r"params.yaml would be replaced; name a new folder"):
        new_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_what_does_not_lie_in_the_way_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    new_project(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_the_wheel_carries_what_a_project_copies():
    carried = {source for source, place in CARRIED["force-include"].items() if place == f"pipeline/project/{source}"}
    copied = {path.relative_to(ROOT).as_posix() for name in projects.COPIED for path in ROOT.glob(name)}
    assert copied | {"Snakefile", "workflow/rules", "environment.yml"} == carried


def test_the_wheel_carries_each_file_that_the_snakefile_includes():
    included = [
        line.split('"')[1]
        for line in Path(projects.SNAKEFILE).read_text(encoding="utf-8").splitlines()
        if "include:" in line
    ]
    assert included and all(fnmatch.fnmatch(path, "workflow/rules/*.smk") for path in included)
