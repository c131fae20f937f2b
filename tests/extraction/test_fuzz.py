"""Nothing that one sample's bytes do ends a shard: flipped bytes in files of many kinds, through manifest and loop.

Every sample ends ok or failed with a reason, and every shard ends.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import feature_dir
from pipeline.datasets import build_manifest, write_manifest
from pipeline.extraction import extract
from pipeline.store import FeatureStore
from tests.datasets.made_up import write_set
from tests.extraction.small import DINO, params_of
from tests.video.conftest import encode

FAULTS = Path(__file__).parents[2] / "../shared/data/faults/video"
SEES = DINO | {"sampling": {"frames": 2}, "preprocess": {"resize": [32, 32]}, "pool": 1, "max_failed": 1.0, "batch": 8}
FLOWS = {
    "backbone": "flow",
    "method": "farneback",
    "sampling": {"fps": 3},
    "preprocess": {"resize": 32, "crop": [32, 32]},
    "max_failed": 1.0,
}


def flipped(content: bytes, seed: int) -> bytes:
    """1 to 16 random bytes replaced; of every second seed they lie in the first 400, where headers are."""
    rng, changed = np.random.default_rng(seed), bytearray(content)
    reach = min(len(changed), 400) if seed % 2 else len(changed)
    for place in rng.integers(0, reach, rng.integers(1, 17)):
        changed[place] = rng.integers(0, 256)
    return bytes(changed)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, bytes]:
    """Small videos and pictures of the kinds that showed a fault, and plain ones."""
    folder = tmp_path_factory.mktemp("inputs")
    encode(folder / "plain.mp4", n=6)
    encode(folder / "plain.webm", "libvpx-vp9", n=6)
    encode(folder / "early.mkv", n=6, cut=3)
    encode(folder / "sound.flv", "flv1", n=6, sound=1.0)
    encode(folder / "stream.ts", n=6)
    encode(folder / "empty.avi", "mpeg4", n=6)
    encode(folder / "matrix.mkv", n=6, matrix=8)
    encode(folder / "turned.mp4", n=6, rotation=90)
    shades = [Image.new("RGB", (40, 24), (shade, 0, 90)) for shade in (0, 100, 200)]
    shades[0].save(folder / "moving.gif", save_all=True, append_images=shades[1:], duration=100)
    shades[0].save(folder / "moving.png", save_all=True, append_images=shades[1:], duration=100)
    shades[0].save(folder / "still.jpg")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def shared_inputs() -> dict[str, bytes]:
    names = sorted(path for path in FAULTS.iterdir() if path.suffix != ".py")
    return {path.name: path.read_bytes() for path in names}


def write_flipped(root: Path, inputs: dict[str, bytes], flips: int) -> list[str]:
    """A layout of videos, of each input one whole and `flips` with flipped bytes; the samples' ids."""
    files = {}
    for content in inputs.values():
        for seed in range(flips + 1):
            files[str(len(files) + 1)] = flipped(content, seed) if seed else content
    write_set(root, train=list(files))
    for sample, content in files.items():
        (root / f"{sample}.webm").write_bytes(content)
    return list(files)


def check(root: Path, inputs: dict[str, bytes], flips: int, say: Callable[..., None], workers: int = 0) -> None:
    samples = write_flipped(root / "set", inputs, flips)
    params = params_of(root / "set", {"dino": SEES, "flow": FLOWS}, shard_size=len(samples))
    frame, quality = build_manifest(params.datasets["small"], workers=workers)
    assert frame["sample"].tolist() == samples and quality["samples"] == len(samples)
    say("manifest", Counter(frame["status"]))
    for features in ("features", "again"):
        write_manifest(frame, root / features / "small" / "manifest.parquet")
    for name in ("dino", "flow"):
        manifest = extract(params, "small", name, 0, root / "features", lambda line: None)[name]
        assert [row["sample"] for row in manifest["samples"]] == samples
        assert sum(manifest["counts"].values()) == len(samples)
        store = FeatureStore(feature_dir(params, "small", name, root / "features"))
        assert all(reason for reason in store.failed.values())
        assert {row.sample for row in frame.itertuples() if row.status != "ok"} <= store.failed.keys()
        say(name, manifest["counts"], Counter(reason.split(":")[0] for reason in store.failed.values()))
    # The same with files that changed since the manifest was made: what it says of them is no longer true.
    for number, sample in enumerate(samples):
        path = root / "set" / f"{sample}.webm"
        path.write_bytes(flipped(path.read_bytes(), 1000 + number))
    for name in ("dino", "flow"):
        manifest = extract(params, "small", name, 0, root / "again", lambda line: None)[name]
        assert sum(manifest["counts"].values()) == len(samples)
        say(f"{name}, changed", manifest["counts"])
