"""The toy world: a renderer with known ground truth, toy data sets in real layouts, and the mini backbones.

Knows no store, no head and no trainer: what it writes is read like any other data set or checkpoint.
"""

from pipeline.toyworld.assembly import write_assembly
from pipeline.toyworld.clinic import write_clinic
from pipeline.toyworld.relations import write_relations
from pipeline.toyworld.ssv2 import write_ssv2, write_ssv2_reversed
from pipeline.toyworld.waterbirds import write_waterbirds
from pipeline.toyworld.writing import ToyworldError

__all__ = [
    "WRITERS",
    "ToyworldError",
    "write_assembly",
    "write_clinic",
    "write_relations",
    "write_ssv2",
    "write_ssv2_reversed",
    "write_waterbirds",
]

# By what each renders: `config.Toyworld.RENDERINGS`.
WRITERS = {
    "ssv2": write_ssv2,
    "assembly": write_assembly,
    "waterbirds": write_waterbirds,
    "clinic": write_clinic,
    "ssv2_reversed": write_ssv2_reversed,
    "relations": write_relations,
}
