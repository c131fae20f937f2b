"""Claims about the object masks of pictures; those of videos are in test_clinic."""

import hashlib

import pytest

from pipeline.config import Dataset, ParamsError, parse_params
from pipeline.datasets import DatasetError, build_manifest, read_annotations
from tests.datasets.made_up import picture


@pytest.fixture
def pictures(tmp_path) -> Dataset:
    """Three pictures; the first two have a mask, in a folder among those of the pictures."""
    for seed, path in enumerate(("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "masks/cat/1.png", "masks/cat/2.png")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(tmp_path / path)
    return Dataset(layout="images", root=str(tmp_path), masks="masks")


def test_the_mask_of_a_picture_is_the_png_of_its_name_and_no_picture_itself(pictures, tmp_path):
    frame, quality = build_manifest(pictures)
    assert frame["sample"].tolist() == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
    assert frame["map"].tolist() == ["masks/cat/1.png", "masks/cat/2.png", None]
    digest = hashlib.sha256((tmp_path / "masks/cat/1.png").read_bytes()).hexdigest()
    assert frame["map_digest"][0] == digest and frame["map_digest"][2] is None
    assert quality["maps"]["with"] == {"all": 2} and quality["maps"]["patients"] == {"all": 0}


def test_without_the_option_there_are_no_maps_and_its_pngs_are_pictures(pictures):
    frame, quality = build_manifest(pictures.model_copy(update={"masks": None}))
    assert len(frame) == 5 and frame["map"].isna().all() and frame["map_digest"].isna().all()
    assert "maps" not in quality


def test_waterbirds_pictures_have_masks_too(pictures, tmp_path):
    head = "img_id,img_filename,y,split,place,place_filename"
    (tmp_path / "metadata.csv").write_text(f"{head}\n1,cat/2.jpg,1,0,0,x\n2,dog/1.jpg,0,2,1,x\n")
    frame, _ = build_manifest(pictures.model_copy(update={"layout": "waterbirds"}))
    assert frame["map"].tolist() == ["masks/cat/2.png", None]


def test_a_folder_that_is_absent_outside_or_has_no_mask_of_any_picture_is_refused(pictures, tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere does not exist; correct the data set's masks in params"):
        build_manifest(pictures.model_copy(update={"masks": "nowhere"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"none of the 5 pictures has a mask in .*empty/cat/1\.png; correct"):
        build_manifest(pictures.model_copy(update={"masks": "empty"}))
    (tmp_path / "linked").symlink_to("/etc")
    with pytest.raises(DatasetError, match="outside the root"):
        build_manifest(pictures.model_copy(update={"masks": "linked"}))


def test_masks_elsewhere_leave_the_listing_as_it_is(pictures, tmp_path):
    (tmp_path / "masks").rename(tmp_path / "m")
    (tmp_path / "masks").mkdir()
    beside = pictures.model_copy(update={"videos": "cat", "masks": "m/cat"})
    assert read_annotations(beside)["sample"].tolist() == ["1.jpg", "2.jpg"]
    assert build_manifest(beside)[0]["map"].tolist() == ["m/cat/1.png", "m/cat/2.png"]


def test_masks_are_refused_of_a_layout_that_has_no_pictures():
    with pytest.raises(ParamsError, match=r"masks is for the layouts images and waterbirds, got clinic; remove it"):
        parse_params({"datasets": {"x": {"layout": "clinic", "root": "x", "masks": "m"}}})
