"""docs/import-export.md is run as written: its example is made, imported, learned from, exported and imported again."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from permafrost.cli import app
from pipeline.cli import app as workflow
from pipeline.config import feature_dir, load_params, parse_params
from pipeline.store import FeatureStore, verify

TEXT = (Path(__file__).parents[1] / "docs/import-export.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|yaml|sh)\n(.*?)```", TEXT, re.DOTALL)


def command(line: str) -> str:
    """Runs one in this process; what it printed."""
    words = shlex.split(line)
    program, words = (workflow, words[3:]) if words[0] == "python" else (app, words[1:])
    done = CliRunner().invoke(program, words)
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A folder in which every block of the page was run, and what they printed."""
    folder, said = tmp_path_factory.mktemp("page"), []
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for kind, block in BLOCKS:
            if kind == "python":
                exec(compile(block, "page", "exec"), {"__name__": "page"})
            elif kind == "yaml":
                Path("slides.yaml").write_text(block, encoding="utf-8")
            else:
                said += [command(line) for line in block.splitlines()]
    return folder, "".join(said)


def test_every_command_of_the_page_does_what_it_says(page):
    folder, said = page
    assert [kind for kind, _ in BLOCKS] == ["python", "yaml", "sh", "sh", "python"]
    (example,) = re.findall(r"`(uni: float32 to float16 [^`]*)`", TEXT.replace("\n", " "))
    assert example in said
    assert said.count("24 samples, 0 failed") == 3
    for name in (
        "tars/train-000000.tar",
        "uni/data/test/000000.parquet",
        "npy/slide_3.rows.npy",
        "tars/croissant.json",
    ):
        assert (folder / "shared" / name).is_file()


def test_what_the_page_exported_comes_back_as_the_page_says(page, monkeypatch):
    folder, _ = page
    monkeypatch.chdir(folder)
    document = yaml.safe_load(Path("slides.yaml").read_text(encoding="utf-8"))
    document["features"]["uni"] |= {"form": "webdataset", "root": "shared/tars", "extension": ".rows.npy"}
    Path("again.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for verb in ("manifest", "extract"):
        command(f"python -m pipeline {verb} slides uni --params again.yaml --root again")
    stores = [
        FeatureStore(feature_dir(load_params(file), "slides", "uni", Path(root)), verify=True)
        for file, root in (("slides.yaml", "features"), ("again.yaml", "again"))
    ]
    assert verify(stores[1].directory) == [] and stores[0].samples == stores[1].samples
    for sample in stores[0].samples:
        (first,), (second,) = (store.read_ragged([sample], "rows") for store in stores)
        assert first.dtype == second.dtype and (first == second).all()
    assert "rounded" in stores[0].meta("slide_3") and stores[1].meta("slide_3") == {}


def test_a_head_reads_what_was_imported(page, monkeypatch):
    import permafrost as pf

    folder, _ = page
    monkeypatch.chdir(folder)
    data = pf.dataset("slides", ["uni"], split="train")
    assert len(data) == 16 and data.classes == ["benign", "tumour"] and data[0]["uni"].shape == (20, 16)
    document = yaml.safe_load(Path("slides.yaml").read_text(encoding="utf-8"))
    document["heads"] = {
        "slide": {"kind": "probe", "dataset": "slides", "features": "uni", "result": "slides", "eval_split": "test"}
        | {"probe": "knn"}
    }
    assert parse_params(document).heads["slide"].inputs
    Path("head.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    command("python -m pipeline evaluate slide --params head.yaml")
    (result,) = Path("runs/slide").glob("*/*/result.json")
    assert json.loads(result.read_bytes())["top1"] >= 0.8
