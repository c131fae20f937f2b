"""Claims about the figures of explanations: what is looked at lies where it is, and nothing is left unsaid."""

import numpy as np
import pytest

from pipeline.digests import write_json
from pipeline.heads.gasm_cast.attention import POOL, Look
from pipeline.reports.attention import (
    ClassLooks,
    WatchedClip,
    attention_figure,
    class_attention_figure,
    over_layers,
    title_of,
)
from pipeline.reports.importance import importance_figure
from pipeline.reports.numbers import compact, significant
from pipeline.reports.space import space_figure
from tests.later import Later

plt = Later("matplotlib.pyplot")

STEPS = 3
GRAPH, TIME, LATER, READ = (
    Look(0, "graph", "semantic"),
    Look(0, "time", "semantic"),
    Look(1, "graph", "semantic"),
    Look(POOL, "pool", "motion"),
)


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


def looks(*classes):
    random = np.random.default_rng(0)
    graph, later, read = (random.random((*classes, STEPS, 2, 2)) for _ in range(3))
    when = random.random((*classes, STEPS, 1, 1))
    over_time = np.broadcast_to(when / when.mean(-3, keepdims=True), graph.shape)
    return {GRAPH: graph / graph.mean((-2, -1), keepdims=True), TIME: over_time, LATER: later, READ: read}


def clip(label="up", prediction="up", **changes):
    frames = np.random.default_rng(1).integers(0, 255, (STEPS, 20, 20, 3), dtype=np.uint8)
    given = {"frames_THWC": frames, "why": "", "looks": looks()} | changes
    return WatchedClip("7", label, prediction, 0.9, [0.1, 0.5, 0.9], **given)


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def test_heat_lies_over_the_frame_of_its_step_and_scales_to_its_largest():
    shown = clip()
    figure = attention_figure([shown])
    panels = [axes for axes in figure.findobj(plt.Axes) if axes.images]
    assert len(panels) == 5
    strip, *heat = panels[1].images
    left, right = strip.get_extent()[:2]
    assert len(heat) == STEPS
    for step, image in enumerate(heat):
        assert np.array_equal(image.get_array(), shown.looks[GRAPH][step])
        assert image.get_extent()[0] == pytest.approx(left + step * (right - left) / STEPS)
        assert image.get_clim() == (0, shown.looks[GRAPH].max())


def test_titles_say_truth_prediction_and_why_frames_are_missing():
    said = texts(attention_figure([clip(), clip(prediction="down", frames_THWC=None, why="7.webm is not there")]))
    assert "7, p = 0.90\nup" in said
    assert "7, p = 0.90\nup\ntaken for: down\n7.webm is not there" in said
    assert any(text.startswith("layer 2, patch graph\nup to") for text in said)


def test_what_a_head_has_no_attention_of_is_said_in_one_line():
    for figure in (
        attention_figure([clip()], ["fusion concat has no cross-attention"]),
        class_attention_figure(ClassLooks(["up"], [3], 1, looks(1)), ["fusion concat has no cross-attention"]),
    ):
        assert figure.get_suptitle().endswith("\nNot in this head: fusion concat has no cross-attention.")


def test_class_averages_are_means_over_layers_and_a_view_that_is_constant_by_definition_has_no_column():
    of = looks(2)
    means = over_layers(of)
    assert np.allclose(means["graph", "semantic"], (of[GRAPH] + of[LATER]) / 2)
    figure = class_attention_figure(ClassLooks(["up", "down"], [3, 1], 5, of))
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes if axes.get_title()]
    assert sum(title.startswith("patches over time") for title in titles) == 1
    assert any(title.startswith("patches over time when") for title in titles)
    said = texts(figure)
    assert "up\n3 clips" in said and "down\n1 clip" in said
    assert "2 commonest of 5 classes" in figure.get_suptitle().replace("\n", " ")


def test_a_look_is_called_by_its_layer():
    assert title_of(LATER) == "layer 2, patch graph" and title_of(READ) == "classifier → motion"


def space(classes):
    labels = np.arange(3 * classes) % classes
    predicted = labels.copy()
    predicted[0] = 1
    plane = {"x": labels.astype(float).tolist(), "y": np.arange(len(labels)).astype(float).tolist(), "note": "n"}
    return {
        "space": "points",
        "classes": [f"class {number}" for number in range(classes)],
        "labels": labels.tolist(),
        "predicted": predicted.tolist(),
        "projections": dict.fromkeys(("pca", "tsne", "umap"), plane),
    }


def test_classes_of_a_feature_space_look_different_and_errors_are_ringed():
    figure = space_figure(space(30))
    (legend,) = figure.legends
    marks = {(handle.get_color(), handle.get_marker(), handle.get_fillstyle()) for handle in legend.legend_handles}
    assert len(marks) == 31
    assert texts(figure).count("ringed: not recognised (1 of 90)") == 1


def test_many_classes_have_a_scale_instead_of_a_legend():
    figure = space_figure(space(174))
    assert not figure.legends and "ringed: not recognised (1 of 522)" in " ".join(texts(figure))


def test_bars_of_importance_are_the_drops():
    entry = {"drop": 5.0, "deviation": 1.0, "repeats": 5}
    streams = {name: {"feature": name, "ablation": entry | {"drop": -2.0}, "permutation": entry} for name in "ab"}
    figure = importance_figure({"metric": "top1", "base": 90.0, "samples": 8, "streams": streams})
    assert sorted(bar.get_width() for bar in figure.axes[0].patches) == [-2.0, -2.0, 5.0, 5.0]
    assert "−2.0 ± 1.0" in texts(figure) and "top-1 90.0 % with everything, n = 8" in texts(figure)


def test_numbers_are_short_and_nan_is_refused(tmp_path):
    assert significant(1 / 3) == 0.3333
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", compact({"a": float("nan")}), indent=None)
