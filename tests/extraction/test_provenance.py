"""A shard names the device and the versions that computed it, and params may forbid that another one goes on."""

import json
import platform

import pytest

from pipeline.config import feature_dir, parse_params
from pipeline.datasets import build_manifest, write_manifest
from pipeline.extraction import ExtractionError, extract, loop
from pipeline.extraction.provenance import environment
from pipeline.store import FeatureStore
from tests.datasets.made_up import write_texts
from tests.extraction.small import ROOT

THERE = {"device": {"type": "cuda", "model": "NVIDIA A100", "capability": "8.0"}, "versions": {"torch": "2.9"}}


@pytest.fixture
def world(tmp_path):
    """(params, features) of five texts in two shards, none of them extracted."""
    write_texts(tmp_path / "names.txt", ["cat", "dog", "cow", "owl", "fox"])
    dataset = {"layout": "texts", "root": str(tmp_path / "names.txt"), "shard_size": 3}
    text = {"backbone": "clip_text", "weights": {"path": str(ROOT / "weights/mini-clip")}, "prompts": ["a {}"]}
    params = parse_params({"compute": {"device": "cpu"}, "datasets": {"names": dataset}, "features": {"text": text}})
    write_manifest(build_manifest(params.datasets["names"])[0], tmp_path / "features/names/manifest.parquet")
    return params, tmp_path / "features"


def mixed(params, choice):
    return params.model_copy(update={"compute": params.compute.model_copy(update={"mixed": choice})})


def run(params, features, shard):
    return extract(params, "names", "text", shard, features, lambda line: None)["text"]


def test_a_shard_names_device_capability_and_versions_and_no_name_of_the_machine(world):
    provenance = run(*world, 0)["provenance"]
    (of,) = provenance["environments"]
    assert of == environment("cpu") and set(of["device"]) == {"type", "model", "capability"}
    wanted = {"torch", "torchvision", "transformers", "decord", "av", "libavcodec", "libswscale", "numpy"}
    assert wanted <= set(of["versions"])
    assert platform.node() not in json.dumps(of)


def test_a_gpu_is_named_by_model_and_capability_beside_cuda_and_cudnn(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    of = environment("cuda")
    assert of["device"] == {"type": "cuda", "model": "NVIDIA H200", "capability": "9.0"}
    assert {"cuda", "cudnn"} <= set(of["versions"])


def test_another_machine_may_go_on_with_a_store_which_then_names_both(world, monkeypatch):
    params, features = world
    run(params, features, 0)
    monkeypatch.setattr(loop, "environment", lambda *given: THERE)
    run(params, features, 1)
    ((_, found),) = FeatureStore(feature_dir(params, "names", "text", features)).environments.items()
    assert found == [environment("cpu"), THERE]


def test_where_params_refuse_it_another_machine_computes_nothing_into_a_store(world, monkeypatch):
    params, features = mixed(world[0], "refuse"), world[1]
    whole = run(params, features, 0)
    monkeypatch.setattr(loop, "environment", lambda *given: THERE)
    assert run(params, features, 0) == whole  # which is complete: nothing is computed
    with pytest.raises(
        ExtractionError, match=r"was computed elsewhere: .*device\.type cpu or cuda.*or set mixed: report"
    ):
        run(params, features, 1)
    monkeypatch.undo()
    assert run(params, features, 1)["provenance"]["environments"] == [environment("cpu")]


def test_the_choice_is_part_of_no_key(world):
    params, features = world
    assert feature_dir(params, "names", "text", features) == feature_dir(
        mixed(params, "refuse"), "names", "text", features
    )
