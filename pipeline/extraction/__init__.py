"""Runs frozen backbones over the shards of a manifest into stores; derives stores from stores. Knows no head."""

from pipeline.extraction.derivation import derive
from pipeline.extraction.loop import extract
from pipeline.extraction.progress import ExtractionError, ExtractionFailed, TooMuch

__all__ = ["ExtractionError", "ExtractionFailed", "TooMuch", "derive", "extract"]
