"""Learning from caches: one trainer for every head. Knows no video and no backbone."""

from typing import TYPE_CHECKING, Any

from pipeline.runs import RunBusy, RunError
from pipeline.training.dataset import DataError

if TYPE_CHECKING:
    from pipeline.training.trainer import train

__all__ = ["DataError", "RunBusy", "RunError", "train"]


def __getattr__(name: str) -> Any:
    """`train` when it is asked for: who only joins stores with a manifest does not pay seconds for a trainer."""
    if name != "train":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.training import trainer

    return trainer.train
