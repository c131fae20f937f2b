"""What a store keeps of a sample: fields as people see them, arrays as the disk holds them. Knows no file.

A plain field is one array. An `int8_scaled` field reads and writes as float16 and is three: the integers, a scale for
each channel of the sample, and a scale for each of its tokens (see `quantise`). A shape that begins with None is
ragged: each sample has a length of its own, the same one in all its fields.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import StoreError
from .quantise import dequantise, quantise

SCALED = "int8_scaled"
_CAST_BLOCK = 1 << 14


@dataclass(frozen=True)
class Array:
    """Shape and dtype of what one sample has in one array; the first side is None where it differs by sample."""

    shape: tuple[int | None, ...]
    dtype: np.dtype

    @property
    def ragged(self) -> bool:
        return self.shape[:1] == (None,)

    def shape_in(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape of the sample that has this row in the journal."""
        return (row["length"], *self.shape[1:]) if self.ragged else self.shape

    def nbytes_in(self, row: Mapping[str, Any]) -> int:
        return math.prod(self.shape_in(row)) * self.dtype.itemsize

    def cast(self, array: np.ndarray, what: str) -> np.ndarray:
        """The array as C-contiguous little-endian bytes of this dtype.

        Raises:
            ValueError: another shape, a NaN, an infinity, or a value beyond the dtype's range; begins with `what`.
        """
        array = np.asarray(array)
        if array.ndim != len(self.shape) or array.shape[self.ragged :] != self.shape[self.ragged :]:
            raise ValueError(f"{what}: shape {array.shape}, expected {self.shape}")
        kinds = "fiu" if self.dtype.kind == "f" else "iu"
        if array.dtype.kind not in kinds:
            raise ValueError(f"{what}: dtype {array.dtype} cannot be kept as {self.dtype}; convert it before the store")
        if array.dtype == np.float16:
            # numpy compares halves one by one; their bits compare 50 times faster (0.12 against 6.8 ms for 2.4 MB):
            # as integers with a sign the positive ones come last, without one the negative ones do.
            last = array.size and (array.view(np.int16).max(), array.view(np.uint16).max())
            in_range = not last or (last[0] < 0x7C00 and last[1] < 0xFC00)
        else:
            limits = np.finfo(self.dtype) if self.dtype.kind == "f" else np.iinfo(self.dtype)
            in_range = not array.size or bool(array.min() >= limits.min and array.max() <= limits.max)
        if not in_range:
            raise ValueError(f"{what}: {_first_outlier(array, self.dtype)} does not fit {self.dtype}")
        if array.dtype == np.float32 and self.dtype == np.float16:
            return _halve(array)
        return np.ascontiguousarray(array, dtype=self.dtype).reshape(array.shape)


def _halve(array: np.ndarray) -> np.ndarray:
    """float32 to float16 with numpy's rounding, by torch's vectorised copy (0.6 against 3.0 ms for 2.4 MB)."""
    import torch  # seconds, and readers never need it

    given = np.require(array, requirements=["C", "W"])
    half = np.empty(given.shape, np.float16)
    # Blocks below torch's grain of 32,768 elements stay on this thread. Left to split the work
    # over two cores that others kept busy, the same cast took 24 ms.
    blocks = (torch.from_numpy(flat.reshape(-1)).split(_CAST_BLOCK) for flat in (half, given))
    for target, source in zip(*blocks, strict=True):
        target.copy_(source)
    return half


def _first_outlier(array: np.ndarray, dtype: np.dtype) -> str:
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    bad = ~((array >= limits.min) & (array <= limits.max))
    position = np.unravel_index(int(bad.argmax()), array.shape)
    return f"{int(bad.sum())} of {array.size} values, the first {array[position]} at {tuple(map(int, position))},"


@dataclass(frozen=True)
class Field:
    """A plain field: one array of the field's own name."""

    name: str
    array: Array

    @property
    def dtype(self) -> np.dtype:
        """What `FeatureStore.read` gives."""
        return self.array.dtype

    @property
    def arrays(self) -> dict[str, Array]:
        """What the disk holds, by name."""
        return {self.name: self.array}

    def describe(self) -> dict[str, Any]:
        return {"shape": list(self.array.shape), "dtype": self.array.dtype.name}

    def encode(self, value: np.ndarray, what: str) -> dict[str, np.ndarray]:
        """A sample's value as its arrays, by name. Raises ValueError as `Array.cast` does."""
        return {self.name: self.array.cast(value, what)}

    def fill(self, out: np.ndarray, fetch: Callable[[str, np.ndarray], None]) -> None:
        """Decodes a sample, or some rows of it, into `out`; fetch(name, array) fills an array from the disk."""
        fetch(self.name, out)


class ScaledField(Field):
    """Half the bytes of float16: value = integers * token scale * channel scale, rounded to float16."""

    @property
    def arrays(self) -> dict[str, Array]:
        shape = self.array.shape
        return {
            self.name: Array(shape, np.dtype("int8")),
            f"{self.name}.token_scale": Array(shape[:-1], np.dtype("<f4")),
            f"{self.name}.channel_scale": Array(shape[-1:], np.dtype("<f4")),
        }

    def describe(self) -> dict[str, Any]:
        return {"shape": list(self.array.shape), "dtype": SCALED}

    def encode(self, value: np.ndarray, what: str) -> dict[str, np.ndarray]:
        # By way of float16, so that quantising an fp16 store gives the bytes that a direct extraction gives.
        return dict(zip(self.arrays, quantise(self.array.cast(value, what)), strict=True))

    def fill(self, out: np.ndarray, fetch: Callable[[str, np.ndarray], None]) -> None:
        shapes = out.shape, out.shape[:-1], out.shape[-1:]
        parts = [np.empty(shape, array.dtype) for shape, array in zip(shapes, self.arrays.values(), strict=True)]
        for name, part in zip(self.arrays, parts, strict=True):
            fetch(name, part)
        dequantise(*parts, out)


def parse_fields(fields: Mapping[str, Any]) -> dict[str, Field]:
    """Fields from {name: (shape, dtype)} or from a manifest's {name: {"shape", "dtype"}}, by name.

    Raises:
        StoreError: no field at all, a dtype that a store does not keep, a None that is not the first side, ragged
            fields beside others, an int8_scaled field without tokens and channels.
    """
    parsed = {
        name: _parse(name, *((given["shape"], given["dtype"]) if isinstance(given, Mapping) else given))
        for name, given in sorted(fields.items())
    }
    if not parsed:
        raise StoreError("a store needs at least one field, got none")
    if len({field.array.ragged for field in parsed.values()}) > 1:
        shapes = {name: field.array.shape for name, field in parsed.items()}
        raise StoreError(f"either all fields of a feature are ragged or none is, got {shapes}; split the feature")
    if len(arrays_of(parsed)) < sum(len(field.arrays) for field in parsed.values()):
        raise StoreError(f"the fields {sorted(parsed)} would share an array; rename the one that ends in _scale")
    return parsed


def _parse(name: str, shape: Any, dtype: Any) -> Field:
    shape = tuple(side if side is None else int(side) for side in shape)
    if None in shape[1:]:
        raise StoreError(f"field {name!r} has shape {shape}; only its first side may be None")
    if dtype == SCALED:
        if len(shape) < 2:
            raise StoreError(f"field {name!r} has shape {shape}; {SCALED} needs (..., tokens, channels), use float16")
        return ScaledField(name, Array(shape, np.dtype("<f2")))
    dtype = np.dtype(dtype).newbyteorder("<")
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise StoreError(f"field {name!r} has dtype {dtype}; a store keeps floats and integers of up to 64 bits")
    return Field(name, Array(shape, dtype))


def arrays_of(fields: Mapping[str, Field]) -> dict[str, Array]:
    """What the disk holds for all the fields, by name."""
    return {name: array for field in fields.values() for name, array in field.arrays.items()}
