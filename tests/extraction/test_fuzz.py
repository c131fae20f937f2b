"""Nothing that one sample's bytes do ends a shard: flipped bytes in files of many kinds, through manifest and loop.

Every sample ends ok or failed with a reason, and every shard ends.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Params, feature_dir, file_digest
from pipeline.datasets import build_manifest, write_manifest
from pipeline.extraction import derive, extract
from pipeline.plan import imported_stores
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
    """1 to 4 random bytes replaced; of every second seed they lie in the first 400, where headers are."""
    rng, changed = np.random.default_rng(seed), bytearray(content)
    reach = min(len(changed), 400) if seed % 2 else len(changed)
    for place in rng.integers(0, reach, rng.integers(1, 5)):
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


def videos_end(root: Path, inputs: dict[str, bytes], flips: int, workers: int = 0) -> dict[str, Counter]:
    """What samples end as: in the manifest, in two extractions, and in two of bytes that their facts are not of."""
    samples = write_flipped(root / "set", inputs, flips)
    params = params_of(root / "set", {"dino": SEES, "flow": FLOWS}, shard_size=len(samples))
    frame, quality = build_manifest(params.datasets["small"], workers=workers)
    assert frame["sample"].tolist() == samples and quality["samples"] == len(samples)
    bad = set(frame.loc[frame["status"] != "ok", "sample"])
    ends = {"manifest": Counter(frame["status"])}
    for state in ("as in the manifest", "of other bytes"):
        write_manifest(frame, root / state / "small" / "manifest.parquet")
        for name in ("dino", "flow"):
            ends[f"{name}, {state}"] = ended(params, name, root / state, samples, bad)
        for number, sample in enumerate(samples):
            path = root / "set" / f"{sample}.webm"
            path.write_bytes(flipped(path.read_bytes(), 1000 + number))
            # As if these bytes had been probed, so that decoders meet them: facts are believed where digests are.
            known = {"digest": file_digest(path), "bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
            frame.loc[number, list(known)] = list(known.values())
    return ends


def ended(params: Params, name: str, features: Path, samples: list[str], bad: set[str]) -> Counter:
    """What the samples of a shard ended as; those that are `bad` failed."""
    make = derive if params.features[name].derived else extract
    make(params, "small", name, 0, features, lambda line: None)
    store = FeatureStore(feature_dir(params, "small", name, features))
    assert {*store.samples, *store.failed} == {*samples} and bad <= store.failed.keys()
    assert all(store.failed.values())
    for field, (shape, dtype) in store.fields.items():
        for sample in store.samples if dtype == "float16" and shape[0] is not None else ():
            assert np.isfinite(store.read([sample], field)).all()
    reasons = Counter(reason.split()[0].rstrip(":") for reason in store.failed.values())
    return reasons + Counter(ok=len(store.samples))


def maps_end(root: Path, flips: int) -> dict[str, Counter]:
    """Maps of every kind over one video, and arrays that somebody else computed, with flipped bytes."""
    encode(root / "v.mp4", n=6)
    mask = np.zeros((12, 16), np.uint8)
    mask[3:9, 4:12] = 255
    moving = np.stack([mask] * 6)
    np.save(root / "map.npy", moving)
    np.save(root / "floats.npy", (moving / 255).astype(np.float16))
    np.savez_compressed(root / "map.npz", moving)
    Image.fromarray(mask).save(root / "map.png")
    Image.fromarray(mask).convert("P").save(root / "indexed.png")
    encode(root / "map.mp4", n=6)
    np.save(root / "rows.npy", np.random.default_rng(0).standard_normal((5, 8), np.float32))
    rows, lines = (root / "rows.npy").read_bytes(), ["sample,video,map,label,patient,clinician,split"]
    for name in ("map.npy", "floats.npy", "map.npz", "map.png", "indexed.png", "map.mp4"):
        content = (root / name).read_bytes()
        for seed in range(flips + 1):
            sample = str(len(lines))
            (root / f"{sample}-{name}").write_bytes(flipped(content, seed) if seed else content)
            (root / f"{sample}.npy").write_bytes(flipped(rows, len(lines)) if seed else rows)
            lines.append(f"{sample},v.mp4,{sample}-{name},x,p,c,train")
    (root / "clinic.csv").write_text("\n".join(lines), encoding="utf-8")
    npy = {"backbone": "npy", "root": str(root), "orientation": "TD", "width": 8, "fps": 5, "max_failed": 1.0}
    maps = {"backbone": "maps", "source": "dino", "max_failed": 1.0}
    chosen = {"layout": "clinic", "csv": "clinic.csv", "shard_size": len(lines)}
    params = params_of(root, {"dino": SEES, "maps": maps, "rows": npy}, **chosen)
    frame, quality = build_manifest(params.datasets["small"], imported=imported_stores(params, ["rows"]))
    found = quality["maps"]
    ends = {"maps in the manifest": Counter(refused=found["refused"]["count"], ok=sum(found["units"].values()))}
    write_manifest(frame, root / "features" / "small" / "manifest.parquet")
    for name in ("dino", "maps", "rows"):
        ends[name] = ended(params, name, root / "features", frame["sample"].tolist(), set())
    return ends


def test_flipped_bytes_of_videos_and_pictures_end_no_shard(inputs, tmp_path):
    ends = videos_end(tmp_path, inputs, flips=2)
    assert all(0 < of["ok"] < 33 for of in ends.values()), ends


def test_flipped_bytes_of_maps_and_arrays_end_no_shard(tmp_path):
    ends = maps_end(tmp_path, flips=3)
    assert ends.pop("dino") == {"ok": 24}
    assert all(6 <= of["ok"] < 24 for of in ends.values()), ends


@pytest.mark.slow
@pytest.mark.parametrize("flips", [8, pytest.param(50, marks=pytest.mark.proof)])
def test_many_flips_of_every_input_and_every_shared_fault_end_no_shard(inputs, tmp_path, flips):
    shared = {path.name: path.read_bytes() for path in sorted(FAULTS.glob("*")) if path.suffix != ".py"}
    print(json.dumps(videos_end(tmp_path / "videos", inputs | shared, flips, workers=2), indent=1))
    (tmp_path / "maps").mkdir()
    print(json.dumps(maps_end(tmp_path / "maps", flips), indent=1))
