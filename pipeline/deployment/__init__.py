"""Finished heads for machines without this package: one file each, proved against the run. Knows no decoder."""

from pipeline.deployment.exporting import Deployed, DeploymentError, export_head
from pipeline.deployment.formats import FORMATS

__all__ = ["FORMATS", "Deployed", "DeploymentError", "export_head"]
