"""Runs frozen backbones over the shards of a manifest into stores; derives stores from stores. Knows no head."""

from typing import TYPE_CHECKING

from pipeline.extraction.progress import ExtractionError, ExtractionFailed, TooMuch
from pipeline.lazily import passed_on

if TYPE_CHECKING:
    from pipeline.extraction.derivation import derive, derive_range
    from pipeline.extraction.loop import extract, extract_range

__all__ = ["ExtractionError", "ExtractionFailed", "TooMuch", "derive", "derive_range", "extract", "extract_range"]

__getattr__ = passed_on(__name__, {".derivation": ["derive", "derive_range"], ".loop": ["extract", "extract_range"]})
