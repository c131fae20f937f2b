"""Claims about the layout `images`: listing folders of pictures, and the manifests made of them."""

import hashlib
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pipeline.config import Dataset, file_digest
from pipeline.datasets import (
    DatasetError,
    annotation_files,
    build,
    build_manifest,
    quality_markdown,
    read_annotations,
    read_manifest,
    shard_samples,
    write_manifest,
)
from pipeline.datasets.layouts.images import SUFFIXES
from pipeline.video import VideoFacts, probe
from pipeline.video.pictures import EXTENSIONS
from tests.datasets.made_up import picture, write_images

AS_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


def dataset(root: Path, **fields) -> Dataset:
    return Dataset(layout="images", root=str(root), **fields)


def statuses(frame: pd.DataFrame) -> dict[str, str]:
    return dict(zip(frame["sample"], frame["status"], strict=True))


# --- listing ----------------------------------------------------------------------------------------------------------


def test_a_label_is_the_first_folder_and_a_picture_in_none_has_no_label(tmp_path):
    write_images(tmp_path, {"cat": 2, "dog/old/grey": 1, "": 1})
    frame = read_annotations(dataset(tmp_path))
    assert frame["sample"].tolist() == ["0000.png", "cat/0000.png", "cat/0001.png", "dog/old/grey/0000.png"]
    assert frame["label"].tolist() == [None, "cat", "cat", "dog"]
    assert frame["path"].tolist() == frame["sample"].tolist()
    assert set(frame["split"]) == {"all"}
    assert frame["template"].tolist() == [None] * 4


def test_paths_below_the_videos_folder_count_where_one_is_named(tmp_path):
    write_images(tmp_path / "val", {"cat": 1})
    write_images(tmp_path / "train", {"cat": 2})
    frame = read_annotations(dataset(tmp_path, videos="train"))
    assert frame["sample"].tolist() == ["cat/0000.png", "cat/0001.png"]
    assert set(frame["label"]) == {"cat"}


def test_every_suffix_of_a_picture_counts_in_any_case_and_is_kept_in_the_id(tmp_path):
    names = sorted(f"7{suffix}" for suffix in (*SUFFIXES, ".JPEG", ".Png"))
    for name in (*names, "notes.txt", "archive.png.zip", "png", "noend."):
        (tmp_path / name).touch()
    frame = read_annotations(dataset(tmp_path))
    assert frame["sample"].tolist() == names
    assert frame.attrs["ignored"] == {".txt": 1, ".zip": 1, "no suffix": 1, ".": 1}


def test_what_the_decoder_takes_for_a_picture_by_its_name_is_listed():
    assert EXTENSIONS <= SUFFIXES


def test_the_order_is_that_of_the_whole_path_character_by_character(tmp_path):
    names = ["a-b/1.png", "a/1.png", "a/10.png", "a/2.png", "B/1.png", "a.png", "é/1.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert read_annotations(dataset(tmp_path))["sample"].tolist() == sorted(names)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    samples = write_images(tmp_path, {"cat": 1})
    for name in (".hidden.png", "cat/._0000.png", ".ipynb_checkpoints/0000.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert read_annotations(dataset(tmp_path))["sample"].tolist() == samples


def test_there_is_no_annotation_file(tmp_path):
    assert annotation_files(dataset(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    "name", ["a b.png", "-rf.png", "'\"$(x);.png", "a\\b.png", "narrow\u202fspace.png", "日本.png"]
)
def test_an_unusual_name_is_only_a_name(tmp_path, name):
    for folder in ("-cat", "-cat/ -dog "):
        (tmp_path / folder).mkdir()
        picture(len(folder)).save(tmp_path / folder / name)
    frame, _ = build_manifest(dataset(tmp_path))
    assert sorted(statuses(frame)) == sorted([f"-cat/{name}", f"-cat/ -dog /{name}"])
    assert set(frame["status"]) == {"ok"}
    write_manifest(frame, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet")["sample"].tolist() == frame["sample"].tolist()


def test_names_that_differ_only_in_how_unicode_composes_them_are_two_samples(tmp_path):
    pair = [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")]
    for seed, name in enumerate(pair):
        picture(seed).save(tmp_path / name)
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system takes both names for one")
    frame, quality = build_manifest(dataset(tmp_path))
    assert frame["sample"].tolist() == sorted(pair)
    assert frame["digest"].nunique() == quality["ok"] == 2


@pytest.mark.parametrize("name", ["a\nb.png", "a\tb", "a\x1b[2Jb.png", "a\u2028b.png", "a\udcffb.png"], ids=ascii)
def test_a_name_that_no_table_or_terminal_can_hold_is_refused_by_name(tmp_path, name):
    write_images(tmp_path, {"cat": 1})
    (tmp_path / "cat" / name).touch()
    with pytest.raises(DatasetError) as error:
        read_annotations(dataset(tmp_path))
    assert repr(f"cat/{name}") in str(error.value)
    assert "rename" in str(error.value)


def test_a_folder_that_is_absent_or_holds_no_picture_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere does not exist; correct the data set's root or videos"):
        read_annotations(dataset(tmp_path / "nowhere"))
    (tmp_path / "clip.webm").touch()
    with pytest.raises(DatasetError, match=r"holds no picture \(.*\.png.*\) among its 1 files; correct .*root"):
        read_annotations(dataset(tmp_path))


@AS_ROOT
def test_a_folder_without_permission_is_an_error_that_names_it(tmp_path):
    write_images(tmp_path)
    (tmp_path / "cat").chmod(0)
    with pytest.raises(DatasetError, match=r"cat/ cannot be listed: Permission denied"):
        read_annotations(dataset(tmp_path))


# --- manifests --------------------------------------------------------------------------------------------------------


def test_every_picture_is_ok_with_its_digest_and_the_facts_of_probe(tmp_path):
    samples = write_images(tmp_path, {"cat": 2, "dog": 3}, suffix=".jpg", size=(48, 36))
    frame, _ = build_manifest(dataset(tmp_path, shard_size=2))
    assert frame["shard"].tolist() == [0, 0, 1, 1, 2]
    rows = [row for shard in range(3) for row in shard_samples(frame, shard)]
    assert [row.sample for row in rows] == samples
    for row in rows:
        assert (row.status, row.digest) == ("ok", file_digest(tmp_path / row.path))
        assert VideoFacts(**row.facts) == probe(tmp_path / row.path)
        assert (row.facts["width"], row.facts["height"], row.facts["frames"]) == (48, 36, 1)
        assert (row.facts["duration"], row.facts["fps"], row.facts["codec"]) == (0.0, 0.0, "jpeg")


def test_pictures_of_every_kind_are_ok(tmp_path):
    wide = picture(0, (40, 20))
    wide.convert("CMYK").save(tmp_path / "cmyk.jpg")
    wide.convert("L").save(tmp_path / "grey.png")
    wide.convert("1").save(tmp_path / "black-and-white.tif")
    wide.quantize(16).save(tmp_path / "palette.gif")
    wide.convert("LA").save(tmp_path / "grey-transparent.webp")
    picture(1, (1, 1)).save(tmp_path / "one-pixel.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    wide.save(tmp_path / "turned.jpg", exif=exif)
    frame, quality = build_manifest(dataset(tmp_path))
    assert set(frame["status"]) == {"ok"}
    sizes = {row["sample"]: (row["width"], row["height"]) for row in frame.to_dict("records")}
    assert sizes.pop("one-pixel.bmp") == (1, 1)
    assert sizes.pop("turned.jpg") == (20, 40), "as shown"
    assert set(sizes.values()) == {(40, 20)}
    assert quality["codecs"] == {"jpeg": 2, "bmp": 1, "gif": 1, "png": 1, "tiff": 1, "webp": 1}


def test_what_is_wrong_with_a_picture_is_its_status(tmp_path):
    write_images(tmp_path, {"": 1})
    for suffix in ("jpg", "png", "gif", "bmp", "webp", "tif"):
        whole = tmp_path / f"cut.{suffix}"
        picture(7, (64, 64)).save(whole)
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html><title>404</title>" * 20)
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "circular.jpg").symlink_to(tmp_path / "circular.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    frame, quality = build_manifest(dataset(tmp_path))
    found = statuses(frame)
    assert {status for name, status in found.items() if name.startswith("cut")} <= {
        "short",
        "decode_error",
        "unreadable",
    }
    assert {name: status for name, status in found.items() if not name.startswith("cut")} == {
        "0000.png": "ok", "empty.jpg": "empty", "page.jpg": "unreadable", "dangling.jpg": "missing",
        "circular.jpg": "unreadable", "pipe.jpg": "not_a_file",
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(quality), "the report does not depend on where the set lies"


@AS_ROOT
def test_a_picture_without_permission_is_unreadable(tmp_path):
    first, second = write_images(tmp_path, {"": 2})
    (tmp_path / first).chmod(0)
    assert statuses(build_manifest(dataset(tmp_path))[0]) == {first: "unreadable", second: "ok"}


def test_a_picture_that_vanishes_after_the_listing_or_after_the_hashing_is_missing(tmp_path, monkeypatch):
    listed, hashed, stays = write_images(tmp_path, {"": 3})

    def listing(chosen):
        frame = read_annotations(chosen)
        (tmp_path / listed).unlink()
        return frame

    def hashing(stream, name):
        digest = original(stream, name)
        if Path(stream.name).name == hashed:
            (tmp_path / hashed).unlink()
        return digest

    original = hashlib.file_digest
    monkeypatch.setattr(build, "read_annotations", listing)
    monkeypatch.setattr("hashlib.file_digest", hashing)
    frame, _ = build_manifest(dataset(tmp_path))
    assert statuses(frame) == {listed: "missing", hashed: "missing", stays: "ok"}


def test_a_picture_added_gets_a_new_shard_and_one_replaced_is_looked_at_again(tmp_path):
    first, _, third = write_images(tmp_path, {"cat": 3})
    chosen = dataset(tmp_path, shard_size=2)
    before, _ = build_manifest(chosen)
    picture(100).save(tmp_path / "cat" / "0000-new.png")
    picture(101, (50, 50)).save(tmp_path / third)
    after, _ = build_manifest(chosen, before)
    shards = dict(zip(after["sample"], after["shard"], strict=True))
    assert shards == {first: 0, "cat/0000-new.png": 2, "cat/0001.png": 0, third: 1}
    changed = before.set_index("sample")["digest"] != after.set_index("sample")["digest"].drop("cat/0000-new.png")
    assert changed[changed].index.tolist() == [third]


def test_any_number_of_workers_gives_the_same_manifest_and_progress_counts_pictures(tmp_path):
    write_images(tmp_path, {"cat": 40, "dog": 30})
    (tmp_path / "cat" / "0003.png").write_bytes(b"")
    alone, quality = build_manifest(dataset(tmp_path))
    lines = []
    together, same_quality = build_manifest(dataset(tmp_path), workers=2, progress=lines.append)
    pd.testing.assert_frame_equal(together, alone)
    assert same_quality == quality
    assert lines[-1].startswith("70 of 70 pictures looked at, 1 not ok, ")


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_of_pictures_tells_classes_sizes_duplicates_and_what_was_passed_over(tmp_path):
    write_images(tmp_path, {"cat": 3, "dog": 1, "": 1})
    (tmp_path / "dog" / "twin.png").write_bytes((tmp_path / "cat" / "0000.png").read_bytes())
    (tmp_path / "cat" / "0002.png").write_bytes(b"")
    picture(50, (10, 90)).save(tmp_path / "dog" / "thin.jpg")
    (tmp_path / "dog" / "photo.heic").touch()
    frame, report = build_manifest(dataset(tmp_path))
    assert (report["kind"], report["samples"], report["ok"]) == ("image", 7, 6)
    assert report["splits"] == {"all": {"ok": 6, "empty": 1}}
    assert report["unlabelled"] == {"all": 1}
    assert report["classes"] == {"count": 2, "counts": {"all": {"cat": 3, "dog": 3}}}
    assert report["same_content"] == {
        "count": 1,
        "across_labels": 1,
        "groups": [{"count": 2, "samples": ["cat/0000.png", "dog/twin.png"]}],
    }
    assert report["width"] == {"min": 10.0, "median": 32.0, "max": 32.0}
    assert report["height"] == {"min": 24.0, "median": 24.0, "max": 90.0}
    assert report["file_bytes"]["max"] == float(frame["bytes"].max())
    assert report["sizes"] == {"32x24": 5, "10x90": 1}
    assert report["ignored"] == {".heic": 1}
    assert not {"duration", "fps", "decord_exact", "listed_twice"} & set(report)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    text = quality_markdown(report)
    assert text.startswith("# Data set: 6 of 7 pictures ok")
    for part in (
        "| all | 7 | 6 | 1 | 1 |",
        "| width | 10.0 | 32.0 | 32.0 |",
        "Classes: 2, of 3 to 3 pictures.",
        "1 groups, 1 of them across labels; 2 times: cat/0000.png, dog/twin.png.",
        "not those of pictures: .heic (1).",
        "## empty: 1",
    ):
        assert part in text


def test_a_set_without_a_usable_picture_has_a_report_too(tmp_path):
    (tmp_path / "empty.png").touch()
    report = build_manifest(dataset(tmp_path))[1]
    assert report["width"] == {"min": None, "median": None, "max": None}
    assert "Classes: 0." in quality_markdown(report)


# --- size -------------------------------------------------------------------------------------------------------------

MEASURE = """
import os, sys, time
import pandas  # what is loaded is not counted
from pipeline.config import Dataset
from pipeline.datasets import read_annotations
looked_up = []
sys.addaudithook(lambda event, _: event == "open" and looked_up.append(event))
os.stat, original = (lambda *a, **k: looked_up.append("stat") or original(*a, **k)), os.stat
os.lstat, plain = (lambda *a, **k: looked_up.append("lstat") or plain(*a, **k)), os.lstat
start = time.perf_counter()
frame = read_annotations(Dataset(layout="images", root=sys.argv[1]))
seconds = time.perf_counter() - start
heavy = [name for name in ("torch", "av", "decord", "PIL") if name in sys.modules]
print(len(frame), frame["label"].nunique(), len(looked_up), seconds, *heavy)
"""


@pytest.mark.slow
def test_a_hundred_thousand_pictures_are_listed_without_looking_at_one(tmp_path):
    for kind in range(100):
        (tmp_path / f"n{kind:08d}").mkdir()
        for number in range(1000):
            os.close(os.open(tmp_path / f"n{kind:08d}" / f"n{kind:08d}_{number}.JPEG", os.O_CREAT))
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    rows, labels, looked_up, seconds, *heavy = done.stdout.split()
    print(f"{rows} pictures listed in {float(seconds):.2f} s")
    assert (int(rows), int(labels), heavy) == (100_000, 100, [])
    assert int(looked_up) < 100, "a few calls for the root, none a picture"
