"""The workflow as a user has it, with small sizes: a project for a module, or what all share, made once a session."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pipeline.config import read_documents
from pipeline.refusals import RUN_NOTHING
from tests.workflow.forks import programs

ROOT = Path(__file__).parents[2]
FILES = ("Snakefile", "workflow", "profiles", "environment.yml", "params.yaml", "studies", "configs", "weights")
BIN = Path(sys.executable).parent
# The README's line, literally.
LINE = "snakemake --cores 8 --resources gpu=2 results/ssv2_top1.json"


class Project:
    """A copy of the workflow in a directory of its own; the code is the installed one.

    Attributes:
        environment: with the real programs.
        called: what `run` calls instead of starting it: all, the jobs of a real Snakemake, or none.
    """

    called = "all"

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in FILES if not (root / "Snakefile").exists() else ():
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
        self.environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    @classmethod
    def copied(cls, whole: Path) -> "Project":
        """A copy of a project with all that it made, beside it: Snakemake remembers code by its path from here."""
        root = Path(tempfile.mkdtemp(prefix="copy-", dir=whole.parent))
        shutil.copytree(whole, root, symlinks=True, dirs_exist_ok=True)
        return cls(root)

    def change(self, edit: Callable[[dict], None]) -> None:
        """Edits params.yaml, in which the studies stand from then on."""
        path = self.root / "params.yaml"
        document = read_documents([path]).document
        edit(document)
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    @contextmanager
    def edited(self, edit: Callable[[dict], None]) -> Iterator[None]:
        """Edits params.yaml, and gives it back as it was."""
        path = self.root / "params.yaml"
        before = path.read_text()
        self.change(edit)
        yield
        path.write_text(before)

    def calling(self, which: str) -> dict[str, str]:
        """The environment in which these programs ("all", "jobs" or "none") are calls."""
        return self.environment | {"PATH": f"{programs() / which}{os.pathsep}{self.environment['PATH']}"}

    def run(self, line: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs a command line in the project, by calls, and returns it with all its output in stdout."""
        done = subprocess.run(
            line.split(),
            cwd=self.root,
            env=self.calling(self.called),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    def plan(self, line: str, check: bool = True) -> subprocess.CompletedProcess:
        """A dry run of a Snakemake's command line."""
        return self.run(f"{line} -n", check)

    def histories(self, head: str) -> list[Path]:
        """What the trainings of a head have written of their epochs; its baselines, beside them, have no such log."""
        runs = [log.stem.rpartition("-")[2] for log in self.root.glob(f"logs/train/{head}-*.log")]
        return [path for run in runs if (path := self.root / f"runs/{head}/{run}/history.csv").exists()]

    def jobs(self, line: str) -> dict[str, int]:
        """How many jobs of each rule a command line would run; what only hands on what a job has made is none."""
        out = self.plan(line).stdout
        if "Nothing to be done" in out:
            return {}
        table = out.split("Job stats:", 1)[1].split("total", 1)[0].splitlines()[3:]
        counts = dict(row.split() for row in table if row.strip())
        return {rule: int(count) for rule, count in counts.items() if rule not in RUN_NOTHING}


def small(document: dict) -> None:
    """Sizes that end in a minute: 16 templates x (2 + 1 + 1) videos, some epochs, and commits every other sample."""
    document["toyworld"]["ssv2"] |= {"train": 2, "validation": 1, "test": 1, "size": 64}
    document["toyworld"]["waterbirds"] |= {"train": 12, "val": 12, "test": 12, "ood": 12, "size": 64}
    document["toyworld"]["clinic"] |= {"train": 8, "val": 4, "test": 12, "size": 64, "frames": [34, 34]}
    document["datasets"]["toy-ssv2"] |= {"shard_size": 64, "features": []}
    for name in ("dinov3_patches", "r3d18_clips"):
        document["features"][name]["batch"] = 2
    document["heads"]["gasm_cast"] |= {"epochs": 6, "patience": 6, "warmup_epochs": 1, "holdout": 0.5, "batch_size": 16}
    document["heads"]["gasm_cast"]["elsewhere"] = {}
    document["heads"]["clip_align"] |= {"epochs": 2, "warmup_epochs": 1, "batch_size": 8}
    document["compute"] |= {"device": "cpu"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project whose params are small."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.change(small)
    return project


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Project]) -> Path:
    """A folder that all workers of a session share, made by the one who asks first; whoever writes takes a copy."""
    root = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = root / f"shared-{name}"
    with Path(f"{folder}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make(root).root.rename(folder)
    return folder


@pytest.fixture(scope="session")
def rendered(tmp_path_factory) -> Path:
    """A small project whose videos are rendered and in the manifest, by the workflow."""

    def make(root: Path) -> Project:
        project = Project(Path(tempfile.mkdtemp(dir=root)))
        project.change(small)
        # 270 runs to plan, in each job of a cluster too.
        project.change(lambda document: document.update(ablations={}, claims={}))
        # Asks for GPUs where there are none.
        project.change(lambda document: document["compute"].update(device="auto"))
        project.run("snakemake --cores 2 features/toy-ssv2/manifest.parquet")
        return project

    return _once(tmp_path_factory, "rendered", make)


@pytest.fixture(scope="session")
def finished(rendered, tmp_path_factory) -> Path:
    """The same with its result, by the README's line."""

    def make(root: Path) -> Project:
        project = Project.copied(rendered)
        project.run(f"{BIN}/{LINE}")  # Snakemake itself, whose reading of this line is half of the claim
        return project

    return _once(tmp_path_factory, "finished", make)
