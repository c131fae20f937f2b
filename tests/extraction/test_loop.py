"""Claims about the extraction loop: whole shards, named failures, resume at the batch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline import backbones
from pipeline.config import feature_dir, parse_params
from pipeline.datasets import build_manifest, read_manifest, write_manifest
from pipeline.extraction import ExtractionFailed, extract, loop
from pipeline.store import FeatureStore, ShardWriter
from pipeline.video import read_frames, segment_centres

ROOT = Path(__file__).parents[2]


def params_for(root: Path, **feature):
    """The shipped features over a small set, in batches of 4."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    weights = str(ROOT / "weights" / "mini-dinov3")
    chosen = document["features"]["dinov3_patches"] | {"weights": {"path": weights}, "batch": 4} | feature
    dataset = {"layout": "ssv2", "root": str(root), "shard_size": 64}
    compute = {"device": "cpu", "decode_workers": 0, "extract_threads": 1}
    return parse_params({"compute": compute, "datasets": {"small": dataset}, "features": {"dino": chosen}})


def manifest_of(params, features: Path) -> None:
    path = features / "small" / "manifest.parquet"
    previous = read_manifest(path) if path.exists() else None
    write_manifest(build_manifest(params.datasets["small"], previous)[0], path)


def run(params, features: Path, lines: list[str] | None = None) -> dict:
    manifest_of(params, features)
    return extract(params, "small", "dino", 0, features, (lines if lines is not None else []).append)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store but its lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


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
    assert "computed 0 of 36" in lines[-1]


def test_decode_workers_change_no_byte(finished, tmp_path):
    params, features, _ = finished
    workers = params.model_copy(update={"compute": params.compute.model_copy(update={"decode_workers": 2})})
    run(workers, tmp_path)
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
    honest = loop._features

    def spoilt(backbone, clips, device):
        fields = honest(backbone, clips, device)
        if any(clip.sample == "6" for clip in clips):
            fields["patch_tokens"][[clip.sample for clip in clips].index("6")] = np.nan
        return fields

    monkeypatch.setattr(loop, "_features", spoilt)
    params = params_for(small_ssv2, max_failed=0.1)
    run(params, tmp_path)
    assert set(FeatureStore(feature_dir(params, "small", "dino", tmp_path)).failed) == {"6"}


def test_a_batch_that_does_not_fit_the_memory_is_halved(finished):
    params, _, _ = finished
    backbone = backbones.load(params.features["dino"], "cpu")
    sizes = []

    class Tight:
        def __call__(self, pixels):
            sizes.append(len(pixels))
            if len(pixels) > 2:
                raise torch.OutOfMemoryError("too much")
            return backbone(pixels)

    rng = np.random.default_rng(0)
    clips = [loop.Clip(str(i), rng.random((8, 3, 128, 128), dtype=np.float32)) for i in range(5)]
    halved = loop._features(Tight(), clips, torch.device("cpu"))
    whole = loop._features(backbone, clips, torch.device("cpu"))
    assert sizes == [5, 2, 3, 1, 2]
    np.testing.assert_allclose(halved["patch_tokens"], whole["patch_tokens"], atol=1e-4)
