"""The toy workflow through a real Slurm of one node, with jobs cancelled and killed in the middle."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.workflow import slurm
from tests.workflow.conftest import Project
from tests.workflow.states import committed_samples, stores, without_timings
from tests.workflow.watch import Job, jobs_below, watched

pytest.importorskip("snakemake_executor_plugin_slurm")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing())]

TARGET = "results/ssv2_top1.json"
LINE = f"snakemake --workflow-profile profiles/slurm --slurm-init-seconds-before-status-checks 2 {TARGET}"
# After each look at the queue that finds no job at its end, the plugin waits ten seconds longer: here it stays at two.
IMPATIENT = """
import sys
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 2, lambda self, seconds: None)
sys.argv[0] = "snakemake"
main()
"""
Found = TypeVar("Found")
SUBMITTED = re.compile(r"^Job (\d+) has been submitted", re.MULTILINE)


def when(condition: Callable[[], Found], job: subprocess.Popen, seconds: float = 300) -> Found:
    """What the condition gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert job.poll() is None, "the workflow ended before it could be disturbed"
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)
    return found


def test_cancelled_and_killed_in_the_middle_it_ends_as_if_nothing_had_happened(rendered, finished, tmp_path):
    undisturbed = Project(finished)
    project = Project.copied(rendered)
    (tmp_path / "slurm").mkdir()
    told = tmp_path / "snakemake.out"
    one_node = slurm.one_node(tmp_path / "slurm", project.calling("jobs"))
    with one_node as environment, watched(project.root) as seen, told.open("w") as out:
        command = [sys.executable, "-c", IMPATIENT, *LINE.split()[1:]]
        run = subprocess.Popen(command, cwd=project.root, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            # An extraction is cancelled once some of its batches are in the store ...
            journal = when(lambda: begun(project, "r3d18_clips"), run)
            (cancelled,) = {job.slurm for job in running(project, "r3d18_clips", "--shards", "000")}
            subprocess.run(["scancel", cancelled], env=environment, check=True)
            when(lambda: not running(project, "r3d18_clips", "--shards", "000"), run)
            committed = committed_samples(journal)
            assert not journal.with_suffix(".json").exists()
            # ... and a training is killed after its first epoch.
            history = when(lambda: project.histories("gasm_cast"), run)[0]
            when(lambda: len(history.read_text().splitlines()) > 2, run)
            os.kill(min(job.pid for job in running(project, "train", "gasm_cast")), signal.SIGKILL)
            assert run.wait(timeout=600) == 0, told.read_text()
        finally:
            run.kill()
            run.wait()

    said = told.read_text()
    # Each job was submitted once, and the two that were disturbed once more.
    assert sorted(Counter(SUBMITTED.findall(said)).values(), reverse=True)[:3] == [2, 2, 1], said
    # What was in the store when the extraction ended was not computed again ...
    log = (project.root / f"logs/extract/toy-ssv2/{journal.parent.name}/{journal.stem}.log").read_text()
    there, total = map(int, re.search(r": (\d+) of (\d+) samples are there", log).groups())
    assert 0 < committed <= there < total and f"computed {total - there} of {total}" in log
    # ... nor were the epochs that the training had behind it.
    assert "resumed after epoch" in next(project.root.glob("logs/train/gasm_cast-*.log")).read_text()
    # The two GPUs that Slurm has were in use, and none by two jobs.
    assert set(seen.users) == {"0", "1"} and seen.shared == []

    assert without_timings(project.root / TARGET) == without_timings(undisturbed.root / TARGET)
    assert stores(project) == stores(undisturbed)
    assert weights(project) == weights(undisturbed)
    assert project.jobs(f"snakemake --cores 1 {TARGET}") == {}


def begun(project: Project, feature: str) -> Path | None:
    """The journal of the first shard, if some of its samples are in the store and some are not."""
    found = project.root.glob(f"features/toy-ssv2/{feature}-*/shard-000.journal")
    return next((path for path in found if 0 < committed_samples(path) < 48), None)


def running(project: Project, *words: str) -> list[Job]:
    """The jobs whose command has these words, one after the other."""
    return [job for job in jobs_below(project.root) if " ".join(words) in " ".join(job.words)]


def weights(project: Project) -> dict[str, bytes]:
    """What trainings learned, by run."""
    found = project.root.glob("runs/*/*/weights.safetensors")
    return {str(path.relative_to(project.root)): path.read_bytes() for path in found}
