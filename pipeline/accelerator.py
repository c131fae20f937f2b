"""What this machine computes on, of what params ask for, and the way there and back. Knows no head and no store."""

import platform
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.config import Compute, ParamsError

LIBRARIES = ("torch", "lightning", "numpy", "transformers", "torchvision")
COMPILER = "inductor"  # of torch.compile
SHAPES = 64  # that one network is compiled for, at most
ON_HOST = "row"  # of a batch: what says which samples it has is asked by the host alone
AHEAD = 2  # results on their way back while the next ones are computed
HALVES = (torch.float16, torch.bfloat16)

Key = TypeVar("Key", bound=Hashable)


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


def compiled(network: nn.Module, there: torch.device) -> None:
    """Has torch compile a network, in place, when it is first called with a shape; its state keeps its names.

    Each shape has code of its own: what a batch gives depends on its size, never on the batches before it. Of more than
    SHAPES torch raises an error, where it would go on without compiling.

    Args:
        network: is called, and not by its other methods.
        there: where it will be.

    Raises:
        ParamsError: torch cannot compile here.
    """
    import torch._dynamo as dynamo  # seconds, which only who compiles pays

    try:
        torch.compile(torch.square, backend=COMPILER)(torch.ones(2, device=there))
    except Exception as error:
        needs = "Triton and a C compiler (gcc)" if there.type == "cuda" else "a C++ compiler and Python's headers"
        reason = getattr(error, "inner_exception", error)  # what the compiler said, without torch's own words
        raise ParamsError(
            f"compile is true, but torch cannot compile for {there.type} here, which needs {needs}: "
            f"{(str(reason).strip().splitlines() or [type(reason).__name__])[0]}; on Debian `apt install g++ "
            "python3-dev`, or let CXX name a compiler, or leave compile: false, which is another key"
        ) from error
    dynamo.config.recompile_limit, dynamo.config.fail_on_recompile_limit_hit = SHAPES, True
    network.compile(backend=COMPILER, dynamic=False)


# --- there and back ---------------------------------------------------------------------------------------------------


def sent(tensor: Tensor, there: torch.device) -> Tensor:
    """A tensor of the host on a device, in whose present stream it is copied: the host does not wait."""
    if there.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(there)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(there, non_blocking=True)


class Sending(TorchFunctionMode):
    """Inside, `tensor.to(device)` is `sent`: the host does not wait for what a head takes to its device in a step."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to and len(args) == 2 and isinstance(args[1], torch.device) and not kwargs:
            return sent(*args)
        return func(*args, **(kwargs or {}))


def uploaded(batches: Iterable[Mapping[str, Tensor]], there: torch.device) -> Iterator[dict[str, Tensor]]:
    """Batches on a device, all but ON_HOST; on CUDA the next one is copied while this one is computed with.

    Args:
        batches: of the host; each may be asked for one earlier than it is given.
        there: the device.
    """
    if there.type != "cuda":
        yield from ({name: tensor.to(there) for name, tensor in batch.items()} for batch in batches)
        return
    arriving, waiting = torch.cuda.Stream(there), deque()
    for batch in batches:
        with torch.cuda.stream(arriving):
            copied = {name: tensor if name == ON_HOST else sent(tensor, there) for name, tensor in batch.items()}
            waiting.append((copied, arriving.record_event()))
        if len(waiting) > 1:
            yield _arrived(*waiting.popleft(), there)
    while waiting:
        yield _arrived(*waiting.popleft(), there)


def _arrived(batch: dict[str, Tensor], copied: torch.cuda.Event, there: torch.device) -> dict[str, Tensor]:
    """The batch, which the present stream may use from now on."""
    computing = torch.cuda.current_stream(there)
    computing.wait_event(copied)
    for name, tensor in batch.items():
        if name != ON_HOST:
            tensor.record_stream(computing)
    return batch


def returned(results: Iterable[Mapping[Key, Tensor]]) -> Iterator[dict[Key, np.ndarray]]:
    """Results as arrays, 16-bit floats as float32; on CUDA they are copied back while the next ones are computed.

    Args:
        results: of any device, computed as they are asked for: on CUDA up to AHEAD before they are given. For each the
            host waits once at most, after that many others were begun.
    """
    waiting = deque()
    for result in results:
        plain = {name: tensor.float() if tensor.dtype in HALVES else tensor for name, tensor in result.items()}
        there = next((tensor.device for tensor in plain.values() if tensor.device.type == "cuda"), None)
        if there is None:
            yield {name: tensor.numpy() for name, tensor in plain.items()}
            continue
        if not waiting:
            leaving = torch.cuda.Stream(there)
        leaving.wait_stream(torch.cuda.current_stream(there))
        with torch.cuda.stream(leaving):
            host = {name: _leaving(tensor, leaving) for name, tensor in plain.items()}
            waiting.append((host, leaving.record_event()))
        if len(waiting) > AHEAD:
            yield _there(*waiting.popleft())
    while waiting:
        yield _there(*waiting.popleft())


def _leaving(tensor: Tensor, leaving: torch.cuda.Stream) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    tensor.record_stream(leaving)
    return pinned.copy_(tensor, non_blocking=True)


def _there(host: Mapping[Key, Tensor], copied: torch.cuda.Event) -> dict[Key, np.ndarray]:
    copied.synchronize()
    return {name: tensor.numpy() for name, tensor in host.items()}
