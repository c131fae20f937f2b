"""Claims about what is computed on, and what is said where it is not what somebody may expect."""

import os

import pytest
import torch

from pipeline import accelerator as module
from pipeline.accelerator import WORKSPACE, accelerator, deterministic, device, made_by, no_gpu, no_kernels
from pipeline.config import Compute, ParamsError

CU132 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.fixture(autouse=True)
def forgotten():
    """Each test is a process that has said nothing yet."""
    no_gpu.cache_clear()
    module._warn_once.cache_clear()
    yield
    no_gpu.cache_clear()


@pytest.fixture
def without(monkeypatch):
    """A machine whose torch finds no GPU, with a driver and a build of torch."""

    def made(driver=None, cuda="13.2", says=None, visible=None):
        def init():
            if says:
                raise RuntimeError(f"{says}\nPlease update your GPU driver")

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(module, "driver_version", lambda: driver)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return made


@pytest.fixture
def card(monkeypatch):
    """A machine with GPUs, by name and compute capability, and a torch built for some."""

    def made(*cards, built=CU132):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: cards[index][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: cards[index][1])

    return made


@pytest.mark.parametrize(
    ("device", "there", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_what_is_computed_on_is_what_is_asked_for_or_what_is_there(device, there, expected, card, without):
    card(("NVIDIA H100", (9, 0))) if there else without()
    assert accelerator(Compute(device=device)) == expected


REASONS = [
    ({"cuda": None}, "this torch is built for the CPU alone", "torch-backend=auto"),
    ({}, "there is no NVIDIA driver", "install the driver"),
    ({"driver": "580.1", "visible": ""}, "CUDA_VISIBLE_DEVICES hides every GPU", "or unset it"),
    (
        {"driver": "535.183", "says": "The NVIDIA driver on your system is too old (found version 12020)."},
        "driver 535.183 is too old for CUDA 13.2, which this torch is built for",
        "update the driver to 580 or newer, or install a torch for the driver",
    ),
    ({"driver": "470.1", "cuda": "12.6", "says": "x"}, "driver 470.1 is too old for CUDA 12.6", "525 or newer"),
    ({"driver": "580.1"}, "driver 580.1 is there, but torch cannot use it: it lists no GPU", "nvidia-smi -L"),
    ({"driver": "590.1", "says": "system not yet initialized"}, "system not yet initialized", "restart the machine"),
]


@pytest.mark.parametrize(("machine", "why", "remedy"), REASONS)
def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_with_the_likely_reason(machine, why, remedy, without):
    without(**machine)
    with pytest.raises(ParamsError) as error:
        accelerator(Compute(device="cuda"))
    assert str(error.value).startswith("compute.device is cuda, but torch finds no CUDA device here: ")
    assert why in str(error.value) and remedy in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("machine", "why", "remedy"), REASONS)
def test_auto_that_comes_to_the_cpu_says_why_in_one_line_of_the_log_and_in_what_is_made(
    machine, why, remedy, without, capsys
):
    without(**machine)
    for _ in range(2):
        assert accelerator(Compute()) == "cpu"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: compute.device is auto and everything runs on the CPU: ")
    assert why in line and remedy in line and "set compute.device: cpu" in line
    assert why in made_by(Compute())["cpu_because"]


def test_the_cpu_that_is_asked_for_is_not_talked_about(without, capsys):
    without()
    assert "cpu_because" not in made_by(Compute(device="cpu")) and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "capability", "remedy"),
    [
        ("Tesla V100-SXM2-32GB", (7, 0), "uv pip install 'torch<2.15' torchvision --torch-backend=cu126"),
        ("Tesla P100", (6, 0), "torch<2.15"),
        ("Tesla K80", (3, 7), "take another GPU"),
        ("NVIDIA X", (13, 0), "install a newer torch"),
    ],
)
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_torch_has_no_kernels_for_is_refused_by_name_with_the_build_that_has(
    name, capability, remedy, device, card
):
    card(("NVIDIA H100", (9, 0)), (name, capability))
    assert accelerator(Compute(device=device)) == "cuda"  # one device is used, and it is the first
    with pytest.raises(ParamsError) as error:
        accelerator(Compute(device=device, devices=2))
    here = "sm_{}{}".format(*capability)
    assert f"GPU 1, {name}, is {here}, and torch {torch.__version__} is built for sm_75, " in str(error.value)
    assert remedy in str(error.value) and str(error.value).endswith("or set compute.device: cpu")


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((7, 5), CU132, True), ((8, 9), CU132, True), ((9, 0), CU132, True), ((12, 1), CU132, True),
        ((10, 3), CU132, True), ((11, 0), CU132, False), ((11, 0), [*CU132, "compute_100"], True),
        ((7, 0), ["sm_70"], True), ((9, 0), ["sm_90a"], True), ((9, 1), ["sm_90a"], False), ((8, 0), ["sm_86"], False),
        ((7, 0), [], True),
    ],
)  # fmt: skip
def test_kernels_run_on_their_own_generation_and_what_is_compiled_later_on_every_later_one(
    capability, built, runs, card
):
    card(("a card", capability), built=built)
    assert (no_kernels(0) is None) == runs


# --- what repeats -----------------------------------------------------------------------------------------------------


@pytest.fixture
def a_gpu(card, monkeypatch):
    """A machine that has one, as far as torch is asked before it computes, and no choice about cuBLAS."""
    card(("NVIDIA H100", (9, 0)))
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
