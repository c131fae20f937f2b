"""Shards of a manifest through frozen backbones into stores, stores into smaller ones. Knows no label and no head."""

from pipeline.extraction.derivation import derive
from pipeline.extraction.loop import extract
from pipeline.extraction.progress import ExtractionError, ExtractionFailed, TooMuch

__all__ = ["ExtractionError", "ExtractionFailed", "TooMuch", "derive", "extract"]
