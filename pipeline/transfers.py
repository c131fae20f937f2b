"""The way to a device and back, on which the host waits as little as it can. Knows no head and no store."""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ON_HOST = "row"  # of a batch: what says which samples it has is asked by the host alone
AHEAD = 2  # results on their way back while the next ones are computed
HALVES = (torch.float16, torch.bfloat16)

Key = TypeVar("Key", bound=Hashable)


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
