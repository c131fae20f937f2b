"""Runs frozen backbones over the shards of a manifest into stores; derives stores from stores. Knows no head."""

from pipeline.extraction.derivation import derive, derive_range
from pipeline.extraction.loop import extract, extract_range
from pipeline.extraction.progress import ExtractionError, ExtractionFailed, TooMuch

__all__ = ["ExtractionError", "ExtractionFailed", "TooMuch", "derive", "derive_range", "extract", "extract_range"]
