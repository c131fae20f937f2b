"""Which epoch is the best, and when no better one is awaited, from the journal's rows alone."""

import io
import math

import numpy as np
import pandas as pd
import pytest

from pipeline.reports.figures import best_epoch
from tests.later import Later

callbacks = Later("pipeline.training.callbacks")


def journal(tmp_path, accuracies, losses, patience: int = 3):
    made = callbacks.Journal(tmp_path, "", None, patience, 1, print)
    made.rows = [
        [i, 1.0, loss, accuracy, 0.1] for i, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), 1)
    ]
    return made


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ([], [], 0),
        ([0.5, 0.9, 0.7], [3.0, 2.0, 1.0], 2),  # accuracy before loss
        ([0.5, 0.9, 0.9, 0.9], [3.0, 2.0, 1.5, 1.6], 3),  # of equal accuracies the lowest loss
        ([0.9, 0.9, 0.9], [1.0, 1.0, 1.0], 1),  # of equal ones in both the first
        ([0.0, 0.0], [2.0, 1.0], 2),
        ([0.5, 0.5, 0.5], [math.nan, math.inf, 9.0], 3),  # what is no number is worse than any
        ([0.5, 0.5], [math.nan, math.nan], 1),
    ],
)
def test_the_best_epoch_has_the_highest_accuracy_and_of_equal_ones_the_lowest_loss(tmp_path, accuracies, losses, best):
    assert journal(tmp_path, accuracies, losses).best_epoch == best


def test_reports_mark_the_epoch_whose_weights_were_kept(tmp_path):
    random = np.random.default_rng(0)
    for _ in range(50):
        one = journal(tmp_path, (random.integers(0, 4, 12) / 3).tolist(), (random.integers(1, 4, 12) / 3).tolist())
        assert best_epoch(pd.read_csv(io.StringIO(one.history()))) == one.best_epoch


def test_an_epoch_that_is_as_accurate_at_a_lower_loss_is_a_better_one_for_patience(tmp_path):
    assert journal(tmp_path, [0.9, 0.8, 0.8, 0.8], [1.0, 0.9, 0.8, 0.7]).has_stalled
    assert not journal(tmp_path, [0.9, 0.9, 0.8, 0.8], [1.0, 0.9, 0.8, 0.7]).has_stalled
    assert journal(tmp_path, [0.9, 0.9, 0.9, 0.9], [1.0, 1.1, 1.2, 1.0]).has_stalled
