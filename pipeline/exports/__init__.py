"""Finished stores as files that other tools read. Knows no backbone and no head."""

from pipeline.exports.folder import FAILURES, INDEX, ExportError, ExportFolder
from pipeline.exports.formats import EXPORTS
from pipeline.exports.stores import Exported, export_store

__all__ = ["EXPORTS", "FAILURES", "INDEX", "ExportError", "ExportFolder", "Exported", "export_store"]
