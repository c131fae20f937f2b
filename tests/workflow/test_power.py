"""The power goes: Snakemake, its jobs and their children end at once. The same command goes on, nothing else said."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.conftest import Project
from tests.workflow.states import committed_samples, stores, timings, without_timings

pytestmark = pytest.mark.slow

TARGET = "results/ssv2_top1.json"
LINE = f"snakemake --cores 2 {TARGET}"


def processes_of(project: Project) -> list[int]:
    """Everything that runs in the project's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve(strict=True) == project.root:
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def run_until(project: Project, reached: Callable[[], bool]) -> None:
    """Runs the line and kills everything at once when the moment is reached."""
    job = subprocess.Popen(
        LINE.split(), cwd=project.root, env=project.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not reached():
        assert job.poll() is None, "the workflow ended before the power went"
        time.sleep(0.05)
    found = processes_of(project)
    assert len(found) > 2, "Snakemake, a job and what it started"
    for signum in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: nobody sees another one die
        for pid in found:
            os.kill(pid, signum)
    job.wait()
    while processes_of(project):
        time.sleep(0.05)


def committed(project: Project) -> dict[Path, int]:
    """Samples in the store of each shard that was begun and not finished."""
    journals = project.root.glob("features/*/*-*/shard-*.journal")
    return {path: committed_samples(path) for path in journals if not path.with_suffix(".json").exists()}


def test_after_a_power_cut_the_same_line_goes_on_where_each_job_was(rendered, finished):
    project = Project.copied(rendered)
    run_until(project, lambda: sum(committed(project).values()) >= 16)
    in_store = committed(project)
    assert list((project.root / ".snakemake/locks").iterdir()), "this is what would ask for --unlock"

    def trained_two_epochs() -> bool:
        return any(len(path.read_text().splitlines()) > 2 for path in project.histories("gasm_cast"))

    # The same line, and the power goes again while the head trains ...
    run_until(project, trained_two_epochs)
    for journal, samples in in_store.items():
        log = project.root / f"logs/extract/toy-ssv2/{journal.parent.name}/{journal.stem}.log"
        assert f": {samples} of " in next(line for line in log.read_text().splitlines() if "samples are there" in line)
    extracted = stores(project)
    # ... and the same line once more.
    project.run(LINE)
    assert "resumed after epoch" in next(project.root.glob("logs/train/gasm_cast-*.log")).read_text()
    assert stores(project) == extracted and project.jobs(LINE) == {}
    folders = " ".join(str(path) for path in sorted(project.root.glob("features/*/*-*/")))
    assert project.run(f"python -m pipeline verify {folders}").stdout.count("intact") == 2

    # As if nothing had happened: what was made from nothing in one piece is the same to the byte, but for its timings.
    undisturbed = Project(finished)
    assert extracted == stores(undisturbed)
    assert without_timings(project.root / TARGET) == without_timings(undisturbed.root / TARGET)
    assert timings(project.root / TARGET) != timings(undisturbed.root / TARGET)
