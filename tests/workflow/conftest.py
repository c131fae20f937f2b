"""A project of its own for each module: the workflow as a user has it, with small sizes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.config import read_documents

ROOT = Path(__file__).parents[2]
FILES = ("Snakefile", "workflow", "profiles", "environment.yml", "params.yaml", "studies", "configs", "weights")


class Project:
    """A copy of the workflow in a directory of its own; the code is the installed one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in FILES:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path}

    def change(self, edit: Callable[[dict], None]) -> None:
        """Edits params.yaml, in which the studies stand from then on."""
        path = self.root / "params.yaml"
        document = read_documents([path]).document
        edit(document)
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def run(self, line: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs a command line in the project and returns it with all its output in stdout."""
        done = subprocess.run(
            line.split(),
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    def jobs(self, line: str) -> dict[str, int]:
        """How many jobs of each rule a command line would run."""
        out = self.run(f"{line} -n").stdout
        if "Nothing to be done" in out:
            return {}
        table = out.split("Job stats:", 1)[1].split("total", 1)[0].splitlines()[3:]
        return {row.split()[0]: int(row.split()[1]) for row in table if row.strip()}


def small(document: dict) -> None:
    """Sizes that end in a minute: 16 templates x (4 + 2 + 1) videos, two epochs."""
    document["toyworld"]["ssv2"] |= {"train": 4, "validation": 2, "test": 1}
    document["toyworld"]["waterbirds"] |= {"train": 12, "val": 12, "test": 12, "ood": 12, "size": 64}
    document["toyworld"]["clinic"] |= {"train": 8, "val": 4, "test": 12, "size": 64, "frames": [34, 34]}
    document["datasets"]["toy-ssv2"]["shard_size"] = 64
    document["heads"]["gasm_cast"] |= {"epochs": 2, "warmup_epochs": 1, "holdout": 0.25, "batch_size": 16}
    document["heads"]["clip_align"] |= {"epochs": 2, "warmup_epochs": 1, "batch_size": 8}
    document["compute"] |= {"device": "cpu"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project whose params are small."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.change(small)
    return project
