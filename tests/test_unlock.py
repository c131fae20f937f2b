"""A killed workflow is repeated as it was; a living one keeps its locks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import unlock

ALIVE = "import sys, time; from pathlib import Path; from pipeline.unlock import unlock_after_a_kill as f; "
ALIVE += "f(Path(sys.argv[1])); print(flush=True); time.sleep(60)"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Snakemake's folder, with what a Snakemake that was killed leaves in it."""
    (tmp_path / "locks").mkdir()
    for name in ("input", "output"):
        (tmp_path / f"locks/0.{name}.lock").write_text("a file\n")
    return tmp_path


def removed(folder: Path) -> list[str]:
    """What a Snakemake that lives for a moment removes."""
    found = unlock.unlock_after_a_kill(folder)
    os.close(unlock._held.pop())
    return [lock.name for lock in found]


def test_what_the_dead_left_is_removed_and_said(folder, capsys):
    assert removed(folder) == ["0.input.lock", "0.output.lock"]
    assert not list((folder / "locks").iterdir()) and capsys.readouterr().err.count("killed") == 2


def test_what_the_living_hold_stays_until_they_are_killed(folder):
    process = subprocess.Popen([sys.executable, "-c", ALIVE, str(folder)], stdout=subprocess.PIPE)
    process.stdout.readline()
    (folder / "locks/0.input.lock").write_text("another file\n")
    assert removed(folder) == [] and (folder / "locks/0.input.lock").exists()
    process.kill()
    process.wait()
    assert removed(folder) == ["0.input.lock"]


def test_of_another_machine_nothing_is_removed_however_often_it_is_tried(folder):
    (folder / "alive").write_text("elsewhere")
    assert removed(folder) == removed(folder) == []
    assert len(list((folder / "locks").iterdir())) == 2


def test_a_folder_without_locks_is_this_machine_s_from_then_on(tmp_path):
    (tmp_path / "alive").write_text("elsewhere")
    assert removed(tmp_path) == []
    assert (tmp_path / "alive").read_text() != "elsewhere"
