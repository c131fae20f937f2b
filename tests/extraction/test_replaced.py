"""Claims about files that were replaced after their manifest: no reader computes from them under the old digest."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.config import feature_dir
from pipeline.datasets import read_manifest, write_manifest
from pipeline.datasets.map_files import map_digests
from pipeline.extraction import derive, extract
from pipeline.store import FeatureStore
from tests.conftest import write_clip, write_ssv2
from tests.extraction.small import DINO, R3D, make_manifest, params_of

FLOW = {
    "backbone": "flow",
    "method": "farneback",
    "sampling": {"fps": 3},
    "preprocess": {"resize": 32, "crop": [32, 32]},
}
SMALL = {"sampling": {"frames": 2}, "preprocess": {"resize": [32, 32]}, "pool": 1}


@pytest.fixture
def world(tmp_path):
    """(params, features): three clips, moving maps and imported rows of them, and their manifest."""
    root = write_ssv2(tmp_path / "set", {"train": 3})
    rng = np.random.default_rng(0)
    for number in "123":
        np.save(root / f"{number}.npy", rng.random((36, 4)).astype(np.float32))
        np.save(root / f"map-{number}.npy", rng.integers(0, 255, (36, 8, 8), np.uint8))
    lenient = {"max_failed": 1.0}
    npy = {"backbone": "npy", "root": str(root), "orientation": "TD", "width": 4, "fps": 12.0}
    features = {"dino": DINO | SMALL, "r3d": R3D, "flow": FLOW, "npy": npy}
    features["maps"] = {"backbone": "maps", "source": "dino"}
    params = params_of(root, {name: of | lenient for name, of in features.items()})
    make_manifest(params, tmp_path / "features")
    path = tmp_path / "features" / "small" / "manifest.parquet"
    frame = read_manifest(path)
    frame["map"] = [f"map-{number}.npy" for number in "123"]
    frame["map_digest"] = pd.Series(map_digests(params.datasets["small"], frame["map"].tolist()), dtype=object)
    write_manifest(frame, path)
    return params, tmp_path / "features", root


def extracted(world, *names) -> dict[str, dict[str, str]]:
    """Feature -> its failed samples."""
    params, features, _ = world
    make = derive if params.features[names[0]].derived else extract
    make(params, "small", names[0] if make is derive else list(names), 0, features, lambda line: None)
    return {name: FeatureStore(feature_dir(params, "small", name, features)).failed for name in names}


@pytest.mark.parametrize("names", [("dino",), ("dino", "r3d"), ("flow",)])
def test_a_video_replaced_by_one_of_as_many_frames_fails_its_sample_by_name_and_no_other(world, names):
    _, _, root = world
    write_clip(root / "2.webm", seed=99)
    for failed in extracted(world, *names).values():
        assert failed.keys() == {"2"}
        assert failed["2"].startswith(f"replaced: {root / '2.webm'}: was replaced since the manifest")
        assert failed["2"].endswith("make the manifest again")


def test_once_the_manifest_is_made_again_the_replaced_one_alone_is_computed(world):
    params, features, root = world
    write_clip(root / "2.webm", seed=99)
    extracted(world, "dino")
    make_manifest(params, features)
    lines: list[str] = []
    extract(params, "small", "dino", 0, features, lines.append)
    assert "2 of 3 samples are there, 1 to compute" in lines[0]
    assert FeatureStore(feature_dir(params, "small", "dino", features)).failed == {}


def test_a_copied_data_set_of_other_times_is_extracted_as_ever(world):
    _, _, root = world
    for path in root.iterdir():
        os.utime(path, ns=(1, 1))
    assert not any(extracted(world, "dino").values())
    assert not any(extracted(world, "npy").values())


def test_an_imported_file_of_the_same_shape_that_was_replaced_fails_its_sample(world):
    _, _, root = world
    np.save(root / "3.npy", np.ones((36, 4), np.float32))
    failed = extracted(world, "npy")["npy"]
    assert failed.keys() == {"3"} and failed["3"].startswith(f"replaced: {root / '3.npy'} was replaced")


def test_a_replaced_map_and_a_moving_map_of_a_replaced_video_fail(world):
    _, _, root = world
    extracted(world, "dino")
    np.save(root / "map-1.npy", np.zeros((36, 8, 8), np.uint8))
    shutil.copy(root / "3.webm", root / "2.webm")
    failed = extracted(world, "maps")["maps"]
    assert failed.keys() == {"1", "2"}
    assert failed["1"].startswith("the map map-1.npy of 1.webm was replaced since the manifest")
    assert "laid on its frames: replaced" in failed["2"]
