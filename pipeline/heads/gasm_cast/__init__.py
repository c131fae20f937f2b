"""GASM-CAST: the fusion head for action recognition on cached semantic and motion tokens."""

from .model import GasmCast, parameter_table

__all__ = ["GasmCast", "parameter_table"]
