"""One thread, and one small data set on disk for all tests that only read it."""

from pathlib import Path

import pytest
import torch

from tests.later import train
from tests.training.learnable import EPOCHS, Made, make

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """20 training and 8 validation samples of each of 4 classes."""
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def run(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of EPOCHS epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(made.run(folder, epochs=EPOCHS), progress=lambda line: None)
    return folder
