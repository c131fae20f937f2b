"""Claims about folders of one's own videos, and about the published lists of splits."""

from pathlib import Path

import pytest

from pipeline.config import Dataset, Lists, Shares
from pipeline.datasets import DatasetError, build_manifest, quality_markdown, read_annotations
from pipeline.datasets.looks import looks
from tests.datasets.made_up import picture


def put(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def folder(root: Path, *paths: str, **fields) -> Dataset:
    put(root, *paths)
    return Dataset(layout="videos", root=str(root), **fields)


def refused(match: str, root: Path, *paths: str, **fields) -> None:
    with pytest.raises(DatasetError, match=match):
        read_annotations(folder(root, *paths, **fields))


def rows(frame, *names: str) -> list[list]:
    return frame[list(names)].values.tolist()


def test_a_class_is_the_path_of_folders_above_a_file(tmp_path):
    frame = read_annotations(
        folder(tmp_path, "archery/1.MP4", "ball/tennis/2.avi", "3.jpg", ".hidden.mp4", "notes.txt")
    )
    assert rows(frame, "sample", "path", "label", "split") == [
        ["3", "3.jpg", None, "all"],
        ["archery/1", "archery/1.MP4", "archery", "all"],
        ["ball/tennis/2", "ball/tennis/2.avi", "ball/tennis", "all"],
    ]
    assert frame.attrs["ignored"] == {".txt": 1}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("train", "dev", "test"),
        ("Training", "valid", "testing"),
        ("train", "validation", "test"),
    ],
)
def test_top_folders_of_the_usual_names_are_splits(tmp_path, names):
    frame = read_annotations(folder(tmp_path, *(f"{name}/a/b/1.mp4" for name in names), f"{names[0]}/2.mp4"))
    told = {sample.partition("/")[0]: split for sample, split in rows(frame, "sample", "split")}
    assert told == dict(zip(names, ("train", "val", "test"), strict=True))
    assert set(frame["label"]) == {"a/b", None}


def test_a_class_may_be_called_test(tmp_path):
    frame = read_annotations(folder(tmp_path, "test/1.mp4", "speech/2.mp4"))
    assert rows(frame, "label", "split") == [["speech", "all"], ["test", "all"]]


def test_what_lies_beside_the_folders_of_splits_is_refused(tmp_path):
    refused(
        r"folders of splits \(train\), and 'archery/1\.mp4' lies in none",
        tmp_path / "a",
        "train/1.mp4",
        "archery/1.mp4",
    )
    refused(r"and '1\.mp4' lies in none of them; move it", tmp_path / "b", "train/1.mp4", "1.mp4")
    refused(
        r"has the folders val and valid, which are both val; join",
        tmp_path / "c",
        "train/1.mp4",
        "val/1.mp4",
        "valid/2.mp4",
    )
    refused(r"and params draw splits by shares; remove split", tmp_path / "d", "train/1.mp4", split=Shares(train=1))
    refused(
        r"split\.by .* is group, and folders name no groups",
        tmp_path / "e",
        "a/1.mp4",
        split=Shares(train=1, by="group"),
    )


def test_an_empty_folder_and_two_files_of_one_id_are_refused(tmp_path):
    refused(r"holds no video or picture among its 1 files; correct", tmp_path / "a", "readme.md")
    refused(r"the files 'a/1\.avi' and 'a/1\.mp4' have one id, 'a/1'; rename", tmp_path / "b", "a/1.mp4", "a/1.avi")
    refused(r"the folder .* does not exist; correct", tmp_path / "none", videos="elsewhere")


def test_shares_draw_the_splits_of_a_folder(tmp_path):
    dataset = folder(tmp_path, *(f"c{i % 4}/{i}.mp4" for i in range(60)), split=Shares(train=0.6, val=0.2, test=0.2))
    before = dict(rows(read_annotations(dataset), "sample", "split"))
    assert set(before.values()) == {"train", "val", "test"}
    put(tmp_path, "c0/new.mp4", "c9/other.mp4")
    after = dict(rows(read_annotations(dataset), "sample", "split"))
    assert {sample: after[sample] for sample in before} == before


def test_a_mix_of_videos_and_pictures_is_one_data_set_and_what_was_passed_over_is_reported(tmp_path, clips):
    dataset = folder(tmp_path, "b/notes.txt", split=Shares(train=1))
    for kind, number in (("a", 0), ("b", 1)):
        (tmp_path / kind).mkdir(exist_ok=True)
        (tmp_path / kind / "film.webm").write_bytes(clips[number])
        picture(number).save(tmp_path / kind / "still.png")
    (tmp_path / "b/broken.mp4").write_bytes(b"no video")
    frame, quality = build_manifest(dataset)
    assert dict(rows(frame, "sample", "status")) == {
        "a/film": "ok", "a/still": "ok", "b/broken": "unreadable", "b/film": "ok", "b/still": "ok"
    }  # fmt: skip
    assert dict(rows(frame, "sample", "frames"))["a/still"] == 1
    told = quality_markdown(quality)
    assert quality["ignored"] == {".txt": 1} and "Files passed over: .txt (1)" in told
    assert "The drawn split train lacks no class" in told


UCF = {
    "lists/classInd.txt": "1 Apply\n2 Bow\n",
    "lists/trainlist01.txt": "Apply/v_Apply_g01_c01.avi 1\r\nBow/v_Bow_g01_c01.avi 2\n",
    "lists/testlist01.txt": "Apply/v_Apply_g02_c01.avi\nBow/v_Bow_g09_c01.avi\n",
}
UCF_FILES = ("videos/Apply/v_Apply_g01_c01.avi", "videos/Bow/v_Bow_g01_c01.mp4", "videos/Apply/v_Apply_g02_c01.avi")
HMDB = {
    "lists/wave_test_split2.txt": "a.avi 1 \nb.avi 2\nc.avi 0\n",
    "lists/run_test_split2.txt": "a.avi 2\n",
    "lists/run_test_split1.txt": "a.avi 1\n",
}
HEAD = "label,youtube_id,time_start,time_end,split\n"
KINETICS = {
    "lists/train.csv": f"{HEAD}air drumming,-abc,5,15,train\nswimming,xyz,0,10,train\n",
    "lists/val.csv": f"{HEAD}swimming,def,1,11,validate\n",
}


def listed(root: Path, form: str, texts: dict[str, str], *paths: str, **fields) -> Dataset:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    lists = Lists(form=form, folder="lists", **fields)
    return folder(root, *paths, videos="videos", lists=lists)


def test_ucf101s_lists_say_split_and_class_whatever_the_suffix(tmp_path):
    dataset = listed(tmp_path, "ucf101", UCF, *UCF_FILES, "videos/Bow/extra.avi")
    frame = read_annotations(dataset)
    assert rows(frame, "sample", "path", "label", "split") == [
        ["Apply/v_Apply_g01_c01", "Apply/v_Apply_g01_c01.avi", "Apply", "train"],
        ["Bow/v_Bow_g01_c01", "Bow/v_Bow_g01_c01.mp4", "Bow", "train"],
        ["Apply/v_Apply_g02_c01", "Apply/v_Apply_g02_c01.avi", "Apply", "test"],
        ["Bow/v_Bow_g09_c01", "Bow/v_Bow_g09_c01.avi", "Bow", "test"],
    ]
    assert frame.attrs["ignored"] == {"on no list": 1}
    statuses = dict(rows(build_manifest(dataset)[0], "sample", "status"))
    assert statuses["Bow/v_Bow_g09_c01"] == "missing"
    wrong = UCF | {"lists/classInd.txt": "2 Apply\n1 Bow\n"}
    with pytest.raises(
        DatasetError, match=r"trainlist01\.txt: line 1 gives 'Apply' the number 1, which .* gives to 'Bow'"
    ):
        read_annotations(listed(tmp_path, "ucf101", wrong))


def test_hmdb51s_lists_have_train_test_and_what_is_in_neither(tmp_path):
    paths = ("videos/wave/a.avi", "videos/wave/b.avi", "videos/wave/c.avi", "videos/run/a.avi")
    frame = read_annotations(listed(tmp_path, "hmdb51", HMDB, *paths, fold=2))
    assert rows(frame, "sample", "split") == [["wave/a", "train"], ["run/a", "test"], ["wave/b", "test"]]
    assert frame.attrs["ignored"] == {"on no list": 1}
    with pytest.raises(DatasetError, match=r"holds no \*_test_split3\.txt; get"):
        read_annotations(listed(tmp_path, "hmdb51", HMDB, fold=3))


def test_kinetics_lists_find_their_clips_wherever_they_lie(tmp_path):
    paths = ("videos/train/air_drumming/-abc_000005_000015.mp4", "videos/def.mkv")
    frame = read_annotations(listed(tmp_path, "kinetics", KINETICS, *paths))
    assert rows(frame, "path", "label", "split") == [
        ["train/air_drumming/-abc_000005_000015.mp4", "air drumming", "train"],
        ["swimming/xyz_000000_000010.mp4", "swimming", "train"],
        ["def.mkv", "swimming", "val"],
    ]
    assert frame["sample"].tolist() == ["-abc_000005_000015", "xyz_000000_000010", "def_000001_000011"]


def test_a_list_that_cannot_be_used_is_told_with_its_line(tmp_path):
    for form, texts, name, text, told in (
        ("ucf101", UCF, "lists/testlist01.txt", "v_Apply.avi\n", r"line 1 is 'v_Apply\.avi', wanted class/file"),
        ("hmdb51", HMDB, "lists/run_test_split2.txt", "a.avi 7\n", r"line 1 is 'a\.avi 7', wanted a file and 0"),
        ("kinetics", KINETICS, "lists/val.csv", f"{HEAD}a,b,c,d,val\n", "line 2 has the times"),
        ("kinetics", KINETICS, "lists/val.csv", f"{HEAD}a,b,1,2,half\n", "has the split 'half'"),
    ):  # fmt: skip
        with pytest.raises(DatasetError, match=told):
            read_annotations(
                listed(tmp_path, form, texts | {name: text}, "videos/a/1.mp4", fold=2 if form == "hmdb51" else 1)
            )
    with pytest.raises(
        DatasetError, match=r"none of the 4 videos of the lists is in .*looked for at Apply/v_Apply_g01_c01"
    ):
        read_annotations(listed(tmp_path / "b", "ucf101", UCF, "videos/other.mp4"))


def test_a_file_that_comes_where_a_list_did_not_expect_it_makes_the_manifest_stale(tmp_path):
    dataset = listed(tmp_path, "kinetics", KINETICS, "videos/def.mkv")

    def look():
        frame = read_annotations(dataset)
        return looks(dataset, frame["sample"].tolist(), ["def.mkv"] * 3, (), {})["annotations"]

    before = look()
    assert look() == before
    put(tmp_path, "videos/odd/xyz_000000_000010.webm")
    assert look() != before
