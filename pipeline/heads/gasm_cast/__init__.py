"""GASM-CAST: the fusion head for action recognition on cached semantic and motion tokens."""

from .attention import POOL, Look, look
from .model import GasmCast, parameter_table

__all__ = ["POOL", "GasmCast", "Look", "look", "parameter_table"]
