"""Claims about what leaves a device: in the dtype that the store keeps, and with the store's own refusals."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from benchmarks._pretended import Pretended
from pipeline.config import Compute
from pipeline.extraction import device as module
from pipeline.extraction.device import Device, narrowed
from pipeline.store.fields import parse_fields


@pytest.fixture(scope="module")
def values():
    """(B, N, C) float32 of every size that float16 has, subnormal ones too."""
    made = torch.randn(6, 50, 40) * 10 ** torch.linspace(-8, 4, 40)
    made[0, 0, 0] = 65504.0
    return made


def test_what_is_narrowed_on_the_device_is_stored_as_the_same_bytes(values):
    (field,) = parse_fields({"x": ((40, 50), "float16")}).values()
    turned = values.transpose(1, 2)  # as motion tokens leave their network
    there, fits = narrowed(turned, "float16")
    assert there.dtype == torch.float16 and there.is_contiguous() and fits.all()
    for mine, whole in zip(there.numpy(), turned.numpy(), strict=True):
        np.testing.assert_array_equal(field.encode(mine, "")["x"], field.encode(whole, "")["x"])


@pytest.mark.parametrize("value", [65510.0, -65505.0, 1e9, torch.inf, -torch.inf, torch.nan])
def test_a_sample_that_float16_does_not_hold_is_known_before_it_is_rounded(values, value):
    spoilt = values.clone()
    spoilt[2, 7, 3] = value
    assert narrowed(spoilt, "float16")[1].tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize(
    ("dtype", "stored", "leaves"),
    [
        (torch.float32, "float32", torch.float32),
        (torch.bfloat16, "float32", torch.float32),
        (torch.bfloat16, "float16", torch.float16),
        (torch.float16, "float16", torch.float16),
        (torch.float64, "float64", torch.float64),
        (torch.uint8, "uint8", torch.uint8),
    ],
)
def test_nothing_else_is_narrowed(dtype, stored, leaves):
    field = torch.ones(2, 3, dtype=dtype)
    assert narrowed(field, stored)[0].dtype == leaves
    arrays = Device(Compute(device="cpu")).download({"x": field}, {"x": stored})()
    assert arrays["x"].tolist() == field.tolist()


class Queue:
    """In the place of a CUDA stream, and of its events, where everything is done at once."""

    def __init__(self, *_):
        pass

    def record_event(self):
        return self

    def wait_event(self, event):
        pass

    wait_stream = wait_event

    def synchronize(self):
        pass


def test_on_a_gpu_the_host_waits_for_no_copy_but_that_of_what_float16_does_not_hold(values, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", Queue)
    monkeypatch.setattr(torch.cuda, "current_stream", Queue)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(module, "device", lambda compute: torch.device("cuda", 0))
    spoilt = values.numpy().copy()
    spoilt[2, 7, 3] = 1e9
    with Pretended() as gpu:
        there = Device(Compute(device="cpu"))
        batch = there.upload(torch.from_numpy(spoilt))
        assert batch.device.type == "cuda" and isinstance(there.sent(), Queue)
        half = there.download({"x": batch * 2, "row": batch[:, 0].sum(dim=1)}, {"x": "float16"})
        fine = there.download({"x": batch[:2]}, {"x": "float16"})()
        assert gpu.waits == []
        arrays = half()
        assert gpu.waits == ["cpu"]
    assert fine["x"].dtype == np.float16 and arrays["x"].dtype == np.float32  # so that the store tells the value
    np.testing.assert_array_equal(arrays["x"], spoilt * 2)
    np.testing.assert_array_equal(arrays["row"], torch.from_numpy(spoilt)[:, 0].sum(dim=1).numpy())
