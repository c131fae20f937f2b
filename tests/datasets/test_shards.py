"""Claims about which shard holds which sample."""

import doctest
import random

import pytest

import pipeline.datasets.shards
from pipeline.datasets import assign_shards


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(pipeline.datasets.shards) == (0, 2)


def test_the_first_assignment_fills_shards_in_order():
    assert list(assign_shards(list("abcde"), {}, 2).values()) == [0, 0, 1, 1, 2]


def test_new_samples_go_to_new_shards_only_wherever_they_are_listed():
    before = assign_shards(list("abc"), {}, 2)
    after = assign_shards(list("xaybzc"), before, 2)
    assert {sample: after[sample] for sample in before} == before
    assert [after[sample] for sample in "xyz"] == [2, 2, 3]


def test_removed_samples_move_nothing_and_an_assignment_is_stable():
    before = assign_shards(list("abcdef"), {}, 2)
    after = assign_shards(list("fbc"), before, 2)
    assert after == {"f": 2, "b": 0, "c": 1}
    assert assign_shards(list("fbc"), after, 2) == after


def test_another_shard_size_concerns_new_samples_only():
    before = assign_shards(list("abcd"), {}, 2)
    assert list(assign_shards(list("abcdefg"), before, 3).values()) == [0, 0, 1, 1, 2, 2, 2]


def test_no_history_of_changes_overfills_a_shard_or_moves_a_sample():
    rng, assigned, samples = random.Random(0), {}, []
    for step in range(50):
        samples = [s for s in samples if rng.random() > 0.2] + [f"{step}-{i}" for i in range(rng.randrange(6))]
        rng.shuffle(samples)
        after = assign_shards(samples, assigned, 4)
        assert all(after[s] == assigned[s] for s in samples if s in assigned)
        assert all(list(after.values()).count(shard) <= 4 for shard in after.values())
        assert list(after) == samples
        assigned = after


def test_a_sample_given_twice_and_a_shard_size_below_one_are_errors():
    with pytest.raises(ValueError, match="'b' is given twice"):
        assign_shards(["a", "b", "b"], {}, 2)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        assign_shards(["a"], {}, 0)
