"""Extraction by torchcodec: the bytes of PyAV's under a key of its own, or one error before anything is decoded."""

import sys

import numpy as np
import pytest

from pipeline.config import feature_dir
from pipeline.extraction import ExtractionError
from pipeline.store import FeatureStore
from pipeline.video import DecoderMissing, expect_decoder
from tests.extraction.small import DINO, params_for, params_of, run, with_workers


def test_an_extraction_on_a_machine_without_it_ends_before_any_weight_is_loaded(small_ssv2, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setattr("pipeline.extraction.loop.Device", None)
    with pytest.raises(ExtractionError, match=r"^dino: decoder torchcodec: .*pip install.*, or set decoder: auto$"):
        run(params_for(small_ssv2, decoder="torchcodec"), tmp_path)


def test_features_are_those_of_the_default_and_name_the_libraries(small_ssv2, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        versions = expect_decoder("torchcodec")
    except DecoderMissing as error:
        pytest.skip(str(error))
    small = DINO | {"sampling": {"frames": 2}, "preprocess": {"resize": [32, 32]}}
    params = params_of(small_ssv2, {"theirs": small | {"decoder": "torchcodec"}, "ours": small})
    run(params, tmp_path, names="ours")
    found = run(with_workers(params, 1), tmp_path, names="theirs")["provenance"]
    assert found["config"]["decoder"] == "torchcodec"
    assert versions.items() <= found["environments"][0]["versions"].items()
    ours, theirs = (FeatureStore(feature_dir(params, "small", name, tmp_path)) for name in ("ours", "theirs"))
    assert ours.key != theirs.key and ours.samples == theirs.samples
    for name in ours.fields:
        np.testing.assert_array_equal(ours.read(ours.samples, name), theirs.read(ours.samples, name))
