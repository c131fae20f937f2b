"""Samples of a store as Parquet that Hugging Face's `datasets` opens with its features typed. Needs no `datasets`.

Its description of the columns lies as JSON under "huggingface" in the metadata of the schema, and the arrays as nested
lists: Array2D to Array5D for two axes or more, whose types Arrow knows as extensions, a list of one length for one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exports.notes import Notes
from pipeline.store import FeatureStore, StoreError

GROUP = 64 << 20  # bytes of a row group, which a reader takes whole
MOST_AXES = 5  # of `datasets`


def columns(store: FeatureStore, notes: Notes) -> dict[str, tuple[pa.DataType, Any]]:
    """Column -> (type in Arrow, type in `datasets`): id, digest, the fields, times or fps, what the notes know.

    Raises:
        StoreError: a field of more than five axes.
    """
    text = (pa.string(), _value("string"))
    ragged = any(shape[:1] == (None,) for shape, _ in store.fields.values())
    found: dict[str, tuple[pa.DataType, Any]] = {"id": text, "digest": text}
    for name, (shape, dtype) in store.fields.items():
        found[name] = _array(name, shape, dtype)
    found["fps" if ragged else "times"] = (
        (pa.float64(), _value("float64")) if ragged else (pa.list_(pa.float64()), _list(_value("float64")))
    )
    label = {"names": list(notes.classes), "_type": "ClassLabel"}
    answers = {
        "label": (pa.int64(), label),
        "labels": (pa.list_(pa.int64()), _list(label)),
        "target": (pa.list_(pa.float64()), _list(_value("float64"))),
        "segments": (
            pa.list_(pa.struct({"label": pa.int64(), "frames": pa.int32()})),
            [{"label": label, "frames": _value("int32")}],
        ),
    }
    taken = {name: of for name, of in answers.items() if name in notes.known}
    return found | {f"{name}_" if name in found else name: of for name, of in taken.items()}


def write_parquet(store: FeatureStore, samples: Sequence[str], notes: Notes, path: Path) -> None:
    """Writes samples as one table, a row a sample; equal content is an equal file."""
    known = columns(store, notes)
    described = json.dumps({"info": {"features": {name: of for name, (_, of) in known.items()}}}, ensure_ascii=False)
    fields = [pa.field(name, kind, metadata=_extension(of)) for name, (kind, of) in known.items()]
    schema = pa.schema(fields, metadata={"huggingface": described})
    numbers = {name: number for number, name in enumerate(notes.classes)}
    with pq.ParquetWriter(
        path, schema, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False
    ) as writer:
        for some in _groups(store, samples):
            writer.write_table(pa.Table.from_arrays(list(_arrays(store, some, notes, numbers, schema)), schema=schema))


def _groups(store: FeatureStore, samples: Sequence[str]) -> Iterator[list[str]]:
    """Runs of samples of about GROUP bytes."""
    lengths = {name: store.lengths(name) for name, (shape, _) in store.fields.items() if shape[:1] == (None,)}
    group, held = [], 0
    for sample in samples:
        size = sum(
            prod(side or lengths[name][sample] for side in shape) * np.dtype(dtype).itemsize
            for name, (shape, dtype) in store.fields.items()
        )
        if group and held + size > GROUP:
            yield group
            group, held = [], 0
        group.append(sample)
        held += size
    if group:
        yield group


def _arrays(
    store: FeatureStore, samples: list[str], notes: Notes, numbers: Mapping[str, int], schema: pa.Schema
) -> Iterator[pa.Array]:
    """The columns of some samples, in the schema's order."""
    for field in schema:
        if field.name in store.fields:
            shape, _ = store.fields[field.name]
            ragged = shape[:1] == (None,)
            values = store.read_ragged(samples, field.name) if ragged else store.read(samples, field.name)
            yield _nested(values, field.type)
            continue
        name = field.name.removesuffix("_")
        values = [_told(store, sample, name, notes, numbers) for sample in samples]
        yield pa.array(values, field.type)


def _told(store: FeatureStore, sample: str, name: str, notes: Notes, numbers: Mapping[str, int]) -> Any:
    if name in ("id", "digest"):
        return sample if name == "id" else store.digest(sample)
    if name in ("times", "fps"):
        return store.meta(sample).get(name)
    value = notes.of.get(sample, {}).get(name)
    if value is None or name == "target":
        return value
    if name == "label":
        return numbers[value]
    if name == "labels":
        return [numbers[of] for of in value]
    return [{"label": numbers[of["label"]], "frames": of["frames"]} for of in value]


def _nested(values: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    """Arrays of one shape but for their first axis, as nested lists of an Arrow type."""
    shapes = [array.shape for array in values]
    flat = np.concatenate([array.reshape(-1) for array in values])
    found = pa.array(flat)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(found, type=kind)
    for axis in range(len(shapes[0]) - 1, -1, -1):
        sizes = [size for shape in shapes for size in [shape[axis]] * prod(shape[:axis])]
        offsets = np.zeros(len(sizes) + 1, np.int32)
        np.cumsum(sizes, out=offsets[1:])
        found = pa.ListArray.from_arrays(pa.array(offsets), found)
    return found.cast(kind)


def _array(name: str, shape: Sequence[int | None], dtype: str) -> tuple[pa.DataType, Any]:
    inner: pa.DataType = pa.from_numpy_dtype(np.dtype(dtype))
    if len(shape) == 1 and shape[0] is not None:
        return pa.list_(inner, shape[0]), _list(_value(dtype), shape[0])
    if len(shape) > MOST_AXES:
        raise StoreError(f"the field {name!r} has {len(shape)} axes, and `datasets` {MOST_AXES} at most; export as npy")
    if len(shape) == 1:
        return pa.list_(inner), _list(_value(dtype))
    for _ in shape:
        inner = pa.list_(inner)
    return inner, {"shape": list(shape), "dtype": dtype, "_type": f"Array{len(shape)}D"}


def _extension(described: Any) -> dict[str, str] | None:
    """What makes Arrow take nested lists for the extension type of `datasets`, where that is imported."""
    if not isinstance(described, dict) or not described["_type"].startswith("Array"):
        return None
    name = f"datasets.features.features.{described['_type']}ExtensionType"
    told = json.dumps([described["shape"], described["dtype"]])
    return {"ARROW:extension:name": name, "ARROW:extension:metadata": told}


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _list(of: Any, length: int = -1) -> dict[str, Any]:
    """As every version of `datasets` reads it: later ones write `List`, which earlier ones do not know."""
    return {"feature": of, "length": length, "_type": "Sequence"}
