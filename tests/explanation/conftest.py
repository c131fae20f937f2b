"""One evaluated run of GASM-CAST on made-up features, whose videos are not there, explained once."""

from pathlib import Path

import pytest

from pipeline.evaluation import evaluate
from pipeline.explanation import explain
from pipeline.training import train
from tests.training.learnable import make


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> tuple:
    """What `explain` and `Finished` take first: params, head, manifest, features, run."""
    root = tmp_path_factory.mktemp("explained")
    arguments = make(root / "made", train=10, validation=5).arguments(root / "run", epochs=2)
    train(*arguments, progress=lambda line: None)
    evaluate(*arguments, progress=lambda line: None)
    return arguments


@pytest.fixture(scope="session")
def explained(run) -> Path:
    """The name that all files of an explanation begin with."""
    out = run[4].parent / "results" / "made_top1"
    explain(*run, out, progress=lambda line: None)
    return out
