"""`pf.open`: how a store is found, what it says of itself, and what it refuses."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

import permafrost as pf
from tests.permafrost.conftest import FAILED, IDS, KEYS, value, write_store


def test_a_store_is_found_by_its_folder_its_feature_or_where_it_is_the_only_one(project, tmp_path):
    whole = project / f"features/ucf/clip_image-{KEYS['clip_image']}"
    assert pf.open(whole).path == pf.open("features/ucf/clip_image").path == whole
    shutil.copytree(whole, tmp_path / "out" / whole.name)
    assert pf.open(tmp_path / "out").path == tmp_path / "out" / whole.name


def test_a_store_is_a_mapping_of_ids_to_arrays(project):
    store = pf.open("features/ucf/dinov3_patches")
    assert store.ids == list(store) == [sample for sample in IDS if sample != FAILED] and len(store) == 19
    assert "v_001" in store and FAILED not in store and "v_999" not in store
    assert store["v_001"].dtype == np.float16
    np.testing.assert_array_equal(store["v_001"], value("dinov3_patches", "patch_tokens", "v_001"))
    np.testing.assert_array_equal(store["v_001", "cls"], value("dinov3_patches", "cls", "v_001"))
    assert store.get(FAILED) is None and dict(store).keys() == set(store.ids)


def test_a_store_says_what_it_is(project):
    store = pf.open("features/ucf/dinov3_patches")
    assert store.failed == {FAILED: "short: 3 of 30 frames"}
    assert store.meta("v_001") == {"times": [0.25, 0.75]} and store.meta(FAILED) == {}
    assert store.key == KEYS["dinov3_patches"] and store.provenance["config"]["backbone"] == "dinov3"
    assert repr(store) == (
        "<Store dinov3_patches-0a1b2c3d4e: 19 samples, 1 failed; cls (2, 8) float16, patch_tokens (2, 4, 8) float16>"
    )


def test_many_samples_are_one_array_and_ragged_ones_a_list(project):
    assert pf.open("features/ucf/clip_image").read().shape == (19, 8)
    rows = pf.open("features/ucf/i3d_frames")
    assert [len(array) for array in rows.read(["v_000", "v_004"])] == [3, 7]
    np.testing.assert_array_equal(rows.rows("v_004", 2, 5), value("i3d_frames", "frames", "v_004")[2:5])
    assert rows["v_004"].shape == (7, 6) and rows.length("v_004") == 7 and rows.meta("v_004") == {"fps": 12.0}


def test_another_field_can_be_the_one_that_is_read(project):
    store = pf.open("features/ucf/dinov3_patches", field="cls")
    assert store["v_001"].shape == (2, 8)
    assert pickle.loads(pickle.dumps(store))["v_001"].shape == (2, 8)


def test_several_keys_are_an_error_that_says_in_what_they_differ(project, tmp_path):
    frame = pf.manifest("ucf")
    one = write_store(tmp_path, frame, "clip_image", batch=4)
    other = write_store(tmp_path, frame, "clip_image", key="3333333333", batch=64)
    with pytest.raises(pf.StoreError, match="may be any of 2 stores; name one of them") as refused:
        pf.open(tmp_path / "clip_image")
    assert str(refused.value).splitlines()[1:] == [f"  {one}: batch 4", f"  {other}: batch 64"]
    (other / "shard-001.json").unlink()
    with pytest.raises(pf.StoreError, match="3333333333: batch 64, samples 12, unfinished shards 1"):
        pf.open(tmp_path / "clip_image")


def test_what_is_not_there_is_told_with_what_is_and_how_it_is_made(project, tmp_path):
    holds = r"holds clip_image, dinov3_patches, i3d_frames\); correct the path, or make the store: `snakemake features`"
    with pytest.raises(
        pf.StoreMissing, match=rf"no store features/ucf/dino, with or without a key \(features/ucf {holds}"
    ):
        pf.open("features/ucf/dino")
    with pytest.raises(pf.StoreMissing, match="is no store and holds none; correct the path"):
        pf.open(tmp_path)


def test_a_sample_that_is_not_there_or_failed_is_told_by_name(project):
    store = pf.open("features/ucf/clip_image")
    with pytest.raises(pf.NoSample, match=r"holds no sample 'v_1'; its 19 ids are 'v_000', 'v_001', 'v_002', ..."):
        store["v_1"]
    with pytest.raises(KeyError, match="sample 'v_018' has no data, it failed: short: 3 of 30 frames; leave it out"):
        store[FAILED]
    with pytest.raises(pf.StoreError, match=r"has no field 'tokens'; its fields are image_embed \(8,\)"):
        store["v_001", "tokens"]


def test_an_unfinished_store_is_refused_when_it_is_opened(project, tmp_path):
    copy = shutil.copytree(
        project / f"features/ucf/clip_image-{KEYS['clip_image']}", tmp_path / "clip_image-1111111111"
    )
    (copy / "shard-001.json").unlink()
    with pytest.raises(pf.StoreMissing, match="1 of 3 shards have no manifest, the first shard-001; run `extract`"):
        pf.open(copy)


def test_damage_is_told_when_the_sample_is_read(project, tmp_path, flip):
    copy = shutil.copytree(
        project / f"features/ucf/clip_image-{KEYS['clip_image']}", tmp_path / "clip_image-1111111111"
    )
    flip(copy / "shard-000.zarr/image_embed/c/0/0", 3)
    store = pf.open(copy)
    with pytest.raises(pf.StoreCorrupt, match="sample 'v_000', field 'image_embed' does not fit its crc32c"):
        store["v_000"]
    assert store["v_001"].shape == (8,)


def test_reading_loads_no_torch_and_no_pandas(project):
    code = "import sys, permafrost as pf; pf.open('features/ucf/clip_image')['v_001']"
    code += "; print(*{'torch', 'pandas', 'lightning'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_file_within_a_store_is_no_store_and_the_store_is_named(project):
    shard = next(project.glob("features/ucf/clip_image-*/shard-*.json"))
    with pytest.raises(pf.stores.StoreMissing, match=r"there is no store .*\.json, .* holds \.\./clip_image"):
        pf.open(shard)
