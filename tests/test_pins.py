"""The three places that pin versions agree, and name no registry's host."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)(?: ; (.+))?")


def parse(requirement: str) -> tuple[str, str, str]:
    name, version, marker = REQUIREMENT.fullmatch(" ".join(requirement.split())).groups()
    return name.lower(), version, marker or ""


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def lock() -> list[list[str]]:
    """Each requirement of the lock: its first line, then its hashes."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", "")
    return [line.split("--hash=") for line in text.splitlines() if line.strip()]


def direct(project: dict) -> set[str]:
    names = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    return {re.match(r"[A-Za-z0-9._-]+", name)[0].lower() for name in names}


def test_the_constraints_are_the_lock(project, lock):
    constraints = [parse(line) for line in project["tool"]["uv"]["constraint-dependencies"]]
    assert constraints == [parse(entry[0].strip()) for entry in lock]


def test_every_locked_package_has_a_hash(lock):
    assert all(len(entry) > 1 and all(part.startswith("sha256:") for part in entry[1:]) for entry in lock)


def test_every_dependency_is_locked(project, lock):
    assert direct(project) <= {parse(entry[0].strip())[0] for entry in lock}


def test_conda_users_get_the_same_versions(project, lock):
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert pip[0] == "-e ."
    pinned = [parse(line) for line in pip[1:]]
    assert set(pinned) <= {parse(entry[0].strip()) for entry in lock}
    wanted = {re.match(r"[A-Za-z0-9._-]+", name)[0].lower() for name in project["project"]["dependencies"]}
    assert {name for name, *_ in pinned} == wanted


def test_no_pin_names_a_host(lock):
    for name in ("requirements.lock", "pyproject.toml", "environment.yml"):
        assert "://" not in (ROOT / name).read_text()
    assert "uv.lock" in (ROOT / ".gitignore").read_text().split()
