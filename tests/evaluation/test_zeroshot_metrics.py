"""Seen and unseen accuracies over γ against cases worked by hand and literal loops over frames and γ."""

import json
import time

import numpy as np
import pytest

from pipeline.evaluation.segment_metrics import segment_metrics
from pipeline.evaluation.zeroshot_metrics import (
    choose_gamma,
    harmonic,
    stacked,
    sweep,
    zeroshot_intervals,
    zeroshot_metrics,
)

# --- literal references -----------------------------------------------------------------------------------------------


def loop_predict(scores, seen, gamma):
    """Argmax over the union, frame by frame."""
    labels = []
    for row in scores:
        values = [float(value) - (gamma if known else 0) for value, known in zip(row, seen, strict=True)]
        labels.append(values.index(max(values)))
    return np.array(labels, dtype=int)


def loop_accuracies(predictions, truths, seen):
    """S, U, H: means over the classes that occur."""
    right, n = np.zeros(len(seen)), np.zeros(len(seen))
    for prediction, truth in zip(predictions, truths, strict=True):
        for p, t in zip(prediction, truth, strict=True):
            if t >= 0:
                n[t] += 1
                right[t] += p == t
    means = [
        np.mean([100 * right[c] / n[c] for c in range(len(seen)) if n[c] and seen[c] == side]) for side in (True, False)
    ]
    return *means, 2 * means[0] * means[1] / sum(means) if sum(means) else 0.0


def random_scores(seed, videos=3, frames=40, classes=6, signal=1.5, unlabelled=True):
    """Scores that prefer the truth a little, and seen classes more."""
    random = np.random.default_rng(seed)
    seen = np.arange(classes) % 3 != 1
    truths = [np.repeat(random.integers(0, classes, frames // 4), 4) for _ in range(videos)]
    scores = [random.normal(size=(len(t), classes)) + signal * np.eye(classes)[t] + 0.8 * seen for t in truths]
    if unlabelled:
        truths[0][3:9] = -1
    return scores, truths, seen


# --- against loops ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_s_u_h_and_the_fraction_unseen_at_any_gamma_are_those_of_literal_loops(seed):
    scores, truths, seen = random_scores(seed)
    gammas = np.random.default_rng(seed).uniform(-3, 5, 25)
    found = sweep(scores, truths, seen).at(gammas)
    judged = [truth >= 0 for truth in truths]
    for i, gamma in enumerate(gammas):
        predictions = [loop_predict(score, seen, gamma) for score in scores]
        expected = loop_accuracies(predictions, truths, seen)
        assert (found["seen"][i], found["unseen"][i], found["harmonic"][i]) == pytest.approx(expected)
        picked = np.concatenate([p[keep] for p, keep in zip(predictions, judged, strict=True)])
        assert found["fraction_unseen"][i] == pytest.approx(100 * np.mean(~seen[picked]))
        assert all(np.array_equal(stacked(s, seen, gamma), p) for s, p in zip(scores, predictions, strict=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rounded", [False, True])
def test_ausuc_is_the_trapezoid_sum_over_every_gamma_that_changes_a_frame(seed, rounded):
    scores, truths, seen = random_scores(seed, videos=2, frames=32)
    if rounded:  # many equal margins
        scores = [np.round(score) for score in scores]
    margins = np.concatenate([s[:, seen].max(axis=1) - s[:, ~seen].max(axis=1) for s in scores])
    steps = np.unique(np.concatenate([m[t >= 0] for m, t in zip(np.split(margins, 2), truths, strict=True)]))
    area, before = 0.0, None
    for gamma in [*steps, steps[-1] + 1]:
        # Rounded scores have ties at γ = margin, which go to the seen side here, whatever the order of the classes.
        predictions = [loop_predict(score, seen, gamma - 1e-9) for score in scores]
        s, u, _ = loop_accuracies(predictions, truths, seen)
        if before is not None:
            area += (u - before[1]) * (s + before[0]) / 2
        before = s, u
    assert sweep(scores, truths, seen).ausuc == pytest.approx(area / 100)


@pytest.mark.parametrize("seed", range(5))
def test_the_report_agrees_with_its_parts(seed):
    scores, truths, seen = random_scores(seed)
    result = zeroshot_metrics(scores, truths, seen, gamma=1.0, background={0})
    predictions = [loop_predict(score, seen, 1.0) for score in scores]
    expected = loop_accuracies(predictions, truths, seen)
    assert (result["seen"], result["unseen"], result["harmonic"]) == pytest.approx(expected)
    for side, name in ((~seen, "unseen"), (seen, "seen")):
        own = [np.flatnonzero(side)[score[:, side].argmax(axis=1)] for score in scores]
        index = 0 if name == "seen" else 1
        assert result[f"{name}_restricted"] == pytest.approx(loop_accuracies(own, truths, seen)[index])
    frames = segment_metrics(predictions, truths, {0})
    assert {name: result[name] for name in frames} == frames
    assert result["chance"] == pytest.approx(100 / 6)
    labels = np.concatenate(truths)
    assert result["fraction_unseen_true"] == pytest.approx(100 * np.mean(~seen[labels[labels >= 0]]))
    # The best γ is as good as any on a fine grid.
    grid = sweep(scores, truths, seen).at(np.linspace(-10, 10, 5001))["harmonic"]
    assert result["best"]["harmonic"] >= grid.max()
    json.dumps(result, allow_nan=False)


def test_the_curve_runs_from_all_seen_to_all_unseen():
    scores, truths, seen = random_scores(0, videos=10, frames=100)
    result = zeroshot_metrics(scores, truths, seen, gamma=0.0)
    curve = result["curve"]
    assert curve["fraction_unseen"][0] == 0 and curve["fraction_unseen"][-1] == 100
    assert curve["seen"][0] == result["seen_restricted"] and curve["seen"][-1] == 0
    assert curve["unseen"][0] == 0 and curve["unseen"][-1] == result["unseen_restricted"]
    assert curve["gamma"] == sorted(set(curve["gamma"])) and len(curve["gamma"]) <= 201
    assert np.all(np.diff(curve["seen"]) <= 0) and np.all(np.diff(curve["unseen"]) >= 0)
    assert zeroshot_metrics(scores, truths, seen, 0.0, gammas=np.array([0.5]))["curve"]["gamma"] == [0.5]


def test_what_no_gamma_gives_is_told_beside_what_the_chosen_one_gives():
    scores, truths, seen = [np.eye(3)[[0, 1, 1, 0]]], [np.array([0, 1, 2, 2])], np.array([True, True, False])
    result, plain = (zeroshot_metrics(scores, truths, seen, gamma) for gamma in (2.0, 0.0))
    assert result["unseen"] == 100 and result["at_zero"]["unseen"] == 0 and result["at_zero"]["seen"] == 100
    assert result["at_zero"] == {name: plain[name] for name in ("seen", "unseen", "harmonic", "fraction_unseen")}


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_stacking_worked_by_hand():
    # Classes 0 and 1 seen, 2 unseen. Margins, best seen less unseen: 0.5, 0.2, 0.1, 0.4, and -0.1 (already on the
    # unseen class at γ = 0).
    scores = [np.array([[0.7, 0.1, 0.2], [0.3, 0.5, 0.3], [0.4, 0.1, 0.3], [0.6, 0.2, 0.2], [0.3, 0.1, 0.4]])]
    truths, seen = [np.array([0, 1, 2, 2, 0])], np.array([True, True, False])
    # γ -1: S 100. γ 0: class 0 half right, class 1 right: S 75; U 0. γ 0.15: frame 2 turns: U 50.
    # γ 0.25: frame 1 lost: S 25. γ 0.45: frame 3 turns: U 100. γ 0.6: frame 0 lost: S 0.
    found = sweep(scores, truths, seen).at(np.array([-1, 0, 0.15, 0.25, 0.45, 0.6]))
    assert found["seen"].tolist() == pytest.approx([100, 75, 75, 25, 25, 0])
    assert found["unseen"].tolist() == pytest.approx([0, 0, 50, 50, 100, 100])
    assert found["fraction_unseen"].tolist() == pytest.approx([0, 20, 40, 60, 80, 100])
    assert found["harmonic"].tolist() == pytest.approx([0, 0, 60, 100 / 3, 40, 0])
    # Steps of U, 0 to 50 at S = 75 and 50 to 100 at S = 25: area 0.5 * 0.75 + 0.5 * 0.25.
    assert sweep(scores, truths, seen).ausuc == pytest.approx(50)
    assert zeroshot_metrics(scores, truths, seen, 0.0)["best"] == {
        "gamma": pytest.approx(0.15),
        "harmonic": pytest.approx(60),
    }


def test_a_tie_goes_to_the_seen_class():
    assert stacked(np.array([[0.5, 0.5]]), np.array([False, True]), 0.0).tolist() == [1]


def test_perfect_scores_have_an_area_of_100_and_a_harmonic_mean_of_100():
    truth = np.array([0, 1, 2, 3])
    seen = np.array([True, True, False, False])
    result = zeroshot_metrics([np.eye(4)], [truth], seen, gamma=0.0)
    assert (result["seen"], result["unseen"], result["harmonic"], result["ausuc"]) == (100, 100, 100, 100)
    assert (result["edit"], result["f1@50"]) == (100, 100)


def test_harmonic_mean_of_two_zeros_is_zero():
    assert harmonic(np.array([0.0, 50.0]), np.array([0.0, 50.0])).tolist() == [0, 50]


# --- γ from seen classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_gamma_is_the_best_on_the_stand_ins_and_no_unseen_class_matters(seed):
    scores, truths, seen = random_scores(seed, videos=4)
    held_out = np.zeros(6, dtype=bool)
    held_out[[0, 3]] = True
    gamma = choose_gamma(scores, truths, seen, held_out)
    kept = np.flatnonzero(seen)
    own = [np.where(np.isin(t, kept), np.searchsorted(kept, t), -1) for t in truths]
    grid = np.append(np.linspace(-8, 8, 2001), gamma)
    values = [
        loop_accuracies([loop_predict(s[:, seen], ~held_out[seen], g) for s in scores], own, ~held_out[seen])[2]
        for g in grid
    ]
    assert values[-1] == pytest.approx(max(values))
    changed = [np.where(seen, score, 1e6) for score in scores]
    assert choose_gamma(changed, truths, seen, held_out) == gamma


def test_gamma_is_zero_where_none_helps():
    scores, truths = [np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])], [np.array([1, 0])]
    # The frames of either class have the same margin: whatever γ, one side is all wrong.
    assert choose_gamma(scores, truths, np.array([True, True, False]), np.array([False, True, False])) == 0


def test_gamma_is_never_chosen_on_unseen_classes_or_on_none():
    scores, truths, seen = random_scores(0)
    with pytest.raises(ValueError, match=r"classes \[1\] stand in"):
        choose_gamma(scores, truths, seen, np.arange(6) == 1)
    with pytest.raises(ValueError, match="4 of 4 classes are seen"):
        choose_gamma(scores, truths, seen, np.zeros(6, dtype=bool))
    with pytest.raises(ValueError, match="no frame of the held-out classes"):
        choose_gamma(scores, [np.where(t == 3, 0, t) for t in truths], seen, np.arange(6) == 3)


# --- intervals, edges, speed ------------------------------------------------------------------------------------------


def test_intervals_are_quantiles_over_videos_drawn_anew():
    scores, truths, seen = random_scores(2, videos=5)
    predictions = [loop_predict(score, seen, 1.0) for score in scores]
    found = zeroshot_intervals(predictions, truths, seen, draws=300, seed=5)
    drawn = []
    for weights in np.random.default_rng(5).multinomial(5, np.full(5, 0.2), size=300):
        picked = [number for number, times in enumerate(weights) for _ in range(times)]
        drawn.append(loop_accuracies([predictions[i] for i in picked], [truths[i] for i in picked], seen))
    for name, values in zip(("seen", "unseen", "harmonic"), zip(*drawn, strict=True), strict=True):
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())


def test_a_side_that_does_not_occur_is_null_and_never_zero():
    scores, _, seen = random_scores(1, videos=1)
    truth = np.zeros(40, dtype=int)
    result = zeroshot_metrics(scores, [truth], seen, gamma=0.0)
    assert result["unseen"] is result["harmonic"] is result["ausuc"] is result["unseen_restricted"] is None
    assert result["seen"] is not None
    nothing = zeroshot_metrics([np.zeros((0, 6))], [np.zeros(0, dtype=int)], seen, gamma=0.0)
    assert nothing["seen"] is nothing["acc"] is nothing["fraction_unseen_true"] is None
    intervals = zeroshot_intervals([truth], [truth], seen, draws=10, seed=0)
    assert intervals == {"seen": [100, 100], "unseen": None, "harmonic": None}
    json.dumps([result, nothing], allow_nan=False)


def test_what_does_not_fit_is_refused():
    scores, truths, seen = random_scores(0)
    with pytest.raises(ValueError, match="6 of 6 classes are seen"):
        sweep(scores, truths, np.ones(6, dtype=bool))
    with pytest.raises(ValueError, match=r"video 1: scores of shape \(39, 6\), expected \(40, 6\)"):
        sweep([scores[0], scores[1][1:], scores[2]], truths, seen)
    with pytest.raises(ValueError, match="not finite"):
        sweep([np.where(seen, s, -np.inf) for s in scores], truths, seen)
    with pytest.raises(ValueError, match="class 6, but there are 6"):
        sweep(scores, [t + 1 for t in truths], seen)


def test_a_hundred_gammas_over_fifty_thousand_frames_and_75_classes_take_a_second():
    random = np.random.default_rng(0)
    scores = [random.normal(size=(5000, 75)).astype(np.float32) for _ in range(10)]
    truths = [random.integers(0, 75, 5000) for _ in range(10)]
    started = time.process_time()
    curve = sweep(scores, truths, np.arange(75) >= 15)
    curve.at(np.linspace(-2, 2, 100))
    assert curve.ausuc > 0
    assert time.process_time() - started < 3  # 0.15 s measured
