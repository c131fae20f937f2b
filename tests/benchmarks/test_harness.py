"""A benchmark answers in minutes as it stands; --full has the sizes of the tables; what is said wins."""

import importlib
import json
import sys
import threading
from pathlib import Path

import pytest
import yaml

from benchmarks._harness import ROOT, Busy, main, project

# `backbones` and `memory` measure no time: they write tables of shapes and of bytes.
NAMES = sorted({path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")} - {"backbones", "memory"})


def asked(monkeypatch, *words: str) -> dict:
    """What a benchmark of these words is run with."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    found = main(lambda rounds, folder: {"rounds": rounds, "folder": folder}, {"rounds": 9}, rounds=1, folder="")
    return {name: found[name] for name in ("rounds", "folder")}


def test_full_makes_the_tables_sizes_of_what_is_not_given(monkeypatch):
    assert asked(monkeypatch) == {"rounds": 1, "folder": ""}
    assert asked(monkeypatch, "--full") == {"rounds": 9, "folder": ""}
    assert asked(monkeypatch, "--full", "--folder", "here")["folder"] == "here"
    assert asked(monkeypatch, "--rounds", "4", "--full")["rounds"] == 4


def test_a_benchmark_that_asks_is_told_whether_it_is_full(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--full", "--json", str(tmp_path / "found.json")])
    main(lambda full: {"full": full}, {})
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["full"] is True


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_sizes_of_both_kinds_that_its_run_takes(name, monkeypatch):
    """The call at the end of its file."""
    module, called = importlib.import_module(f"benchmarks.{name}"), {}
    source = (ROOT / f"benchmarks/{name}.py").read_text(encoding="utf-8").rpartition('if __name__ == "__main__":')[2]
    monkeypatch.setattr(module, "main", lambda run, full, **options: called.update(full=full, options=options) or {})
    monkeypatch.setattr(module, "found", None, raising=False)
    exec(source.split("sys.exit")[0].replace("\n    ", "\n"), vars(module))
    assert set(called["full"]) <= set(called["options"])
    assert all(value > called["options"][key] for key, value in called["full"].items())


@pytest.mark.parametrize("name", ["profiles", "study"])
def test_the_small_project_is_a_tenth_of_the_toy_world_and_goes_afterwards(name):
    small = importlib.import_module(f"benchmarks.{name}").small
    before = Path.cwd()
    with project(full=False, small=small):
        here = Path.cwd()
        document = yaml.safe_load((here / "params.yaml").read_text(encoding="utf-8"))
        whole = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        assert document["toyworld"]["ssv2"]["train"] * 10 < whole["toyworld"]["ssv2"]["train"]
        assert here != before and (here / "Snakefile").exists()
    assert Path.cwd() == before and not here.exists()
    with project(full=True, small=small):
        assert Path.cwd() == before


def test_the_readme_names_every_benchmark():
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert all(f"`python -m benchmarks.{name}" in text for name in NAMES) and "--full" in text


def test_how_busy_a_gpu_is_is_asked_beside_the_work_and_of_none_not_at_all(monkeypatch):
    monkeypatch.setattr(Busy, "EVERY", 0.001)
    told, enough = iter([30.0, 60.0, 90.0]), threading.Event()

    def ask() -> float:
        if (percent := next(told, None)) is None:
            enough.set()
            return 60.0
        return percent

    with Busy("cuda", ask) as gpu:
        assert enough.wait(30)
    assert gpu.share == pytest.approx(0.6)
    with Busy("cpu", ask) as none:
        pass
    assert none.share is None
