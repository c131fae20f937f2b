"""One seed for every test of the head."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)
