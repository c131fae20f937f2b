"""The zarr clients that the store is measured against, each opened or created the same way. Knows no store."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks._harness import installed

PIPELINES = {
    "zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def clients() -> dict[str, str | None]:
    """Versions of those that are installed, None for the others."""
    return {name: installed(name.replace("zarr-python", "zarr")) for name in (*PIPELINES, "tensorstore")}


def opened(client: str, path: Path) -> Any:
    """A zarr v3 array on disk for reading: `array[i]`, and for tensorstore `array[i].read().result()`."""
    if client == "tensorstore":
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
        return tensorstore.open(spec, read=True).result()
    with zarr.config.set({"codec_pipeline.path": PIPELINES[client]}):
        return zarr.open_array(str(path), mode="r")


def created(client: str, path: Path, data: np.ndarray) -> None:
    """Writes all samples as one shard of crc32c-checked chunks, a sample each: the layout of the store."""
    if client == "tensorstore":
        import tensorstore

        inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        chunk = {"chunk_shape": [1, *data.shape[1:]], "codecs": inner}
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path)},
            "metadata": {
                "shape": list(data.shape),
                "data_type": data.dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(data.shape)}},
                "codecs": [{"name": "sharding_indexed", "configuration": chunk}],
            },
        }
        tensorstore.open(spec, create=True).result().write(data).result()
        return
    with zarr.config.set({"codec_pipeline.path": PIPELINES[client]}):
        array = zarr.create_array(
            str(path),
            shape=data.shape,
            shards=data.shape,
            chunks=(1, *data.shape[1:]),
            dtype=data.dtype,
            compressors=[zarr.codecs.Crc32cCodec()],
        )
    array[:] = data
