"""Frames that the device resizes: native in messages, of several sizes in a batch, on the device a sample at a time."""

import numpy as np
import pytest
import torch

from pipeline.config import feature_dir
from pipeline.extraction import clips, lanes
from pipeline.store import FeatureStore
from tests.extraction.small import DINO, contents, params_of, run, with_workers
from tests.video.conftest import encode


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos of two sizes and one that is broken, in a folder a class."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(6):
        path = root / "one" / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        encode(path, n=8, rotation=90 if number % 2 else None)
    (root / "one/5.mp4").write_bytes(b"nothing")
    return root


def params(videos, **features):
    return params_of(videos, features, layout="videos", split={"train": 0.5, "test": 0.5})


def small(feature, frames, **more):
    return feature | {"sampling": {"frames": frames}, "max_failed": 0.5, "batch": 3} | more


def test_a_batch_of_several_sizes_gives_what_the_default_gives_nearly(videos, tmp_path):
    dino = DINO | {"preprocess": {"resize": [48, 48]}, "pool": 1}
    chosen = params(
        videos,
        ours=small(dino, 2),
        theirs=small(dino, 2, resize="device"),
    )
    run(chosen, tmp_path, names=["ours", "theirs"])
    ours, theirs = (FeatureStore(feature_dir(chosen, "small", name, tmp_path)) for name in ("ours", "theirs"))
    assert len(ours.samples) == 5 and ours.samples == theirs.samples and ours.failed == theirs.failed
    assert theirs.provenance["config"]["resize"] == "device" and "resize" not in ours.provenance["config"]
    for name in ours.fields:
        mine, his = (of.read(of.samples, name).astype(np.float64) for of in (ours, theirs))
        assert np.linalg.norm(mine - his) <= 0.02 * np.linalg.norm(mine)


def test_decode_processes_and_halved_batches_change_no_byte(videos, tmp_path, monkeypatch):
    chosen = params(videos, theirs=small(DINO, 2, resize="device"))
    run(chosen, tmp_path / "a", names="theirs")
    upload, tried = lanes.Device.upload, []

    def full(self, samples):
        tried.append(len(samples))
        if len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return upload(self, samples)

    monkeypatch.setattr(lanes.Device, "upload", full)
    run(with_workers(chosen, 2), tmp_path / "b", names="theirs")
    assert contents(tmp_path / "a/small") == contents(tmp_path / "b/small")
    assert set(tried) == {1}  # a sample at a time


def test_what_waits_between_processes_is_counted_by_the_videos_own_size(videos):
    chosen = params(videos, theirs=small(DINO, 2, resize="device"), ours=small(DINO, 2))
    rows = [clips.ShardSample("a", "", "", {"height": 1080, "width": 1920}, "ok") for _ in range(4)]
    views = {name: clips.View(of, None, frozenset("a")) for name, of in chosen.features.items()}
    source = clips.ClipSource(videos, rows, [views["theirs"]])
    assert source.message_bytes == source.size * 2 * 3 * 1080 * 1920 <= clips.MESSAGE_BYTES
    plain, size = clips.ClipSource(videos, rows, [views["ours"]]), 4 * 3 * 128 * 128 * 2
    assert plain.message_bytes == min(clips.MOST_SAMPLES, clips.MESSAGE_BYTES // size) * size
