"""Small toy worlds up to a finished run, by the verbs: what `predict` is asked about."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import load_params, parse_params
from pipeline.datasets import build
from pipeline.plan import Plan

ROOT = Path(__file__).parents[2]


def invoke(*line: object):
    """A verb's exit code, output and errors."""
    return CliRunner().invoke(app, [str(word) for word in line])


def ask(head: str, *files: object, **options: object):
    """What `predict --json` says of files."""
    line = [word for name, value in options.items() for word in (f"--{name}", value)]
    return invoke("predict", *files, "--head", head, "--json", *line)


def verb(*line: object) -> None:
    done = invoke(*line)
    assert done.exit_code == 0, (line, done.output, done.exception)


def shipped() -> Any:
    return load_params(str(ROOT / "params.yaml"))


def document(*heads: str, rendered: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The shipped params of these heads, with data sets of other sizes, trained for one epoch."""
    full = shipped().model_dump(mode="json")
    kept = [json.loads(shipped().part(head=head)) for head in heads]
    small: dict[str, Any] = {"compute": full["compute"] | {"device": "cpu", "decode_workers": 0, "threads": 1}}
    for section in ("datasets", "features", "heads"):
        small[section] = {name: of for part in kept for name, of in part.get(section, {}).items()}
    small["toyworld"] = {"seed": full["toyworld"]["seed"]}
    small["toyworld"] |= {name: full["toyworld"][name] | sizes for name, sizes in rendered.items()}
    for dataset in small["datasets"].values():
        if dataset["layout"] == "texts":
            dataset["root"] = str(ROOT / dataset["root"])
    for head in small["heads"].values():
        head |= {"epochs": 1, "bootstrap": 5} | ({"warmup_epochs": 0} if "warmup_epochs" in head else {})
    return small


def write(small: dict[str, Any]) -> None:
    """params.yaml here, with weights where they are."""
    text = json.dumps(small).replace('"weights/', f'"{ROOT}/weights/')
    Path("params.yaml").write_text(text, encoding="utf-8")


@contextmanager
def finished(root: Path, small: dict[str, Any], *heads: str) -> Iterator[Path]:
    """A folder with finished runs of these heads."""
    with chdir(root):
        write(small)
        finish(*heads)
        yield root


def render(*datasets: str) -> None:
    """Toy worlds, in this process: each process of a pool would import for a second what is here already."""
    for dataset in datasets:
        verb("--cores", 1, "toyworld", dataset)


def manifest(dataset: str) -> None:
    """The dataset's manifest, in this process: no file of a toy world ends the one that reads it."""
    with patch.object(build, "_workers", ThreadPoolExecutor):
        verb("manifest", dataset)


def finish(*heads: str) -> None:
    """Every step from rendering to the result of these heads, in this folder."""
    plan = Plan(parse_params(json.loads(Path("params.yaml").read_text(encoding="utf-8"))))
    render(*plan.rendered)
    for dataset in plan.params.datasets:
        manifest(dataset)
        for feature in plan.features(dataset):
            verb("derive" if plan.params.features[feature].derived else "extract", dataset, feature)
    for head in heads:
        verb("train", head)
        verb("evaluate", head)


def run_of(head: str) -> Path:
    """The folder of the head's run."""
    return Path(Plan(load_params("params.yaml")).run(head).folder)


def evaluation_of(head: str) -> Path:
    """The folder of its evaluation."""
    return Path(Plan(load_params("params.yaml")).run(head).evaluation_folder)
