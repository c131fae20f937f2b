"""The rules of the house that a tool can hold."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def run(*command: str) -> str:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_imports_go_one_way():
    assert "0 broken" in run("lint-imports", "--no-cache")


VERBS = "toyworld manifest extract derive verify info prune train mine evaluate report ablation claims"
VERBS += " predict sanity explain page"


@pytest.mark.parametrize("verb", VERBS.split())
def test_every_verb_explains_itself(verb):
    said = CliRunner().invoke(app, [verb, "--help"], prog_name="python -m pipeline")
    assert said.exit_code == 0 and f"pipeline {verb}" in said.output


def test_the_package_is_started_as_a_program():
    assert "pipeline [OPTIONS] COMMAND" in run(sys.executable, "-m", "pipeline", "--help")


def test_params_are_read_without_pandas_whatever_layouts_they_name():
    code = "import sys, pipeline.config as c; c.load_params('params.yaml'); [c.layout_of(name) for name in c.LAYOUTS]"
    assert run(sys.executable, "-c", f"{code}; print(*({{'pandas', 'torch'}} & sys.modules.keys()))").strip() == ""


def unnamed_encodings(source: str) -> list[int]:
    """Lines that open a text file in the locale's encoding. Ruff sees only those whose object it knows to be a path."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(word.arg in ("encoding", None) for word in call.keywords):
            continue
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if method else getattr(call.func, "id", "")
        if method and name in ("read_text", "write_text") and len(call.args) <= (name == "write_text"):
            found.append(call.lineno)
        elif name == "open" and getattr(getattr(call.func, "value", None), "id", "") not in ("os", "av", "Image"):
            place = 0 if method else 1
            modes = [word.value for word in call.keywords if word.arg == "mode"] + call.args[place : place + 1]
            if not modes or (isinstance(modes[0], ast.Constant) and "b" not in str(modes[0].value)):
                found.append(call.lineno)
    return found


def test_text_files_are_utf_8_whatever_the_locale():
    folders = ("permafrost", "pipeline", "workflow", ".ci", "benchmarks", "weights")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {path: unnamed_encodings(path.read_text(encoding="utf-8")) for path in files}
    assert [f"{path.relative_to(ROOT)}:{line}" for path, lines in found.items() for line in lines] == []
    assert unnamed_encodings("path.read_text()\nopen(x)\npath.open('a')\npath.open('rb')\nwrite_text(a, b)") == [
        1,
        2,
        3,
    ]


def test_shipped_files_are_small():
    tracked = run("git", "ls-files", "-z").split("\0")
    assert [name for name in tracked if name and (ROOT / name).stat().st_size > 10 << 20] == []
