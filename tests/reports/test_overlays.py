"""Claims about overlays: every picture is there with its scores, maps and masks lie where the patches are."""

import numpy as np
import pytest

from pipeline.reports.files import save_figure
from pipeline.reports.overlays import Overlay, overlays_figure
from tests.later import Later

plt = Later("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


def overlay(name="a.jpg", heat=None, background=None, **scores):
    random = np.random.default_rng(0)
    picture = random.integers(1, 256, (30, 30, 3), dtype=np.uint8)
    heat = random.normal(size=(3, 3)) if heat is None else heat
    background = np.ones((3, 3), bool) if background is None else background
    given = {"final": 0.5, "plain": 0.25, "p_align": -0.125, "predicted": "gull", "cam_valid": True} | scores
    return Overlay(name, picture, heat, background, **given)


def cells(figure):
    """Of each picture its title and its three panels."""
    bands = [band.subfigs[1:] for band in figure.subfigs]
    return [(cell.get_suptitle(), cell.axes) for band in bands for cell in band if cell.axes]


def test_a_row_a_group_and_a_title_with_the_scores_of_each_picture():
    groups = {"ID, highest": [overlay("a.jpg"), overlay("b.jpg")], "OOD, lowest": [overlay("c.jpg", cam_valid=False)]}
    figure = overlays_figure(groups, lam=0.5, threshold=0.4)
    assert [band.subfigs[0].texts[0].get_text() for band in figure.subfigs] == list(groups)
    titles = [title for title, _ in cells(figure)]
    assert titles[0] == "a.jpg\nS 0.500, plain 0.250, P_align −0.125, predicted gull"
    assert titles[2].startswith("c.jpg") and titles[2].endswith("gull, no background")
    assert "0.5 P_align" in figure.get_suptitle() and "0.400" in figure.get_suptitle()


def test_the_mask_hides_the_patches_of_the_foreground_and_nothing_else():
    background = np.ones((3, 3), bool)
    background[0, 2] = False
    shown = overlay(background=background)
    ((_, panels),) = cells(overlays_figure({"g": [shown]}, 0.0, 0.0))
    seen = panels[2].images[0].get_array()
    assert (seen[:10, 20:] == 0).all()
    expected = shown.picture_HWC.copy()
    expected[:10, 20:] = 0
    assert np.array_equal(seen, expected)


def test_the_best_patch_is_framed_where_the_score_has_one():
    shown = overlay(local=2.5, patch=(2, 1))
    figure = overlays_figure({"g": [shown]}, 0.3, 0.0, "e + λ max e of a patch")
    ((title, panels),) = cells(figure)
    assert title.splitlines()[1] == "S 0.500, plain 0.250, patch 2.500, predicted gull"
    assert "S = e + 0.3 max e of a patch" in figure.get_suptitle() and "best patch framed" in figure.get_suptitle()
    (frame,) = panels[0].patches
    assert frame.get_bbox().bounds == (9.5, 19.5, 10, 10) and not panels[1].patches
    assert "framed" not in overlays_figure({"g": [overlay()]}, 0.3, 0.0).get_suptitle()


def test_the_map_is_shown_without_its_negative_part_over_the_whole_picture():
    heat = np.array([[-3.0, 0, 1], [2, -1, 0], [0, 0, 4]])
    ((_, panels),) = cells(overlays_figure({"g": [overlay(heat=heat)]}, 0.0, 0.0))
    picture, over = panels[1].images
    assert np.array_equal(over.get_array(), np.maximum(heat, 0))
    assert over.get_extent() == picture.get_extent()


def test_a_map_without_a_positive_patch_is_drawn(tmp_path):
    save_figure(overlays_figure({"g": [overlay(heat=-np.ones((3, 3)))]}, 0.0, 0.0), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0
