"""Every head's step on the device: loss and gradients as on the CPU, trainings to the bit again, budgets of waits."""

from dataclasses import replace

import pytest
import torch

from benchmarks._pretended import waits_of
from benchmarks._training import Learning, batch_of, steps_of
from pipeline.accelerator import deterministic
from pipeline.config import override
from tests.devices import FEW, HEADS, head_runs

pytestmark = pytest.mark.gpu
STEPS = 3


@pytest.fixture(scope="module")
def runs(device, tmp_path_factory):
    return head_runs(device, tmp_path_factory.mktemp("made"))


def plain(run):
    """The run in single precision, with nothing drawn: devices draw differently."""
    document = run.config.model_dump()

    def dropped(of, above):
        for name, value in of.items():
            if isinstance(value, dict):
                yield from dropped(value, f"{above}{name}.")
            elif "dropout" in name and isinstance(value, float):
                yield f"{above}{name}"

    changes = dict.fromkeys(dropped(document, ""), 0.0) | {"precision": "32-true"}
    other = replace(run, params=run.params.replacing(run.head, override(run.config, changes)))
    vars(other)["samples"] = run.samples
    return other


def gradients(run, device):
    learning = Learning.of(run, device)
    loss = learning.gradients(batch_of(run, FEW, device))
    return loss.cpu(), {name: of.grad.cpu() for name, of in learning.step.named_parameters() if of.grad is not None}


@pytest.mark.parametrize("head", HEADS)
def test_loss_and_gradients_are_those_of_the_cpu(runs, head, device):
    with deterministic():
        (loss, found), (wanted, expected) = (gradients(plain(runs[head]), there) for there in (device, "cpu"))
    torch.testing.assert_close(loss, wanted, rtol=1e-3, atol=1e-5)
    assert found.keys() == expected.keys() and found
    whole = torch.stack([of.norm() for of in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-2 * gradient.norm() + 1e-4 * whole, name


def learned(run, device):
    """The weights after some steps."""
    learning, batch = Learning.of(run, device), batch_of(run, FEW, device)
    for number in range(STEPS):
        learning(batch, number)
    return {name: of.detach().cpu() for name, of in learning.step.named_parameters()}


@pytest.mark.parametrize("head", HEADS)
def test_two_trainings_are_one_to_the_bit(runs, head, device):
    with deterministic():
        first, again = (learned(runs[head], device) for _ in range(2))
    assert [name for name, of in first.items() if not torch.equal(of, again[name])] == []
    assert any(of.abs().sum() for of in first.values())


@pytest.mark.parametrize("head", HEADS)
def test_a_step_waits_no_more_than_its_budget(runs, head, device):
    with deterministic():
        assert len(waits := waits_of(steps_of(runs[head], FEW), device)) <= HEADS[head][0], waits
