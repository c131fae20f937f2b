"""Claims about building a manifest from files on disk."""

import itertools
import json
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

import pipeline.video
from pipeline.config import Dataset, file_digest
from pipeline.datasets import (
    DatasetError,
    build,
    build_manifest,
    read_manifest,
    shard_digests,
    shard_samples,
    write_manifest,
)
from pipeline.memory import Shortage
from pipeline.video import VideoFacts, probe
from tests.datasets.made_up import write_set

CLIPS = Path(__file__).parents[2] / "../shared/data/clips"


def statuses(frame: pd.DataFrame) -> dict[str, str]:
    return dict(zip(frame["sample"], frame["status"], strict=True))


def without_looking(monkeypatch) -> list[str]:
    """From now on every file that is hashed or probed is written down."""
    looked_at = []

    def hashing(stream, name):
        looked_at.append(f"hash {Path(stream.name).name}")
        return original_digest(stream, name)

    def probing(path, still):
        looked_at.append(f"probe {path.name}")
        return probe(path, still)

    original_digest = build.hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", hashing)
    monkeypatch.setattr("pipeline.video.probe", probing)
    return looked_at


def test_every_sample_is_ok_with_its_digest_and_facts(make_set):
    dataset = make_set(train=["1", "2", "3"], validation=["4"], test=["5"])
    frame, quality = build_manifest(dataset)
    assert set(frame["status"]) == {"ok"}
    assert frame["shard"].tolist() == [0, 0, 1, 1, 2]
    for row in frame.to_dict("records"):
        file = Path(dataset.root, row["path"])
        assert row["digest"] == file_digest(file)
        assert (row["bytes"], row["mtime_ns"]) == (file.stat().st_size, file.stat().st_mtime_ns)
        assert (row["frames"], row["width"], row["height"], row["fps"]) == (6, 32, 32, 12.0)
    assert quality["ok"] == quality["samples"] == 5


def test_the_facts_of_a_shard_are_those_of_probe(make_set):
    dataset = make_set(train=["1"])
    (row,) = shard_samples(build_manifest(dataset)[0], 0)
    assert VideoFacts(**row.facts) == probe(Path(dataset.root) / row.path)


def test_what_is_wrong_with_a_file_is_its_status(make_set, clips):
    names = ["whole", "absent", "empty", "garbage", "folder", "dangling", "circular", "half"]
    dataset = make_set(train=names)
    root = Path(dataset.root)
    for name in ("absent", "folder", "dangling", "circular"):
        (root / f"{name}.webm").unlink()
    (root / "empty.webm").write_bytes(b"")
    (root / "garbage.webm").write_bytes(bytes(range(256)) * 50)
    (root / "half.webm").write_bytes(clips[0][: len(clips[0]) * 2 // 3])
    (root / "folder.webm").mkdir()
    (root / "dangling.webm").symlink_to(root / "nowhere.webm")
    (root / "circular.webm").symlink_to(root / "circular.webm")
    frame, quality = build_manifest(dataset)
    found = statuses(frame)
    assert found.pop("half") in {"short", "unreadable"}
    assert found == {
        "whole": "ok", "absent": "missing", "empty": "empty", "garbage": "unreadable",
        "folder": "not_a_file", "dangling": "missing", "circular": "unreadable",
    }  # fmt: skip
    assert frame["digest"][1] == ""
    assert frame["bytes"].isna().tolist()[:3] == [False, True, False]
    assert quality["not_ok"]["missing"]["samples"][0] == {"sample": "absent", "detail": "absent.webm does not exist"}
    assert str(root) not in json.dumps(quality), "the report does not depend on where the set lies"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(make_set):
    dataset = make_set(train=["1", "2"])
    (Path(dataset.root) / "1.webm").chmod(0)
    assert statuses(build_manifest(dataset)[0]) == {"1": "unreadable", "2": "ok"}


def test_a_link_out_of_the_root_is_refused_unless_links_are_allowed(make_set, tmp_path, clips):
    dataset = make_set(train=["inside", "outside", "stay"])
    root = Path(dataset.root)
    (tmp_path / "secret.webm").write_bytes(clips[5])
    (tmp_path / "set-beside").mkdir()
    shutil.copy(tmp_path / "secret.webm", tmp_path / "set-beside" / "x.webm")
    for name, target in {"inside": root / "stay.webm", "outside": tmp_path / "set-beside" / "x.webm"}.items():
        (root / f"{name}.webm").unlink()
        (root / f"{name}.webm").symlink_to(target)
    frame, quality = build_manifest(dataset)
    assert statuses(frame) == {"inside": "ok", "outside": "outside_root", "stay": "ok"}
    assert frame["digest"][1] == "", "a refused file is not even read"
    assert quality["not_ok"]["outside_root"]["count"] == 1
    allowed = dataset.model_copy(update={"allow_links": True})
    permitted, _ = build_manifest(allowed, previous=frame)
    assert set(permitted["status"]) == {"ok"}
    refused, _ = build_manifest(dataset, previous=permitted)
    assert refused["digest"][1] == "", "what was remembered while links were allowed does not slip through"


def test_a_videos_folder_that_is_absent_or_leads_out_of_the_root_is_an_error(make_set, tmp_path):
    dataset = make_set(train=["1"])
    with pytest.raises(DatasetError, match=r"nowhere does not exist; correct the data set's root or videos"):
        build_manifest(dataset.model_copy(update={"videos": "nowhere"}))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(Path(dataset.root) / "1.webm", tmp_path / "elsewhere")
    (Path(dataset.root) / "videos").symlink_to(tmp_path / "elsewhere")
    for videos in ("videos", "../elsewhere", str(tmp_path / "elsewhere")):
        beside = dataset.model_copy(update={"videos": videos})
        with pytest.raises(DatasetError, match=r"outside the root .*; set allow_links: true"):
            build_manifest(beside)
        assert statuses(build_manifest(beside.model_copy(update={"allow_links": True}))[0]) == {"1": "ok"}


def test_a_root_that_is_itself_a_link_is_no_way_out(make_set, tmp_path):
    dataset = make_set(train=["1"])
    (tmp_path / "alias").symlink_to(dataset.root)
    assert statuses(build_manifest(dataset.model_copy(update={"root": str(tmp_path / "alias")}))[0]) == {"1": "ok"}


def test_an_unchanged_file_is_neither_hashed_nor_probed_again(make_set, tmp_path, monkeypatch):
    dataset = make_set(train=["1", "2", "3"])
    (Path(dataset.root) / "3.webm").write_bytes(b"damaged" * 100)
    before, _ = build_manifest(dataset)
    write_manifest(before, tmp_path / "m.parquet")
    looked_at = without_looking(monkeypatch)
    after, _ = build_manifest(dataset, previous=read_manifest(tmp_path / "m.parquet"))
    pd.testing.assert_frame_equal(after, before)
    assert looked_at == ["probe 3.webm"], "what failed is probed afresh, but its digest is remembered"
    assert not write_manifest(after, tmp_path / "m.parquet")


def test_facts_of_another_version_are_taken_afresh_but_digests_are_kept(make_set, monkeypatch):
    dataset = make_set(train=["1", "2"])
    before, _ = build_manifest(dataset)
    before.attrs["facts_version"] = "0"
    looked_at = without_looking(monkeypatch)
    build_manifest(dataset, previous=before)
    assert looked_at == ["probe 1.webm", "probe 2.webm"]


def test_a_replaced_video_changes_its_digest_and_its_shards_digest_alone(make_set, tmp_path, clips, monkeypatch):
    dataset = make_set(train=["1", "2", "3", "4", "5"])
    path = tmp_path / "m.parquet"
    before, _ = build_manifest(dataset)
    write_manifest(before, path)
    digests = shard_digests(path)
    (Path(dataset.root) / "3.webm").write_bytes(clips[9])
    looked_at = without_looking(monkeypatch)
    after, _ = build_manifest(dataset, previous=read_manifest(path))
    write_manifest(after, path)
    assert looked_at == ["hash 3.webm", "probe 3.webm"]
    assert (after["digest"] != before["digest"]).tolist() == [False, False, True, False, False]
    assert {shard for shard, digest in shard_digests(path).items() if digest != digests[shard]} == {1}


def test_added_samples_leave_the_old_shards_and_their_digests_alone(make_set, tmp_path):
    path = tmp_path / "m.parquet"
    before, _ = build_manifest(make_set(train=["1", "2", "3"], validation=["4"]))
    write_manifest(before, path)
    digests = shard_digests(path)
    after, _ = build_manifest(
        make_set(train=["1", "2", "3", "new"], validation=["newer", "4"], test=["newest"]), before
    )
    write_manifest(after, path)
    assert {s: digest for s, digest in shard_digests(path).items() if s in digests} == digests
    assert dict(zip(after["sample"], after["shard"], strict=True)) == {
        "1": 0, "2": 0, "3": 1, "new": 2, "newer": 2, "4": 1, "newest": 3,
    }  # fmt: skip


def test_removed_samples_move_no_other(make_set, tmp_path):
    path = tmp_path / "m.parquet"
    before, _ = build_manifest(make_set(train=["1", "2", "3", "4", "5"]))
    write_manifest(before, path)
    digests = shard_digests(path)
    after, _ = build_manifest(make_set(train=["1", "2", "5"]), before)
    write_manifest(after, path)
    assert shard_digests(path) == {0: digests[0], 2: digests[2]}


def test_two_processes_find_what_one_finds_and_progress_is_told(make_set, monkeypatch):
    monkeypatch.setattr(build, "CHUNK", 2)
    dataset = make_set(train=["1", "2", "3", "4", "5"], test=["6", "7"])
    (Path(dataset.root) / "4.webm").unlink()
    alone, quality = build_manifest(dataset, workers=0)
    lines = []
    together, same_quality = build_manifest(dataset, workers=2, progress=lines.append)
    pd.testing.assert_frame_equal(together, alone)
    assert same_quality == quality
    assert lines[-1].startswith("7 of 7 videos looked at, 1 not ok, ")


def test_progress_lines_are_seconds_apart(make_set, monkeypatch):
    monkeypatch.setattr(build, "CHUNK", 1)
    clock = itertools.count(0.0, 2.0)
    monkeypatch.setattr(build, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines = []
    build_manifest(make_set(train=list("1234567")), progress=lines.append)
    assert [line.split(" of ")[0] for line in lines] == ["3", "6", "7"]
    assert lines[0] == "3 of 7 videos looked at, 0 not ok, 0.5 videos/s, 8 s left"


def dies_at_the_second(jobs):
    if any(job.path.endswith("2.webm") for job in jobs):
        os._exit(1)
    return [build.examine(job) for job in jobs]


def test_a_file_that_ends_its_worker_fails_alone(make_set, monkeypatch):
    monkeypatch.setattr(build, "_examine_chunk", dies_at_the_second)
    monkeypatch.setattr(build, "CHUNK", 3)
    frame, quality = build_manifest(make_set(train=["1", "2", "3", "4"]), workers=1)
    assert statuses(frame) == {"1": "ok", "2": "decode_error", "3": "ok", "4": "ok"}
    (told,) = quality["not_ok"]["decode_error"]["samples"]
    assert told["detail"].startswith("2.webm ends the process that reads it")


def test_processes_that_end_before_they_begin_are_one_error_and_no_file_s_fault(make_set, monkeypatch):
    made = partial(ProcessPoolExecutor, mp_context=get_context("spawn"), initializer=os._exit, initargs=(1,))
    monkeypatch.setattr(build, "_workers", made)
    with pytest.raises(DatasetError, match=r"1\.webm: the process that should look at it ended before it began"):
        build_manifest(make_set(train=["1", "2"]), workers=1)


def test_whatever_a_decoder_raises_is_the_status_of_that_file(make_set, monkeypatch):
    def raises(path, still):
        if path.name == "2.webm":
            raise kinds.pop()
        return probe(path, still)

    kinds = [OverflowError("too large"), RuntimeError("no codec")]
    monkeypatch.setattr(pipeline.video, "probe", raises)
    for wanted in ("RuntimeError: no codec", "OverflowError: too large"):
        frame, quality = build_manifest(make_set(train=["1", "2", "3"]))
        assert statuses(frame) == {"1": "ok", "2": "decode_error", "3": "ok"}
        assert wanted in quality["not_ok"]["decode_error"]["samples"][0]["detail"]


def test_a_shortage_of_the_machine_ends_the_manifest_and_is_no_file_s_status(make_set, monkeypatch):
    def raises(path, still):
        if path.name == "2.webm":
            raise MemoryError
        return probe(path, still)

    monkeypatch.setattr(pipeline.video, "probe", raises)
    with pytest.raises(Shortage, match=r"2\.webm: this machine is short of memory .*and run again"):
        build_manifest(make_set(train=["1", "2", "3"]))


def killed_at_the_second(jobs):
    if any(job.path.endswith("2.webm") for job in jobs):
        os.kill(os.getpid(), signal.SIGKILL)
    return [build.examine(job) for job in jobs]


def test_a_worker_that_the_system_kills_for_want_of_memory_is_no_file_s_fault(make_set, monkeypatch):
    monkeypatch.setattr(build, "_examine_chunk", killed_at_the_second)
    with pytest.raises(Shortage, match=r"2\.webm: the system killed the process that looked at it"):
        build_manifest(make_set(train=["1", "2", "3"]), workers=1)


def test_an_animation_is_a_video_among_videos_and_its_first_frame_among_pictures(make_set, tmp_path):
    shades = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 100, 200)]
    dataset = make_set(train=["1"])
    shades[0].save(Path(dataset.root, "1.webm"), "GIF", save_all=True, append_images=shades[1:], duration=100)
    (tmp_path / "pictures").mkdir()
    shutil.copy(Path(dataset.root, "1.webm"), tmp_path / "pictures" / "1.gif")
    among_videos, _ = build_manifest(dataset)
    among_pictures, _ = build_manifest(Dataset(layout="images", root=str(tmp_path / "pictures")))
    for frame, frames, duration in ((among_videos, 3, 0.3), (among_pictures, 1, 0)):
        assert (frame["status"][0], frame["frames"][0]) == ("ok", frames)
        assert frame["duration"][0] == pytest.approx(duration)


@pytest.mark.skipif(not CLIPS.exists(), reason=f"the shared clips are not at {CLIPS}")
def test_every_shared_clip_ends_ok_or_with_a_true_reason(tmp_path):
    files = sorted(file for file in CLIPS.rglob("*") if file.is_file())
    ids = [f"{file.parent.name}-{file.name}".replace(".", "-") for file in files]
    write_set(tmp_path, train=ids)
    for sample, file in zip(ids, files, strict=True):
        shutil.copyfile(file, tmp_path / f"{sample}.webm")
    frame, _ = build_manifest(Dataset(layout="ssv2", root=str(tmp_path)))
    found = {f"{file.parent.name}/{file.name}": frame["status"][i] for i, file in enumerate(files)}
    print(json.dumps(found, indent=1))
    assert found["corrupt/empty.mp4"] == found["corrupt/empty.webm"] == "empty"
    assert found["corrupt/audio_only.mp4"] == "no_video"
    for name in ("garbage.mp4", "html.webm", "demo_h264_trunc10.mp4"):
        assert found[f"corrupt/{name}"] == "unreadable"
    for part in (10, 50, 90):
        assert found[f"corrupt/pancake_vp9_trunc{part}.webm"] == "short"
    whole = {name for name in found if not name.startswith("corrupt/")} - {"clips/decord_corrupted.mp4"}
    assert {name for name, status in found.items() if status == "ok"} == whole | {"corrupt/one_frame.webm"}
    assert set(found.values()) == {"ok", "empty", "no_video", "unreadable", "short", "decode_error"}
