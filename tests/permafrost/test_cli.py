"""The installed command, and `pf.extract`: the same extraction from a shell and from a notebook."""

import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import permafrost as pf
from permafrost.cli import app, main
from pipeline.cli import app as workflow
from pipeline.config import ParamsError
from tests.conftest import write_clip

SMALL = ["--backbone", "dinov3", "--weights", "mini", "--frames", "2", "--set", "preprocess.resize=[32, 32]"]


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for number in range(2):
        write_clip(tmp_path / f"clips/v_{number}.webm", number, frames=6, size=32)
    return tmp_path / "clips"


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="permafrost")


def test_features_of_a_folder_by_one_command_and_by_one_call(clips):
    done = invoke("extract", "clips", *SMALL, "--out", "out", "--decode-workers", 0)
    assert done.exit_code == 0 and "2 of 2 files have features" in done.output, done.output
    assert "WARNING: dinov3 has the shipped mini weights" in done.stderr
    settings = {"frames": 2, "preprocess": {"resize": [32, 32]}, "decode_workers": 0, "progress": lambda line: None}
    with pytest.warns(UserWarning, match="shipped mini weights, which know the rendered toy world"):
        store = pf.extract(clips, "dinov3", "mini", out="mine", **settings)
    assert store.key == pf.open("out").key and store.ids == ["v_0", "v_1"]
    assert (store.read() == pf.open("out").read()).all()


def test_the_exit_code_is_1_where_no_file_has_features(clips):
    (clips / "bad.mp4").write_bytes(b"no video")
    done = invoke("extract", "clips/bad.mp4", *SMALL, "--out", "out")
    assert done.exit_code == 1 and "failed: bad: " in done.stderr and "bad.mp4" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clips", "--backbone", "dinov3"], "dinov3 has no default weights: say --weights PATH"),
        (["toy", *SMALL], "toy: there is no such file or folder; correct it"),
        (["clips", *SMALL, "--device", "tpu"], "compute.device: Input should be 'auto', 'cpu' or 'cuda'"),
        (["clips", *SMALL, "--set", "pol=2"], "pol: unknown key"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_remedy(clips, monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["permafrost", "extract", *words, "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and message in said and "Traceback" not in said


def test_the_wheel_carries_the_package_and_the_command():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"permafrost": f"{main.__module__}:main"}
    assert {"permafrost", "pipeline"} <= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


def test_the_command_says_its_version_and_completes_in_the_shell():
    assert invoke("--version").output == f"permafrost {pf.__version__}\n"
    assert "--install-completion" in invoke("--help").output


def test_backbones_are_listed_with_their_weights():
    said = invoke("extract", "--list-backbones")
    assert said.exit_code == 0 and "facebook/dinov3-vitb16-pretrain-lvd1689m" in said.output.replace("\n", "")


def test_the_command_has_every_verb_of_the_workflow_and_an_extract_of_its_own():
    own, theirs = ({of.callback.__name__ for of in program.registered_commands} for program in (app, workflow))
    assert own == theirs | {"doctor", "export", "init", "new"}
    assert "python -m pipeline extract" in " ".join(invoke("--help").output.replace("│", "").split())
    assert "python -m pipeline extract DATASET" in " ".join(invoke("extract", "--help").output.split())
    assert "DATASET" not in invoke("extract", "--help").output.split("Arguments")[1]
    done = CliRunner().invoke(workflow, ["extract", "--help"], prog_name="python -m pipeline")
    assert "python -m pipeline extract" in done.output and "--params" in done.output


def test_a_script_without_a_guard_is_not_started_again_by_what_decodes(clips, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("pipeline.features_only.extract_files", lambda *of: seen.append(of[4]) or 1 / 0)
    for has_file in (True, False):
        main = type(sys)("__main__")
        if has_file:
            main.__file__ = "script.py"
        monkeypatch.setitem(sys.modules, "__main__", main)
        with pytest.warns(UserWarning), pytest.raises(ZeroDivisionError):
            pf.extract(["a.mp4"], "dinov3", weights="mini", out=tmp_path)
    assert [of.decode_workers for of in seen] == [0, 1]
    with pytest.warns(UserWarning), pytest.raises(ParamsError, match=r"compute\.device: .*'tpu'"):
        pf.extract(["a.mp4"], "dinov3", weights="mini", out=tmp_path, device="tpu")
