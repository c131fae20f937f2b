"""Claims about what is computed on."""

import pytest
import torch

from pipeline.accelerator import accelerator
from pipeline.config import Compute, ParamsError


@pytest.mark.parametrize(
    ("device", "there", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_what_is_computed_on_is_what_is_asked_for_or_what_is_there(device, there, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert accelerator(Compute(device=device)) == expected


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_not_another_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match=r"compute\.device is cuda, but torch finds no CUDA device here; set .* auto"):
        accelerator(Compute(device="cuda"))
