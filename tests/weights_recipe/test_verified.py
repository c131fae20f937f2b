"""Tests of the shipped weights and of full-size backbones are left out where they passed with this very content."""

import os
from pathlib import Path

import pytest

from tests.weights_recipe import verified
from tests.weights_recipe.verified import RECORD, ROOT, main, recorded, rests_on, state


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """What they rest on, in a clone where they passed."""
    for path in rests_on():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, copy) if path.stat().st_dev == tmp_path.stat().st_dev else copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(verified.pytest, "main", lambda words: 0)
    assert main(["--run"], tmp_path) == 0
    return tmp_path


def test_they_passed_with_a_clone_s_content_wherever_it_lies(clone):
    assert recorded(clone) == state(clone) == state() and main([], clone) == 0


@pytest.mark.parametrize(
    "name",
    [
        "weights/mini-r3d18.safetensors",
        "weights/mini-clip/vocab.json",
        "weights/README.md",
        "weights/recipe/clip.py",
        "pipeline/backbones/flow.py",
        "pipeline/toyworld/scene.py",
        "tests/weights_recipe/test_i3d.py",
        "tests/backbones/test_i3d.py",
        "tests/backbones/conftest.py",
        "requirements.lock",
    ],
)
def test_another_byte_of_what_they_rest_on_has_them_run(clone, name, capsys):
    content = (clone / name).read_bytes()
    (clone / name).unlink()
    (clone / name).write_bytes(content + b" ")
    assert main([], clone) == 1 and RECORD in capsys.readouterr().out


def test_a_file_that_comes_or_goes_has_them_run(clone):
    (clone / "weights/mini-clip/more.json").write_text("{}")
    assert main([], clone) == 1
    (clone / "weights/mini-clip/more.json").unlink()
    assert main([], clone) == 0
    (clone / "pipeline/backbones/flow.py").unlink()
    assert main([], clone) == 1


def test_a_clone_without_a_record_has_them_run(clone):
    (clone / RECORD).unlink()
    assert main([], clone) == 1


def test_a_run_that_fails_or_whose_files_change_meanwhile_records_nothing(clone, monkeypatch):
    (clone / RECORD).unlink()
    monkeypatch.setattr(verified.pytest, "main", lambda words: 1)
    assert main(["--run"], clone) == 1 and recorded(clone) is None

    def edits(words: list[str]) -> int:
        (clone / "weights/recipe/new.py").write_text("")
        return 0

    monkeypatch.setattr(verified.pytest, "main", edits)
    main(["--run"], clone)
    assert recorded(clone) is None


def test_ci_leaves_them_out_by_that_record_alone():
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert (
        "uv run --no-sync python -m tests.weights_recipe.verified && left_out='proof or weights' || left_out='proof'"
        in lines
    )
    assert any(line.startswith('uv run --no-sync pytest -m "not ($left_out or gpu)" ') for line in lines)
