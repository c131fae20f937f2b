"""One thread, and one small data set on disk for all tests that only read it."""

import pytest
import torch

from tests.training.learnable import Made, make

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """20 training and 8 validation samples of each of 4 classes."""
    return make(tmp_path_factory.mktemp("made"))
