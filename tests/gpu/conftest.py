"""The device that is to prove itself; and memory that does not suffice, on a GPU as its allocator refuses it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from benchmarks._training import Live
from pipeline.accelerator import device as opened
from pipeline.config import Compute

NO_GPU = "torch finds no GPU here: what `pytest -m gpu` proves was not tried"


@pytest.fixture(scope="session")
def device(request) -> str:
    """ "cuda", with what a computation there sets first; "cpu" where --gpu-device says so."""
    chosen = request.config.getoption("--gpu-device")
    if chosen == "cuda" and not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    return opened(Compute(device=chosen)).type


def pytest_terminal_summary(terminalreporter):
    if any(NO_GPU in str(of.longrepr) for of in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(NO_GPU)


class Scarce(Live):
    """The CPU with so many bytes for what operations make."""

    def __init__(self, most: float) -> None:
        super().__init__([])
        self.most = most

    def _note(self, storage: Any) -> None:
        super()._note(storage)
        if self.now > self.most:
            raise torch.OutOfMemoryError(f"out of memory: {self.now} bytes of {self.most:.0f}")


def peak(work: Callable[[], Any], device: str) -> int:
    """The most bytes at once that a work takes."""
    if device == "cpu":
        with Live([]) as live:
            work()
        return live.peak
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_reserved()


@contextmanager
def room(most: float, device: str) -> Iterator[None]:
    """Inside, no more than so many bytes can be had."""
    if device == "cpu":
        with Scarce(most):
            yield
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
