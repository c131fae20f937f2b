"""Every switch of NegAlign, which trains nothing: flipped, the words that are mined, the weight or the scores change.

What is chosen beforehand (words, λ, the reference of z-scores) stands for its training, the scores of the evaluated
pictures for its prediction; the table says which of the two a switch leaves alone, and why.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest

from pipeline.evaluation.negatives import TABLE
from tests.evaluation.pictures import make
from tests.evaluations import evaluation_of
from tests.training.test_switches import leaves


@dataclass(frozen=True)
class Flip:
    """Another value of a switch.

    Attributes:
        to: the value.
        without: why "chosen" or "scores" do not change.
        given: what has to be set for the switch to matter at all.
        beside: what its other value cannot be without.
    """

    to: Any
    without: dict[str, str] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)


SCORED = {"chosen": "λ is fixed and no z-score is asked for, so nothing is fitted to scores"}
BY_VALIDATION = {"lam.choose": "validation", "lam.fixed": None}
SWITCHES = {
    "words.quantile": Flip(0.2),
    "words.top_p": Flip(0.4),
    "words.roles.mode": Flip("tau", beside={"words.roles.value": 0.25}),
    "words.roles.value": Flip(20.0),
    "score.groups": Flip(2, SCORED),
    "score.scale": Flip(20.0, SCORED),
    "score.topk": Flip(2, SCORED),
    "score.role_aware": Flip(True, SCORED),
    "score.ambiguous": Flip(True, SCORED, given={"score.role_aware": True}),
    "score.zscore": Flip(True),
    "background.percentile": Flip(20.0, SCORED),
    "background.dilate": Flip(1, SCORED),
    "background.k_neg": Flip(1, SCORED),
    "score.local": Flip("max", SCORED),
    "lam.values": Flip([0.3], given=BY_VALIDATION | {"lam.guard": None}),
    "lam.guard": Flip(100.0, given=BY_VALIDATION | {"lam.values": [0.3]}),
    "lam.choose": Flip("validation", beside={"lam.fixed": None}),
    "lam.fixed": Flip(0.9),
    "lam.validation": Flip(0.6, given={"reference_split": None, "score.zscore": True}),
}
IDLE = [({}, "score.ambiguous", True), ({}, "lam.values", [0.3])]  # without role_aware; with a fixed λ
ELSEWHERE = {
    "dataset",
    "features",
    "kind",
    "result",
    "seed",
    "classes",
    "ood",
    "reference_split",
    "eval_split",
    "bootstrap",
}
READ = {"words.dataset", "words.feature", "words.roles.plain", "words.roles.object", "words.roles.background"}
SCORES = ["set", "sample", "neglabel", "star", "p_align", "negalign"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """changes -> (what is chosen, the scores of the evaluated pictures that all settings evaluate)."""
    world, known = make(tmp_path_factory.mktemp("world")), {}

    def measure(changes: dict[str, Any]) -> tuple[Any, pd.DataFrame]:
        if (key := json.dumps(changes)) not in known:
            run = tmp_path_factory.mktemp("run")
            changed = {name.replace(".", "__"): value for name, value in changes.items()}
            result = world.changed(**changed).evaluated(run)
            table = pd.read_parquet(evaluation_of(run) / "predictions.parquet")
            shown = table[table["part"] == "evaluated"][SCORES].set_index(["set", "sample"]).sort_index()
            known[key] = ((run / TABLE).read_text(), result["lambda"], result.get("standard")), shown
        return known[key]

    return measure


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether the pictures that both evaluate have the same scores."""
    common = one.index.intersection(other.index)
    assert len(common)
    return one.loc[common].equals(other.loc[common])


def test_every_switch_is_in_the_table_or_is_none(tmp_path):
    config = make(tmp_path).params.head("negalign")
    names = {name for name in leaves(config) if name.partition(".")[0] not in ELSEWHERE} - READ
    assert names == SWITCHES.keys()


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_honoured_by_what_is_chosen_and_by_the_scores(measured, name):
    flip = SWITCHES[name]
    flipped = flip.given | {name: flip.to} | flip.beside
    (chosen, before), (other, after) = measured(flip.given), measured(flipped)
    assert (chosen == other) == ("chosen" in flip.without)
    assert same(before, after) == ("scores" in flip.without)


@pytest.mark.parametrize(("given", "name", "to"), IDLE)
def test_a_switch_that_has_no_meaning_beside_another_changes_nothing(measured, given, name, to):
    (chosen, before), (other, after) = measured(given), measured({**given, name: to})
    assert chosen == other and same(before, after)
