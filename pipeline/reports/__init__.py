"""Pictures and tables from results alone. Reads no store, trains nothing."""

from pipeline.reports.ablation import ablation_table
from pipeline.reports.classification import publish

__all__ = ["ablation_table", "publish"]
