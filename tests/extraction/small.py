"""Small extractions for tests: params over a small set, one run, what a store folder holds."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Imported, Params, feature_dir, parse_params
from pipeline.datasets import build_manifest, read_manifest, write_manifest
from pipeline.extraction import extract
from pipeline.plan import imported_stores
from pipeline.store import ShardWriter

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = [*(f"pipeline.backbones.{name}" for name in ("towers", "r3d18", "i3d", "flow")), "zarr", "h5py"]

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
    imported = [name for name, feature in params.features.items() if isinstance(feature, Imported)]
    stores = imported_stores(params, imported)
    write_manifest(build_manifest(params.datasets["small"], previous, imported=stores)[0], path)


def run(params: Params, features: Path, lines: list[str] | None = None, names: str | list[str] = "dino") -> dict:
    """Manifest, then extraction; the shard's manifest of one name, those of all by name for a list."""
    make_manifest(params, features)
    manifests = extract(params, "small", names, 0, features, (lines if lines is not None else []).append)
    return manifests[names] if isinstance(names, str) else manifests


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store but its lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def dying_at_the_second_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empties a store; what is run then must be interrupted where it commits for the second time."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    commit, done = ShardWriter.commit, []

    def dies(self: ShardWriter) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(commit(self))

    monkeypatch.setattr(ShardWriter, "commit", dies)
    with pytest.raises(KeyboardInterrupt):
        yield
    monkeypatch.undo()


def kill_until_done(params: Params, features: Path, names: list[str], kills: int) -> None:
    """Extracts in a process group of its own that is killed so often, at random moments, and then to the end."""
    child, began = _begun(params, features, names), time.monotonic()
    assert _ended(child) == 0
    longest, rng, killed = time.monotonic() - began, np.random.default_rng(0), 0
    while killed < kills:
        for name in names:
            store = feature_dir(params, "small", name, features)
            if list(store.glob("*.json")):  # it got to its end: from the beginning again
                shutil.rmtree(store)
        child = _begun(params, features, names)
        time.sleep(rng.uniform(0, longest))
        if child.is_alive():
            os.killpg(child.pid, signal.SIGKILL)
        status = _ended(child)
        assert status in (0, -signal.SIGKILL), "the extraction failed of itself"
        killed += status != 0
    assert _ended(_begun(params, features, names)) == 0


def _begun(params: Params, features: Path, names: list[str]) -> BaseProcess:
    """From a server without threads: the locks that threads of this process hold would stay locked in a fork of it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.extraction.small", *SLOW_TO_IMPORT])
    leads = context.Event()
    child = context.Process(target=_extract, args=(params, features, names, leads))
    child.start()
    assert leads.wait(60)
    return child


def _extract(params: Params, features: Path, names: list[str], leads: Event) -> None:
    os.setpgid(0, 0)
    leads.set()
    multiprocessing.set_start_method("fork", force=True)  # of decode processes, as in any other extraction
    extract(params, "small", names, 0, features, lambda line: None)


def _ended(child: BaseProcess) -> int:
    child.join()
    return child.exitcode
