"""Numbers people read, from trained heads and caches. Knows no video and no backbone."""

from pipeline.evaluation.classification import evaluate

__all__ = ["evaluate"]
