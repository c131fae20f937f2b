"""Claims about splits that are drawn."""

import pytest
from pydantic import ValidationError

from pipeline.config import Shares
from pipeline.datasets import DatasetError
from pipeline.datasets.splits import drawn

NAMES = [f"video {number}" for number in range(4000)]


def test_the_shares_are_met_and_the_seed_draws_otherwise():
    shares = Shares(train=0.8, val=0.1, test=0.1)
    found = drawn(shares, NAMES, "here")
    for name, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert found.count(name) / len(NAMES) == pytest.approx(share, abs=0.02)
    assert drawn(shares, NAMES, "here") == found
    assert drawn(shares.model_copy(update={"seed": 1}), NAMES, "here") != found


def test_what_is_added_removed_or_reordered_moves_nothing_else():
    shares = Shares(train=0.7, test=0.3)
    found = dict(zip(NAMES, drawn(shares, NAMES, "here"), strict=True))
    fewer = ["new", *reversed(NAMES[::3])]
    again = dict(zip(fewer, drawn(shares, fewer, "here"), strict=True))
    assert {name: again[name] for name in fewer[1:]} == {name: found[name] for name in fewer[1:]}


def test_a_split_that_gets_nothing_is_refused():
    with pytest.raises(DatasetError, match=r"here: of the 1 groups or videos .* train gets none; take another seed"):
        drawn(Shares(train=0.5, val=0.5), ["video 1"], "here")
    assert drawn(Shares(train=1.0), ["a"], "here") == ["train"]


def test_shares_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValidationError, match=r"train, val and test are 1\.2 together; they sum to 1"):
        Shares(train=0.8, val=0.4)
