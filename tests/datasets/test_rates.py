"""Claims about declared rates: of labels, and of videos whose frames have none."""

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.config import Dataset
from pipeline.datasets import DatasetError, build, build_manifest, quality_markdown, read_manifest, write_manifest
from pipeline.datasets.rates import contradiction, unevenness
from tests.datasets.made_up import write_labelled
from tests.video.conftest import encode

# A screen recording, in ms: a burst at 30 a second, a pause, another burst. 40 frames, 12.3 a second in the mean.
BURSTS = [*(round(1000 * k / 30) for k in range(20)), *(2580 + round(1000 * k / 30) for k in range(20))]
EVEN = [round(1000 * k / 12) for k in range(40)]


@pytest.fixture
def labelled(tmp_path) -> Callable[..., Dataset]:
    """labelled(pts of each video, labels of each video, ...) -> a set of labels and videos, on disk."""

    def make(times: list[list[int]], labels: list[int], **fields) -> Dataset:
        samples = [f"v{number}" for number in range(len(times))]
        lists = {"splits/train.split1.bundle": samples[:-1], "splits/test.split1.bundle": samples[-1:]}
        write_labelled(tmp_path, lists, {s: " ".join(["SIL"] * n) for s, n in zip(samples, labels, strict=True)})
        for sample, pts in zip(samples, times, strict=True):
            encode(tmp_path / f"{sample}.mkv", n=len(pts), pts=pts)
        return Dataset(layout="mstcn", root=str(tmp_path), extension=".mkv", **fields)

    return make


@pytest.mark.parametrize(("declared", "real"), [(24.0, 12), (12.0, 24), (30.0, 12)])
def test_a_declared_rate_of_labels_that_no_video_has_is_refused(labelled, declared, real):
    dataset = labelled([EVEN] * 3, [40 * real // 12] * 3, label_fps=declared)
    told = rf"label_fps .* is {declared:g}, but 3 of its 3 videos have about {real}(\.0\d)? labels a second: 'v0' has"
    with pytest.raises(DatasetError, match=told + r" \d+ labels and lasts 3\.3\d s; correct label_fps in params, or"):
        build_manifest(dataset)


def test_single_videos_whose_labels_end_early_are_reported(labelled):
    _, quality = build_manifest(labelled([EVEN] * 3, [40, 40, 25], label_fps=12.0))
    assert [row["sample"] for row in quality["labels"]["lengths"]["worst"]] == ["v2"]


def test_videos_of_labels_at_the_declared_rate_pass(labelled):
    frame, quality = build_manifest(labelled([EVEN] * 3, [99, 100, 101], label_fps=30.0))
    assert set(frame["status"]) == {"ok"} and frame["uneven"].max() < 0.002  # Matroska's milliseconds
    assert quality["labels"]["lengths"]["uneven"] == {"count": 0, "samples": []}


@pytest.mark.parametrize("label_fps", [None, 12.5])
def test_labels_that_may_count_the_frames_of_a_variable_rate_are_reported(labelled, label_fps):
    """Their number says nothing: 40 frames, and 40 labels at the mean rate."""
    frame, quality = build_manifest(labelled([EVEN, BURSTS, BURSTS], [40, 40, 99], label_fps=label_fps))
    off = np.abs(np.array(BURSTS) - np.linspace(0, BURSTS[-1], 40)).max() / 1000
    assert frame["uneven"].tolist()[1:] == pytest.approx([off, off], abs=0.002) and off > 0.9
    found = quality["labels"]["lengths"]["uneven"]
    assert (found["count"], [of["sample"] for of in found["samples"]]) == (1, ["v1"])
    assert f"show their frames for unequal times; v1 by up to {off:.2f} s." in quality_markdown(quality)


def test_how_unevenly_frames_are_shown_is_told_once(labelled, tmp_path, monkeypatch):
    dataset = labelled([EVEN, BURSTS], [40, 40])
    frame, _ = build_manifest(dataset)
    write_manifest(frame, tmp_path / "manifest.parquet")
    before = read_manifest(tmp_path / "manifest.parquet")
    monkeypatch.setattr(build, "time_frames", None)
    again, _ = build_manifest(dataset, before)
    assert again["uneven"].tolist() == frame["uneven"].tolist()


def test_a_set_without_labels_of_frames_times_none(labelled, make_set, monkeypatch):
    monkeypatch.setattr(build, "time_frames", None)
    assert build_manifest(make_set(train=["1"], validation=["2"]))[0]["uneven"].isna().all()


def test_ends_that_windows_do_not_reach_are_no_contradiction_and_another_rate_is():
    assert contradiction(1500 - 64, 25.0, 60.0).startswith("1436 rows at 25 a second are 57.4 s, but its video lasts")
    assert not contradiction(1500 - 50, 25.0, 60.0) and not contradiction(0, 25.0, 0.0)
    assert contradiction(1500, 24.0, 60.0) and contradiction(1500, 50.0, 60.0)


@pytest.mark.parametrize("starts", [[], [0.0], [0.0, 7.0]])
def test_two_frames_are_even(starts):
    assert unevenness(starts) == 0
