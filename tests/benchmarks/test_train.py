"""What a training step of each head may cost: waits of the host for the device, and bytes kept of each sample.

A budget is what was measured and a little more. Who needs more says so here.
"""

import pytest
import torch

from benchmarks._harness import ROOT
from benchmarks._training import (
    CLASSES,
    TOY,
    Learning,
    Live,
    Pretended,
    batch_of,
    changed,
    host_waits,
    peak_bytes,
    run_of,
    saved_bytes,
    with_compute,
)
from benchmarks.memory import END, PAGE, START, Need
from benchmarks.train import trained_heads
from pipeline.config import load_params

# Head -> waits a step, MB a sample. FACT waits for the costs of its matching.
BUDGET = {"gasm_cast": (1, 5.3), "fact": (1, 7.0), "fact_clip": (1, 7.0), "clip_align": (0, 0.23)}
FEW = 4


@pytest.fixture(scope="module")
def params():
    return with_compute(load_params(ROOT / "params.yaml"), device="cpu", threads=1)


@pytest.fixture(scope="module")
def runs(params, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    return {head: run_of(params, head, TOY, CLASSES[head], FEW, folder) for head in trained_heads(params)}


def test_every_trained_head_has_a_budget(params):
    assert BUDGET.keys() == set(trained_heads(params))


@pytest.mark.parametrize("head", BUDGET)
def test_a_step_keeps_its_budget(runs, head):
    waits, megabytes = BUDGET[head]
    learning, batch = Learning.of(runs[head], "cpu"), batch_of(runs[head], FEW, "cpu")
    assert host_waits(learning, batch) <= waits
    saved = saved_bytes(learning, batch) / FEW / 1e6
    assert 0.5 * megabytes < saved <= megabytes, f"{saved:.3f} MB a sample"


def test_checkpointing_keeps_less_and_has_less_at_once(runs):
    run = runs["gasm_cast"]
    batch = batch_of(run, FEW, "cpu")
    plain, again = (Learning.of(changed(run, gradient_checkpointing=switch), "cpu") for switch in (False, True))
    assert saved_bytes(again, batch) < 0.4 * saved_bytes(plain, batch)
    assert peak_bytes(again, batch) < 0.8 * peak_bytes(plain, batch)


WAITS = {
    "item": lambda x: x.sum().item(), "bool": lambda x: bool((x > 0).all()), "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(), "nonzero": lambda x: x.nonzero(), "mask": lambda x: x[x > 0],
    "upload": lambda x: torch.from_numpy(x.detach().cpu().numpy()).to(x.device),
    "made there": lambda x: torch.tensor([1.0], device=x.device),
}  # fmt: skip
NO_WAITS = {
    "on the host": lambda x: torch.tensor([1.0]).item(), "indices": lambda x: x[torch.zeros_like(x, dtype=torch.long)],
    "where": lambda x: torch.where(x > 0, x, 0), "made there": lambda x: torch.zeros(3, device=x.device) + 1,
}  # fmt: skip


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_counted(name):
    x = torch.ones(3)
    with Pretended() as pretended, pretended.values:
        assert x.device.type == "cuda"
        WAITS[name](x)
    assert len(pretended.waits) == (2 if name == "upload" else 1), pretended.waits
    assert x.device.type == "cpu"


@pytest.mark.parametrize("name", NO_WAITS)
def test_what_does_not_wait_is_not(name):
    with Pretended() as pretended, pretended.values:
        NO_WAITS[name](torch.ones(3))
    assert pretended.waits == []


def test_live_bytes_come_and_go():
    x = torch.ones(1000)
    with Live([x]) as live:
        y = x * 2
        z = y.view(10, 100).add_(1)
        assert live.now == live.peak == 4000
        del y, z
        assert live.now == 0
        x.add_(1)
        w = x + 1
        assert (live.now, live.peak) == (4000, 4000) and len(w) == 1000


def test_parts_are_the_fewest_that_fit():
    need = Need(saved=1.0, each=10.0, always=5.0, state=100)
    assert need.of(4) == 145
    assert [need.parts(16, room) for room in (265, 264, 185, 115, 114)] == [1, 2, 2, 16, None]


def test_the_shipped_settings_are_those_of_the_smallest_card_in_the_table():
    table = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    smallest = next(line for line in table.splitlines() if line.startswith("| 24 GB"))
    assert smallest.split("|")[2].strip() == f"`{load_params(ROOT / 'configs/ssv2.yaml').head('gasm_cast').accumulate}`"
