"""Heads by name."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.config import override
from pipeline.datasets.manifest import write_manifest
from pipeline.heads.gasm_cast.config import GasmCastHead
from pipeline.runs import Run
from pipeline.training.registry import HeadError, TooLarge, build, count, predict
from tests.training.procedures import CLASSES, params, table, write_rows


def test_the_head_fits_the_stores_and_takes_half_precision_batches(made):
    run = made.run(Path())
    module, samples = build(run.head, run.config, run.samples).eval(), run.samples
    batch = {
        "semantic": torch.randn(3, 4, 16, 16).half(),
        "motion": torch.randn(3, 4, 4, 8).half(),
        "times": torch.tensor([[0.5, 1.5, 2.5, 3.5]]).expand(3, -1),
    }
    assert predict(module, batch, samples.streams).shape == (3, 4)
    assert predict(module, batch, samples.streams).dtype == torch.float32


def test_gasm_cast_must_stay_under_20_million_trainable_parameters():
    assert GasmCastHead.model_fields["max_trainable"].default == 20_000_000


def test_the_limit_counts_trainable_parameters_only(monkeypatch):
    frozen = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False))
    monkeypatch.setattr(nn.Sequential, "of", staticmethod(lambda config, samples: frozen), raising=False)
    place = "torch.nn:Sequential"
    assert build("frozen", SimpleNamespace(max_trainable=12, implementation=place), None) is frozen
    assert (count(frozen), count(frozen, trainable=True)) == (24, 12)
    with pytest.raises(TooLarge, match="12 trainable parameters, and max_trainable allows 11"):
        build("frozen", SimpleNamespace(max_trainable=11, implementation=place), None)


def test_params_that_do_not_fit_each_other_are_an_error_that_names_their_place(made):
    run = made.run(Path())
    widths = {"model.width": 12, "model.bottleneck": 12, "model.fusion": "vanilla"}  # tokens are 16 wide
    config = override(run.config, {**widths, "model.attention_heads": 3})
    with pytest.raises(HeadError, match=r"heads\.gasm_cast\.model: semantic_dim is 16, which 3 attention_heads"):
        build(run.head, config, run.samples)


def test_fact_has_a_channel_for_every_verb_and_noun_of_the_vocabularies_whether_it_occurs_or_not(tmp_path):
    frame = table({"train": 4, "test": 2})
    pairs = [[0, 0], *([1 + number // 3, 1 + number % 3] for number in range(9))]
    frame.attrs["parts"] = {"verbs": ["none", *"abcde"], "nouns": ["none", *"abcdefg"], "pairs": pairs}
    write_manifest(frame, tmp_path / "manifest.parquet")
    chosen = params(**{"model": params().head("fact").model.model_dump(mode="json") | {"blocks": "IU"}})
    stores = {"frames": write_rows(tmp_path / "rows", frame)}
    samples = Run(chosen, "fact", tmp_path / "manifest.parquet", stores, tmp_path).samples
    module = build("fact", chosen.head("fact"), samples)
    assert samples.n_parts == module.n_parts == (6, 8), "the pairs alone would say 4 and 4"
    assert module.classes.channels(null=True) == 6 + 8 + 2 and len(module.pairs_A2) == len(CLASSES)
