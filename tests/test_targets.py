"""The promised line parses: a target behind an option of several values is a target. What is unreadable is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from snakemake_logger_plugin_permafrost import TAKES, VALUES, complaint, targets_last, values_of


def get_argument_parser():
    """Snakemake's own; whoever collects tests needs none of it, which takes half a second."""
    from snakemake import cli

    return cli.get_argument_parser()


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


@pytest.mark.parametrize("name", ["--set-resources", "--default-resources", "--set-threads"])
def test_the_line_of_a_job_on_a_cluster_stays_as_snakemake_writes_it(name):
    from snakemake_interface_executor_plugins.utils import format_cli_arg

    pairs = ["train:mem_mb=4000", "train:mem_mb=40000", "manifest:runtime=480 * attempt"]
    line = format_cli_arg(name, pairs, base64_encode=True).split()
    assert {token.endswith("=") for token in line[1:]} == {True, False}
    assert targets_last([*line, "--mode", "remote"]) == [*line, "--mode", "remote"]


def test_the_options_of_several_values_take_what_snakemake_itself_lets_them_take():
    actions = {name: action for action in get_argument_parser()._actions for name in action.option_strings}
    for names in VALUES:
        action = actions[names[0]]
        assert set(names) <= set(action.option_strings) and action.nargs in ("+", "*")
        assert all(TAKES[names[0]](choice) for choice in action.choices or ())
    several = {name for name, action in actions.items() if action.nargs in ("+", "*") and action.choices}
    assert several - set(TAKES) == {"--strict-dag-evaluation", "--shared-fs-usage", "--logger"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("--configfile a.yaml b.yml -n", ["a.yaml", "b.yml"]),
        ("--configfiles=a.yaml b.yml --cores 8", ["a.yaml"]),
        ("--configfile a.yaml --configfile b.yaml -- c.yaml", ["b.yaml"]),
        ("--cores 8 a.yaml", []),
    ],
)
def test_the_params_files_of_a_line_are_those_that_snakemake_sees(line, wanted):
    assert values_of(line.split(), ("--configfile", "--configfiles")) == wanted
    seen, _ = get_argument_parser().parse_known_args([*line.split(), *([] if "--cores" in line else ["--cores", "1"])])
    assert [str(path) for path in seen.configfile] == wanted


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "p.yaml does not exist; run from the project's root or name a file with --configfile"),
        ("folder", "p.yaml is a folder; name a file with --configfile"),
        (b"seed: \xff\n", "p.yaml, line 1: is not UTF-8 text (invalid start byte); save it as UTF-8"),
        (b"a: 1\nlr: [cast\n", "p.yaml is not valid YAML, line 3, column 1: while parsing a flow sequence"),
        (b"a: 1\nlr: !!python/name:x y\n", "p.yaml, line 2: lr: has the tag !!python/name:x, and params hold plain"),
        (b"", "p.yaml must hold a mapping at its top, got nothing"),
        (b"- a\n", "p.yaml must hold a mapping at its top, got list"),
        (b"[" * 5000, "p.yaml is nested too deeply"),
    ],
    ids=["absent", "folder", "no UTF-8", "bracket", "tag", "empty", "list", "deep"],
)
def test_a_params_file_that_snakemake_cannot_read_is_one_line_that_names_it(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    if content == "folder":
        (tmp_path / "p.yaml").mkdir()
    elif content is not None:
        (tmp_path / "p.yaml").write_bytes(content)
    told = complaint(["--cores", "1", "--configfile", "p.yaml", "-n"])
    assert told.startswith(said) and "\n" not in told


@pytest.mark.parametrize("text", ["lr: 010\non: yes\n", "a: 1\na: 2\n", "{a: 2026-01-01}"])
def test_what_snakemake_can_read_is_for_the_workflow_to_judge(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    assert (
        complaint(["--configfile", str(tmp_path / "p.yaml"), "--config", "seed=1", "heads={fact: {lr: 1e-3}}"]) is None
    )


def test_a_dotted_entry_of_config_is_told_how_to_write_it():
    told = complaint(["--config", "heads.fact.lr=1e-3"])
    assert (
        told.startswith("--config heads.fact.lr=1e-3: Invalid config definition") and "heads={fact: {lr: 1e-3}}" in told
    )


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
