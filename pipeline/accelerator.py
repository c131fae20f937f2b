"""What this machine computes on, of what params ask for, why not on a GPU, and that it repeats. Knows no array."""

import contextlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import torch

from pipeline.config import Compute, ParamsError
from pipeline.gpu import driver_version
from pipeline.memory import first_line

LIBRARIES = ("torch", "lightning", "numpy", "transformers", "torchvision")
# cuBLAS repeats its sums only with a workspace of fixed size, which it reads when it makes its first handle.
WORKSPACE, FIXED = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
# The oldest driver for a CUDA's major version, by NVIDIA's table of minor version compatibility (docs/gpu.md).
OLDEST_DRIVER = {"12": 525, "13": 580}
# The last builds with kernels for GPUs before compute capability 7.5, and the first GPUs that these have kernels for.
BEFORE_TURING = "uv pip install 'torch<2.15' torchvision --torch-backend=cu126"
FIRST_OF_CU126 = (5, 0)
NEWEST = "uv pip install --upgrade torch torchvision --torch-backend=auto"


class Lack(NamedTuple):
    """Why a GPU cannot be computed on, and what to do."""

    why: str
    remedy: str


def made_by(compute: Compute) -> dict[str, Any]:
    """The device's model and the libraries' versions: what a training or an evaluation says of where it was made.

    Where `device: auto` came to the CPU, `cpu_because` says why.
    """
    there = accelerator(compute)
    fell = {"cpu_because": no_gpu().why} if there == "cpu" and compute.device == "auto" else {}
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "device": "cpu" if there == "cpu" else torch.cuda.get_device_name(there),
        **fell,
    }


def accelerator(compute: Compute) -> Literal["cpu", "cuda"]:
    """Torch's and Lightning's name of it. Where `device: auto` comes to the CPU, the log says why, once.

    Raises:
        ParamsError: `compute.device` asks for CUDA, and there is none; or a GPU that the installed torch has no kernels
            for, whether it is asked for or found.
    """
    if compute.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        for index in range(min(compute.devices, torch.cuda.device_count())):
            if lack := no_kernels(index):
                raise ParamsError(f"GPU {index}, {lack.why}; {lack.remedy}, or set compute.device: cpu")
        return "cuda"
    if compute.device == "cuda":
        lack = no_gpu()
        raise ParamsError(
            f"compute.device is cuda, but torch finds no CUDA device here: {lack.why}; {lack.remedy}, or set "
            "compute.device: auto or cpu"
        )
    _warn_once()
    return "cpu"


@lru_cache(maxsize=1)
def _warn_once() -> None:
    lack = no_gpu()
    said = f"warning: compute.device is auto and everything runs on the CPU: {lack.why}; {lack.remedy}"
    print(f"{said}, or set compute.device: cpu, which says nothing", file=sys.stderr, flush=True)


@lru_cache(maxsize=1)
def no_gpu() -> Lack:
    """The likely reason why torch finds no GPU on this machine."""
    if not torch.version.cuda:
        return Lack("this torch is built for the CPU alone", f"install torch's CUDA build ({NEWEST}; docs/gpu.md)")
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return Lack("CUDA_VISIBLE_DEVICES hides every GPU", "let it name one, or unset it")
    driver = driver_version()
    if driver is None:
        return Lack(
            "there is no NVIDIA driver",
            "install the driver (nvidia-smi must list the GPU), or start the container with --gpus all",
        )
    try:
        torch.cuda.init()
        said = "it lists no GPU"
    except (RuntimeError, AssertionError) as error:
        said = first_line(error)
    oldest = OLDEST_DRIVER.get(torch.version.cuda.split(".")[0])
    major = re.match(r"\d+", driver)
    if oldest and major and int(major[0]) < oldest:
        return Lack(
            f"driver {driver} is too old for CUDA {torch.version.cuda}, which this torch is built for ({said})",
            f"update the driver to {oldest} or newer, or install a torch for the driver that is there (docs/gpu.md)",
        )
    return Lack(
        f"driver {driver} is there, but torch cannot use it: {said}",
        "see that nvidia-smi -L lists a GPU, restart the machine after an update of the driver, and compare the torch "
        "that is installed with docs/gpu.md",
    )


def no_kernels(index: int) -> Lack | None:
    """Why the installed torch runs nothing on a GPU: it was built for other generations. None where it was for this.

    Torch itself finds out at the first kernel, after a model is loaded, and then names no remedy.
    """
    built = torch.cuda.get_arch_list()
    if not built:
        return None
    capability = torch.cuda.get_device_capability(index)
    if any(_runs(arch, capability) for arch in built):
        return None
    name, here = torch.cuda.get_device_name(index), "sm_{}{}".format(*capability)
    why = f"{name}, is {here}, and torch {torch.__version__} is built for {', '.join(built)}"
    if capability > max(_capability(arch) for arch in built):
        return Lack(why, f"install a newer torch ({NEWEST})")
    if capability < FIRST_OF_CU126:
        return Lack(why, "no build of a torch that this code runs on has kernels for it: take another GPU")
    return Lack(why, f"install a torch that is ({BEFORE_TURING}; docs/gpu.md)")


def _capability(arch: str) -> tuple[int, int]:
    """Of a name of torch's list, such as sm_90a: (9, 0)."""
    digits = re.sub(r"\D", "", arch)
    return int(digits[:-1]), int(digits[-1])


def _runs(arch: str, capability: tuple[int, int]) -> bool:
    """Whether kernels for an architecture run on a GPU.

    Machine code (sm) runs on its own generation from its own capability on, and where it says so (sm_90a) on that one
    alone; what a driver still compiles (compute) on every later GPU.

    >>> _runs("sm_80", (8, 9)), _runs("sm_80", (9, 0)), _runs("sm_90a", (9, 0)), _runs("compute_80", (9, 0))
    (True, False, True, True)
    """
    own = _capability(arch)
    if arch.endswith("a"):
        return own == capability
    return own <= capability and (arch.startswith("compute") or own[0] == capability[0])


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
    too: 1.5 s and 160 MB. Who compiles sets that, too: `compiling.compiled`.
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
