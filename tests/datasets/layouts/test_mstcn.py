"""Claims about MS-TCN's layout, its quirks, and EgoProceL's variant of it."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config import Dataset
from pipeline.datasets import (
    DatasetError,
    annotation_files,
    build_manifest,
    classes,
    frame_labels,
    label_files,
    quality_markdown,
    read_manifest,
    shard_digests,
    shard_samples,
    video_folder,
    write_manifest,
)
from pipeline.datasets.annotations import read_annotations, read_labels
from tests.datasets.made_up import LABELLED, MAPPING, write_labelled

TRAIN, TEST = "splits/train.split1.bundle", "splits/test.split1.bundle"
BUNDLES = {TRAIN: ["v1.txt", "v2.txt"], TEST: ["v3.txt"]}


def dataset(root: Path, **fields) -> Dataset:
    """A set of labels without videos."""
    return Dataset(layout=fields.pop("layout", "mstcn"), root=str(root), **fields).model_copy(update={"videos": None})


def build(root: Path, **fields) -> pd.DataFrame:
    return build_manifest(dataset(root, **fields))[0]


@pytest.fixture
def root(tmp_path) -> Path:
    return write_labelled(tmp_path / "set", BUNDLES)


def splits(root: Path, **fields) -> dict[str, str]:
    frame = read_annotations(dataset(root, **fields))
    return dict(zip(frame["sample"], frame["split"], strict=True))


def test_every_frames_label_is_in_the_manifest_and_classes_are_the_mappings(root):
    frame = build(root)
    assert classes(frame) == frame.attrs["classes"] == list(MAPPING), "not sorted, and not only those that occur"
    assert frame["segments"][0] == [
        {"label": "SIL", "frames": 1}, {"label": "take_cup", "frames": 2}, {"label": "SIL", "frames": 1}
    ]  # fmt: skip
    for row in frame.to_dict("records"):
        truth = [MAPPING.index(name) for name in LABELLED[row["sample"]].split()]
        assert frame_labels(row["segments"], classes(frame)).tolist() == truth


def test_a_manifest_of_labels_reads_back_as_it_was_written(root, tmp_path):
    (root / "unseen.txt").write_text("pour_coffee\n")
    frame = build(root, class_lists={"unseen": "unseen.txt"}, shard_size=2)
    assert write_manifest(frame, tmp_path / "m.parquet")
    again = read_manifest(tmp_path / "m.parquet")
    pd.testing.assert_frame_equal(again, frame)
    assert again.attrs == frame.attrs and again.attrs["class_lists"] == {"unseen": ["pour_coffee"]}
    assert not write_manifest(again, tmp_path / "m.parquet")


def test_with_one_fold_a_split_is_train_or_test_and_with_several_it_names_every_list(root):
    assert splits(root) == {"v1": "train", "v2": "train", "v3": "test"}
    (root / "splits/train.split2.bundle").write_text("v3.txt\nv1.txt\n")
    (root / "splits/test.split2.bundle").write_text("v2.txt\n")
    assert splits(root) == {
        "v1": "train.split1+train.split2", "v2": "train.split1+test.split2", "v3": "test.split1+train.split2"
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "#bundle\nv1.txt\nv2.txt\n",
        "v1.txt\nv2.txt",
        "v1.txt\r\nv2.txt\r\n",
        "\ufeffv1.txt\n\nv2.txt\n\n",
        "data/groundTruth/v1.txt\n/somebody/else/v2.txt\n",
        "C:\\data\\v1.txt\nv2\n",
        "./data/v1.txt\ndata/v1.txt\ndata/./v2.txt\n",
    ],
)
def test_bundles_are_read_with_headers_prefixes_and_any_line_ends(root, text):
    (root / TRAIN).write_bytes(text.encode())
    assert splits(root) == {"v1": "train", "v2": "train", "v3": "test"}


def test_what_a_mac_leaves_beside_a_list_is_no_list(root):
    (root / "splits/._train.split1.bundle").write_bytes(b"\x00\x05\x16\x07")
    assert splits(root) == {"v1": "train", "v2": "train", "v3": "test"}


@pytest.mark.parametrize(
    "text", ["SIL\ntake_cup", "SIL\r\ntake_cup\r\n", "SIL \ntake_cup\n\n", "\ufeffSIL\ntake_cup\n"]
)
def test_files_of_labels_may_lack_their_last_line_end(root, text):
    (root / "groundTruth/v1.txt").write_bytes(text.encode())
    assert [run["label"] for run in build(root)["segments"][0]] == ["SIL", "take_cup"]


def test_names_of_classes_may_hold_spaces(root):
    (root / "mapping.txt").write_text("0 SIL\n1\ttake the cup\n2 pour_coffee")
    for sample in LABELLED:
        (root / f"groundTruth/{sample}.txt").write_text("take the cup\n")
    assert classes(build(root)) == ["SIL", "take the cup", "pour_coffee"]


@pytest.mark.parametrize(
    "text",
    [
        "\n0 SIL\n\n1 take_cup\n2 pour_coffee\n\n",
        "0 SIL\r\n1 take_cup\r\n2 pour_coffee",
        "\ufeff2 pour_coffee\n1 take_cup\n0 SIL",
    ],
)
def test_a_mapping_may_have_blank_lines_any_line_ends_and_any_order(root, text):
    (root / "mapping.txt").write_bytes(text.encode())
    assert classes(build(root)) == list(MAPPING)


def test_an_absent_video_that_a_bundle_names_is_missing_and_told(root):
    (root / TRAIN).write_text("v1.txt\nnowhere.txt\nv2.txt\n")
    frame, quality = build_manifest(dataset(root))
    assert frame["status"].tolist() == ["ok", "missing", "ok", "ok"]
    assert frame["segments"][1] is None and frame["digest"][1] == ""
    assert quality["labels"]["without"] == {"count": 1, "samples": ["nowhere"]}
    assert quality["not_ok"]["missing"]["samples"][0]["sample"] == "nowhere"


def test_a_video_without_labels_is_ok_and_unlabelled(root, clips):
    for sample in ("v1", "v2", "v3", "v4"):
        (root / f"{sample}.webm").write_bytes(clips[int(sample[1])])
    (root / TRAIN).write_text("v1.txt\nv4.txt\nv2.txt\n")
    frame, quality = build_manifest(Dataset(layout="mstcn", root=str(root)))
    assert set(frame["status"]) == {"ok"} and frame["segments"].isna().tolist() == [False, True, False, False]
    assert quality["unlabelled"] == {"train": 1, "test": 0}
    assert frame["path"][1] == "v4.webm" and frame["frames"][1] == 6


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no label"),
        (b"\n \n", "holds no label"),
        (b"SIL\r\nSIL\n\xff\xfe\n", "not UTF-8 text on line 3: .*; save it as UTF-8"),
        (b"SIL\ntake_mug\n", r"has the label 'take_mug' on line 2, .* 3 classes"),
        (b"SIL\n\nSIL\n", r"has the label '' on line 2"),
    ],
)
def test_a_file_of_labels_that_cannot_be_used_is_an_error_that_names_video_and_file(root, content, told):
    (root / "groundTruth/v2.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"video 'v2': .*v2\.txt .*{told}|video 'v2': .*v2\.txt {told}"):
        build(root)
    assert len(read_annotations(dataset(root))) == 3, "a plan does not read labels"


def test_a_folder_of_labels_that_leads_out_of_the_root_is_refused(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "groundTruth/v2.txt").rename(tmp_path / "elsewhere/v2.txt")
    (root / "groundTruth/v2.txt").symlink_to(tmp_path / "elsewhere/v2.txt")
    with pytest.raises(DatasetError, match="outside the root"):
        build(root)
    assert len(build(root, allow_links=True)) == 3


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ("0 SIL\n2 take_cup\n", "without a gap"),
        ("0 SIL\n0 take_cup\n", "repeats a number or a name"),
        ("0 SIL\n1 SIL\n", "repeats a number or a name"),
        ("SIL\ntake_cup\n", "line 1 is 'SIL'"),
        ("0\n", "line 1 is '0'"),
        ("\n0 SIL\n\n\n1\n", "line 5 is '1'"),
        ("", "without a gap"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_an_error(root, mapping, told):
    (root / "mapping.txt").write_text(mapping)
    with pytest.raises(DatasetError, match=rf"mapping\.txt.*{told}"):
        build(root)


def test_a_fold_must_not_train_on_what_it_tests_on(root):
    (root / TEST).write_text("v3.txt\nv1.txt\n")
    with pytest.raises(DatasetError, match=r"video 'v1' is in .*train\.split1\.bundle and in .*test\.split1\.bundle"):
        read_annotations(dataset(root))


def test_lists_whose_names_differ_in_capitals_alone_are_refused_and_train_is_train_however_it_is_written(root):
    (root / TRAIN).rename(root / "splits/Train.split1.bundle")
    (root / TEST).write_text("v3.txt\nv1.txt\n")
    with pytest.raises(DatasetError, match=r"video 'v1' is in .*Train\.split1\.bundle and in .*test\.split1\.bundle"):
        read_annotations(dataset(root))
    (root / TEST).rename(root / "splits/test.Split1.bundle")
    with pytest.raises(
        DatasetError, match=r"the lists of videos in .*splits are of '.plit1' and of '.plit1', which would"
    ):
        read_annotations(dataset(root))


def test_a_video_that_a_bundle_repeats_counts_once_and_is_told(root):
    (root / TRAIN).write_text("v1.txt\nv2.txt\nv1.txt\n")
    frame, quality = build_manifest(dataset(root))
    assert frame["sample"].tolist() == ["v1", "v2", "v3"] and quality["listed_twice"]["count"] == 1


@pytest.mark.parametrize("line", ["../..", ".hidden.txt", "a\0b.txt"])
def test_an_id_that_cannot_be_a_file_name_is_refused(root, line):
    (root / TRAIN).write_text(f"{line}\n")
    with pytest.raises(DatasetError, match="is refused because it"):
        read_annotations(dataset(root))


@pytest.mark.parametrize(
    ("line", "id"),
    [("v1.avi", "v1"), ("v1.npy", "v1"), ("v1.txt.txt", "v1"), ("v1.TXT", "v1"), ("v1.txt 4", "v1"), ("v1.webm", "v1")],
)
def test_a_line_with_another_suffix_is_refused_with_the_id_that_was_meant(root, line, id):
    (root / TRAIN).write_text(f"{line}\nv2.txt\n")
    told = rf"train\.split1\.bundle: line 1 is '{line}', wanted the id of a video, alone or as {id}\.txt; correct it"
    with pytest.raises(DatasetError, match=told):
        read_annotations(dataset(root))


def test_an_id_may_end_like_a_video_where_its_labels_do_too_and_dots_are_no_suffix(root):
    (root / "groundTruth/v1.txt").rename(root / "groundTruth/v1.MP4.txt")
    (root / TRAIN).write_text("v1.MP4\nv2.v3\n")
    assert list(splits(root)) == ["v1.MP4", "v2.v3", "v3"]


@pytest.mark.parametrize("lists", [{TRAIN: "EPIC/v1\nMECCANO/v1\n"}, {TRAIN: "EPIC/v1\n", TEST: "MECCANO/v1\n"}])
def test_two_videos_that_would_be_one_are_refused(root, lists):
    for path, text in lists.items():
        (root / path).write_text(text)
    told = r"lists MECCANO/v1, but EPIC/v1 is listed too, .* follows the last slash; name the two apart, or"
    with pytest.raises(DatasetError, match=told):
        read_annotations(dataset(root))


def test_names_that_are_no_class_are_told_beside_the_class_that_looks_like_them(root):
    (root / "groundTruth/v2.txt").write_text("Take cup\n")
    with pytest.raises(
        DatasetError, match=r"'Take cup' on line 1, .* of the mapping \('take_cup' is one\); correct it"
    ):
        build(root)
    (root / "groundTruth/v2.txt").write_text("take_cup\n")
    (root / "unseen.txt").write_text("SIL\u200b\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"lists 'SIL\\u200b', which is none of the 3 classes \('SIL' is one\)"):
        build(root, class_lists={"unseen": "unseen.txt"})
    with pytest.raises(DatasetError, match=r"the background 'sil' .* classes \('SIL' is one\); correct it in params"):
        build(root, background=("sil",))


def test_lists_that_are_absent_or_have_another_name_are_errors_with_the_remedy(root):
    (root / "splits/all.bundle").write_text("v1.txt\n")
    with pytest.raises(DatasetError, match=r"all\.bundle is not named like a list of videos .*; rename or remove it"):
        read_annotations(dataset(root))
    for path in (root / "splits").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"no list of videos \(\*\.bundle\) in .*splits"):
        read_annotations(dataset(root))


def test_lists_of_classes_and_backgrounds_must_name_classes(root):
    (root / "unseen.txt").write_text("pour_coffee\npour_tea\n")
    with pytest.raises(DatasetError, match=r"unseen\.txt lists 'pour_tea', which is none of the 3 classes"):
        build(root, class_lists={"unseen": "unseen.txt"})
    (root / "empty.txt").write_text("\n")
    with pytest.raises(
        DatasetError, match=r"empty\.txt lists no class; write one a line, or remove it from class_lists"
    ):
        build(root, class_lists={"unseen": "empty.txt"})
    with pytest.raises(DatasetError, match=r"absent\.txt does not exist"):
        build(root, class_lists={"unseen": "absent.txt"})
    with pytest.raises(DatasetError, match=r"the background 'background' .* is not among its 3 classes"):
        build(root, background=("background",))


def test_plan_time_reads_mapping_bundles_and_lists_alone_and_labels_can_be_listed(root):
    (root / "unseen.txt").write_text("pour_coffee")
    chosen = dataset(root, class_lists={"unseen": "unseen.txt"})
    names = [path.name for path in annotation_files(chosen)]
    assert names == ["mapping.txt", "train.split1.bundle", "test.split1.bundle", "unseen.txt"]
    assert label_files(chosen, ["v1", "v9"]) == {"v1": root / "groundTruth/v1.txt"}


def test_egoprocels_lists_lie_in_the_root_without_suffixes(tmp_path):
    root = write_labelled(tmp_path, {"split1.train": ["v1", "v2"], "split1.test": ["v3"]})
    assert splits(root, layout="egoprocel") == {"v1": "train", "v2": "train", "v3": "test"}
    assert set(build(root, layout="egoprocel")["status"]) == {"ok"}


def test_where_there_are_no_videos_a_samples_digest_is_that_of_its_labels(root, tmp_path):
    frame = build(root, shard_size=1)
    write_manifest(frame, tmp_path / "a.parquet")
    assert frame["path"].isna().all() and frame["duration"].isna().all() and frame["bytes"].isna().all()
    assert all(len(bytes.fromhex(digest)) == hashlib.sha256().digest_size for digest in frame["digest"])
    assert shard_samples(frame, 0)[0].facts is None
    (root / "groundTruth/v1.txt").write_text("SIL\n" * 4)
    write_manifest(build(root, shard_size=1), tmp_path / "b.parquet")
    a, b = shard_digests(tmp_path / "a.parquet"), shard_digests(tmp_path / "b.parquet")
    assert [a[shard] != b[shard] for shard in range(3)] == [True, False, False]
    with pytest.raises(DatasetError, match=r"has no videos .*; use features that are imported"):
        video_folder(dataset(root))


def test_the_report_counts_frames_segments_and_classes(root):
    (root / "unseen.txt").write_text("pour_coffee\n")
    (root / "mapping.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate((*MAPPING, "stir"))))
    _, quality = build_manifest(dataset(root, class_lists={"unseen": "unseen.txt"}))
    found = quality["labels"]
    assert (found["videos"], found["frames"], found["segments"]) == (3, 10, 7)
    assert found["classes"]["pour_coffee"] == {"frames": 3, "segments": 2, "videos": 2}
    assert found["classes"]["stir"] == {"frames": 0, "segments": 0, "videos": 0} and found["never"] == ["stir"]
    assert found["lists"] == {"unseen": {"classes": 1, "frames": 3, "segments": 2}}
    text = quality_markdown(quality)
    assert "Labels: 10 frames in 7 segments of 3 videos." in text and "without a frame stir" in text
    assert "| pour_coffee | 3 | 2 | 2 |" in text and "| labelled frames | 3.0 | 3.0 | 4.0 |" in text


def test_labels_of_other_layouts_are_none(tmp_path):
    (tmp_path / "words.txt").write_text("cup\n")
    texts = Dataset(layout="texts", root=str(tmp_path / "words.txt"))
    assert read_labels(texts, ["cup"]) is None and label_files(texts, ["cup"]) == {}
