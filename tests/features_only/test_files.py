"""Which files are meant, their ids, and the manifest that grows with every call."""

import pytest

from pipeline.datasets import read_manifest
from pipeline.features_only.files import FilesError, named_files, note_files, with_ids
from tests.datasets.made_up import picture


def quiet(line: str) -> None:
    pass


def test_a_folder_means_the_videos_and_pictures_in_it_and_says_what_it_passes_over(tmp_path):
    for name in ("b/2.MP4", "a/1.webm", "3.png", ".hidden.mp4", "notes.txt", "b/list.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    said = []
    found = named_files([tmp_path, tmp_path / "a/1.webm"], said.append)
    assert [name for name, _ in found] == ["3.png", "a/1.webm", "b/2.MP4"]
    assert said == [f"{tmp_path}: 3 files; passed over as no videos or pictures: 1 .csv, 1 .txt"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["absent.mp4"],
            "absent.mp4: there is no such file or folder; .* `python -m pipeline extract DATASET FEATURE`",
        ),
        (["."], "holds no video and no picture among its 1 files"),
        ([], "no file is named; name videos, pictures, or folders of them"),
        (["a\tb.txt"], "holds a control character or is not UTF-8; rename"),
    ],
)
def test_what_cannot_be_meant_is_one_error_with_the_remedy(tmp_path, monkeypatch, paths, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a\tb.txt").write_bytes(b"")
    with pytest.raises(FilesError, match=message):
        named_files(paths, quiet)


def test_two_files_of_one_name_are_refused_where_suffixes_do_not_tell_them_apart():
    with pytest.raises(
        FilesError, match=r"/x/1.mp4 and /y/1.mp4 would both be '1.mp4'; name the folder that both lie in"
    ):
        with_ids([("1.mp4", "/y/1.mp4"), ("1.mp4", "/x/1.mp4")], {})


def test_an_id_once_given_stays_whatever_comes_later():
    known = {"/x/1.mp4": "1"}
    assert with_ids([("1.avi", "/x/1.avi"), ("1.mp4", "/x/1.mp4")], known) == {"1.avi": "/x/1.avi", "1": "/x/1.mp4"}


def test_a_manifest_keeps_every_file_that_was_ever_named_in_its_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.features_only.files.SHARD_SIZE", 2)
    for number in range(5):
        picture(number).save(tmp_path / f"{number}.png")
    path, files = tmp_path / "manifest.parquet", [(f"{n}.png", str(tmp_path / f"{n}.png")) for n in range(5)]
    assert note_files(path, files[1:4], 0, quiet) == (["1", "2", "3"], [0, 1], {})
    (tmp_path / "1.png").unlink()
    (tmp_path / "4.png").write_bytes(b"no picture")
    ids, shards, details = note_files(path, [files[0], files[4]], 0, quiet)
    assert (ids, shards) == (["0", "4"], [2]) and "4.png" in details["4"]
    frame = read_manifest(path)
    assert frame["sample"].tolist() == ["1", "2", "3", "0", "4"] and frame["shard"].tolist() == [0, 0, 1, 2, 2]
    assert frame["status"].tolist() == ["ok"] * 4 + ["unreadable"]
    note_files(path, files[4:], 0, quiet)
    assert read_manifest(path).equals(frame)
