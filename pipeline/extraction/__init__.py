"""The extraction loop: a shard of a manifest through a frozen backbone into a store. Knows no label and no head."""

from pipeline.extraction.loop import ExtractionFailed, extract

__all__ = ["ExtractionFailed", "extract"]
