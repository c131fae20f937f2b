"""The toy world: a renderer with known ground truth, toy data sets in real layouts, and the mini backbones.

Knows no store, no head and no trainer: what it writes is read like any other data set or checkpoint.
"""

from pipeline.toyworld.assembly import write_assembly
from pipeline.toyworld.clinic import write_clinic
from pipeline.toyworld.ssv2 import write_ssv2
from pipeline.toyworld.waterbirds import write_waterbirds
from pipeline.toyworld.writing import ToyworldError

__all__ = ["WRITERS", "ToyworldError", "write_assembly", "write_clinic", "write_ssv2", "write_waterbirds"]

# By the layout of the data set that each writes.
WRITERS = {"ssv2": write_ssv2, "mstcn": write_assembly, "waterbirds": write_waterbirds, "clinic": write_clinic}
