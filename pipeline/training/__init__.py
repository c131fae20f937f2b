"""Learning from caches: one trainer for every head. Knows no video and no backbone."""

from typing import Any

from pipeline.runs import RunBusy, RunError
from pipeline.training.dataset import DataError

__all__ = ["DataError", "RunBusy", "RunError", "train"]  # noqa: F822


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import: an evaluation, which needs what lies beside the trainer, does not pay for it.
    if name != "train":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from pipeline.training.trainer import train

    return train
