"""toy-ssv2: the real layout, the same bytes from the same seed, and no harm from being killed."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config import ToySSv2, Toyworld
from pipeline.toyworld import ToyworldError, write_ssv2, write_ssv2_reversed
from pipeline.toyworld.scene import render
from pipeline.toyworld.ssv2 import reversible, stage, videos
from pipeline.toyworld.templates import BY_TEXT, TEMPLATES
from pipeline.toyworld.writing import encode


def _params(seed: int = 1, train: int = 1, size: int = 64) -> Toyworld:
    return Toyworld(seed=seed, ssv2=ToySSv2(train=train, validation=1, test=1, size=size, frames=(8, 12), fps=12))


def _write(root: Path, **params) -> list[str]:
    lines: list[str] = []
    write_ssv2(_params(**params), root, say=lines.append, workers=1)
    return lines


def _digests(root: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(root.iterdir())}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "toy-ssv2"
    _write(root)
    return root


def test_the_layout_is_something_something_v2s(written):
    labels = json.loads((written / "labels.json").read_text())
    assert list(labels) == sorted(labels) and list(labels.values()) == [str(index) for index in range(16)]
    for split in ("train", "validation"):
        for entry in json.loads((written / f"{split}.json").read_text()):
            assert list(entry) == ["id", "label", "template", "placeholders"]
            assert entry["template"].replace("[", "").replace("]", "") in labels
            assert entry["template"].count("[something") == len(entry["placeholders"])
            assert all(name in entry["label"] for name in entry["placeholders"]) and "[" not in entry["label"]
    assert all(list(entry) == ["id"] for entry in json.loads((written / "test.json").read_text()))


def test_every_class_has_its_share_of_every_split_and_every_id_its_video(written):
    ids = []
    for split in ("train", "validation", "test"):
        entries = json.loads((written / f"{split}.json").read_text())
        ids += [entry["id"] for entry in entries]
        if split != "test":
            assert {entry["template"] for entry in entries} == {template.text for template in TEMPLATES}
    assert len(ids) == len(set(ids)) == 48
    assert {f"{name}.webm" for name in ids} == {file.name for file in written.glob("*.webm")}


def test_videos_are_vp9_and_decode_to_the_frames_that_were_rendered(written):
    for video in videos(_params().ssv2)[:6]:
        frames, _ = render(stage(video, _params())[0], 64)
        with av.open(str(written / f"{video.id}.webm")) as container:
            stream = container.streams.video[0]
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
            assert stream.codec_context.name in ("vp9", "libvpx-vp9") and stream.average_rate == 12
        assert decoded.shape == frames.shape
        assert np.abs(decoded.astype(int) - frames).mean() < 8


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(written, tmp_path):
    write_ssv2(_params(), tmp_path / "again", say=lambda line: None, workers=2)
    assert _digests(tmp_path / "again") == _digests(written)


def _decoded(file: Path) -> np.ndarray:
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])])


def test_the_reversed_set_is_the_validation_videos_played_backwards_under_their_opposites_names(written, tmp_path):
    root = tmp_path / "toy-ssv2-reversed"
    write_ssv2_reversed(_params(), root, say=lambda line: None, workers=1)
    entries = json.loads((root / "validation.json").read_text())
    originals = {entry["id"]: entry for entry in json.loads((written / "validation.json").read_text())}
    with_opposite = {name for name, entry in originals.items() if BY_TEXT[entry["template"]].opposite}
    assert {entry["id"] for entry in entries} == with_opposite and len(entries) == 12
    assert {f"{name}.webm" for name in with_opposite} == {file.name for file in root.glob("*.webm")}
    assert json.loads((root / "train.json").read_text()) == json.loads((root / "test.json").read_text()) == []
    assert (root / "labels.json").read_bytes() == (written / "labels.json").read_bytes()
    for entry in entries:
        was = originals[entry["id"]]
        assert entry["template"] == BY_TEXT[was["template"]].opposite != was["template"]
        assert entry["placeholders"] == was["placeholders"]
        assert entry["label"] == BY_TEXT[entry["template"]].sentence(was["placeholders"])
        here, there = (_decoded(folder / f"{entry['id']}.webm").astype(int) for folder in (root, written))
        # Both are encoded of the same frames, once each: a codec's error apart they are one film.
        assert np.abs(here[::-1] - there).mean() < min(8, np.abs(here - there).mean())


def test_a_reversed_set_is_the_same_bytes_again(tmp_path):
    for name in ("one", "two"):
        write_ssv2_reversed(_params(), tmp_path / name, say=lambda line: None, workers=1)
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")
    assert [video.split for video in reversible(_params().ssv2)] == ["validation"] * 12


def test_another_seed_gives_other_videos(written, tmp_path):
    video = videos(_params().ssv2)[0]
    encode(render(stage(video, _params(seed=2))[0], 64)[0], tmp_path / "other.webm", 12)
    assert (tmp_path / "other.webm").read_bytes() != (written / f"{video.id}.webm").read_bytes()


def test_a_larger_set_begins_with_the_smaller_ones_videos():
    small, large = videos(_params().ssv2), videos(_params(train=2).ssv2)
    assert set(small) < set(large) and [video for video in large if video in small] == small


def test_whole_videos_are_kept_and_missing_ones_made_again(tmp_path):
    _write(tmp_path)
    before, kept, lost = _digests(tmp_path), tmp_path / "100003.webm", tmp_path / "200004.webm"
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / ".200004.webm.partial").write_bytes(b"half a video")
    _write(tmp_path)
    assert _digests(tmp_path) == before and kept.stat().st_mtime_ns == stamp


def test_videos_of_another_recipe_are_replaced(tmp_path):
    _write(tmp_path)
    before = _digests(tmp_path)
    _write(tmp_path, seed=5)
    after = _digests(tmp_path)
    assert after["labels.json"] == before["labels.json"] and after["100000.webm"] != before["100000.webm"]


def _write_in_process(root: Path) -> None:
    os.setpgrp()
    write_ssv2(_params(train=2), root, workers=1)


def test_a_killed_run_leaves_no_annotations_and_resumes_to_the_same_bytes(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_write_in_process, args=(tmp_path / "killed",))
    process.start()
    while len(list((tmp_path / "killed").glob("*.webm"))) < 5:
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "killed" / "train.json").exists()
    _write(tmp_path / "killed", train=2)
    _write(tmp_path / "whole", train=2)
    assert _digests(tmp_path / "killed") == _digests(tmp_path / "whole")


def test_a_folder_that_holds_someone_elses_data_is_never_touched(tmp_path):
    (tmp_path / "42.webm").write_bytes(b"a real video")
    with pytest.raises(ToyworldError, match=r"holds 42.webm, which the toy world did not write; name an empty folder"):
        _write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["42.webm"]


def test_progress_is_told(tmp_path):
    assert _write(tmp_path)[-1].startswith("toy-ssv2: 48/48 videos, ")
