"""Claims about features of one's own videos: clips within longer ones, and pictures beside them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import backbones
from pipeline.config import feature_dir
from pipeline.extraction import extract
from pipeline.store import FeatureStore
from pipeline.video import read_frames, segment_centres
from tests.datasets.made_up import picture
from tests.extraction.small import DINO, R3D, make_manifest, params_of
from tests.video.conftest import encode

FLOW = {"backbone": "flow", "method": "farneback", "batch": 2, "sampling": {"fps": 12}}
FEATURES = {
    "dino": DINO,
    "r3d": R3D,
    "flow": FLOW | {"preprocess": {"resize": 40, "crop": [32, 32]}},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(params, features): a film of 24 numbered frames, two clips of it, the same frames cut out, and a picture."""
    root = tmp_path_factory.mktemp("own")
    encode(root / "film.mkv", "ffv1", pixels="bgr0")
    picture(1, (64, 48)).save(root / "still.png")
    rows = ["path,start,stop", "film.mkv,0.5,1.5", "film.mkv,1.5,", "film.mkv,,", "still.png,,"]
    (root / "videos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    params, features = params_of(root, FEATURES, layout="table"), root / "features"
    make_manifest(params, features)
    for name in FEATURES:
        extract(params, "small", name, 0, features, lambda _: None)
    return params, features


def store(world, name: str) -> FeatureStore:
    params, features = world
    return FeatureStore(feature_dir(params, "small", name, features))


def given(world, name: str, sample: str, field: str) -> np.ndarray:
    return np.asarray(store(world, name).read([sample], field)[0], np.float32)


def test_every_clip_and_picture_is_there(world):
    for name in FEATURES:
        assert sorted(store(world, name).samples) == ["film", "film_0.5_1.5", "film_1.5", "still"]


@pytest.mark.parametrize("name, count", [("dino", 8), ("r3d", 16)])
def test_a_clips_frames_are_those_of_its_part_of_the_film(world, name, count):
    params, _ = world
    feature, film = params.features[name], Path(params.datasets["small"].root, "film.mkv")
    pixels = torch.from_numpy(backbones.preprocessor(feature)(read_frames(film, 0.5 + segment_centres(count, 1.0))))
    wanted = backbones.load(feature, "cpu")(pixels[None])
    for field in store(world, name).fields:
        found = given(world, name, "film_0.5_1.5", field)
        np.testing.assert_allclose(found, wanted[field][0].float().numpy(), rtol=5e-3, atol=5e-3)
    assert not np.allclose(found, given(world, name, "film", field), atol=5e-3)


def test_a_clip_has_as_many_rows_as_it_lasts_and_the_flow_of_the_film_there(world):
    lengths = store(world, "flow").lengths("flow")
    assert lengths == {"film": 24, "film_0.5_1.5": 12, "film_1.5": 6, "still": 1}
    whole, clip = (
        np.asarray(store(world, "flow").read_rows(name, "flow", 0, n))
        for name, n in (("film", 24), ("film_0.5_1.5", 12))
    )
    np.testing.assert_array_equal(clip[:-1], whole[6:17])


def test_times_in_a_store_count_from_the_start_of_the_clip(world):
    times = store(world, "dino").meta("film_0.5_1.5")["times"]
    assert times == pytest.approx(((np.arange(8) + 0.5) / 8).tolist())
