"""Copies batches to a device and results back while it computes; halves what does not fit. Knows no backbone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.accelerator import device
from pipeline.config import Compute
from pipeline.extraction.progress import TooMuch
from pipeline.memory import first_line, is_out_of_memory
from pipeline.transfers import Arriving, Leaving

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
        self._sent: torch.cuda.Event | None = None
        if self.type == "cuda":
            self._arriving, self._leaving = Arriving(self.device), Leaving(self.device)

    def upload(self, batch: Tensor) -> Tensor:
        """The batch on the device; of pinned memory nothing waits for the copy. On a CPU it is the same tensor."""
        if self.type != "cuda":
            return batch
        arrived = self._arriving({"batch": batch})
        self._sent = arrived.event
        return arrived.taken()["batch"]

    def sent(self) -> torch.cuda.Event | None:
        """The event after which no upload so far reads host memory; None where none does."""
        return self._sent

    def download(self, fields: Mapping[str, Tensor], stored: Mapping[str, str]) -> Callable[[], Fields]:
        """A function that waits for the fields and returns them as arrays; callable from another thread.

        What is stored as float16 leaves the device as that, and contiguous: half the bytes, and no work for the host. A
        field with a value beyond that dtype comes as it is, so that the store tells the value.

        Args:
            fields: name -> (B, ...).
            stored: name -> the dtype that the store keeps.
        """
        if self.type != "cuda":
            plain = {name: _plain(field, stored.get(name, "")) for name, field in fields.items()}
            return lambda: {name: field.numpy() for name, field in plain.items()}
        leaving: dict[tuple[str, str], Tensor] = {}
        for name, field in fields.items():
            leaving["field", name], fits_B = narrowed(field, stored.get(name, ""))
            if fits_B is not None:
                leaving["fits", name] = fits_B
        arrived = self._leaving(leaving)

        def fields_once_there() -> Fields:
            there = arrived()
            whole = {name for kind, name in there if kind == "fits" and not there[kind, name].all()}
            return {
                name: (_plain(fields[name], "float16").cpu() if name in whole else there["field", name]).numpy()
                for name in fields
            }

        return fields_once_there


def narrowed(field: Tensor, stored: str) -> tuple[Tensor, Tensor | None]:
    """A field as it is copied back: contiguous, and as float16 where the store keeps that.

    Args:
        field: (B, ...).
        stored: the dtype that the store keeps.

    Returns:
        The field; and (B,) bool, whether all values of a sample are within float16, None where nothing was narrowed.

    >>> narrowed(torch.tensor([[1.0, 2.0], [3.0, 65510.0]]), "float16")[1].tolist()
    [True, False]
    """
    if not field.is_floating_point() or stored != "float16" or field.dtype == torch.float16 or field.ndim < 2:
        return _plain(field, stored).contiguous(), None
    most, flat = torch.finfo(torch.float16).max, field.flatten(1)
    # Of the values before they are rounded: 65510 would become 65504. A NaN fits nothing.
    fits_B = (flat.amax(dim=1) <= most) & (flat.amin(dim=1) >= -most)
    return field.to(torch.float16).contiguous(), fits_B


def _plain(field: Tensor, stored: str) -> Tensor:
    """In a dtype that the store takes: numpy has no bfloat16."""
    as_it_is = not field.is_floating_point() or str(field.dtype) == f"torch.{stored}"
    return field if as_it_is else field.float()


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
