"""The promised line parses: a target behind an option of several values is a target."""

import subprocess
import sys
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

from snakemake_logger_plugin_permafrost import TAKES, VALUES, targets_last


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
        ("--configfile own.yaml results/x.json", "--configfile own.yaml -- results/x.json"),
        ("--configfile own.json results/x.json", "--configfile own.json -- results/x.json"),
        ("--configfile a.yaml b.yml --cores 8", "--configfile a.yaml b.yml --cores 8"),
        ("--config seed=1 x=2 results/x.json", "--config seed=1 x=2 -- results/x.json"),
        ("-C seed=1 a -n", "-C seed=1 -n -- a"),
        ("--sdm conda results/x.json --cores 8", "--sdm conda --cores 8 -- results/x.json"),
        ("--sdm conda apptainer", "--sdm conda apptainer"),
        ("--rerun-triggers mtime params a", "--rerun-triggers mtime params -- a"),
        ("-q rules a", "-q rules -- a"),
        ("--set-threads train=4 a", "--set-threads train=4 -- a"),
        ("--forcerun train a", "--forcerun train a"),
    ],
)
def test_targets_move_behind_the_separator_and_nothing_else_moves(argv, wanted):
    assert targets_last(argv.split()) == wanted.split()


def test_the_options_of_several_values_take_what_snakemake_itself_lets_them_take():
    actions = {name: action for action in get_argument_parser()._actions for name in action.option_strings}
    for names in VALUES:
        action = actions[names[0]]
        assert set(names) <= set(action.option_strings) and action.nargs in ("+", "*")
        assert all(TAKES[names[0]](choice) for choice in action.choices or ())
    several = {name for name, action in actions.items() if action.nargs in ("+", "*") and action.choices}
    assert several - set(TAKES) == {"--strict-dag-evaluation", "--shared-fs-usage", "--logger"}


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
