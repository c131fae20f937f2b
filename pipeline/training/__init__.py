"""Learning from caches: one trainer for every head. Knows no video and no backbone."""

from typing import Any

from pipeline.training.dataset import DataError
from pipeline.training.run_folder import RunBusy, RunError

__all__ = ["DataError", "RunBusy", "RunError", "train"]


def __getattr__(name: str) -> Any:
    """`train` when it is asked for: who only joins stores with a manifest does not pay seconds for a trainer."""
    if name != "train":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.training.trainer import train

    return train
