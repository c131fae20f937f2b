"""Claims about Epic-Kitchens' layout."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Dataset
from pipeline.datasets import DatasetError, annotation_files, build_manifest, frame_labels, read_annotations

HEAD = "narration_id,participant_id,video_id,start_frame,stop_frame,narration,verb,verb_class,noun,noun_class"
VERBS, NOUNS = {0: "take", 3: "open"}, {0: "tap", 2: "plate", 5: "board:chopping"}
# narration, video, first and last frame at 50 fps, verb, noun
TRAIN = [("a", "P01_01", 50, 100, 0, 2), ("b", "P01_01", 80, 120, 3, 5), ("c", "P02_03", 0, 25, 0, 2)]
VALIDATION = [("d", "P01_02", 10, 40, 3, 0)]


def write_epic(root: Path, train=tuple(TRAIN), validation=tuple(VALIDATION)) -> Dataset:
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for split, actions in (("train", train), ("validation", validation)):
        rows = [f'{n},{v[:3]},{v},{a},{b},"words, and more",x,{verb},y,{noun}' for n, v, a, b, verb, noun in actions]
        (folder / f"EPIC_100_{split}.csv").write_text("\n".join([HEAD, *rows]))
    for kind, keys in (("verb", VERBS), ("noun", NOUNS)):
        rows = [f"{index},{key},['{key}'],misc" for index, key in keys.items()]
        (folder / f"EPIC_100_{kind}_classes.csv").write_text("\n".join(["id,key,instances,category", *rows]))
    videos = [f"{video},4.0,50.0,1920x1080" for video in ("P01_01", "P02_03", "P01_02")]
    (folder / "EPIC_100_video_info.csv").write_text("\n".join(["video_id,duration,fps,resolution", *videos]))
    fields = {"labels": "annotations", "label_fps": 25.0, "background": ("none",)}
    return Dataset(layout="epic", root=str(root), **fields).model_copy(update={"videos": None})


def labels_of(dataset: Dataset) -> dict[str, list[str]]:
    frame = build_manifest(dataset)[0]
    names = frame.attrs["classes"]
    return {
        sample: [names[label] for label in frame_labels(runs, names)]
        for sample, runs in zip(frame["sample"], frame["segments"], strict=True)
    }


def literal(actions, seconds: float, fps: float, label_fps: float) -> list[str]:
    """Frame by frame: of the actions that a frame lies in, the one that began last."""
    found = []
    for frame in range(round(seconds * label_fps)):
        own = "none"
        for _, _, start, stop, verb, noun in sorted(actions, key=lambda action: action[2]):
            if round(start * label_fps / fps) <= frame < round(stop * label_fps / fps):
                own = f"{VERBS[verb]} {NOUNS[noun]}"
        found.append(own)
    return found


def test_a_frame_has_the_label_of_the_action_that_began_last(tmp_path):
    found = labels_of(write_epic(tmp_path))
    assert found["P01_01"] == ["none"] * 25 + ["take plate"] * 15 + ["open board:chopping"] * 20 + ["none"] * 40
    assert found["P01_01"] == literal(TRAIN[:2], 4, 50, 25)


@pytest.mark.parametrize("seed", range(10))
def test_labels_are_those_of_a_literal_reading_of_random_actions(tmp_path, seed):
    rng = np.random.default_rng(seed)
    actions = [
        (
            f"n{i}",
            "P01_01",
            start,
            start + int(rng.integers(1, 80)),
            int(rng.choice([0, 3])),
            int(rng.choice([0, 2, 5])),
        )
        for i, start in enumerate(rng.permutation(250)[:12].tolist())
    ]
    assert labels_of(write_epic(tmp_path, train=actions))["P01_01"] == literal(actions, 4, 50, 25)


def test_classes_are_the_background_and_the_pairs_that_occur_and_parts_tell_their_verb_and_noun(tmp_path):
    attrs = build_manifest(write_epic(tmp_path))[0].attrs
    assert attrs["classes"] == ["none", "take plate", "open tap", "open board:chopping"]
    parts = attrs["parts"]
    assert parts["verbs"] == ["none", "take", "open"]
    assert parts["nouns"] == ["none", "tap", "plate", "board:chopping"]
    named = [f"{parts['verbs'][verb]} {parts['nouns'][noun]}" for verb, noun in parts["pairs"]]
    assert named == ["none none", *attrs["classes"][1:]]


def test_parts_hold_every_verb_and_noun_of_the_class_tables_not_only_those_that_occur(tmp_path):
    dataset = write_epic(tmp_path)
    for kind, known, size in (("verb", VERBS, 97), ("noun", NOUNS, 300)):
        keys = {index: known.get(index, f"{kind}-{index}") for index in range(size)}
        rows = ["id,key", *(f"{index},{key}" for index, key in keys.items())]
        (tmp_path / f"annotations/EPIC_100_{kind}_classes.csv").write_text("\n".join(rows))
    attrs = build_manifest(dataset)[0].attrs
    assert (len(attrs["parts"]["verbs"]), len(attrs["parts"]["nouns"])) == (98, 301), "with the background"
    assert attrs["parts"]["pairs"] == [[0, 0], [1, 3], [4, 1], [4, 6]] and len(attrs["classes"]) == 4


def test_splits_and_paths_are_those_of_the_release(tmp_path):
    dataset = write_epic(tmp_path)
    frame = read_annotations(dataset.model_copy(update={"videos": ".", "extension": ".MP4"}))
    assert frame["sample"].tolist() == ["P01_01", "P02_03", "P01_02"]
    assert frame["split"].tolist() == ["train", "train", "validation"]
    assert frame["path"][0] == "P01/videos/P01_01.MP4" and read_annotations(dataset)["path"].isna().all()
    assert len(annotation_files(dataset)) == 5


def test_overlaps_and_actions_that_are_left_without_a_frame_are_told(tmp_path):
    hidden = [("a", "P01_01", 50, 90, 0, 2), ("b", "P01_01", 50, 100, 3, 5), ("c", "P01_01", 900, 950, 3, 5)]
    labels = build_manifest(write_epic(tmp_path, train=hidden))[1]["labels"]
    assert (labels["frames_of_several_actions"], labels["actions_without_a_frame"]) == (20, 2)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ([("a", "P01_01", 1, 2, 7, 2)], r"train\.csv: a of video 'P01_01' has the verb_class 7, which is not in"),
        ([("a", "P01_01", "x", 2, 0, 2)], r"train\.csv: line 2 has the start_frame 'x', wanted a number"),
        ([("a", "P09_01", 1, 2, 0, 2)], r"video 'P09_01' is not in .*video_info\.csv"),
        ([("a", "P01_01", 1, 2, 0, -4)], r"line 2 has the noun_class '-4', wanted a number"),
    ],
)
def test_an_action_that_cannot_be_understood_is_an_error_that_names_it(tmp_path, train, told):
    with pytest.raises(DatasetError, match=told):
        build_manifest(write_epic(tmp_path, train=train))


def test_files_that_are_absent_or_of_another_release_are_errors(tmp_path):
    dataset = write_epic(tmp_path)
    (tmp_path / "annotations/EPIC_100_video_info.csv").write_text("video,length\n")
    with pytest.raises(DatasetError, match=r"video_info\.csv lacks the columns video_id, duration, fps"):
        build_manifest(dataset)
    (tmp_path / "annotations/EPIC_100_train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"train\.csv is no csv file"):
        read_annotations(dataset)
    (tmp_path / "annotations/EPIC_100_train.csv").unlink()
    with pytest.raises(DatasetError, match=r"EPIC_100_train\.csv does not exist"):
        annotation_files(dataset)


def test_the_rate_of_labels_and_the_background_must_be_told(tmp_path):
    for missing in ({"label_fps": None}, {"background": ()}):
        with pytest.raises(DatasetError, match="set label_fps to the rows a second of the features"):
            build_manifest(write_epic(tmp_path).model_copy(update=missing))
