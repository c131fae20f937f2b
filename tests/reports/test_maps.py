"""Claims about the picture of predicted maps: what is drawn is what was given, over the frames where there are any."""

import numpy as np
import pytest

from pipeline.reports.maps import Marked, maps_figure
from tests.later import Later

plt = Later("matplotlib.pyplot")

STEPS, GRID = 3, (2, 4)


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


def video(name="clip", frames=True, drawn=True):
    random = np.random.default_rng(0)
    predicted = random.random(GRID)
    return Marked(
        name,
        "overlap 80 %",
        [0.5, 1.5, 2.5],
        random.integers(0, 255, (STEPS, 16, 32, 3), dtype=np.uint8) if frames else None,
        "" if frames else "clip.webm is not there",
        predicted / predicted.sum(),
        random.random((STEPS, *GRID)) if drawn else None,
    )


def panels(figure):
    return [[np.asarray(image.get_array()) for image in axes.images] for axes in figure.axes]


def test_every_step_shows_its_frame_the_drawn_map_of_that_step_and_the_one_predicted_map():
    given = video()
    found = panels(maps_figure({"best": [given]}))
    assert len(found) == 3 * STEPS
    for step in range(STEPS):
        (frame,), (below, drawn), (_, predicted) = found[step], found[STEPS + step], found[2 * STEPS + step]
        np.testing.assert_array_equal(frame, given.frames_THWC[step])
        np.testing.assert_array_equal(below, frame)
        np.testing.assert_allclose(drawn, given.drawn_TRL[step])
        np.testing.assert_allclose(predicted, given.predicted_RL)


def test_without_a_drawn_map_or_without_frames_the_rest_is_shown_and_a_reason_given():
    assert len(maps_figure({"": [video(drawn=False)]}).axes) == 2 * STEPS
    figure = maps_figure({"": [video(frames=False)]})
    assert [len(images) for images in panels(figure)] == [0] * STEPS + [1] * 2 * STEPS
    assert "clip.webm is not there" in figure.subfigs[0].get_suptitle()


def test_a_group_is_named_once_above_its_first_video():
    figure = maps_figure({"best": [video("one"), video("two")], "worst": [video("three")]})
    titles = [cell.get_suptitle().split("\n")[:2] for cell in figure.subfigs]
    assert titles == [["best", "one"], ["two", "overlap 80 %"], ["worst", "three"]]
