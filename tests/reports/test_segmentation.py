"""Claims about timelines, curves, tables and text files: they say what the results say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.zeroshot_metrics import zeroshot_metrics
from pipeline.reports.files import beside, save_figure
from pipeline.reports.segmentation import (
    BACKGROUND,
    Timeline,
    class_colours,
    gamma_figure,
    publish_segmentation,
    seen_unseen_figure,
    timelines_figure,
    worst_and_best,
    write_predictions,
)
from tests.evaluations import leave
from tests.later import Later

plt = Later("matplotlib.pyplot")
image = Later("matplotlib.image")
colors = Later("matplotlib.colors")


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


def timeline(name="video", classes=5, frames=60, score=50.0, seed=0):
    random = np.random.default_rng(seed)
    truth = np.repeat(random.integers(0, classes, 6), -(-frames // 6))[:frames]
    prediction = np.where(random.random(frames) < min(0.2, 40 / frames), random.integers(0, classes, frames), truth)
    return Timeline(name, truth, prediction, random.random(frames), {"acc": score, "edit": score, "f1@50": score})


def zeroshot(seed=0, signal=1.0, classes=8):
    random = np.random.default_rng(seed)
    truths = [random.integers(0, classes, 40) for _ in range(3)]
    scores = [random.normal(size=(40, classes)) + signal * np.eye(classes)[truth] for truth in truths]
    return zeroshot_metrics(scores, truths, np.arange(classes) < 5, gamma=0.5, background={0})


# --- texts ------------------------------------------------------------------------------------------------------------


def read_as_ms_tcn_does(path):
    """The labels as MS-TCN's eval.py takes them: the second line, split at spaces."""
    return path.read_text().split("\n")[1].split()


def test_predictions_are_text_files_that_ms_tcn_s_evaluation_reads(tmp_path):
    videos = {"P03_cam01": np.array([0, 0, 2]), "gopro/P04.v2": np.array([1]), "empty": np.zeros(0, int)}
    write_predictions(videos, ["SIL", "pour milk", "take_cup"], tmp_path / "predictions")
    assert read_as_ms_tcn_does(tmp_path / "predictions/P03_cam01") == ["SIL", "SIL", "take_cup"]
    assert read_as_ms_tcn_does(tmp_path / "predictions/gopro/P04.v2") == ["pour_milk"]
    assert read_as_ms_tcn_does(tmp_path / "predictions/empty") == []
    assert (tmp_path / "predictions/P03_cam01").read_text().startswith("### Frame level recognition: ###\n")


def test_a_folder_of_predictions_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "predictions"
    write_predictions({"old": np.array([0])}, ["a"], folder)
    with pytest.raises(ValueError, match="no name of a file below"):
        write_predictions({"new": np.array([0]), "../outside": np.array([0])}, ["a"], folder)
    assert {path.name for path in folder.iterdir()} == {"old", "mapping.txt"}
    write_predictions({"new": np.array([0])}, ["a"], folder)
    assert {path.name for path in folder.iterdir()} == {"new", "mapping.txt"}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_classes_that_differ_by_spaces_only_are_numbered_and_a_video_may_not_take_the_mapping_s_name(tmp_path):
    write_predictions({"v": np.array([0, 1])}, ["pour milk", "pour_milk"], tmp_path / "predictions")
    assert read_as_ms_tcn_does(tmp_path / "predictions/v") == ["pour_milk", "pour_milk_2"]
    with pytest.raises(ValueError, match="no name of a file below"):
        write_predictions({"mapping.txt": np.array([0])}, ["a"], tmp_path / "predictions")


# --- timelines --------------------------------------------------------------------------------------------------------


def drawn_colours(axes):
    """start -> colour of the strip of truths, as drawn."""
    strip = axes.collections[0]
    starts = [round(path.get_extents().x0) for path in strip.get_paths()]
    return dict(zip(starts, map(colors.to_hex, strip.get_facecolors()), strict=True))


def test_a_class_has_the_same_colour_in_every_video_and_picture_and_background_is_grey():
    one = Timeline("a", np.array([0, 1, 1, 3]), np.array([0, 1, 1, 3]), np.ones(4), {"acc": 100.0})
    two = Timeline("b", np.array([3, 0, 2]), np.array([3, 0, 2]), np.ones(3), {"acc": 100.0})
    colours = class_colours(4, {0})
    both = timelines_figure([one, two], list("abcd"), {0})
    alone = timelines_figure([two], list("abcd"), {0})
    assert drawn_colours(both.axes[0]) == {0: BACKGROUND, 1: colours[1], 3: colours[3]}
    assert drawn_colours(both.axes[1]) == drawn_colours(alone.axes[0]) == {0: colours[3], 1: BACKGROUND, 2: colours[2]}


def test_75_classes_have_75_colours():
    assert len(set(class_colours(75))) == 75


def test_the_legend_lists_the_classes_that_occur_and_stars_the_unseen():
    video = Timeline("v", np.array([-1, 2, 2, 0]), np.array([2, 2, 1, 0]), np.ones(4), {"acc": None})
    figure = timelines_figure([video], ["background", "push", "pull", "turn"], {0}, unseen={1, 3})
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["0  background", "1  push *", "2  pull", "wrong frames"]
    assert "acc –" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize("videos, classes, frames", [(1, 2, 1), (1, 5, 60), (8, 75, 120), (1, 75, 10_000)])
def test_pictures_come_out_at_any_number_of_videos_classes_and_frames(tmp_path, videos, classes, frames):
    shown = [timeline(f"video {i}", classes, frames, seed=i) for i in range(videos)]
    figure = timelines_figure(shown, [f"class {i}" for i in range(classes)], {0}, title="worst")
    save_figure(figure, tmp_path / "picture.png")
    picture = image.imread(tmp_path / "picture.png")
    assert picture.shape[0] > 120 * videos and picture.shape[1] == 1440 and picture.std() > 0.05


def strip(frames=4, height=9, width=16):
    """Frames of one grey each, darker to lighter."""
    levels = np.linspace(40, 240, frames).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).copy()


def test_frames_stand_above_their_timeline_each_over_its_share_of_the_time():
    shown = [replace(timeline("with", score=12.5), strip=strip()), timeline("without", seed=1)]
    figure = timelines_figure(shown, [f"class {i}" for i in range(5)])
    figure.canvas.draw()
    above, below, other = (axes.get_window_extent() for axes in figure.axes)
    assert above.y0 > below.y1 > other.y1
    assert (above.x0, above.x1) == pytest.approx((below.x0, below.x1), abs=0.02 * below.width)
    (picture,) = (image.get_array() for image in figure.axes[0].images)
    centres = picture[4, np.arange(4) * picture.shape[1] // 4 + picture.shape[1] // 8, 0]
    assert centres.tolist() == strip()[:, 0, 0, 0].tolist()
    assert figure.axes[0].get_title("left").startswith("with") and not figure.axes[1].get_title("left")


def test_a_video_without_frames_says_why():
    figure = timelines_figure([replace(timeline("a"), strip="its video is missing")], [f"class {i}" for i in range(5)])
    assert "no frames: its video is missing" in figure.axes[0].get_title("left")


def test_a_timeline_without_truth_shows_prediction_and_confidence_alone():
    figure = timelines_figure([replace(timeline("new"), truth=None)], [f"class {i}" for i in range(5)], fps=12.5)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["confidence", "prediction"]
    assert axes.get_xlabel() == "frame, 12.5 a second"
    assert not any("wrong" in text.get_text() for text in figure.legends[0].get_texts())


def test_the_worst_come_worst_first_the_best_best_first_and_none_twice():
    scored = [timeline(str(score), score=float(score)) for score in (50, 10, 90, 30, 70)]
    unlabelled = Timeline("u", np.full(3, -1), np.zeros(3, int), np.ones(3), {"acc": None, "f1@50": 100.0})
    worst, best = worst_and_best([*scored, unlabelled], shown=2)
    assert ([v.name for v in worst], [v.name for v in best]) == (["10", "30"], ["90", "70"])
    worst, best = worst_and_best(scored)
    assert ([v.name for v in worst], [v.name for v in best]) == (["10", "30", "50"], ["90", "70"])
    assert worst_and_best([unlabelled]) == ([], [])


# --- γ ----------------------------------------------------------------------------------------------------------------


def test_the_curve_s_picture_shows_the_result_s_numbers():
    result = zeroshot()
    left, right = gamma_figure(result).axes
    lines = {line.get_label(): line for line in left.lines}
    np.testing.assert_array_equal(lines["H, harmonic mean"].get_ydata(), result["curve"]["harmonic"])
    assert right.get_title() == f"AUSUC {result['ausuc']:.1f}"
    assert right.lines[1].get_xydata().tolist() == [[result["unseen"], result["seen"]]]


def test_the_dot_of_decoded_videos_lies_on_the_curve_which_is_of_each_frame_by_itself():
    result = zeroshot()
    alone = {name: result[name] for name in ("seen", "unseen", "harmonic")}
    decoded = result | {"seen": 99.0, "unseen": 98.0, "harmonic": 98.5, "undecoded": alone}
    left, right = gamma_figure(decoded).axes
    assert right.lines[1].get_xydata().tolist() == [[alone["unseen"], alone["seen"]]]
    assert left.get_title().endswith("before whole videos are decoded")
    dot = seen_unseen_figure({"both": [decoded]}).axes[0].lines[1]
    assert dot.get_xydata().tolist() == [[alone["unseen"], alone["seen"]]]


def test_the_curve_of_videos_without_unseen_classes_is_drawn_as_such(tmp_path):
    result = zeroshot_metrics([np.random.default_rng(0).normal(size=(9, 4))], [np.zeros(9, int)], np.arange(4) < 2, 0.0)
    save_figure(gamma_figure(result), tmp_path / "gamma.png")
    assert "U –" in gamma_figure(result).axes[0].get_title()


def test_the_comparison_of_curves_has_a_line_a_seed_and_a_name_a_variant():
    figure = seen_unseen_figure({"logit": [zeroshot(0), zeroshot(1)], "action_token": [zeroshot(0, signal=3)]})
    names = [text.get_text().split(":")[0] for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["logit", "action_token"]
    assert len(figure.axes[0].lines) == 6  # a line and a dot for each of three results


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_shot", [False, True])
def test_publishing_copies_the_result_and_draws_and_writes_the_same_bytes_again(tmp_path, zero_shot):
    run, out = tmp_path / "run", tmp_path / "results/x.json"
    result = {"classes": [f"class {i}" for i in range(8)], "background": [0], "unseen_classes": [5, 6, 7]}
    videos = [timeline(f"video{i}", 8, score=10.0 * i, seed=i) for i in range(3)]
    rows = [
        {"sample": v.name, "truth": v.truth, "prediction": v.prediction, "confidence": v.confidence} | v.figures
        for v in videos
    ]
    leave(run, {**result, **(zeroshot() if zero_shot else {})}, pd.DataFrame(rows))
    publish_segmentation(run, out)
    names = {"worst.png", "best.png"} | ({"gamma.png"} if zero_shot else set())
    assert {path.name for path in beside(out, "").rglob("*.png")} == names
    assert out.read_text() == (run / "result.json").read_text()
    labels = [f"class_{label}" for label in videos[1].prediction]
    assert read_as_ms_tcn_does(beside(out, "predictions") / "video1") == labels
    before = {path.name: path.read_bytes() for path in beside(out, "").rglob("*.png")}
    publish_segmentation(run, out)
    assert {path.name: path.read_bytes() for path in beside(out, "").rglob("*.png")} == before
