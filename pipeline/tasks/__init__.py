"""What heads are asked for: a record a task. The only place that knows what a task is; imports no torch."""

from .alignment import ALIGNMENT
from .base import Column, Task
from .classification import CLASSIFICATION
from .ood import OOD
from .probes import MULTILABEL, PROBE, REGRESSION
from .segmentation import SEGMENTATION, ZEROSHOT

__all__ = ["TASKS", "Column", "Task"]

TASKS = {
    task.name: task for task in (CLASSIFICATION, SEGMENTATION, ZEROSHOT, ALIGNMENT, OOD, PROBE, MULTILABEL, REGRESSION)
}
