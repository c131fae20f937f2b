"""Tests that take minutes are left out where they passed with this very content."""

import os
from pathlib import Path

import pytest

from tests import verified
from tests.verified import KINDS, RECORD, ROOT, main, marked, passed, recorded, rests_on, state


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """What they rest on, in a clone where they passed."""
    for path in {path for kind in KINDS for path in rests_on(kind)}:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, copy) if path.stat().st_dev == tmp_path.stat().st_dev else copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(verified.pytest, "main", lambda words: 0)
    assert main(["--run"], tmp_path) == 0
    return tmp_path


def test_they_passed_with_a_clone_s_content_wherever_it_lies(clone, capsys):
    assert recorded(clone) == {kind: state(kind, clone) for kind in KINDS} == {kind: state(kind) for kind in KINDS}
    assert main([], clone) == 0 and capsys.readouterr().out == "proof or weights or sweep\n"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("weights/mini-r3d18.safetensors", {"weights"}),
        ("weights/mini-clip/vocab.json", {"weights"}),
        ("weights/README.md", {"weights"}),
        ("weights/recipe/clip.py", {"weights"}),
        ("pipeline/backbones/flow.py", {"weights"}),
        ("pipeline/toyworld/scene.py", {"weights"}),
        ("tests/weights_recipe/test_i3d.py", {"weights"}),
        ("tests/backbones/test_i3d.py", {"weights"}),
        ("tests/backbones/conftest.py", {"weights"}),
        ("pipeline/store/journal.py", {"sweep"}),
        ("pipeline/files.py", {"weights", "sweep"}),
        ("pipeline/video/frames.py", {"weights", "sweep"}),
        ("tests/store/test_kill.py", {"sweep"}),
        ("tests/store/conftest.py", {"sweep"}),
        ("tests/video/films.py", {"sweep"}),
        ("requirements.lock", {"weights", "sweep"}),
    ],
)
def test_another_byte_of_what_they_rest_on_has_them_run(clone, name, kinds):
    content = (clone / name).read_bytes()
    (clone / name).unlink()
    (clone / name).write_bytes(content + b" ")
    assert set(KINDS) - set(passed(clone)) == kinds


def test_a_file_that_comes_or_goes_has_them_run(clone):
    (clone / "weights/mini-clip/more.json").write_text("{}")
    assert passed(clone) == ["sweep"]
    (clone / "weights/mini-clip/more.json").unlink()
    assert passed(clone) == [*KINDS]
    (clone / "pipeline/backbones/flow.py").unlink()
    (clone / "pipeline/store/more.py").write_text("")
    assert passed(clone) == []


def test_a_clone_without_a_record_has_them_run(clone, capsys):
    (clone / RECORD).unlink()
    assert main([], clone) == 0 and capsys.readouterr().out == "proof\n"


def test_a_run_that_fails_or_whose_files_change_meanwhile_records_nothing(clone, monkeypatch):
    (clone / RECORD).unlink()
    monkeypatch.setattr(verified.pytest, "main", lambda words: 1)
    assert main(["--run"], clone) == 1 and recorded(clone) == {}

    def edits(words: list[str]) -> int:
        (clone / "weights/recipe/new.py").write_text("")
        return 0

    monkeypatch.setattr(verified.pytest, "main", edits)
    assert main(["--run"], clone) == 0 and [*recorded(clone)] == ["sweep"]


def test_what_passed_is_not_run_again(clone, monkeypatch):
    (clone / "pipeline/store/journal.py").unlink()
    asked = []
    monkeypatch.setattr(verified.pytest, "main", lambda words: asked.append(words[1].partition(" ")[0]) or 0)
    main(["--run"], clone)
    main(["--run"], clone)
    assert asked == ["sweep"]


def test_every_kind_has_tests_and_ci_leaves_them_out_by_that_record_alone():
    assert all(marked(kind) for kind in KINDS)
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert "left_out=$(uv run --no-sync python -m tests.verified)" in lines
    assert any(line.startswith('uv run --no-sync pytest -m "not ($left_out or gpu)" ') for line in lines)
