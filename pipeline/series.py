"""Several runs in one process, each as if it were alone: the libraries are imported once. Knows no head."""

import errno
import gc
import multiprocessing
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.memory import first_line
from pipeline.runs import Run, RunBusy, RunError

SECONDS_BETWEEN_TRIES = 5.0
OURS = ("pipeline.", "permafrost.")
FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk, which ends all runs alike


class RunsFailed(RunError):
    """Some of several runs could not be made; the message names each with its reason. The others are complete."""


def each(runs: Mapping[str, Run], work: Callable[[Run], Any], say: Callable[[str], None]) -> None:
    """Does the work of runs, one after the other; what another process has comes last, and is waited for.

    Args:
        runs: by what messages call them. What one of them opens is closed before the next.
        work: of a run; leaves a run that is complete as it is.
        say: called with a line where a run begins, fails, or is waited for.

    Raises:
        RunsFailed: some failed; of one run alone its own error. A full disk ends all of them at once.
    """
    series = _Series(runs, work, say)
    for number, name in enumerate(runs, 1):
        if len(runs) > 1:
            say(f"{number} of {len(runs)}: {name}")
        series.do(name)
    while series.busy:
        for name, reason in list(series.busy.items()):
            if name not in series.waited:
                say(f"waiting: {reason}")
                series.waited.add(name)
            series.do(name)
        if series.busy:
            time.sleep(SECONDS_BETWEEN_TRIES)
    if series.failed:
        others = "" if len(series.failed) == len(runs) else "; the others are complete"
        reasons = "\n".join(f"{name}: {reason}" for name, reason in series.failed.items())
        raise RunsFailed(f"{len(series.failed)} of {len(runs)} runs failed{others}:\n{reasons}")


class _Series:
    """What became of each run, by name.

    Attributes:
        busy, failed: name -> why.
        waited: those of which it was said that they are waited for.
    """

    def __init__(self, runs: Mapping[str, Run], work: Callable[[Run], Any], say: Callable[[str], None]) -> None:
        self.runs, self.work, self.say = runs, work, say
        self.busy: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.waited: set[str] = set()

    def do(self, name: str) -> None:
        """One try of a run."""
        self.busy.pop(name, None)
        with alone():
            self._try(name)

    def _try(self, name: str) -> None:
        try:
            self.work(replace(self.runs[name]))  # a copy, of which nothing is open and nothing stays
        except RunBusy as error:
            self.busy[name] = str(error)
        except Exception as error:
            if len(self.runs) == 1 or (isinstance(error, OSError) and error.errno in FULL):
                raise
            if not type(error).__module__.startswith(OURS):
                traceback.print_exc()
            # Its text alone: its frames hold what the run had in memory.
            self.failed[name] = str(error) or first_line(error)
            self.say(f"{name}: failed")


@contextmanager
def alone() -> Iterator[None]:
    """What is done inside finds this process as it was, and leaves it so: random numbers, what torch may choose from,
    threads, environment. Its processes end, and its memory is given back, that of the GPU too.
    """
    before, children = _state(), set(multiprocessing.active_children())
    try:
        yield
    finally:
        _restore(before)
        torch.clear_autocast_cache()
        gc.collect()  # a module, its trainer and their loaders refer to each other
        for child in set(multiprocessing.active_children()) - children:
            child.terminate()
            child.join()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def _state() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "environment": dict(os.environ),
        "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        "deterministic": torch.get_deterministic_debug_mode(),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "matmul": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }


def _restore(state: Mapping[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(state["environment"])
    of_python, of_numpy, of_torch = state["random"]
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])
    torch.set_deterministic_debug_mode(state["deterministic"])
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = state["cudnn"]
    torch.set_float32_matmul_precision(state["matmul"])
    torch.set_default_dtype(state["dtype"])
    torch.set_num_threads(state["threads"])
