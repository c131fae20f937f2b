"""Two Snakemakes at once on one machine: what they share is made once, and no GPU has two jobs."""

import re
import shutil
import subprocess

import pytest

from tests.workflow.conftest import Project
from tests.workflow.states import stores
from tests.workflow.watch import watched

pytestmark = pytest.mark.slow

FUSION = ("cast", "concat")
LINE = "snakemake --cores 2 results/ssv2_top1.json"


@pytest.fixture
def two(rendered, tmp_path) -> tuple[Project, Project]:
    """Two working directories with one folder of data and one of features, whose heads differ."""
    projects = []
    for number, fusion in enumerate(FUSION):
        projects.append(project := Project.copied(rendered))

        def ours(document: dict, fusion: str = fusion) -> None:
            document["heads"]["gasm_cast"]["model"]["fusion"] = fusion

        project.change(ours)
        project.environment |= {"CUDA_VISIBLE_DEVICES": "toy0,toy1", "PERMAFROST_LEASES": str(tmp_path / "leases")}
        for name in ("data", "features"):
            folder = project.root / name
            if number == 0:
                folder.rename(tmp_path / name)
            else:
                shutil.rmtree(folder)
            folder.symlink_to(tmp_path / name)
    return tuple(projects)


def test_each_store_is_written_by_one_of_them_and_no_gpu_has_two_jobs(two, tmp_path):
    with watched(*(project.root for project in two)) as seen:
        running = [
            subprocess.Popen(
                LINE.split(),
                cwd=project.root,
                env=project.calling("jobs"),
                stdout=(tmp_path / f"{project.root.name}.out").open("w"),
                stderr=subprocess.STDOUT,
            )
            for project in two
        ]
        codes = [run.wait() for run in running]
    said = [(tmp_path / f"{project.root.name}.out").read_text() for project in two]
    assert codes == [0, 0], "\n".join(said)

    # Two features of 64 videos: together they computed each once.
    logs = [log.read_text() for project in two for log in project.root.glob("logs/extract/**/*.log")]
    computed = [int(count) for log in logs for count in re.findall(r": computed (\d+) of", log)]
    assert sum(computed) == 2 * 64, computed
    assert stores(two[0]) == stores(two[1]) != {}
    assert set(seen.users) == {"toy0", "toy1"} and seen.shared == []
    results = [(project.root / "results/ssv2_top1.json").read_text() for project in two]
    assert results[0] != results[1]
    assert [project.jobs(LINE) for project in two] == [{}, {}]
