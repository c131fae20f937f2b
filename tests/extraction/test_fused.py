"""Claims about several features from one decode: the same stores as apart, for the price of one."""

import numpy as np
import pytest
import torch

from pipeline.config import feature_dir
from pipeline.extraction import ExtractionError, ExtractionFailed, clips, ring
from pipeline.store import FeatureStore
from pipeline.video import VideoError, read_frames
from tests.conftest import write_ssv2
from tests.extraction.small import (
    DINO,
    R3D,
    contents,
    kill_until_done,
    make_manifest,
    params_of,
    run,
    with_workers,
)
from tests.later import Later

r3d18 = Later("pipeline.backbones.r3d18")

BOTH = ["dino", "r3d"]


def params_for(root, **options):
    return params_of(root, {"dino": DINO | options, "r3d": R3D | options})


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """14 clips: 4 batches of one feature, 3 of the other."""
    return write_ssv2(tmp_path_factory.mktemp("few") / "ssv2", {"train": 10, "validation": 4})


@pytest.fixture(scope="module")
def apart(few, tmp_path_factory):
    params, features = params_for(few), tmp_path_factory.mktemp("apart")
    for name in BOTH:
        run(params, features, names=name)
    return params, features


@pytest.mark.parametrize(("workers", "ahead"), [(0, ring.DECODED_AHEAD), (2, ring.DECODED_AHEAD), (2, 1)])
def test_fused_and_separate_extractions_give_the_same_bytes(apart, tmp_path, monkeypatch, workers, ahead):
    monkeypatch.setattr(ring, "DECODED_AHEAD", ahead)  # at 1 the ring has two batches of each
    params, features = apart
    manifests = run(with_workers(params, workers), tmp_path, names=BOTH)
    assert list(manifests) == BOTH
    assert contents(tmp_path / "small") == contents(features / "small")


@pytest.fixture
def decodes(monkeypatch) -> list[int]:
    """How many frames each call of the decoder was asked for."""
    asked: list[int] = []

    def counting(path, times, *rest):
        asked.append(len(times))
        return read_frames(path, times, *rest)

    monkeypatch.setattr(clips, "read_frames", counting)
    return asked


def test_each_video_is_decoded_once_at_the_union_of_the_times(apart, tmp_path, decodes):
    run(apart[0], tmp_path, names=BOTH)
    assert decodes == [8 + 16] * 14


def test_a_feature_that_is_complete_costs_no_decode(apart, tmp_path, decodes):
    params, _ = apart
    run(params, tmp_path, names="dino")
    decodes.clear()
    run(params, tmp_path, names=BOTH)
    assert decodes == [16] * 14
    decodes.clear()
    lines: list[str] = []
    run(params, tmp_path, lines, names=BOTH)
    assert decodes == [] and [line for line in lines if "computed 0 of 14" in line][1:]


def test_features_resume_each_at_its_own_batch(apart, tmp_path, decodes, monkeypatch):
    params, features = apart
    honest, calls = r3d18.R3D18.__call__, []

    def dies(self, pixels):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return honest(self, pixels)

    monkeypatch.setattr(r3d18.R3D18, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        run(params, tmp_path, names=BOTH)
    monkeypatch.setattr(r3d18.R3D18, "__call__", honest)
    lines: list[str] = []
    run(params, tmp_path, lines, names=BOTH)
    there = [int(line.split(": ")[1].split()[0]) for line in lines[:2]]
    assert there[0] in (12, 14) and there[1] == 12
    assert contents(tmp_path / "small") == contents(features / "small")


def test_a_video_that_breaks_after_the_last_frame_of_one_feature_fails_only_the_other(few, tmp_path, monkeypatch):
    # 8 segments of 3 s end at 2.81 s, 16 at 2.91 s.
    def broken(path, times, *rest):
        if path.name == "5.webm" and np.max(times) > 2.85:
            raise VideoError(path, "decode_error", "it breaks at 2.850 s")
        return read_frames(path, times, *rest)

    monkeypatch.setattr(clips, "read_frames", broken)
    params = params_for(few, max_failed=0.1)
    run(params, tmp_path / "fused", names=BOTH)
    for name in BOTH:
        run(params, tmp_path / "apart", names=name)
    stores = [FeatureStore(feature_dir(params, "small", name, tmp_path / "fused")) for name in BOTH]
    assert [list(store.failed) for store in stores] == [[], ["5"]]
    assert "2.850" in stores[1].failed["5"]
    assert contents(tmp_path / "fused") == contents(tmp_path / "apart")


def test_a_value_that_one_store_cannot_hold_fails_the_sample_there_alone(few, tmp_path, monkeypatch):
    honest = r3d18.R3D18.__call__

    def huge(self, pixels):
        return {name: field * 1e9 for name, field in honest(self, pixels).items()}

    monkeypatch.setattr(r3d18.R3D18, "__call__", huge)
    params = params_for(few)
    with pytest.raises(ExtractionFailed, match=r"r3d.*14 of 14 samples failed") as error:
        run(params, tmp_path, names=BOTH)
    assert "does not fit float16" in str(error.value)
    # The other feature is complete all the same.
    assert len(FeatureStore(feature_dir(params, "small", "dino", tmp_path)).samples) == 14


def test_a_fused_extraction_killed_at_random_moments_ends_byte_for_byte_equal(apart, tmp_path):
    params, features = apart
    params = with_workers(params, 1)
    make_manifest(params, tmp_path)
    kill_until_done(params, tmp_path, BOTH, kills=4)
    assert contents(tmp_path / "small") == contents(features / "small")


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (R3D | {"decoder": "pyav"}, BOTH),
        (R3D, ["dino", "dino"]),
        ({"backbone": "npy", "root": "x", "orientation": "DT", "width": 4, "fps": 25.0}, BOTH),
        ({"backbone": "derived", "source": "dino"}, ["r3d"]),
        ({"backbone": "clip_text", "weights": {"random": 0}, "prompts": ["a {}"]}, ["r3d"]),
    ],
)
def test_what_no_one_pass_can_do_is_refused_before_anything_is_opened(few, tmp_path, other, names):
    params = params_of(few, {"dino": DINO, "r3d": other})
    make_manifest(params, tmp_path)
    with pytest.raises(ExtractionError, match=r"expected|cannot share|derive|texts"):
        run(params, tmp_path, names=names)
    assert not list(tmp_path.rglob("shard-*"))


def test_progress_counts_every_sample_of_every_feature(apart, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.extraction.progress.SECONDS_BETWEEN_LINES", 0.0)
    lines: list[str] = []
    run(apart[0], tmp_path, lines, names=BOTH)
    assert lines[:2] == [f"small/{name} shard 000: 0 of 14 samples are there, 14 to compute" for name in BOTH]
    assert "small/dino+r3d shard 000: 28/28, 0 failed" in lines[-3]
    assert torch.get_num_threads() == 1
