"""Claims about Epic-Kitchens' layout."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Dataset
from pipeline.datasets import DatasetError, annotation_files, build_manifest, frame_labels, read_annotations

HEAD = (
    "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,narration,verb,"
    "verb_class,noun,noun_class"
)
VERBS, NOUNS = {0: "take", 3: "open"}, {0: "tap", 2: "plate", 5: "board:chopping"}
# narration, video, first and last frame at 50 fps, verb, noun
TRAIN = [("a", "P01_01", 50, 100, 0, 2), ("b", "P01_01", 80, 120, 3, 5), ("c", "P02_03", 0, 25, 0, 2)]
VALIDATION = [("d", "P01_02", 10, 40, 3, 0)]


def stamp(seconds: float) -> str:
    return f"{int(seconds // 3600):02}:{int(seconds // 60 % 60):02}:{seconds % 60:05.2f}"


def write_epic(root: Path, train=tuple(TRAIN), validation=tuple(VALIDATION), counted=50, info_fps=50.0) -> Dataset:
    """Frame numbers `counted` a second, beside an `fps` that says something of its own."""
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for split, actions in (("train", train), ("validation", validation)):
        rows = [
            f"{n},{v[:3]},{v},{','.join(stamp(f / counted) if isinstance(f, int) else f for f in (a, b))},{a},{b},"
            f'"words, and more",x,{verb},y,{noun}'
            for n, v, a, b, verb, noun in actions
        ]
        (folder / f"EPIC_100_{split}.csv").write_text("\n".join([HEAD, *rows]))
    for kind, keys in (("verb", VERBS), ("noun", NOUNS)):
        rows = [f"{index},{key},['{key}'],misc" for index, key in keys.items()]
        (folder / f"EPIC_100_{kind}_classes.csv").write_text("\n".join(["id,key,instances,category", *rows]))
    videos = [f"{video},4.0,{info_fps},1920x1080" for video in ("P01_01", "P02_03", "P01_02")]
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


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("verb_classes", "id,key,id\n0,take,3\n", "line 1 has the column id twice, and either may be meant; remove"),
        ("verb_classes", "id,key\n3,take\n3,open\n", "line 3 has the id '3', which an earlier line has too"),
        ("verb_classes", "id,key\n0,take\n\n3,take\n", "line 4 has the key 'take', which an earlier line has too"),
        ("noun_classes", "id;key\n0;tap\n", "line 1 lacks the columns id, key, .* parted by ';': save it with commas"),
        ("noun_classes", "id,key\n0,tap,2\n", "line 2 has 3 fields, wanted 2 as on line 1"),
        ("video_info", "video_id,duration\nP01_01,4\nP01_01,5\n", "line 3 has the video_id 'P01_01', which an earlier"),
        ("video_info", "video_id,duration\nP01_01,inf\n", "line 2 has the duration 'inf', wanted a number"),
    ],
)
def test_a_table_that_says_a_thing_twice_or_otherwise_is_an_error_that_names_the_line(tmp_path, name, text, told):
    dataset = write_epic(tmp_path)
    (tmp_path / f"annotations/EPIC_100_{name}.csv").write_text(text)
    with pytest.raises(DatasetError, match=rf"EPIC_100_{name}\.csv: {told}"):
        build_manifest(dataset)


def test_files_that_are_absent_or_of_another_release_are_errors(tmp_path):
    dataset = write_epic(tmp_path)
    (tmp_path / "annotations/EPIC_100_video_info.csv").write_text("video,length\n")
    with pytest.raises(DatasetError, match=r"video_info\.csv: line 1 lacks the columns video_id, duration"):
        build_manifest(dataset)
    (tmp_path / "annotations/EPIC_100_train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"train\.csv is not UTF-8 text"):
        read_annotations(dataset)
    (tmp_path / "annotations/EPIC_100_train.csv").unlink()
    with pytest.raises(DatasetError, match=r"EPIC_100_train\.csv does not exist"):
        annotation_files(dataset)


def test_the_rate_of_labels_and_the_background_must_be_told(tmp_path):
    for missing in ({"label_fps": None}, {"background": ()}):
        with pytest.raises(DatasetError, match="set label_fps to the rows a second of the features"):
            build_manifest(write_epic(tmp_path).model_copy(update=missing))


# --- when an action is ------------------------------------------------------------------------------------------------


def test_time_stamps_decide_where_frame_numbers_count_another_rate_than_the_video_has(tmp_path):
    """As P18_09: `fps` is 90, its frame numbers count 60 a second."""
    actions = [("a", "P01_01", 60, 120, 0, 2), ("b", "P01_01", 150, 180, 3, 0)]
    found = labels_of(write_epic(tmp_path, train=actions, counted=60, info_fps=90.0))["P01_01"]
    assert found == ["none"] * 25 + ["take plate"] * 25 + ["none"] * 12 + ["open tap"] * 13 + ["none"] * 25


def test_the_rate_of_the_video_is_not_needed(tmp_path):
    dataset = write_epic(tmp_path)
    before = labels_of(dataset)
    info = tmp_path / "annotations/EPIC_100_video_info.csv"
    info.write_text(info.read_text().replace(",50.0,", ",,"))
    assert labels_of(dataset) == before


@pytest.mark.parametrize("edge", [0, 1])
def test_a_row_whose_frame_numbers_contradict_its_time_stamps_is_named(tmp_path, edge):
    dataset = write_epic(tmp_path, train=[*TRAIN, ("d", "P01_01", 100, 150, 0, 2), ("e", "P01_01", 30, 60, 0, 2)])
    table = tmp_path / "annotations/EPIC_100_train.csv"
    old, new = ((",100,150,", ",160,150,"), (",100,150,", ",100,210,"))[edge]
    table.write_text(table.read_text().replace(old, new))
    name, frame = (("start", 160), ("stop", 210))[edge]
    told = rf"train\.csv: d of video 'P01_01' has the {name}_frame {frame} and the {name}_timestamp \d\.00 s, but .* "
    with pytest.raises(DatasetError, match=told + r"count 50\.00 a second .*correct the row, or use one release's"):
        build_manifest(dataset)


def test_frame_numbers_that_miss_their_time_stamps_by_a_rounding_are_no_contradiction(tmp_path):
    dataset = write_epic(tmp_path)
    before = labels_of(dataset)
    table = tmp_path / "annotations/EPIC_100_train.csv"
    table.write_text(table.read_text().replace(",50,100,", ",51,99,"))
    assert labels_of(dataset) == before


def test_the_rate_of_two_rows_is_that_of_the_later_one(tmp_path):
    """The first one's frame number is rounded down: by the mean of both rates the other would be a minute away."""
    dataset = write_epic(tmp_path, train=[("a", "P01_01", 10, 50, 0, 2), ("b", "P01_01", 149_000, 150_000, 0, 2)])
    table = tmp_path / "annotations/EPIC_100_train.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",10,50,", ",10,48,"), encoding="utf-8")
    assert labels_of(dataset)["P01_01"].count("none") == 80


def test_a_table_with_frame_numbers_alone_is_refused(tmp_path):
    dataset, table = write_epic(tmp_path), tmp_path / "annotations/EPIC_100_train.csv"
    whole = table.read_text()
    table.write_text(whole.replace("00:00:01.00,", ",", 1))
    with pytest.raises(DatasetError, match=r"line 2 has the start_timestamp '', .*frame numbers cannot stand in for"):
        read_annotations(dataset)
    table.write_text(whole.replace("start_timestamp,stop_timestamp,", "began,ended,"))
    with pytest.raises(
        DatasetError, match=r"train\.csv: line 1 lacks the columns start_timestamp, stop_timestamp, got .*; use the"
    ):
        read_annotations(dataset)
