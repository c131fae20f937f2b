"""The provenance of a store, and the dtypes of its fields. Reads no video."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import av
import torch

from pipeline.backbones import Fields
from pipeline.config import Compute, Params, PixelFeature, Preprocess, feature_key, foreign_code, weights_digests
from pipeline.extraction.progress import ExtractionError
from pipeline.store import Environment, ShardWriter, apart, listed
from pipeline.store.manifest import read_manifest, shard_bases
from pipeline.video import expect_decoder

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "decord",
    "av",
    "pillow",
    "opencv-contrib-python-headless",
    "numpy",
)

Grid = tuple[int, int, int]


def environment(device: str, more: Sequence[str] = (), decoder: str = "auto") -> Environment:
    """Device and library versions that compute samples here. Without times and host names: equal machines are one
    environment.

    Args:
        device: "cpu" or "cuda".
        more: further libraries that compute a feature, which others' stores need not name.
        decoder: of the feature; of one with libraries of its own, these are named too.

    Returns:
        device: type, model (of a CPU the architecture), capability (of CUDA the compute capability, of a CPU the vector
        instructions that torch uses). versions: of libraries, and of those that they bundle.
    """
    versions = {name: importlib.metadata.version(name) for name in (*LIBRARIES, *more)}
    inside = ("libavcodec", "libavutil", "libswscale")
    versions |= {name: ".".join(map(str, av.library_versions[name])) for name in inside}
    versions |= expect_decoder(decoder)
    if device == "cuda":
        model, capability = torch.cuda.get_device_name(), "{}.{}".format(*torch.cuda.get_device_capability())
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    else:
        model, capability = platform.machine(), torch.backends.cpu.get_cpu_capability()
    return {"device": {"type": device, "model": model, "capability": capability}, "versions": versions}


def refuse_mixing(compute: Compute, writer: ShardWriter, here: Environment) -> None:
    """With `compute.mixed: refuse`, refuses to extend a store that another environment has computed.

    Checks the shard itself and the first other one that is finished; all of them are checked when the store is read.

    Raises:
        ExtractionError: in what the environments differ, and the remedy.
    """
    if compute.mixed == "report" or not writer.pending:
        return
    found = list(writer.environments)
    others = [base for base in shard_bases(writer.base.parent)[0] if base != writer.base]
    for base in others[:1]:
        found += listed(read_manifest(base)["provenance"])
    if any(other != here for other in found):
        raise ExtractionError(
            f"{writer.base.parent} was computed elsewhere: {apart([*found, here])}; compute.mixed refuses a store of "
            "several environments: extract where it was begun, or delete it to extract it again, or set mixed: report"
        )


def provenance(
    params: Params,
    feature: str,
    grid: Grid | None,
    reads: Mapping[str, Mapping[str, Any]],
    geometry: Preprocess | None = None,
) -> dict[str, Any]:
    """What a feature was made from. Without times and paths of this machine, so that equal work gives equal bytes.

    Args:
        params: declare the feature.
        feature: its name.
        grid: (steps, rows, columns) of its tokens; None where it has none.
        reads: name -> provenance of each feature that it is made from, and so on to the first.
        geometry: how pixels were resized and cropped, where a checkpoint's own preprocessing decided it.
    """
    chosen = params.features[feature]
    config, box = chosen.keyed, None
    if isinstance(chosen, PixelFeature) and (geometry := geometry or chosen.preprocess):
        config, box = config | {"preprocess": geometry.model_dump(mode="json")}, geometry.box
    code = foreign_code(chosen)
    return {
        "key": feature_key(params, feature),
        "feature": feature,
        "config": config,
        "weights": weights_digests(chosen),
        "reads": {name: dict(source) for name, source in reads.items()},
        "grid": None if grid is None else list(grid),
        "box": None if box is None else list(box),
        **({} if code is None else {"code": code}),
    }


def stored_fields(fields: Fields, grid: Grid | None, storage: str) -> dict[str, Any]:
    """Fields as they are stored: with storage int8, those that hold a whole token grid become `int8_scaled`.

    >>> stored_fields({"tokens": ((8, 49, 512), "float16"), "cls": ((8, 512), "float16")}, (8, 7, 7), "int8")
    {'tokens': ((8, 49, 512), 'int8_scaled'), 'cls': ((8, 512), 'float16')}
    """
    if storage != "int8" or grid is None:
        return dict(fields)
    return {
        name: (shape, "int8_scaled" if prod(shape[:-1]) >= prod(grid) else dtype)
        for name, (shape, dtype) in fields.items()
    }
