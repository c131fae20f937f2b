"""Small extractions for tests: params over a small set, one run, what a store folder holds."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Params, parse_params
from pipeline.datasets import build_manifest, read_manifest, write_manifest
from pipeline.extraction import extract

ROOT = Path(__file__).parents[2]

DINO = {
    "backbone": "dinov3",
    "weights": {"path": str(ROOT / "weights" / "mini-dinov3")},
    "sampling": {"frames": 8},
    "preprocess": {"resize": [128, 128]},
    "pool": 2,
    "batch": 4,
}
R3D = {
    "backbone": "r3d18",
    "weights": {"path": str(ROOT / "weights" / "mini-r3d18.safetensors")},
    "sampling": {"frames": 16},
    "preprocess": {"resize": [64, 64]},
    "batch": 6,
}


def params_of(root: Path, features: dict[str, dict[str, Any]], **dataset: Any) -> Params:
    """Features over the data set `small`, decoded in this process."""
    compute = {"device": "cpu", "decode_workers": 0, "extract_threads": 1}
    chosen = {"layout": "ssv2", "root": str(root), "shard_size": 64} | dataset
    return parse_params({"compute": compute, "datasets": {"small": chosen}, "features": features})


def params_for(root: Path, **feature: Any) -> Params:
    """The mini DINOv3 as `dino`, in batches of 4."""
    return params_of(root, {"dino": DINO | feature})


def with_workers(params: Params, workers: int) -> Params:
    return params.model_copy(update={"compute": params.compute.model_copy(update={"decode_workers": workers})})


def make_manifest(params: Params, features: Path) -> None:
    path = features / "small" / "manifest.parquet"
    previous = read_manifest(path) if path.exists() else None
    write_manifest(build_manifest(params.datasets["small"], previous)[0], path)


def run(params: Params, features: Path, lines: list[str] | None = None, names: str | list[str] = "dino") -> dict:
    """Manifest, then extraction; the shard's manifest of one name, those of all by name for a list."""
    make_manifest(params, features)
    manifests = extract(params, "small", names, 0, features, (lines if lines is not None else []).append)
    return manifests[names] if isinstance(names, str) else manifests


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store but its lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def killed_until_done(params: Params, features: Path, names: list[str], kills: int, longest: float) -> int:
    """Extracts in a process group of its own that is killed at random moments, then to the end; returns the kills."""
    rng = np.random.default_rng(0)
    for done in range(kills + 1):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                extract(params, "small", names, 0, features, lambda line: None)
                status = 0
            finally:
                os._exit(status)
        os.setpgid(child, child)
        if done < kills:
            time.sleep(rng.uniform(0.1, longest))
            os.killpg(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), "the extraction failed of itself"
        if status == 0:
            return done
    raise AssertionError("the extraction does not end when nobody kills it")
