"""Claims about resampled figures: each draw is the figure of the samples repeated as often as the draw says."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.alignment_metrics import Answers, Cohort
from pipeline.evaluation.alignment_metrics import summary_draws as alignment_draws
from pipeline.evaluation.draws import Draws, units
from pipeline.evaluation.metrics import ranked, summary_draws, top_k_accuracy
from pipeline.evaluation.ood_metrics import ood_draws, ood_metrics
from pipeline.evaluation.retrieval import belonging, retrieval
from pipeline.evaluation.segment_metrics import pooled, segment_counts, segment_draws
from pipeline.evaluation.target_metrics import label_draws, number_draws, number_figures
from pipeline.evaluation.zeroshot_metrics import sweep, zeroshot_draws, zeroshot_metrics
from tests.later import Later

sklearn = Later("sklearn")

N, D = 24, 12


@pytest.fixture
def draws():
    return Draws(units("toy", [f"v{i}" for i in range(N)]), D)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def repeated(weight_N):
    return np.repeat(np.arange(len(weight_N)), weight_N.astype(int))


def test_a_unit_counts_alike_whoever_else_is_there_and_another_dataset_s_does_not(draws):
    some = Draws(units("toy", ["v7", "x", "v3"]), 2 * D)
    assert np.array_equal(some.weights[:D, [0, 2]], draws.weights[:, [7, 3]])
    assert not np.array_equal(Draws(units("real", ["v7"]), D).weights, draws.weights[:, [7]])


def test_counts_are_poisson_and_patients_are_drawn_with_all_their_samples():
    many = Draws([str(i) for i in range(2000)], 50)
    assert abs(many.weights.mean() - 1) < 0.01 and abs(many.weights.var() - 1) < 0.02
    of = Draws(["ann", "bob", "ann"], D)
    assert of.units == 2 and np.array_equal(of.weights[:, 0], of.weights[:, 2])


def test_a_share_s_draws_deviate_as_its_standard_error_says(random):
    right = random.random(400) < 0.7
    many = Draws([str(i) for i in range(400)], 2000)
    many.share("top1", right)
    assert many.figures["top1"].std() == pytest.approx(np.sqrt(0.7 * 0.3 / 400), rel=0.1)


def test_samples_without_a_value_do_not_count_and_a_draw_without_any_is_nan():
    of = Draws(["a", "b"], 200)
    of.share("x", np.array([np.nan, 1.0]), 100)
    assert np.array_equal(np.isnan(of.figures["x"]), of.weights[:, 1] == 0) and np.nanmax(of.figures["x"]) == 100


def test_of_a_classifier(draws, random):
    probabilities, labels = random.dirichlet(np.ones(7), N), random.integers(7, size=N)
    summary_draws(draws, labels, probabilities)
    for d, rows in enumerate(map(repeated, draws.weights)):
        for k in (1, 5):
            wanted = top_k_accuracy(ranked(probabilities[rows], 5), labels[rows], k)
            assert draws.figures[f"top{k}"][d] == pytest.approx(wanted)


def test_of_labels_and_numbers(draws, random):
    targets, scores = random.integers(2, size=(N, 3)), random.integers(6, size=(N, 3)) / 5.0
    label_draws(draws, targets, scores)
    numbers, found = random.normal(size=(N, 2)) + 7, random.normal(size=(N, 2)) + 7
    number_draws(draws, numbers, found)
    for d, rows in enumerate(map(repeated, draws.weights)):
        each = [sklearn.metrics.average_precision_score(targets[rows, c], scores[rows, c]) for c in range(3)]
        assert draws.figures["map"][d] == pytest.approx(np.mean(each))
        wanted = number_figures(numbers[rows], found[rows])
        assert draws.figures["r2"][d] == pytest.approx(wanted["r2"].mean())
        assert draws.figures["mae"][d] == pytest.approx(wanted["mae"].mean())


def test_of_segments_with_every_class_known_or_not(draws, random):
    seen = np.array([True, True, False, True, False])
    truths = [random.integers(-1, 5, size=random.integers(5, 9)) for _ in range(N)]
    scores = [random.integers(9, size=(len(of), 5)) / 8.0 for of in truths]  # with ties
    gamma = 0.25
    whole = zeroshot_metrics(scores, truths, seen, gamma)
    zeroshot_draws(draws, scores, truths, seen, gamma)
    segment_draws(draws, segment_counts([of.argmax(axis=1) for of in scores], truths))
    for d, rows in enumerate(map(repeated, draws.weights)):
        of, truth = [scores[row] for row in rows], [truths[row] for row in rows]
        wanted = zeroshot_metrics(of, truth, seen, gamma)
        for name in ("seen", "unseen", "harmonic", "ausuc", "seen_restricted", "unseen_restricted", "chance"):
            assert draws.figures[name][d] == pytest.approx(wanted[name]), name
        for name in ("seen", "unseen", "harmonic"):
            assert draws.figures[f"at_zero.{name}"][d] == pytest.approx(wanted["at_zero"][name])
        flat = pooled(segment_counts([each.argmax(axis=1) for each in of], truth))
        for name in ("acc", "edit", "f1@10", "f1@50"):
            assert draws.figures[name][d] == pytest.approx(flat[name])
    assert whole["ausuc"] == pytest.approx(sweep(scores, truths, seen).ausuc)


def test_of_pictures_out_of_distribution(random):
    inside, outside = random.integers(8, size=30) / 4.0, random.integers(8, size=20) / 4.0 - 0.5
    weights = random.poisson(1.0, (D, 50)).astype(float)
    weights[0, :30] = 0
    found = ood_draws(inside, outside, zip(weights[:, :30], weights[:, 30:], strict=True))
    assert all(np.isnan(of[0]) for of in found.values())
    for d in range(1, D):
        wanted = ood_metrics(inside[repeated(weights[d, :30])], outside[repeated(weights[d, 30:])])
        assert {name: of[d] for name, of in found.items()} == pytest.approx(wanted)


def test_of_diagnoses(random):
    patients = [f"p{i // 2}" for i in range(N)]
    maps = [None if i % 5 == 4 else f"m{i}" for i in range(N)]
    drawn = np.flatnonzero([of is not None for of in maps])
    unit = random.normal(size=(2, N, 4))
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    labels, own, without = random.integers(3, size=N), *random.dirichlet(np.ones(3), (2, N))
    answers = Answers(own, without, dict.fromkeys(("published", "unguided", "shuffled"), unit[0]), unit[1])
    who = Cohort([str(i) for i in range(N)], list("abc"), labels, patients, [None] * N, maps, drawn, None)
    draws = Draws(units("clinic", patients), D)
    alignment_draws(draws, answers, who)
    first, positives, excluded = belonging([maps[i] for i in drawn], [patients[i] for i in drawn])
    for d, weight in enumerate(draws.weights):
        rows, queries = repeated(weight), repeated(weight[drawn])
        assert draws.figures["accuracy"][d] == pytest.approx(100 * (own.argmax(1) == labels)[rows].mean())
        assert draws.figures["accuracy_without_map"][d] == pytest.approx(
            100 * (without.argmax(1) == labels)[rows].mean()
        )
        wanted = retrieval(unit[0][drawn][queries], unit[1][drawn][first], positives[queries], excluded[queries])
        for name in ("r1", "r5", "chance_r1"):
            assert draws.figures[f"retrieval.published.video_to_map.{name}"][d] == pytest.approx(wanted[name])
        assert np.isnan(draws.figures["retrieval.shuffled.video_to_map.r1"][d])


def test_a_table_of_draws_has_a_column_a_figure(draws):
    draws.share("a", np.ones(N))
    draws.constant("chance", 2.5)
    assert pd.DataFrame(draws.figures).shape == (D, 2) and set(draws.figures["chance"]) == {2.5}
