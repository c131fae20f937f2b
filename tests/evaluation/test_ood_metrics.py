"""Figures of out-of-distribution detection: by hand, by counting, by the library, and over λ."""

import time

import numpy as np
import pytest

from pipeline.evaluation.ood_metrics import (
    FIGURES,
    best_lambda,
    choose_lambda,
    fit_lambda,
    lambda_sweep,
    ood_intervals,
    ood_metrics,
)
from tests.heads.negalign import literal
from tests.later import Later

sklearn = Later("sklearn")


def made(seed, n_id=60, n_ood=45, signal=1.0, step=None):
    """S* and P_align of both sides; P_align tells what S* does not. `step` makes equals."""
    random = np.random.default_rng(seed)
    parts = [random.normal(size=n) + mean for n, mean in ((n_id, signal), (n_id, 1), (n_ood, 0), (n_ood, 0))]
    return [np.round(part / step) * step for part in parts] if step else parts


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_figures_worked_by_hand_with_equal_scores():
    # Threshold:     5        4       3         2          1
    # ID:            5        4,4     3         2
    # OOD:                    4       3,3                  1
    # TPR:           1/5      3/5     4/5       5/5        5/5
    # FPR:           0        1/4     3/4       3/4        4/4
    figures = ood_metrics(np.array([5, 4, 4, 3, 2]), np.array([4, 3, 3, 1]))
    # Pairs won: 5 wins 4; each 4 wins 3 and ties 1; 3 wins 1 and ties 2; 2 wins 1.
    assert figures["auroc"] == pytest.approx(100 * (4 + 2 * 3.5 + 2 + 1) / 20)
    # First TPR >= 0.95 at threshold 2.
    assert figures["fpr95"] == pytest.approx(75)
    # Steps of recall times precision: 1/5 at 1/1, 2/5 at 3/4, 1/5 at 4/7, 1/5 at 5/8.
    assert figures["aupr_in"] == pytest.approx(100 * (1 / 5 + 2 / 5 * 3 / 4 + 1 / 5 * 4 / 7 + 1 / 5 * 5 / 8))
    # OOD from below, thresholds 1, 2, 3, 4, 5: recall 1/4, 1/4, 3/4, 1, 1; precision 1, 1/2, 3/5, 4/8, 4/9.
    assert figures["aupr_out"] == pytest.approx(100 * (1 / 4 + 2 / 4 * 3 / 5 + 1 / 4 * 4 / 8))


def test_exactly_95_of_100_id_pictures_are_enough():
    id_scores = np.arange(100.0) + 100  # 105 is the 95th from above
    assert ood_metrics(id_scores, np.array([105.0, 104.0, 0.0]))["fpr95"] == pytest.approx(100 / 3)
    assert ood_metrics(id_scores, np.array([104.9, 104.0, 0.0]))["fpr95"] == 0


@pytest.mark.parametrize("n", [20, 40, 60, 700, 1900])
def test_a_share_of_95_percent_is_met_to_the_picture(n):
    id_scores = np.arange(n, 0, -1.0)
    last = n * 19 // 20  # this many must be taken; the last of them scores n - last + 1
    assert ood_metrics(id_scores, np.array([n - last + 0.5]))["fpr95"] == 0
    assert ood_metrics(id_scores, np.array([n - last + 1.5]))["fpr95"] == 100


def test_scores_apart_are_perfect_and_equal_scores_tell_nothing():
    assert ood_metrics(np.array([2.0, 3.0]), np.array([1.0])) == dict.fromkeys(FIGURES[:3], 100.0) | {"fpr95": 0.0}
    assert ood_metrics(np.ones(3), np.ones(1)) == {"auroc": 50, "aupr_in": 75, "aupr_out": 25, "fpr95": 100}


# --- by counting and by the library -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("step", [None, 0.1, 1.0])
def test_figures_are_those_of_counting_and_of_the_library(seed, step):
    id_scores, _, ood_scores, _ = made(seed, step=step)
    found = ood_metrics(id_scores, ood_scores)
    assert found == pytest.approx(literal.ood_metrics(id_scores.tolist(), ood_scores.tolist()), abs=1e-10)
    truth, scores = np.repeat([1, 0], [60, 45]), np.concatenate([id_scores, ood_scores])
    assert found["auroc"] == pytest.approx(100 * sklearn.metrics.roc_auc_score(truth, scores))
    assert found["aupr_in"] == pytest.approx(100 * sklearn.metrics.average_precision_score(truth, scores))
    assert found["aupr_out"] == pytest.approx(100 * sklearn.metrics.average_precision_score(1 - truth, -scores))


def test_figures_depend_on_the_order_alone_and_swap_with_the_sides():
    id_scores, _, ood_scores, _ = made(1)
    found = ood_metrics(id_scores, ood_scores)
    assert ood_metrics(np.exp(id_scores)[::-1], np.exp(ood_scores)) == pytest.approx(found)
    swapped = ood_metrics(-ood_scores, -id_scores)
    assert swapped["auroc"] == pytest.approx(found["auroc"])
    assert (swapped["aupr_in"], swapped["aupr_out"]) == pytest.approx((found["aupr_out"], found["aupr_in"]))


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="no OOD score; detection needs images of both sides"):
        ood_metrics(np.ones(2), np.ones(0))
    with pytest.raises(ValueError, match="ID score 1 is nan, expected a finite number"):
        ood_metrics(np.array([0.0, np.nan]), np.ones(2))


def test_intervals_hold_the_figures_follow_from_the_seed_and_narrow_with_more_images():
    few, many = made(0), made(0, n_id=600, n_ood=450)
    found = ood_intervals(few[0], few[2], draws=100, seed=3)
    assert found == ood_intervals(few[0], few[2], draws=100, seed=3) != ood_intervals(few[0], few[2], 100, seed=4)
    narrow = ood_intervals(many[0], many[2], draws=100, seed=3)
    for name, value in ood_metrics(few[0], few[2]).items():
        low, high = found[name]
        assert low <= value <= high
        assert narrow[name][1] - narrow[name][0] < high - low


@pytest.mark.parametrize("step", [None, 0.5])
def test_intervals_are_those_of_the_figures_of_pictures_drawn_one_by_one(step):
    inside, _, outside, _ = made(5, step=step)
    random, drawn = np.random.default_rng(7), []
    for _ in range(60):
        one = [side[random.integers(0, len(side), len(side))] for side in (inside, outside)]
        drawn.append(ood_metrics(*one))
    found = ood_intervals(inside, outside, draws=60, seed=7)
    for name in drawn[0]:
        wanted = np.percentile([figures[name] for figures in drawn], [2.5, 97.5])
        assert found[name] == pytest.approx(wanted, rel=1e-12)


# --- λ ----------------------------------------------------------------------------------------------------------------


def test_the_sweep_is_the_figures_of_each_sum():
    parts = made(2)
    lambdas = [0.0, 0.5, 2.0]
    found = lambda_sweep(*parts, lambdas)
    assert list(found) == lambdas
    for lam in lambdas:
        assert found[lam] == ood_metrics(parts[0] + lam * parts[1], parts[2] + lam * parts[3])
    assert found[0.0] == ood_metrics(parts[0], parts[2])


def test_the_chosen_lambda_is_the_best_and_of_equals_the_smallest():
    parts = made(3)
    lambdas = np.linspace(0, 3, 13)
    found = lambda_sweep(*parts, lambdas)
    chosen = choose_lambda(parts[:2], [parts[2:]], lambdas)
    assert found[chosen]["auroc"] == max(figures["auroc"] for figures in found.values()) > found[0.0]["auroc"]
    apart = [np.ones(3) * 5, np.zeros(3), np.zeros(4), np.zeros(4)]
    assert choose_lambda(apart[:2], [apart[2:]], [2.0, 1.0, 0.5]) == 0.5
    halves = [[of[:20] for of in parts[2:]], [of[20:] for of in parts[2:]]]
    assert choose_lambda(parts[:2], halves, lambdas) == chosen, "sets count by their images"
    assert best_lambda({1.0: {"auroc": 9.0, "fpr95": 2.0}, 0.0: {"auroc": 9.0, "fpr95": 3.0}}) == 1.0


def test_a_lambda_that_costs_any_set_more_than_the_guard_is_not_chosen():
    random = np.random.default_rng(5)
    inside = random.normal(1, 1, 300), random.normal(0.3, 1, 300)
    # On one set the second term helps much, on the other it points the wrong way.
    helped = random.normal(0, 1, 300), random.normal(-2, 1, 300)
    harmed = random.normal(0, 1, 300), random.normal(0.4, 1, 300)
    lambdas, costs = [0.0, 0.05, 0.1, 0.5, 1.0, 3.0], {}
    for lam in lambdas:
        pairs = [(inside[0] + lam * inside[1], of[0] + lam * of[1]) for of in (helped, harmed)]
        now = [ood_metrics(*pair)["auroc"] for pair in pairs]
        costs[lam] = max(before - after for before, after in zip(costs.get("at0", now), now, strict=True))
        costs.setdefault("at0", now)
    free = choose_lambda(inside, [helped, harmed], lambdas)
    assert costs[free] > 0.2, "unguarded, one set pays for the other"
    for guard in (0.0, 0.2, 100.0):
        chosen = choose_lambda(inside, [helped, harmed], lambdas, guard)
        assert costs[chosen] <= guard and chosen <= free
    assert choose_lambda(inside, [helped, harmed], lambdas, 100.0) == free
    assert choose_lambda(inside, [harmed], [3.0], 0.05) == 0, "not among the values, but it costs nothing"


@pytest.mark.parametrize("ratio", [0.5, 4.0])
def test_the_adaptive_lambda_finds_the_ratio_in_which_the_scores_were_made(ratio):
    random = np.random.default_rng(0)
    star, p = random.normal(size=(2, 20_000))
    is_id = random.random(20_000) < 1 / (1 + np.exp(-2 * (star + ratio * p)))
    fitted = fit_lambda(star[is_id], p[is_id], star[~is_id], p[~is_id])
    assert fitted == pytest.approx(ratio, rel=0.05)
    scaled = fit_lambda(star[is_id], p[is_id] / 100 + 3, star[~is_id], p[~is_id] / 100 + 3)
    assert scaled == pytest.approx(100 * fitted, rel=1e-3)


def test_the_adaptive_lambda_is_zero_where_p_align_says_nothing_or_the_opposite():
    star_id, p_id, star_ood, p_ood = made(4, n_id=500, n_ood=500)
    assert fit_lambda(star_id, -p_id, star_ood, -p_ood) == 0
    assert fit_lambda(star_id, np.zeros(500), star_ood, np.zeros(500)) == 0
    with pytest.raises(ValueError, match=r"S\* has weight -.* expected a positive one; S\* does not tell ID from OOD"):
        fit_lambda(-star_id, p_id, -star_ood, p_ood)


def test_scores_of_other_images_and_no_lambda_are_refused():
    parts = made(0)
    with pytest.raises(ValueError, match=r"OOD: S\* of shape \(45,\) and P_align of \(60,\), expected one of each"):
        lambda_sweep(parts[0], parts[1], parts[2], parts[1], [1.0])
    with pytest.raises(ValueError, match="no λ to try"):
        lambda_sweep(*parts, [])


def test_21_lambdas_over_15794_images_take_half_a_second():
    parts = made(0, n_id=5794, n_ood=10_000)
    started = time.process_time()
    lambda_sweep(*parts, np.linspace(0, 2, 21))
    assert time.process_time() - started < 0.5  # 0.06 s measured
