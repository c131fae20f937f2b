"""The toy world: a renderer with known ground truth, toy data sets in real layouts, and the mini backbones.

Knows no store, no head and no trainer: what it writes is read like any other data set or checkpoint.
"""

from pipeline.toyworld.ssv2 import ToyworldError, write_ssv2

__all__ = ["ToyworldError", "write_ssv2"]
