"""Trainings on the device by the trainer: to the bit again, divided where memory does not suffice, on two devices."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from benchmarks._harness import ROOT
from benchmarks._training import CLASSES, TOY, changed, run_of, with_compute
from pipeline.accelerator import made_by
from pipeline.config import Compute, load_params
from tests.gpu.conftest import peak, room
from tests.later import train
from tests.training.learnable import made_params, make
from tests.training.test_processes import ONE_NODE, PLAIN, Training

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"))


def test_two_trainings_are_one_to_the_bit_and_name_their_device(made, tmp_path, device):
    there = replace(made, params=made_params({"device": device}))
    records = [train(there.run(tmp_path / name), progress=lambda line: None) for name in ("one", "other")]
    for name in ("weights.safetensors", "history.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert {record["device"] for record in records} == {made_by(Compute(device=device))["device"]}


def test_a_batch_that_does_not_fit_is_computed_in_parts(tmp_path, device):
    size = 128 if device == "cuda" else 16
    params = with_compute(load_params(ROOT / "params.yaml"), device=device, threads=1, decode_workers=0)
    whole = run_of(params, "gasm_cast", TOY, CLASSES["gasm_cast"], size, tmp_path)
    whole = changed(whole, epochs=1, batch_size=size, warmup_epochs=0)
    lines = []
    most = peak(lambda: train(replaced(whole, tmp_path / "whole"), progress=lambda line: None), device)
    with room(0.75 * most, device):
        record = train(replaced(whole, tmp_path / "parts"), lines.append)
    assert record["accumulate"] >= 2
    assert any("out of memory" in line and "goes on with accumulate: 2" in line for line in lines), lines


def replaced(run, folder):
    other = replace(run, folder=folder)
    vars(other)["samples"] = run.samples
    return other


def test_two_devices_train_as_one(made, tmp_path, device):
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU here: two were not tried")
    compute = {"device": device}
    Training(made, tmp_path / "one", compute, PLAIN).end()
    Training(made, tmp_path / "two", compute | ONE_NODE, PLAIN).end()
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-3, atol=1e-4)
