"""Videos, an empty project, and small file systems to run out of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from permafrost.doctor import machine
from tests.conftest import write_clip


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        for number in range(2):
            (folder / name).mkdir(exist_ok=True)
            write_clip(folder / name / f"{number}.webm", number, frames=12)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty project, on a machine whose PATH is this environment's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(machine, "_memory_free", lambda: 64 << 30)
    return tmp_path


@pytest.fixture
def mounted(place):
    """Mounts file systems of a few MB below the project."""
    made = []

    def mount(name: str, size: str, *more: str) -> Path:
        folder = place / name
        folder.mkdir()
        options = ",".join((f"size={size}", *more))
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a small tmpfs is not permitted here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)
