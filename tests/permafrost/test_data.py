"""`pf.manifest`, `pf.dataset` and `pf.loader`: what a sample is, what is left out, and the same batches everywhere."""

import json
import random
import shutil

import numpy as np
import pytest
import torch

import permafrost as pf
from pipeline.config import feature_key, parse_params
from pipeline.datasets import DatasetError, write_manifest
from pipeline.training.dataset import DataError
from tests.permafrost.conftest import CLASSES, FAILED, IDS, KEYS, UNLABELLED, value, write_store

FEATURES = ["dinov3_patches", "dinov3_patches.cls", "i3d_frames"]


def test_a_manifest_is_a_table_by_name_or_by_folder(project):
    frame = pf.manifest("ucf")
    assert frame["sample"].tolist() == IDS and frame["split"].unique().tolist() == ["train", "test"]
    assert pf.manifest(project / "features/ucf").equals(frame)
    with pytest.raises(
        DatasetError, match=r"neither features/hmdb nor hmdb holds a manifest.parquet; features has ucf"
    ):
        pf.manifest("hmdb")


def test_a_dataset_gives_tensors_by_feature_label_and_id(project):
    data = pf.dataset("ucf", FEATURES, split="train")
    assert isinstance(data, torch.utils.data.Dataset) and data.ids == IDS[:12] and data.classes == list(CLASSES)
    sample = data[4]
    assert sample["id"] == "v_004" and sample["label"] == 1 and type(sample["label"]) is int
    assert sample["i3d_frames"].shape == (7, 6) and sample["dinov3_patches.cls"].shape == (2, 8)
    wanted = torch.from_numpy(value("dinov3_patches", "patch_tokens", "v_004")).float()
    assert torch.equal(sample["dinov3_patches"], wanted)
    assert pf.dataset("ucf", ["clip_image"], "test", dtype=None)[0]["clip_image"].dtype == torch.float16
    assert repr(data) == "<FeatureDataset of split train: 12 samples of 3 classes; " + ", ".join(FEATURES) + ">"


def test_failed_and_unlabelled_samples_are_left_out_and_told(project):
    test = pf.dataset("ucf", ["clip_image"], split="test")
    assert FAILED not in test.ids and UNLABELLED not in test.ids
    assert test.failed == {FAILED: "short: 3 of 30 frames"} and test.unlabelled == 1
    every = pf.dataset("ucf", ["clip_image"], unlabelled="keep")
    assert len(every) == 19 and (every[18]["id"], every[18]["label"]) == (UNLABELLED, -1)


def test_params_say_which_of_several_keys_is_meant(project, tmp_path):
    clip = {"backbone": "clip", "output": "image_embed", "weights": {"random": 0}, "sampling": {"frames": 1}}
    params = {"features": {"clip_image": clip | {"preprocess": {"resize": 224, "crop": [224, 224]}}}}
    key = feature_key(parse_params(params), "clip_image")
    folder = shutil.copytree(project / "features/ucf", tmp_path / "features/ucf")
    write_store(folder, pf.manifest("ucf"), "clip_image", key=key)
    with pytest.raises(pf.StoreError, match="may be any of 2 stores"):
        pf.dataset("ucf", ["clip_image"], root=tmp_path / "features")
    (tmp_path / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    data = pf.dataset("ucf", ["clip_image"], root=tmp_path / "features", params=tmp_path / "params.yaml")
    assert data.stores["clip_image"].key == key


def test_what_gives_no_sample_is_refused_with_the_splits_that_there_are(project):
    with pytest.raises(DataError, match=r"no sample of the split 'val' is usable: .* manifest's splits, test, train"):
        pf.dataset("ucf", ["clip_image"], split="val")
    with pytest.raises(DataError, match=r"got the features \['a', 'a'\], expected one or more, each once"):
        pf.dataset("ucf", ["a", "a"])


def test_a_store_of_other_files_than_the_manifests_is_refused(project, tmp_path):
    folder = shutil.copytree(project / "features/ucf", tmp_path / "ucf")
    frame = pf.manifest("ucf")
    frame.loc[3, "digest"] = "f" * 64
    write_manifest(frame, folder / "manifest.parquet")
    with pytest.raises(DataError, match=r"sample v_003 was made from another file than the manifest's"):
        pf.dataset(folder, ["clip_image"])


def batches(loader) -> list[dict]:
    return [{name: of if name == "id" else of.tolist() for name, of in batch.items()} for batch in loader]


def test_ragged_rows_are_padded_and_their_lengths_told(project):
    data = pf.dataset("ucf", FEATURES, split="test")
    (batch,) = pf.loader(data, batch_size=64)
    assert batch["id"] == data.ids and batch["label"].tolist() == data.labels.tolist()
    assert batch["i3d_frames"].shape == (6, 7, 6) and batch["i3d_frames_lengths"].tolist() == [5, 6, 7, 3, 4, 5]
    np.testing.assert_array_equal(batch["i3d_frames"][3, :3], value("i3d_frames", "frames", "v_015"))
    assert (batch["i3d_frames"][3, 3:] == 0).all() and batch["dinov3_patches"].shape == (6, 2, 4, 8)


def test_longer_rows_are_cropped_in_the_middle_or_where_seed_and_epoch_say(project):
    data = pf.dataset("ucf", ["i3d_frames"], split="train")
    (batch,) = pf.loader(data, rows=4, shuffle=False)
    assert batch["i3d_frames"].shape == (12, 4, 6) and batch["i3d_frames_lengths"].tolist()[:5] == [3, 4, 4, 4, 4]
    np.testing.assert_array_equal(batch["i3d_frames"][4], value("i3d_frames", "frames", "v_004")[1:5])
    drawn = pf.loader(data, rows=4, seed=3)
    first, second = batches(drawn), batches(drawn)
    assert first != second and batches(pf.loader(data, rows=4, seed=3)) == first
    drawn.batch_sampler.set_epoch(1)
    assert batches(drawn) == second


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [2, 4])
def test_batches_are_the_same_whatever_the_number_of_workers(project, workers):
    data = pf.dataset("ucf", FEATURES, split="train")
    alone, shared = pf.loader(data, 5, rows=4), pf.loader(data, 5, rows=4, workers=workers, start="fork")
    assert [len(batch["id"]) for batch in alone] == [5, 5, 2] == [len(batch["id"]) for batch in shared]
    assert batches(alone) == batches(shared)


def test_memory_is_pinned_where_there_is_cuda_and_a_stranger_is_refused(project, monkeypatch):
    data = pf.dataset("ucf", ["clip_image"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pf.loader(data).pin_memory and pf.loader(data, workers=2).persistent_workers
    with pytest.raises(DataError, match=r"expected what pf.dataset gives, got Subset; torch's DataLoader takes that"):
        pf.loader(torch.utils.data.Subset(data, [0]))
    with pytest.raises(DataError, match="rows is 0, expected a whole number, 1 or more"):
        pf.loader(data, rows=0)


def test_workers_random_numbers_follow_from_the_seed(project):
    """Those of whoever draws in a dataset or a collation of their own."""

    def drawn(seed: int) -> list[tuple[int, float]]:
        loader = pf.loader(pf.dataset("ucf", ["clip_image"]), 8, seed=seed, workers=2, start="fork")
        loader.collate_fn = lambda samples: (int(np.random.randint(1 << 30)), random.random())
        return list(loader)

    first = drawn(1)
    assert first == drawn(1) != drawn(2) and len(set(first)) == 3


def test_a_spawned_worker_reads_the_same_batches(project):
    """One, since each imports torch anew; that batches do not depend on their number is told above."""
    data = pf.dataset("ucf", ["dinov3_patches", "i3d_frames"], split="train")
    assert batches(pf.loader(data, 5, workers=1, start="spawn")) == batches(pf.loader(data, 5))


def test_a_worker_tells_damage_as_the_store_does(project, tmp_path, flip):
    folder = shutil.copytree(project / "features/ucf", tmp_path / "ucf")
    flip(folder / f"clip_image-{KEYS['clip_image']}/shard-000.zarr/image_embed/c/0/0", 3)
    loader = pf.loader(pf.dataset(folder, ["clip_image"], split="train"), workers=1, start="fork")
    with pytest.raises(pf.StoreCorrupt, match="sample 'v_000', field 'image_embed' does not fit its crc32c"):
        list(loader)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unlabelled": "both"}, "'both', expected 'drop' or"),
        ({"dtype": "nn"}, "'nn', expected None"),
        ({"dtype": np.dtype("float32")}, "dtype is dtype.*, expected None or one of float16"),
        ({"dtype": ["float32"]}, "dtype is .*, expected None"),
        ({"split": ["train"]}, r"split is \['train'\], expected the name of one split, or None"),
        ({"split": 0}, "split is 0, expected"),
        ({"features": 3}, "got the features 3, expected a list of names"),
        ({"features": ["clip_image", 3]}, "got the features .*, expected a list of names"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(project, change, said):
    with pytest.raises(DataError, match=said):
        pf.dataset("ucf", **{"features": ["clip_image"]} | change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": "thread"}, "start is 'thread', expected None or one of fork, spawn, forkserver"),
        ({"start": 3, "workers": 1}, "start is 3, expected"),
        ({"batch_size": 2.5}, "batch_size is 2.5, expected a whole number, 1 or more"),
        ({"batch_size": None}, "batch_size is None, expected"),
        ({"rows": "8"}, "rows is '8', expected"),
        ({"workers": True}, "workers is True, expected"),
        ({"seed": "x"}, "seed is 'x', expected a whole number, 0 or more"),
        ({"seed": -1}, "seed is -1, expected"),
    ],
)
def test_a_loader_s_argument_that_means_nothing_is_refused_before_anything_is_read(project, change, said):
    with pytest.raises(DataError, match=said):
        pf.loader(pf.dataset("ucf", ["clip_image"]), **change)


def test_a_dtype_may_be_torch_s_own(project):
    assert pf.dataset("ucf", ["clip_image"], dtype=torch.float64)[0]["clip_image"].dtype == torch.float64
    with pytest.raises(DataError, match=r"torch\.int8, expected None"):
        pf.dataset("ucf", ["clip_image"], dtype=torch.int8)
