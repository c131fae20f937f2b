"""Extraction on the device: killed and resumed, without memory for a batch, and with no wait in its loop."""

import numpy as np
import pytest
import torch

from pipeline import backbones
from pipeline.accelerator import deterministic
from pipeline.config import Compute, parse_params
from pipeline.extraction.device import Device, halving
from tests.extraction.small import DINO, contents, kill_until_done, make_manifest, params_for, run
from tests.gpu.conftest import peak, room

pytestmark = pytest.mark.gpu


def on(params, device):
    return params.model_copy(update={"compute": params.compute.model_copy(update={"device": device})})


def test_an_extraction_that_is_killed_ends_byte_for_byte_as_one_that_is_not(small_ssv2, tmp_path, device):
    params, whole, killed = on(params_for(small_ssv2), device), tmp_path / "whole", tmp_path / "killed"
    run(params, whole)
    make_manifest(params, killed)
    kill_until_done(params, killed, ["dino"], kills=2)
    assert contents(killed / "small") == contents(whole / "small")


class Loop:
    """What the loop does with a batch: to the device, through the backbone, back while others compute."""

    def __init__(self, device: str) -> None:
        self.device = Device(Compute(device=device))
        feature = parse_params({"features": {"dino": DINO}}).features["dino"]
        self.backbone = backbones.load(feature, self.device.device)
        count = 64 if device == "cuda" else 8
        pixels = np.random.default_rng(0).random((count, feature.sampling.frames, 3, 128, 128), np.float32)
        self.batch, self.sizes = list(torch.from_numpy(pixels)), []

    def compute(self, part):
        self.sizes.append(len(part))
        return self.device.download(self.backbone(self.device.upload(part)))

    def __call__(self):
        self.sizes.clear()
        return halving(self.compute, self.batch)()


def test_a_batch_that_does_not_fit_is_halved(device):
    with deterministic():
        loop = Loop(device)
        expected, whole = loop(), loop.sizes.copy()
        most = peak(loop, device)
        with room(0.75 * most, device):
            found = loop()
    assert whole == [len(loop.batch)] and loop.sizes[:3] == [len(loop.batch), *2 * [len(loop.batch) // 2]]
    for name, field in expected.items():  # another size of batch may take another kernel
        np.testing.assert_allclose(found[name], field, rtol=1e-3, atol=1e-3)


def test_the_loop_never_waits_before_it_asks_for_the_result(device):
    with deterministic():
        loop = Loop(device)
        loop()
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            arrived = [loop.compute(loop.batch) for _ in range(3)]
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        first, *others = [fields() for fields in arrived]
    assert all(np.array_equal(of[name], first[name]) for of in others for name in first)
