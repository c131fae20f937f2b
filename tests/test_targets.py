"""The promised line parses: targets behind --resources are targets."""

import subprocess
import sys
from pathlib import Path

import pytest

from snakemake_logger_plugin_permafrost import targets_last


@pytest.mark.parametrize(
    "argv, wanted",
    [
        ("--cores 8 --resources gpu=2 r/x.json", "--cores 8 --resources gpu=2 -- r/x.json"),
        ("--resources gpu=2 mem_mb=9 a b -n", "--resources gpu=2 mem_mb=9 -n -- a b"),
        ("--res gpu=2 a -- b", "--res gpu=2 -- a b"),
        ("a --resources gpu=2", "a --resources gpu=2"),
        ("--resources=gpu=2 a", "--resources=gpu=2 a"),
        ("--resources gpu=2 -- a", "--resources gpu=2 -- a"),
        ("--cores 8 a", "--cores 8 a"),
    ],
)
def test_targets_move_behind_the_separator_and_nothing_else_moves(argv, wanted):
    assert targets_last(argv.split()) == wanted.split()


@pytest.mark.parametrize("launcher", ["script", "module"])
def test_the_literal_line_parses_and_runs_in_a_directory_of_its_own(tmp_path, launcher):
    (tmp_path / "Snakefile").write_text('rule x:\n    output: "results/x.json"\n    shell: "touch {output}"\n')
    command = [str(Path(sys.executable).with_name("snakemake"))]
    if launcher == "module":
        command = [sys.executable, "-m", "snakemake"]
    line = [*command, *["--cores", "8", "--resources", "gpu=2", "results/x.json"]]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "results/x.json").exists()
