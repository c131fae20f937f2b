"""Claims about clips of a table: their ends become seconds of their video, and what lies past its end is told."""

import hashlib
import json

import pytest

from pipeline.config import Columns, Dataset
from pipeline.datasets import (
    DatasetError,
    build,
    build_manifest,
    quality_markdown,
    read_annotations,
    shard_digest,
    shard_samples,
)
from pipeline.datasets.digests import unchanged
from pipeline.datasets.manifest import read_manifest, write_manifest
from tests.datasets.layouts.test_table import write
from tests.datasets.made_up import picture
from tests.video.conftest import encode


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> bytes:
    """24 numbered frames in 2 s."""
    return encode(tmp_path_factory.mktemp("cuts") / "film.mp4").read_bytes()


def table(root, film, *rows: str, unit: str = "seconds", head: str = "path,start,stop") -> Dataset:
    dataset = write(root, "\n".join([head, *rows]) + "\n", columns=Columns(unit=unit), shard_size=64)
    (root / "film.mp4").write_bytes(film)
    return dataset


def test_clips_in_seconds_and_in_frames_are_the_same_samples_content(tmp_path, film):
    seconds, _ = build_manifest(table(tmp_path / "a", film, "film.mp4,0.5,1", "film.mp4,1,", "film.mp4,,"))
    frames, _ = build_manifest(
        table(tmp_path / "b", film, "film.mp4,6,12", "film.mp4,12,", "film.mp4,,", unit="frames")
    )
    for frame in (seconds, frames):
        assert frame["start"].tolist()[:2] == [0.5, 1.0] and frame["stop"].tolist()[:2] == [1.0, 2.0]
        assert frame["start"].isna().tolist() == [False, False, True]
    assert seconds["digest"].tolist() == frames["digest"].tolist()


def test_a_clip_has_its_own_digest_and_keeps_its_videos(tmp_path, film):
    dataset = table(tmp_path, film, "film.mp4,0.5,1", "film.mp4,,")
    frame, _ = build_manifest(dataset)
    whole = hashlib.sha256(film).hexdigest()
    own = hashlib.sha256(json.dumps([whole, 0.5, 1.0]).encode()).hexdigest()
    assert frame["digest"].tolist() == [own, whole] and frame["file_digest"].tolist() == [whole, None]
    write_manifest(frame, tmp_path / "m.parquet")
    clip, other = shard_samples(read_manifest(tmp_path / "m.parquet"), 0)
    assert (clip.facts["start"], clip.facts["duration"], clip.facts["frames"]) == (0.5, 0.5, 24)
    assert "start" not in other.facts and other.facts["duration"] == 2.0
    assert unchanged(tmp_path, clip) == unchanged(tmp_path, other) == tmp_path / "film.mp4"


def test_another_end_of_a_clip_is_another_content_of_its_shard_and_probes_nothing(tmp_path, film, monkeypatch):
    rows = ["x,film.mp4,0.5,1", "y,film.mp4,1,1.5"]
    path, head = tmp_path / "m.parquet", "id,path,start,stop"
    frame, _ = build_manifest(table(tmp_path, film, *rows, head=head))
    write_manifest(frame, path)
    before = shard_digest(path, 0)
    monkeypatch.setattr("pipeline.video.probe", lambda *_: pytest.fail("probed again"))
    write_manifest(build_manifest(table(tmp_path, film, *rows, head=head), read_manifest(path))[0], path)
    assert shard_digest(path, 0) == before
    moved = table(tmp_path, film, rows[0], "y,film.mp4,1,1.25", head=head)
    again, _ = build_manifest(moved, read_manifest(path))
    write_manifest(again, path)
    assert shard_digest(path, 0) != before and again["digest"][0] == frame["digest"][0]


def test_clips_past_the_end_are_one_error_with_file_row_sample_and_remedy(tmp_path, film):
    for unit, row, told in (
        ("seconds", "film.mp4,1,3", r"from 1 to 3 s of 'film_1_3' is past the end of film\.mp4, which lasts 2\.00 s"),
        ("seconds", "film.mp4,2,", r"from 2 s of 'film_2' is past the end"),
        ("frames", "film.mp4,12,36", r"from 12 to 36 frames of 'film_12_36' .* lasts 24 frames"),
    ):
        with pytest.raises(DatasetError, match=rf"videos\.csv: line 3: the clip {told} .*1 of 2 clips.*columns\.unit"):
            build_manifest(table(tmp_path, film, "film.mp4,0,1", row, unit=unit))


def test_a_picture_has_no_start_and_no_stop(tmp_path, film):
    """By its suffix while planning; of a picture that may move, where its content says that it does not."""
    for row, told in (
        ("face.jpg,1,2", r"line 2: the picture 'face\.jpg' has the start 1, and is one moment; leave start and stop"),
        ("face.jpg,,2", r"'face\.jpg' has the stop 2"),
    ):
        with pytest.raises(DatasetError, match=told):
            read_annotations(table(tmp_path, film, row))
    dataset = table(tmp_path, film, "face.gif,1,2", "film.mp4,0,1")
    picture(1).save(tmp_path / "face.gif")
    with pytest.raises(DatasetError, match=r"line 2: .*of 'face_1_2': .*face\.gif is a picture, one moment; leave"):
        build_manifest(dataset)
    whole, _ = build_manifest(table(tmp_path, film, "face.gif,0,", "film.mp4,0,1"))
    assert whole["status"].tolist() == ["ok", "ok"] and whole["start"].isna().tolist() == [True, False]


def test_a_clip_that_ends_a_frame_late_ends_with_its_video(tmp_path, film):
    frame, _ = build_manifest(table(tmp_path, film, "film.mp4,1,2.08"))
    assert frame["status"].tolist() == ["ok"] and frame["stop"].tolist() == [2.0]


def test_one_clip_of_very_many_past_the_end_is_reported_and_the_others_are_kept(tmp_path, film):
    rows = [f"film.mp4,0,{1 + number / 1000}" for number in range(120)]
    dataset = table(tmp_path, film, *rows, "film.mp4,1,3")
    frame, quality = build_manifest(dataset)
    assert frame["status"].value_counts().to_dict() == {"ok": 120, "past_end": 1}
    (found,) = quality["not_ok"]["past_end"]["samples"]
    assert found["sample"] == "film_1_3" and "line 122: the clip from 1 to 3 s" in found["detail"]
    assert "correct start and stop" in quality_markdown(quality)
    assert quality["clips"] == {"count": 120, "videos": 1, "across_splits": 0} and quality["duration"]["max"] == 1.119
    assert build.remembered_findings(frame)["film.mp4"].digest == hashlib.sha256(film).hexdigest()


def test_the_clips_of_a_video_that_cannot_be_read_have_its_reason(tmp_path, film):
    frame, quality = build_manifest(table(tmp_path, film[:500], "film.mp4,0,1", "gone.mp4,1,2", "film.mp4,,"))
    assert frame["status"].tolist() == ["unreadable", "missing", "unreadable"] and frame["start"].isna().all()
    assert list(quality["not_ok"]) == ["missing", "unreadable"]
