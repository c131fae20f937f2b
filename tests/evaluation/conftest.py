"""One trained run for all tests that only read it."""

from pathlib import Path

import pytest

from tests.later import train
from tests.training.learnable import Made, make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    """A data set of 4 classes and a run that learned a little of it."""
    root = tmp_path_factory.mktemp("trained")
    made = make(root)
    train(made.run(root / "run"), progress=lambda line: None)
    return made, root / "run"
