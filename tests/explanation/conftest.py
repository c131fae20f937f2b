"""One evaluated run of GASM-CAST on made-up features, whose videos are not there, explained once."""

from pathlib import Path

import pytest

from pipeline.evaluation import evaluate
from pipeline.explanation import explain
from pipeline.runs import Run
from tests.later import train
from tests.training.learnable import make


@pytest.fixture(scope="session", autouse=True)
def _compiled_quickly():
    """UMAP without the compiled search for neighbours, 20 s of each process: it asks that from 4096 points on only.

    The rest of it is compiled by a compiler that does not optimise: two thirds of 12 s, of what then runs for 0.1 s.
    """
    from numba import config

    compiles, config.DISABLE_JIT = config.DISABLE_JIT, 1
    config.OPT = type(config.OPT)(0)  # before the first import that compiles, which settles it for the process
    import pynndescent  # noqa: F401  what numba's decorators of it see is this moment's setting

    config.DISABLE_JIT = compiles


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    """The run."""
    root = tmp_path_factory.mktemp("explained")
    made = make(root / "made", train=10, validation=5).run(root / "run", epochs=2)
    train(made, progress=lambda line: None)
    evaluate(made, progress=lambda line: None)
    return made


@pytest.fixture(scope="session")
def explained(run) -> Path:
    """The name that all files of an explanation begin with."""
    out = run.folder.parent / "results" / "made_top1"
    explain(run, out, progress=lambda line: None)
    return out
