"""What this machine computes on, of what params ask for. Knows no array and no module."""

import platform
from importlib.metadata import version
from typing import Any, Literal

import torch

from pipeline.config import Compute, ParamsError

LIBRARIES = ("torch", "lightning", "numpy", "transformers", "torchvision")


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
    """Where tensors go; of a GPU no more memory is taken than `compute.max_memory_gb`. Raises as `accelerator`."""
    there = torch.device(accelerator(compute))
    if there.type == "cuda" and compute.max_memory_gb is not None:
        whole = torch.cuda.get_device_properties(there).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, compute.max_memory_gb * 1e9 / whole))
    return there


def arithmetic(precision: str, device: str) -> str:
    """What a head's `precision` runs as on a type of device: torch trains in no float16 on the CPU.

    >>> arithmetic("16-mixed", "cuda"), arithmetic("16-mixed", "cpu")
    ('16-mixed', 'bf16-mixed')
    """
    return "bf16-mixed" if (precision, device) == ("16-mixed", "cpu") else precision
