"""Claims about the extraction loop: whole shards, named failures, resume at the batch."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import backbones
from pipeline.config import Compute, feature_dir
from pipeline.datasets import ShardSample
from pipeline.extraction import ExtractionError, ExtractionFailed, clips, lanes
from pipeline.extraction.device import Device
from pipeline.extraction.ring import Ring
from pipeline.store import FeatureStore, ShardWriter
from pipeline.video import probe, read_frames, segment_centres
from tests.extraction.small import contents, kill_until_done, make_manifest, params_for, run, with_workers
from tests.later import Later

towers = Later("pipeline.backbones.towers")

CPU = Device(Compute(device="cpu"))


@pytest.fixture(scope="module")
def finished(small_ssv2, tmp_path_factory):
    params, features = params_for(small_ssv2), tmp_path_factory.mktemp("features")
    manifest = run(params, features)
    return params, features, manifest


def test_every_sample_of_the_shard_is_accounted_for(finished):
    _, _, manifest = finished
    assert manifest["counts"] == {"ok": 36, "failed": 0}
    assert [entry["sample"] for entry in manifest["samples"]] == [str(i) for i in range(1, 37)]


def test_what_is_stored_is_what_the_backbone_gives_for_that_video_alone(finished, small_ssv2):
    params, features, _ = finished
    feature = params.features["dino"]
    store = FeatureStore(feature_dir(params, "small", "dino", features))
    frames = read_frames(small_ssv2 / "7.webm", segment_centres(8, 3.0))
    pixels = torch.from_numpy(backbones.preprocessor(feature)(frames))[None]
    wanted = backbones.load(feature, "cpu")(pixels)
    for field, stored in ((name, store.read(["7"], name)[0]) for name in store.fields):
        np.testing.assert_allclose(stored, wanted[field][0].numpy(), rtol=2e-3, atol=2e-3)


def test_the_manifest_names_what_the_bytes_rest_on_and_no_place_of_this_machine(finished, small_ssv2):
    _, _, manifest = finished
    provenance = manifest["provenance"]
    assert provenance["weights"] and provenance["box"] == [0, 0, 1, 1] and provenance["config"]["backbone"] == "dinov3"
    assert str(small_ssv2) not in json.dumps(manifest)
    assert manifest["samples"][0]["meta"]["times"] == pytest.approx([(i + 0.5) / 8 * 3.0 for i in range(8)])


def test_a_second_extraction_computes_nothing(finished):
    params, features, manifest = finished
    lines: list[str] = []
    assert run(params, features, lines) == manifest
    assert "computed 0 of 36" in lines[-2]
    assert "complete already" in lines[-1] and lines[-1].endswith("shard-000.*"), (
        "what is forced says how to do it again"
    )


def test_decode_workers_change_no_byte(finished, tmp_path):
    params, features, _ = finished
    run(with_workers(params, 2), tmp_path)
    assert contents(tmp_path / "small") == contents(features / "small")


@pytest.mark.parametrize("batches", [0, 1, 5])
def test_an_extraction_that_dies_resumes_at_its_last_commit_and_ends_byte_for_byte_equal(
    finished, tmp_path, monkeypatch, batches
):
    params, features, _ = finished
    commit, done = ShardWriter.commit, []

    def dies(self):
        if len(done) == batches:
            raise KeyboardInterrupt
        done.append(commit(self))

    monkeypatch.setattr(ShardWriter, "commit", dies)
    with pytest.raises(KeyboardInterrupt):
        run(params, tmp_path)
    monkeypatch.undo()
    lines: list[str] = []
    run(params, tmp_path, lines)
    assert f"{4 * batches} of 36 samples are there" in lines[0]
    assert contents(tmp_path / "small") == contents(features / "small")


@pytest.fixture
def damaged(small_ssv2, tmp_path) -> Path:
    """A copy of the set: video 5 is rubbish, video 9 is cut in half, video 11 is gone."""
    root = shutil.copytree(small_ssv2, tmp_path / "damaged")
    (root / "5.webm").write_bytes(b"not a video" * 99)
    whole = (root / "9.webm").read_bytes()
    (root / "9.webm").write_bytes(whole[: len(whole) // 2])
    (root / "11.webm").unlink()
    return root


def test_videos_that_cannot_be_read_are_failed_with_their_reason_and_the_rest_is_kept(damaged, finished, tmp_path):
    params = params_for(damaged, max_failed=0.1)
    manifest = run(params, tmp_path / "features")
    assert manifest["counts"] == {"ok": 33, "failed": 3}
    store = FeatureStore(feature_dir(params, "small", "dino", tmp_path / "features"))
    assert set(store.failed) == {"5", "9", "11"}
    assert "missing" in store.failed["11"] and "short" in store.failed["9"]
    # The batches of 4 that lack one close up: each of the others has its own values.
    whole = FeatureStore(feature_dir(finished[0], "small", "dino", finished[1]))
    others = ["6", "7", "8", "10", "12"]
    for mine, its in zip(store.read(others, "cls"), whole.read(others, "cls"), strict=True):
        np.testing.assert_allclose(mine, its, rtol=2e-3, atol=2e-3)


def test_a_preprocessor_of_changing_shapes_is_told_with_the_sample(small_ssv2, tmp_path, monkeypatch):
    honest = backbones.preprocessor

    def changing(feature):
        preprocess = honest(feature)
        return lambda frames: preprocess(frames)[:, :, : 128 if frames.any() else 64]

    monkeypatch.setattr(backbones, "preprocessor", changing)
    with pytest.raises(ExtractionError, match=r"dinov3 made .*sample '1'.*one shape"):
        run(params_for(small_ssv2), tmp_path)


def test_a_preprocessor_that_takes_no_frame_is_told_by_name(small_ssv2, tmp_path, monkeypatch):
    def broken(frames):
        raise ValueError("no")

    monkeypatch.setattr(backbones, "preprocessor", lambda feature: broken)
    with pytest.raises(ExtractionError, match=r"dino: its preprocessor .*ValueError: no"):
        run(params_for(small_ssv2), tmp_path)


@pytest.mark.parametrize("error", [OSError(95, "Operation not supported", "2.webm"), IndexError("out of range")])
@pytest.mark.parametrize("place", ["reading", "preprocessing"])
@pytest.mark.parametrize("features", [1, 2])
def test_whatever_one_sample_s_bytes_raise_is_that_sample_s_failure(small_ssv2, monkeypatch, features, place, error):
    def frames_of(path, times, *_):
        if place == "reading" and path.name == "2.webm":
            raise error
        return np.full((len(times), 4, 4, 3), int(path.stem), np.uint8)

    def preprocess(frames):
        if place == "preprocessing" and frames.flat[0] == 2:
            raise error
        return np.zeros((len(frames), 3, 4, 4), np.float32)

    monkeypatch.setattr(clips, "read_frames", frames_of)
    facts = asdict(probe(small_ssv2 / "1.webm"))
    rows = [ShardSample(sample, "", f"{sample}.webm", facts, "ok") for sample in "123"]
    feature = params_for(small_ssv2).features["dino"]
    ring = Ring([clips.slots_of("dino", feature, preprocess)] * features, 3, pinned=False)
    ring.open(0)
    for lane in range(features):
        ring.batch(lane, 0).fill_(7)
    view = clips.View(feature, preprocess, [["1", "2", "3"]])
    messages = list(clips.ClipSource(small_ssv2, rows, [view] * features, 3).messages(0, ring))
    assert len(messages) == features
    for message in messages:
        assert ring.batch(message.lane, 0)[:3].amax(dim=(1, 2, 3, 4)).tolist() == [0, 7, 0]
        reasons = {clip.sample: clip.reason for clip in message.clips}
        why = reasons.pop("2")
        assert why.startswith(f"decode_error: {small_ssv2 / '2.webm'}: {type(error).__name__}: ")
        assert why.count("decode_error") == why.count("2.webm") == 1
        assert reasons == {"1": "", "3": ""}


def test_more_failures_than_allowed_end_the_job_with_a_table_and_lose_nothing(damaged, tmp_path):
    features = tmp_path / "features"
    with pytest.raises(ExtractionFailed, match="3 of 36 samples failed") as error:
        run(params_for(damaged, max_failed=0.05), features)
    assert "11: missing" in str(error.value) and "max_failed" in str(error.value)
    assert not list(features.rglob("shard-*.json"))
    lines: list[str] = []
    run(params_for(damaged, max_failed=0.1), features, lines)
    assert "computed 0 of 36" in "".join(lines)


def test_a_replaced_video_is_extracted_again_alone(finished, small_ssv2, tmp_path):
    root = shutil.copytree(small_ssv2, tmp_path / "copy")
    params, features = params_for(root), tmp_path / "features"
    run(params, features)
    before = FeatureStore(feature_dir(params, "small", "dino", features)).read(["3", "4"], "patch_tokens")
    shutil.copy(root / "30.webm", root / "4.webm")
    lines: list[str] = []
    run(params, features, lines)
    after = FeatureStore(feature_dir(params, "small", "dino", features)).read(["3", "4"], "patch_tokens")
    assert "computed 1 of 36" in lines[-1]
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])


def test_a_value_that_the_store_cannot_hold_fails_that_sample_by_name(small_ssv2, tmp_path, monkeypatch):
    honest, calls = towers.DinoV3.__call__, []

    def spoilt(self, pixels):
        fields = {name: field.clone() for name, field in honest(self, pixels).items()}
        if not calls:
            fields["patch_tokens"][2, 1, 3] = torch.nan
        calls.append(len(pixels))
        return fields

    monkeypatch.setattr(towers.DinoV3, "__call__", spoilt)
    params = params_for(small_ssv2, max_failed=0.1)
    run(params, tmp_path)
    failed = FeatureStore(feature_dir(params, "small", "dino", tmp_path)).failed
    assert set(failed) == {"3"} and "nan" in failed["3"]


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (lambda: towers.DinoV3, "__call__", torch.OutOfMemoryError("too much")),
        (lambda: Device, "upload", RuntimeError("CUDA error: out of memory")),
        (lambda: Device, "download", RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
    ],
)
def test_a_batch_that_does_not_fit_the_memory_is_halved_and_ends_the_same(
    finished, tmp_path, monkeypatch, owner, name, error
):
    params, features, _ = finished
    owner = owner()  # here: it takes long to import
    honest, sizes = getattr(owner, name), []

    def tight(self, given, *rest):
        sizes.append(len(given["patch_tokens"] if name == "download" else given))
        if sizes[-1] > 2:
            raise error
        return honest(self, given, *rest)

    monkeypatch.setattr(owner, name, tight)
    run(params, tmp_path)
    assert sizes[:6] == [4, 2, 2, 4, 2, 2]
    stores = [
        FeatureStore(feature_dir(params, "small", "dino", root)).load("patch_tokens") for root in (tmp_path, features)
    ]
    np.testing.assert_allclose(*stores, atol=2e-3)


def test_a_batch_reaches_the_device_as_it_lies_in_the_ring(small_ssv2, tmp_path, monkeypatch):
    honest, places = Device.upload, []

    def seen(self, batch):
        places.append((batch.untyped_storage().data_ptr(), batch.storage_offset()))
        return honest(self, batch)

    monkeypatch.setattr(Device, "upload", seen)
    run(params_for(small_ssv2), tmp_path)
    assert len(places) == 9 and len(set(places)) == 2, "two places of one memory, in turn"


def test_what_a_backbone_hands_on_is_no_longer_in_the_ring():
    lane = SimpleNamespace(backbone=lambda pixels: {"same": pixels[:, :1], "other": pixels + 1}, _uploaded=CPU.upload)
    fields = lanes.PixelLane._fields(lane, pixels := torch.zeros(2, 3))
    pixels.fill_(7)
    assert fields["same"].tolist() == [[0], [0]] and fields["other"].unique().tolist() == [1]


def test_another_error_of_the_device_is_no_lack_of_memory(small_ssv2, tmp_path, monkeypatch):
    def broken(self, pixels):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(towers.DinoV3, "__call__", broken)
    with pytest.raises(RuntimeError, match="assert triggered"):
        run(params_for(small_ssv2), tmp_path)


def test_backbones_compute_by_what_repeats_alone(small_ssv2, tmp_path, monkeypatch):
    def asked(self, pixels):
        raise RuntimeError(f"mode {torch.get_deterministic_debug_mode()}")

    monkeypatch.setattr(towers.DinoV3, "__call__", asked)
    with pytest.raises(RuntimeError, match="mode 2"):
        run(params_for(small_ssv2), tmp_path)
    assert torch.get_deterministic_debug_mode() == 0


def test_one_sample_that_does_not_fit_the_memory_ends_the_job_with_the_remedy(small_ssv2, tmp_path, monkeypatch):
    def full(self, pixels):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(towers.DinoV3, "__call__", full)
    with pytest.raises(ExtractionError, match=r"batch of one.*bf16"):
        run(params_for(small_ssv2), tmp_path)


def test_an_extraction_killed_at_ten_random_moments_ends_byte_for_byte_equal(finished, tmp_path):
    params, features, _ = finished
    workers = with_workers(params, 1)
    make_manifest(workers, tmp_path)
    kill_until_done(workers, tmp_path, ["dino"], kills=10)
    assert contents(tmp_path / "small") == contents(features / "small")
