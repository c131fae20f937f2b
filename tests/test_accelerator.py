"""Claims about what is computed on."""

import os

import pytest
import torch

from pipeline.accelerator import WORKSPACE, accelerator, deterministic, device
from pipeline.config import Compute, ParamsError


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_what_is_computed_on_is_what_is_asked_for_or_what_is_there(asked, there, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert accelerator(Compute(device=asked)) == expected


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_not_another_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match=r"compute\.device is cuda, but torch finds no CUDA device here; set .* auto"):
        accelerator(Compute(device="cuda"))


# --- what repeats -----------------------------------------------------------------------------------------------------


@pytest.fixture
def a_gpu(monkeypatch):
    """A machine that has one, as far as torch is asked before it computes, and no choice about cuBLAS."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)
    return monkeypatch


def test_a_gpu_s_products_repeat_from_the_first_one_on(a_gpu):
    assert device(Compute(device="cuda")).type == "cuda"
    assert os.environ[WORKSPACE] == ":4096:8"
    assert not torch.cuda.is_initialized()
    assert device(Compute(device="cuda")).type == "cuda"  # its own choice is no other one


@pytest.mark.parametrize("chosen", ["", ":0:0", ":16:8", ":4096:2:16:8"])
def test_another_workspace_of_cublas_is_an_error_on_a_gpu_alone(a_gpu, chosen):
    a_gpu.setenv(WORKSPACE, chosen)
    with pytest.raises(ParamsError, match=f"sets {WORKSPACE}={chosen}, .* unset {WORKSPACE}, and run again"):
        device(Compute(device="auto"))
    assert device(Compute(device="cpu")).type == "cpu"
    assert os.environ[WORKSPACE] == chosen


def test_what_is_deterministic_is_so_inside_alone():
    was = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(ZeroDivisionError), deterministic():
        # An error, not a warning: attention's backward on a GPU repeats only then.
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        raise ZeroDivisionError
    assert (torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory) == was
