"""Claims about the report of an alignment: its pictures show what the run's files say."""

import numpy as np
import pytest

from pipeline.reports.alignment import (
    DIRECTIONS,
    FORMS,
    RIGHT,
    WRONG,
    attention_figure,
    publish_alignment,
    retrieval_figure,
)
from pipeline.reports.files import beside
from tests.evaluations import leave
from tests.later import Later

plt = Later("matplotlib.pyplot")
image = Later("matplotlib.image")
colors = Later("matplotlib.colors")

STEPS = 4


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


def side(r1, chance=2.5):
    known = r1 is not None
    return {
        "r1": r1,
        "r5": r1 + 4 if known else None,
        "median_rank": 3.0 if known else None,
        "chance_r1": chance if known else None,
        "queries": 40 if known else 0,
        "gallery": 40,
    }


@pytest.fixture
def result():
    retrieval = {
        form: {"video_to_map": side(r1), "map_to_video": side(r1 + 1, 3.5)}
        for form, r1 in zip(FORMS, (90.0, 6.0, 2.0, 12.0), strict=True)
    }
    return {
        "accuracy": 75.0,
        "ci95": [60.0, 88.0],
        "confusion": {"classes": ["jerk", "tremor"], "matrix": [[20, 5], [5, 10]]},
        "retrieval": retrieval,
        "samples": {"evaluated": 40},
    }


def shown(right=3, wrong=3, gate=True):
    """What attention.npz holds."""
    random, videos = np.random.default_rng(0), right + wrong
    maps = random.random((videos, STEPS, 2, 3))
    found = {
        "sample": np.array([f"clip-{row}" for row in range(videos)]),
        "label": np.array(["tremor"] * videos),
        "prediction": np.array(["tremor"] * right + ["jerk"] * wrong),
        "token_map": maps,
        "energy": 5 + maps,
    }
    return {**found, "gate": maps / 2} if gate else found


def drawn(figure):
    return [axes for axes in figure.axes if axes.axison]


@pytest.mark.parametrize("gate, kinds", [(True, 3), (False, 2)])
def test_each_video_has_its_map_its_gate_if_any_and_its_energy_over_all_steps(gate, kinds):
    given = shown(gate=gate)
    panels = drawn(attention_figure(given))
    assert len(panels) == 6 * kinds
    values = np.asarray(panels[0].images[0].get_array().filled(np.nan))
    assert values.shape == (2, STEPS * 4 - 1)
    for step in range(STEPS):
        np.testing.assert_allclose(values[:, step * 4 : step * 4 + 3], given["token_map"][0, step])
        assert step == STEPS - 1 or np.isnan(values[:, step * 4 + 3]).all()
    ticks = [[label.get_text() for label in axes.get_xticklabels()] for axes in panels]
    assert [labels for labels in ticks if labels] == [[f"step {step + 1}" for step in range(STEPS)]] * 6


def test_titles_say_truth_and_prediction_and_their_colour_whether_they_agree():
    titles = {axes.get_title(): axes.title.get_color() for axes in drawn(attention_figure(shown())) if axes.get_title()}
    assert len(titles) == 6
    for title, colour in titles.items():
        right = "prediction: tremor" in title
        assert "truth: tremor" in title and colors.to_hex(colour) == (RIGHT if right else WRONG)


def test_energies_are_drawn_between_their_extremes_and_maps_between_0_and_1():
    panels = drawn(attention_figure(shown(1, 0)))
    limits = [axes.images[0].get_clim() for axes in panels]
    energy = shown(1, 0)["energy"]
    assert limits == [(0, 1), (0, 1), (energy.min(), energy.max())]


@pytest.mark.parametrize("right, wrong", [(3, 1), (0, 2), (1, 0)])
def test_fewer_videos_give_fewer_panels(right, wrong):
    assert len(drawn(attention_figure(shown(right, wrong)))) == 3 * (right + wrong)


def test_bars_are_the_recalls_and_the_dashed_line_is_chance(result):
    figure = retrieval_figure(result["retrieval"])
    for axes, direction in zip(figure.axes, DIRECTIONS, strict=True):
        heights = [patch.get_height() for patch in axes.patches]
        found = [result["retrieval"][form][direction] for form in FORMS]
        assert heights == [of["r1"] for of in found] + [of["r5"] for of in found]
        assert list(axes.lines[0].get_ydata()) == [found[0]["chance_r1"]] * 2


def test_what_is_not_known_is_a_dash_and_no_bar(result):
    for direction in DIRECTIONS:
        result["retrieval"]["shuffled"][direction] = side(None)
    for axes in retrieval_figure(result["retrieval"]).axes:
        assert axes.patches[list(FORMS).index("shuffled")].get_height() == 0
        assert [text.get_text() for text in axes.texts].count("–") == 2
    unknown = {form: {direction: side(None) for direction in DIRECTIONS} for form in FORMS}
    assert [len(axes.lines) for axes in retrieval_figure(unknown).axes] == [0, 0]


def test_publishing_copies_the_result_and_draws_its_three_pictures_the_same_twice(result, tmp_path):
    run, out = tmp_path / "run", tmp_path / "results" / "x.json"
    run.mkdir()
    np.savez(run / "attention.npz", **shown())
    leave(run, result)
    publish_alignment(run, out)
    assert out.read_text() == (run / "result.json").read_text()
    pictures = [beside(out, f"{name}.png") for name in ("confusion", "retrieval", "attention")]
    for picture in pictures:
        pixels = image.imread(picture)
        assert pixels.shape[0] > 300 and pixels.std() > 0.01
    before = [picture.read_bytes() for picture in pictures]
    publish_alignment(run, out)
    assert [picture.read_bytes() for picture in pictures] == before
    assert {path.name for path in beside(out, "").rglob("*.*")} == {picture.name for picture in pictures}
