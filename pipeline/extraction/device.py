"""Copies batches to a device and results back while it computes; halves what does not fit. Knows no backbone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.accelerator import device
from pipeline.config import Compute
from pipeline.extraction.progress import TooMuch
from pipeline.memory import first_line, is_out_of_memory

Fields = dict[str, np.ndarray]


class Device:
    """Where backbones run.

    On CUDA, copies have streams of their own and pinned memory: the next batch arrives, and the last one leaves, while
    the device computes. Only the function that `download` returns waits for the device.

    Raises:
        ParamsError: the device that params ask for is not there.
    """

    def __init__(self, compute: Compute) -> None:
        self.device = device(compute)
        self.type = self.device.type
        if self.type == "cuda":
            self._arriving, self._leaving = torch.cuda.Stream(self.device), torch.cuda.Stream(self.device)

    def upload(self, samples: Sequence[Tensor]) -> Tensor:
        """(B, ...) on the device, of B tensors of one shape."""
        if self.type != "cuda":
            return torch.stack(list(samples))
        shape = (len(samples), *samples[0].shape)
        pinned = torch.empty(shape, dtype=samples[0].dtype, pin_memory=True)
        torch.stack(list(samples), out=pinned)
        with torch.cuda.stream(self._arriving):
            batch = pinned.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._arriving)
        batch.record_stream(computing)
        return batch

    def download(self, fields: Mapping[str, Tensor]) -> Callable[[], Fields]:
        """A function that waits for the fields and returns them as arrays; callable from another thread."""
        plain = {name: field.float() if field.is_floating_point() else field for name, field in fields.items()}
        if self.type != "cuda":
            return lambda: {name: field.cpu().numpy() for name, field in plain.items()}
        self._leaving.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._leaving):
            pinned = {name: torch.empty_like(field, device="cpu", pin_memory=True) for name, field in plain.items()}
            for name, field in plain.items():
                pinned[name].copy_(field, non_blocking=True)
                field.record_stream(self._leaving)
            arrived = torch.cuda.Event()
            arrived.record()

        def fields_once_there() -> Fields:
            arrived.synchronize()
            return {name: field.numpy() for name, field in pinned.items()}

        return fields_once_there


def halving(compute: Callable[[Any], Callable[[], Fields]], batch: Any) -> Callable[[], Fields]:
    """compute(batch), or that of its halves where memory does not suffice: of the device or pinned, for the copy there,
    the arithmetic or the copy back.

    Args:
        compute: a batch -> a function that waits for its fields, {field: (len(batch), ...)}.
        batch: has a length, and slices that are batches.

    Raises:
        TooMuch: not even a batch of one fits.
    """
    try:
        return compute(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise TooMuch(
                f"a batch of one does not fit the device's memory ({first_line(error)}); "
                "take a lower precision (bf16), a smaller resize or crop, or a larger device"
            ) from error
    # Outside of the handler: while it runs, the error's frames hold the tensors that did not fit.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    halves = [halving(compute, part) for part in (batch[:middle], batch[middle:])]

    def joined() -> Fields:
        found = [half() for half in halves]
        return {name: np.concatenate([fields[name] for fields in found]) for name in found[0]}

    return joined
