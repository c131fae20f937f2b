"""The rules of the house that a tool can hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def run(*command: str) -> str:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_imports_go_one_way():
    assert "0 broken" in run("lint-imports", "--no-cache")


VERBS = "toyworld pretrain manifest extract derive verify info prune train mine evaluate report ablation claims"
VERBS += " predict sanity overlays explain page"


@pytest.mark.parametrize("verb", VERBS.split())
def test_every_verb_explains_itself(verb):
    assert f"pipeline {verb}" in run(sys.executable, "-m", "pipeline", verb, "--help")


def test_planning_loads_no_deep_learning_library():
    code = "import sys, pipeline.plan, pipeline.cli; print(*({'torch', 'transformers', 'av'} & sys.modules.keys()))"
    assert run(sys.executable, "-c", code).strip() == ""


def test_reports_and_the_page_load_no_deep_learning_library():
    code = "import sys, pipeline.reports.page; print(*({'torch', 'lightning', 'transformers'} & sys.modules.keys()))"
    assert run(sys.executable, "-c", code).strip() == ""


def test_extraction_loads_no_architecture_before_a_feature_asks_for_it():
    code = "import sys, pipeline.extraction; print(*({'transformers', 'torchvision'} & sys.modules.keys()))"
    assert run(sys.executable, "-c", code).strip() == ""


def test_shipped_files_are_small():
    tracked = run("git", "ls-files", "-z").split("\0")
    assert [name for name in tracked if name and (ROOT / name).stat().st_size > 10 << 20] == []
