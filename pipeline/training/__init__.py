"""Learning from caches: one trainer for every head. Knows no video and no backbone."""

from typing import TYPE_CHECKING

from pipeline.lazily import passed_on
from pipeline.runs import RunBusy, RunError
from pipeline.training.dataset import DataError

if TYPE_CHECKING:
    from pipeline.training.trainer import train

__all__ = ["DataError", "RunBusy", "RunError", "train"]

# Who only joins stores with a manifest does not pay seconds for a trainer.
__getattr__ = passed_on(__name__, {".trainer": ["train"]})
