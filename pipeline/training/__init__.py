"""Learning from caches: one trainer for every head. Knows no video and no backbone."""

from pipeline.runs import RunBusy, RunError
from pipeline.training.dataset import DataError
from pipeline.training.trainer import train

__all__ = ["DataError", "RunBusy", "RunError", "train"]
