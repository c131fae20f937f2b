"""What this machine computes on, of what params ask for, and that it repeats. Knows no array and no module."""

import contextlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Literal

import torch

from pipeline.config import Compute, ParamsError

LIBRARIES = ("torch", "lightning", "numpy", "transformers", "torchvision")
# cuBLAS repeats its sums only with a workspace of fixed size, which it reads when it makes its first handle.
WORKSPACE, FIXED = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


def made_by(device: torch.device) -> dict[str, Any]:
    """The device's model and the libraries' versions: what a training or an evaluation says of where it was made."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
    }


def accelerator(compute: Compute) -> Literal["cpu", "cuda"]:
    """Torch's and Lightning's name of it.

    Raises:
        ParamsError: `compute.device` asks for CUDA, and there is none.
    """
    there = torch.cuda.is_available()
    if compute.device == "cuda" and not there:
        raise ParamsError(
            "compute.device is cuda, but torch finds no CUDA device here; set compute.device: auto or cpu, or look at "
            "nvidia-smi, CUDA_VISIBLE_DEVICES and the torch that is installed"
        )
    return "cuda" if there and compute.device != "cpu" else "cpu"


def device(compute: Compute) -> torch.device:
    """Where tensors go; on a GPU cuBLAS repeats its sums, and no more memory is taken than `compute.max_memory_gb`.

    Raises:
        ParamsError: as `accelerator`; or the environment has cuBLAS compute otherwise.
    """
    there = torch.device(accelerator(compute))
    if there.type == "cuda":
        _fix_workspace()
    if there.type == "cuda" and compute.max_memory_gb is not None:
        whole = torch.cuda.get_device_properties(there).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, compute.max_memory_gb * 1e9 / whole))
    return there


def _fix_workspace() -> None:
    """Before the first product. Raises ParamsError for another choice: results would depend on it, and no key tells."""
    if (chosen := os.environ.setdefault(WORKSPACE, FIXED)) != FIXED:
        raise ParamsError(
            f"the environment sets {WORKSPACE}={chosen}, and with another value than {FIXED} a GPU's results differ, "
            f"from those of other runs or from one run to the next; unset {WORKSPACE}, and run again"
        )


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Only operations that repeat to the bit; the caller's choice comes back afterwards.

    With `device`, the same GPU model, versions and batch sizes give the same bytes (docs/gpu.md). Memory that nothing
    has written yet is left as it is: filling it would cost each batch that is copied a pass, and no result reads it.

    `torch.use_deterministic_algorithms` sets the same flag, and imports torch's compiler to set that of compiled code,
    too: 1.5 s and 160 MB, and nothing is compiled here.
    """
    before, filled = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def arithmetic(precision: str, device: str) -> str:
    """What a head's `precision` runs as on a type of device: torch trains in no float16 on the CPU.

    >>> arithmetic("16-mixed", "cuda"), arithmetic("16-mixed", "cpu")
    ('16-mixed', 'bf16-mixed')
    """
    return "bf16-mixed" if (precision, device) == ("16-mixed", "cpu") else precision
