"""Claims about links: which are followed, which are refused, and that the refusal names the remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import Dataset
from pipeline.datasets import DatasetError, annotation_files, build_manifest, read_annotations
from tests.datasets.made_up import picture, write_images

REMEDY = r"outside the root .*; set allow_links: true for this data set if that is meant"


def statuses(dataset: Dataset) -> dict[str, str]:
    frame, _ = build_manifest(dataset)
    return dict(zip(frame["sample"], frame["status"], strict=True))


def permitted(dataset: Dataset) -> Dataset:
    return dataset.model_copy(update={"allow_links": True})


@pytest.fixture
def pictures(tmp_path) -> Dataset:
    write_images(tmp_path / "set", {"cat": 2})
    return Dataset(layout="images", root=str(tmp_path / "set"))


@pytest.fixture(params=["ssv2", "images"])
def either(request, make_set: Callable[..., Dataset], tmp_path) -> tuple[Dataset, str, str]:
    """A data set of each layout that has files, and the ids of two of its samples."""
    if request.param == "ssv2":
        return make_set(train=["1", "2"]), "1", "2"
    return request.getfixturevalue("pictures"), "cat/0000.png", "cat/0001.png"


def link_out(dataset: Dataset, sample: str, elsewhere: Path) -> None:
    """Moves the file of a sample out of the root and leaves a link in its place."""
    frame = read_annotations(dataset).set_index("sample")
    file = Path(dataset.root) / dataset.videos / frame.loc[sample, "path"]
    elsewhere.mkdir()
    target = elsewhere / file.name
    shutil.move(file, target)
    file.symlink_to(target)


def test_a_file_that_links_out_of_the_root_fails_alone_until_links_are_allowed(either, tmp_path):
    dataset, first, second = either
    link_out(dataset, first, tmp_path / "set-beside")
    assert statuses(dataset) == {first: "outside_root", second: "ok"}
    (named,) = build_manifest(dataset)[1]["not_ok"]["outside_root"]["samples"]
    assert named["sample"] == first
    assert "set allow_links: true" in named["detail"]
    assert statuses(permitted(dataset)) == {first: "ok", second: "ok"}


def test_a_link_inside_the_root_and_a_root_that_is_itself_a_link_are_no_way_out(either, tmp_path):
    dataset, first, second = either
    link_out(dataset, first, Path(dataset.root) / ".kept")
    (tmp_path / "alias").symlink_to(dataset.root)
    for root in (dataset.root, str(tmp_path / "alias")):
        assert statuses(dataset.model_copy(update={"root": root})) == {first: "ok", second: "ok"}


def test_a_videos_folder_that_leads_out_of_the_root_is_refused(either, tmp_path):
    dataset, *_ = either
    (Path(dataset.root) / "linked").symlink_to(tmp_path)
    for videos in ("linked", "..", str(tmp_path)):
        outside = dataset.model_copy(update={"videos": videos})
        with pytest.raises(DatasetError, match=REMEDY):
            build_manifest(outside)


@pytest.mark.parametrize("name", ["train.json", "labels"])
def test_annotations_that_link_out_of_the_root_are_refused_until_links_are_allowed(make_set, tmp_path, name):
    dataset = make_set(train=["1"])
    root, elsewhere = Path(dataset.root), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in root.glob("*.json") if name == "labels" else [root / name]:
        shutil.move(file, elsewhere)
    (root / name).symlink_to(elsewhere if name == "labels" else elsewhere / name)
    for reader in (read_annotations, annotation_files):
        with pytest.raises(DatasetError, match=rf"{name}.* leads to .*{REMEDY}"):
            reader(dataset)
    assert read_annotations(permitted(dataset))["sample"].tolist() == ["1"]


def test_a_linked_folder_of_pictures_that_leads_out_of_the_root_is_refused_until_links_are_allowed(pictures, tmp_path):
    write_images(tmp_path / "elsewhere", {"small": 1}, seed=50)
    (Path(pictures.root) / "dog").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=rf"set/dog leads to .*elsewhere, {REMEDY}"):
        read_annotations(pictures)
    frame = read_annotations(permitted(pictures))
    assert frame["sample"].tolist() == ["cat/0000.png", "cat/0001.png", "dog/small/0000.png"]
    assert frame["label"].tolist() == ["cat", "cat", "dog"]


def test_a_linked_folder_inside_the_root_lists_its_pictures_under_both_names(pictures):
    (Path(pictures.root) / "feline").symlink_to("cat")
    frame, quality = build_manifest(pictures)
    assert frame["label"].tolist() == ["cat", "cat", "feline", "feline"]
    assert quality["same_content"]["across_labels"] == 2


@pytest.mark.parametrize("target", [".", "..", "../cat", "itself", "../.."])
def test_a_link_back_to_a_folder_above_it_is_an_error_that_names_it(pictures, target):
    link = Path(pictures.root) / "cat" / "loop"
    link.symlink_to("loop" if target == "itself" else target)
    if target == "itself":
        assert len(statuses(permitted(pictures))) == 2, "a link that leads nowhere is no folder, and no picture by name"
        return
    with pytest.raises(DatasetError, match=r"the folder cat/loop.* leads back to .*; remove that link"):
        read_annotations(permitted(pictures))


def test_two_linked_folders_that_hold_each_other_are_a_loop(pictures):
    root = Path(pictures.root)
    (root / "dog").mkdir()
    picture(9).save(root / "dog" / "0.png")
    (root / "dog" / "friend").symlink_to("../cat")
    (root / "cat" / "friend").symlink_to("../dog")
    with pytest.raises(DatasetError, match=r"friend/friend leads back to"):
        read_annotations(pictures)
