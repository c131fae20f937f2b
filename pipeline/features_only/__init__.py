"""Features of files that somebody names: no params file, no labels, the same extraction. Knows no head."""

from pipeline.features_only.extraction import FORMATS, Extracted, extract_files
from pipeline.features_only.files import FilesError
from pipeline.features_only.presets import Choice, choose, offered

__all__ = ["FORMATS", "Choice", "Extracted", "FilesError", "choose", "extract_files", "offered"]
