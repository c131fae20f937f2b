"""The way to a device and back, on which the host waits as little as it can. Knows no head and no store."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

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


class Arriving:
    """Copies to a CUDA device in a stream of their own: neither the host nor what is computed there waits for them.

    Args:
        there: the device.
    """

    def __init__(self, there: torch.device) -> None:
        self.there, self._stream = there, torch.cuda.Stream(there)

    def __call__(self, tensors: Mapping[Key, Tensor]) -> "Arrived[Key]":
        """Begins to copy tensors of the host, which stay as they are until the event has passed."""
        with torch.cuda.stream(self._stream):
            copies = {name: sent(tensor, self.there) for name, tensor in tensors.items()}
            return Arrived(self.there, copies, self._stream.record_event())


class Arrived(NamedTuple, Generic[Key]):
    """Tensors on their way to a device, and the event after which they are there and no host memory is read."""

    there: torch.device
    copies: dict[Key, Tensor]
    event: torch.cuda.Event

    def taken(self) -> dict[Key, Tensor]:
        """The tensors, which the present stream may use from now on."""
        computing = torch.cuda.current_stream(self.there)
        computing.wait_event(self.event)
        for tensor in self.copies.values():
            tensor.record_stream(computing)
        return self.copies


class Leaving:
    """Copies from a CUDA device to pinned memory of the host, in a stream of their own.

    Args:
        there: the device.
    """

    def __init__(self, there: torch.device) -> None:
        self.there, self._stream = there, torch.cuda.Stream(there)

    def __call__(self, tensors: Mapping[Key, Tensor]) -> Callable[[], dict[Key, Tensor]]:
        """Begins to copy what the present stream computes. Returns what waits for the copies, in any thread, and gives
        them; a tensor of the host is given as it is.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self.there))
        with torch.cuda.stream(self._stream):
            copies = {name: self._copied(tensor) for name, tensor in tensors.items()}
            event = self._stream.record_event()

        def arrived() -> dict[Key, Tensor]:
            event.synchronize()
            return copies

        return arrived

    def _copied(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        tensor.record_stream(self._stream)
        return pinned.copy_(tensor, non_blocking=True)


def uploaded(batches: Iterable[Mapping[str, Tensor]], there: torch.device) -> Iterator[dict[str, Tensor]]:
    """Batches on a device, all but ON_HOST; on CUDA the next one is copied while this one is computed with.

    Args:
        batches: of the host; each may be asked for one earlier than it is given.
        there: the device.
    """
    if there.type != "cuda":
        yield from ({name: tensor.to(there) for name, tensor in batch.items()} for batch in batches)
        return
    arriving, waiting = Arriving(there), deque()
    for batch in batches:
        stays = {name: batch[name] for name in (ON_HOST,) if name in batch}
        waiting.append((stays, arriving({name: tensor for name, tensor in batch.items() if name not in stays})))
        if len(waiting) > 1:
            stays, copies = waiting.popleft()
            yield stays | copies.taken()
    for stays, copies in waiting:
        yield stays | copies.taken()


def returned(results: Iterable[Mapping[Key, Tensor]]) -> Iterator[dict[Key, np.ndarray]]:
    """Results as arrays, 16-bit floats as float32; on CUDA they are copied back while the next ones are computed.

    Args:
        results: of any device, computed as they are asked for: on CUDA up to AHEAD before they are given. For each the
            host waits once at most, after that many others were begun.
    """
    waiting, leaving = deque(), None
    for result in results:
        plain = {name: tensor.float() if tensor.dtype in HALVES else tensor for name, tensor in result.items()}
        there = next((tensor.device for tensor in plain.values() if tensor.device.type == "cuda"), None)
        if there is None:
            yield _arrays(plain)
            continue
        leaving = leaving or Leaving(there)
        waiting.append(leaving(plain))
        if len(waiting) > AHEAD:
            yield _arrays(waiting.popleft()())
    for arrived in waiting:
        yield _arrays(arrived())


def _arrays(tensors: Mapping[Key, Tensor]) -> dict[Key, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
