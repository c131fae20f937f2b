"""Claims about where the videos of labelled sets lie: Breakfast's folders of persons and cameras, 50Salads, GTEA."""

import json
import re
from pathlib import Path

import pytest

from pipeline.config import Dataset, ParamsError, parse_params
from pipeline.datasets import DatasetError, build_manifest, quality_markdown
from pipeline.datasets.annotations import read_annotations
from tests.datasets.made_up import write_labelled

SAMPLES = ["P03_cam01_P03_coffee", "P03_stereo01_P03_cereals", "P14_webcam02_P14_salat", "P03_stereo01_P03_tea"]
FILES = [
    "P03/cam01/P03_coffee.avi", "P03/stereo/P03_cereals_ch0.avi", "P14/webcam02/P14_salat.avi",
    "P03/stereo/P03_tea_ch1.avi",
]  # fmt: skip
BREAKFAST = [
    {"ids": "{person}_stereo01_{name}", "paths": ["{person}/stereo/{name}_ch0", "{person}/stereo/{name}_ch1"]},
    {"ids": "{person}_{camera}_{name}", "paths": ["{person}/{camera}/{name}"]},
]


def parsed(places: list, root: Path = Path("set"), **fields) -> Dataset:
    chosen = {"layout": "mstcn", "root": str(root), "videos": "videos", "extension": ".avi", "video_paths": places}
    return parse_params({"datasets": {"set": chosen | fields}}).datasets["set"]


@pytest.fixture
def breakfast(tmp_path, clips) -> Dataset:
    """Four videos below folders of persons and cameras."""
    lists = {"splits/train.split1.bundle": [f"{s}.txt" for s in SAMPLES[:3]]}
    lists |= {"splits/test.split1.bundle": [f"{s}.txt" for s in SAMPLES[3:]]}
    write_labelled(tmp_path, lists, dict.fromkeys(SAMPLES, "SIL take_cup take_cup SIL SIL SIL"))
    for file, clip in zip(FILES, clips, strict=False):
        path = tmp_path / "videos" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip)
    return parsed(BREAKFAST, tmp_path)


def test_breakfasts_videos_are_found_by_person_and_camera_and_in_either_channel(breakfast):
    frame, quality = build_manifest(breakfast)
    assert frame["path"].tolist() == FILES and set(frame["status"]) == {"ok"}
    assert quality["labels"]["lengths"]["differences"]["0"] == 4


def test_a_plan_names_the_first_place_and_looks_at_none(breakfast):
    (Path(breakfast.root) / "videos").rename(Path(breakfast.root) / "elsewhere")
    paths = read_annotations(breakfast)["path"].tolist()
    assert paths == [*FILES[:3], "P03/stereo/P03_tea_ch0.avi"]


def test_a_video_that_is_nowhere_is_missing_with_every_place_where_it_was_looked_for(breakfast):
    (Path(breakfast.root) / "videos" / FILES[1]).unlink()
    frame, quality = build_manifest(breakfast)
    assert frame["status"].tolist() == ["ok", "missing", "ok", "ok"]
    (told,) = quality["not_ok"]["missing"]["samples"]
    assert told == {
        "sample": SAMPLES[1],
        "detail": "P03/stereo/P03_cereals_ch0.avi or P03/stereo/P03_cereals_ch1.avi does not exist",
    }


@pytest.mark.parametrize(
    ("changes", "tried"),
    [
        ({"video_paths": ()}, "P03_cam01_P03_coffee.avi; correct videos, extension or video_paths"),
        ({"extension": ".mp4"}, "P03/cam01/P03_coffee.mp4; correct"),
    ],
)
def test_where_no_video_is_found_one_error_names_a_sample_and_the_paths_tried(breakfast, changes, tried):
    with pytest.raises(DatasetError, match=f"none of the 4 videos .*'P03_cam01_P03_coffee' was looked for at {tried}"):
        build_manifest(breakfast.model_copy(update=changes))


def test_an_id_like_none_of_the_patterns_is_an_error_that_names_it_and_them(breakfast):
    (Path(breakfast.root) / "splits/test.split1.bundle").write_text("coffee.txt")
    told = (
        "'coffee' .* is like none of the ids of video_paths ({person}_stereo01_{name}, {person}_{camera}_{name}); add"
    )
    with pytest.raises(DatasetError, match=re.escape(told).replace(r"\ \.\*\ ", " .* ")):
        read_annotations(breakfast)


def test_an_id_cannot_lead_out_of_the_videos_folder(breakfast):
    (Path(breakfast.root) / "splits/test.split1.bundle").write_text("P03_.._P03_tea.txt")
    with pytest.raises(DatasetError, match=r"'\.\.' is refused because it is empty or begins with a dot"):
        read_annotations(breakfast)


@pytest.mark.parametrize(("sample", "extension"), [("rgb-01-1", ".avi"), ("S1_Cheese_C1", ".mp4")])
def test_videos_of_50salads_and_gtea_lie_side_by_side_under_their_ids(tmp_path, clips, sample, extension):
    lists = {"splits/train.split1.bundle": [f"{sample}.txt"], "splits/test.split1.bundle": []}
    write_labelled(tmp_path, lists, {sample: "SIL " * 6})
    (tmp_path / "videos").mkdir()
    (tmp_path / f"videos/{sample}{extension}").write_bytes(clips[0])
    frame, _ = build_manifest(parsed([], tmp_path, extension=extension))
    assert (frame["path"][0], frame["status"][0]) == (f"{sample}{extension}", "ok")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ({"ids": "{a}_{b}", "paths": []}, "has no path"),
        ({"ids": "{a}_{b}", "paths": ["{c}/{b}"]}, r"has the fields \['c'\], but '{a}_{b}' has \['a', 'b'\]"),
        ({"ids": "{a}", "paths": ["../{a}"]}, "no path below the videos' folder"),
        ({"ids": "{a}", "paths": ["/{a}"]}, "no path below the videos' folder"),
        ({"ids": "{a.b}", "paths": ["x"]}, "a field is a plain name"),
        ({"ids": "{}", "paths": ["x"]}, "a field is a plain name"),
        ({"ids": "{a", "paths": ["x"]}, "expected '}'"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_params(place, told):
    with pytest.raises(ParamsError, match=rf"video_paths\.0: .*{told}"):
        parsed([place])


def test_a_field_that_is_repeated_stands_for_the_same_text(tmp_path):
    places = [{"ids": "{person}_{camera}_{person}_{name}", "paths": ["{person}/{camera}/{name}"]}]
    (place,) = parsed(places).video_paths
    assert place.of("P03_cam01_P03_coffee") == ("P03/cam01/coffee",) and place.of("P03_cam01_P04_coffee") == ()


def test_other_layouts_have_no_such_places():
    with pytest.raises(ParamsError, match="video_paths is for the layouts mstcn and egoprocel, got ssv2"):
        parsed(BREAKFAST, layout="ssv2")


def test_the_report_tells_how_far_labels_and_videos_differ_and_which_the_most(breakfast):
    for sample, frames in zip(SAMPLES, (6, 7, 3, 40), strict=True):  # each video has six
        (Path(breakfast.root) / f"groundTruth/{sample}.txt").write_text("SIL\n" * frames)
    _, quality = build_manifest(breakfast)
    lengths = quality["labels"]["lengths"]
    assert lengths["differences"] == {"0": 1, "up to 1": 1, "up to 5": 1, "up to 25": 0, "over 25": 1}
    assert [row["sample"] for row in lengths["worst"]] == [SAMPLES[3], SAMPLES[2], SAMPLES[1]]
    assert lengths["worst"][1] == {"sample": SAMPLES[2], "labels": 3, "video": 6, "difference": -3}
    assert json.loads(json.dumps(quality, allow_nan=False)) == quality
    text = quality_markdown(quality)
    assert "## Frames of labels less those of the video: 4 videos" in text
    assert "| up to 5 | 1 |" in text and f"| {SAMPLES[3]} | 40 | 6 | 34 |" in text


def test_lengths_are_compared_at_the_rate_of_the_labels(breakfast):
    """Of the videos, which have 6 frames in half a second, one has twice the labels."""
    labels = Path(breakfast.root) / f"groundTruth/{SAMPLES[1]}.txt"
    for sample in SAMPLES:
        labels.with_stem(sample).write_text("SIL\n" * (24 if sample == SAMPLES[1] else 12))
    _, quality = build_manifest(breakfast.model_copy(update={"label_fps": 24.0}))
    worst = quality["labels"]["lengths"]["worst"]
    assert {(row["labels"], row["video"], row["difference"]) for row in worst} == {(24, 12, 12)}


def test_without_videos_there_is_nothing_to_compare(breakfast):
    _, quality = build_manifest(breakfast.model_copy(update={"videos": None}))
    assert "lengths" not in quality["labels"] and "less those of the video" not in quality_markdown(quality)
