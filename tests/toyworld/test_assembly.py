"""toy-assembly: the real layout, the same bytes from the same seed, and no harm from being killed."""

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config import Dataset, Toyworld
from pipeline.datasets import build_manifest, frame_labels
from pipeline.toyworld import ToyworldError, write_assembly
from pipeline.toyworld.assembly import stage, videos
from pipeline.toyworld.procedures import CLASSES, HELD_OUT
from pipeline.toyworld.scene import render
from pipeline.video import probe


def _params(seed: int = 1, train: int = 3) -> Toyworld:
    sizes = {"train": train, "test": 2, "size": 64, "steps": (3, 5), "frames": (6, 12), "fps": 12}
    return Toyworld(seed=seed, assembly=sizes)


def _write(root: Path, **params) -> list[str]:
    lines: list[str] = []
    write_assembly(_params(**params), root, say=lines.append, workers=1)
    return lines


def _digests(root: Path) -> dict[str, str]:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "toy-assembly"
    _write(root)
    return root


def test_the_layout_is_that_of_ms_tcn(written):
    mapping = (written / "mapping.txt").read_text().splitlines()
    assert mapping[0] == "0 background" and len(mapping) == len(CLASSES)
    assert all(line.count(" ") == 1 for line in mapping), "a name is one word, as in Breakfast's"
    assert (written / "splits/train.split1.bundle").read_text() == "train_000.txt\ntrain_001.txt\ntrain_002.txt\n"
    assert (written / "splits/test.split1.bundle").read_text() == "test_000.txt\ntest_001.txt\n"
    for name in ("train_000", "test_001"):
        assert set((written / f"groundTruth/{name}.txt").read_text().split()) <= {line.split()[1] for line in mapping}


def test_the_held_out_classes_and_the_texts_are_those_of_the_mapping(written):
    names = [line.split()[1] for line in (written / "mapping.txt").read_text().splitlines()]
    held_out = (written / "held_out.txt").read_text().splitlines()
    assert [name.replace("_", " ") for name in held_out] == list(HELD_OUT) and set(held_out) < set(names)
    assert (written / "texts.txt").read_text().splitlines() == [name.replace("_", " ") for name in names]


def test_its_manifest_has_a_label_for_every_frame(written):
    dataset = Dataset(
        layout="mstcn",
        root=str(written),
        videos="videos",
        extension=".mp4",
        class_lists={"unseen": "held_out.txt"},
        background=("background",),
    )
    frame, _ = build_manifest(dataset)
    assert set(frame["status"]) == {"ok"} and frame["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert len(frame.attrs["class_lists"]["unseen"]) == len(HELD_OUT)
    for video, row in zip(videos(_params()), frame.to_dict("records"), strict=True):
        truth = [CLASSES.index(step.label) for step in stage(video, _params())[1] for _ in range(step.frames)]
        assert frame_labels(row["segments"], frame.attrs["classes"]).tolist() == truth
        assert row["frames"] == len(truth)


def test_videos_are_h264_that_every_decoder_reads_exactly_and_show_what_was_rendered(written):
    for video in videos(_params()):
        file = written / "videos" / f"{video.id}.mp4"
        frames, _ = render(stage(video, _params())[0], 64)
        with av.open(str(file)) as container:
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert decoded.shape == frames.shape and np.abs(decoded.astype(int) - frames).mean() < 8
        facts = probe(file, decord=True)
        assert (facts.codec, facts.fps, facts.edit_list, facts.decord_exact) == ("h264", 12, False, True)


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(written, tmp_path):
    write_assembly(_params(), tmp_path / "again", say=lambda line: None, workers=2)
    assert _digests(tmp_path / "again") == _digests(written)


def test_another_seed_gives_other_videos_and_a_larger_set_begins_with_the_smaller_one(written, tmp_path):
    _write(tmp_path, seed=2, train=1)
    assert (tmp_path / "videos/train_000.mp4").read_bytes() != (written / "videos/train_000.mp4").read_bytes()
    small, large = videos(_params()), videos(_params(train=5))
    assert [video for video in large if video in small] == small


def test_whole_videos_are_kept_missing_ones_made_again_and_those_of_another_recipe_replaced(tmp_path):
    _write(tmp_path)
    before, kept, lost = _digests(tmp_path), tmp_path / "videos/train_001.mp4", tmp_path / "videos/test_000.mp4"
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    _write(tmp_path)
    assert _digests(tmp_path) == before and kept.stat().st_mtime_ns == stamp
    _write(tmp_path, seed=5, train=1)
    after = _digests(tmp_path)
    assert after["videos/test_000.mp4"] != before["videos/test_000.mp4"]
    assert "videos/train_001.mp4" not in after and "groundTruth/train_001.txt" not in after


def _write_in_process(root: Path) -> None:
    os.setpgrp()
    write_assembly(_params(train=12), root, workers=1)


def test_a_killed_run_leaves_no_mapping_and_resumes_to_the_same_bytes(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_write_in_process, args=(tmp_path / "killed",))
    process.start()
    while len(list((tmp_path / "killed").glob("videos/*.mp4"))) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "killed/mapping.txt").exists()
    _write(tmp_path / "killed", train=12)
    _write(tmp_path / "whole", train=12)
    unfinished = {name for name in _digests(tmp_path / "killed") if name.endswith(".partial")}
    assert not unfinished and _digests(tmp_path / "killed") == _digests(tmp_path / "whole")


def test_a_folder_that_holds_someone_elses_data_is_never_touched(tmp_path):
    (tmp_path / "mapping.txt").write_text("0 SIL\n")
    with pytest.raises(ToyworldError, match=r"holds mapping.txt, which the toy world did not write; name an empty"):
        _write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mapping.txt"]


def test_progress_is_told(tmp_path):
    assert _write(tmp_path)[-1].startswith("toy-assembly: 5/5 videos, ")
