"""Frames that the device resizes: native in messages, of several sizes in a batch, on the device a sample at a time."""

import numpy as np
import pytest
import torch

from pipeline.config import feature_dir
from pipeline.extraction import clips, lanes
from pipeline.extraction.progress import ExtractionError
from pipeline.extraction.ring import Ring
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
        tried.append(samples.shape[0])
        if len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return upload(self, samples)

    monkeypatch.setattr(lanes.Device, "upload", full)
    run(with_workers(chosen, 2), tmp_path / "b", names="theirs")
    assert contents(tmp_path / "a/small") == contents(tmp_path / "b/small")
    assert set(tried) == {2}  # the frames of a sample at a time


def test_no_memory_is_taken_for_more_samples_than_a_shard_has(videos, tmp_path, monkeypatch):
    made = []

    class Told(Ring):
        def __init__(self, slots, *given):
            made.extend(slots)
            super().__init__(slots, *given)

    monkeypatch.setattr("pipeline.extraction.loop.Ring", Told)
    run(params(videos, theirs=small(DINO, 2, resize="device", batch=4000)), tmp_path, names="theirs")
    (slots,) = made
    assert slots.batch == len(list(videos.rglob("*.mp4")))


def test_a_place_of_the_ring_takes_the_largest_video_and_no_larger_one(videos):
    chosen = params(videos, theirs=small(DINO, 2, resize="device"))
    feature = chosen.features["theirs"]
    rows = [clips.ShardSample(name, "", "", {"height": h, "width": 16}, "ok") for name, h in (("a", 9), ("b", 12))]
    assert clips.largest_frame([*rows, clips.ShardSample("c", "", "", None, "missing")]) == 3 * 12 * 16
    slots = clips.slots_of("theirs", feature, None, clips.largest_frame(rows))
    assert slots == ((2 * 3 * 12 * 16,), torch.uint8, 3)
    ring = Ring([slots], 3, pinned=False)
    ring.open(0)
    source = clips.ClipSource(videos, rows, [clips.View(feature, None, [["a", "b"]], ring.begin(0, 1))], 3)
    source._keep(ring, 0, "b", torch.ones(2, 12, 16, 3, dtype=torch.uint8))
    assert ring.batch(0, 0)[1].all()
    with pytest.raises(ExtractionError, match=r"sample 'a' decodes to frames of \(13, 16\), more than any .* --afresh"):
        source._keep(ring, 0, "a", torch.ones(2, 13, 16, 3, dtype=torch.uint8))
