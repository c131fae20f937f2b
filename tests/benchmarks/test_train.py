"""What a training step of each head may cost: waits of the host for the device, and bytes kept of each sample.

A budget is what was measured and a little more. Who needs more says so here.
"""

import pytest
import torch

from benchmarks._harness import ROOT
from benchmarks._pretended import waits_of
from benchmarks._training import (
    Learning,
    Live,
    batch_of,
    changed,
    peak_bytes,
    saved_bytes,
    steps_of,
)
from benchmarks.memory import END, PAGE, START, Need
from pipeline.accelerator import deterministic
from pipeline.config import load_params
from tests.devices import FEW, HEADS, head_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    torch.set_num_threads(1)
    return head_runs("cpu", tmp_path_factory.mktemp("made"))


def test_every_trained_head_has_a_budget(runs):
    assert HEADS.keys() == set(runs)


@pytest.mark.parametrize("head", HEADS)
def test_a_step_keeps_its_budget(runs, head):
    waits, megabytes = HEADS[head]
    with deterministic():
        assert len(found := waits_of(steps_of(runs[head], FEW), "cpu")) <= waits, found
    saved = saved_bytes(Learning.of(runs[head], "cpu"), batch_of(runs[head], FEW, "cpu")) / FEW / 1e6
    assert 0.5 * megabytes < saved <= megabytes, f"{saved:.4f} MB a sample"


def test_checkpointing_keeps_less_and_has_less_at_once(runs):
    run = runs["gasm_cast"]
    batch = batch_of(run, FEW, "cpu")
    plain, again = (Learning.of(changed(run, gradient_checkpointing=switch), "cpu") for switch in (False, True))
    assert saved_bytes(again, batch) < 0.4 * saved_bytes(plain, batch)
    assert peak_bytes(again, batch) < 0.8 * peak_bytes(plain, batch)


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
