"""The ablations that ship ready: every row of every set is a plan and a model, and what two lists share is one run."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.config import load_params
from pipeline.plan import Plan
from pipeline.training.registry import build

ROOT = Path(__file__).parents[1]
SETS = ["params.yaml", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "configs").glob("*.yaml")))]
# What the specification of GASM-CAST wants beside its result, always: field -> how many of it.
COMPARED = {"fusion": 6, "layers": 3, "attention_heads": 3, "graph": 4, "bottleneck": 2, "window": 2}


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    """A plan of a set where its texts are there and its data is not."""
    monkeypatch.chdir(tmp_path)
    for name in ("weights", "configs"):
        Path(name).symlink_to(ROOT / name)

    def planned(name: str) -> Plan:
        params = load_params(ROOT / name)
        for dataset in params.datasets.values():
            if dataset.layout == "texts" and not Path(dataset.root).exists():
                Path(dataset.root).parent.mkdir(parents=True, exist_ok=True)
                Path(dataset.root).write_text("a text\n", encoding="utf-8")
        return Plan(params)

    return planned


def samples() -> SimpleNamespace:
    """As much of joined samples as decides a model, at the width of published features."""
    grids = {
        "semantic": SimpleNamespace(width=768, grid=(8, 14, 14)),
        "motion": SimpleNamespace(width=512, grid=(8, 7, 7)),
        "tokens": SimpleNamespace(width=512, grid=(8, 7, 7)),
        "maps": SimpleNamespace(channels=1, scale=2),
        "frames": SimpleNamespace(width=2048),
    }
    return SimpleNamespace(
        streams=grids,
        classes=[str(number) for number in range(40)],
        seen=np.ones(40, bool),
        pairs=None,
        text=np.ones((40, 512), np.float32),
        mean_map=torch.ones(1, 8, 14, 14),
        parts={"train": ["a clip"]},
        maps={"a clip": "its map"},
    )


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_a_list_for_every_head_and_every_row_is_a_plan_of_its_own(name, plan_of):
    plan = plan_of(name)
    ablations = plan.params.ablations
    assert {of.head for of in ablations.values()} == {head for head, _ in plan.params.heads.items()}
    for listed, of in ablations.items():
        runs = plan.ablated(listed)
        assert len({run.key for run in runs.values()}) == len(of.rows) * len(of.seeds) == len(runs)
        for head, key in {(run.head, run.key) for run in runs.values()}:
            assert plan.part(head=head, key=key)


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_every_list_is_a_model_that_can_be_built(name, plan_of):
    plan, found = plan_of(name), samples()
    for listed, of in plan.params.ablations.items():
        if plan.task(of.head).trains:
            for variant in of.rows:
                with torch.device("meta"):
                    module = build(of.head, plan.ablated(listed)[variant, of.seeds[0]].config, found)
                assert sum(p.numel() for p in module.parameters()) > 0, (listed, variant)


@pytest.mark.parametrize("name", ["params.yaml", "configs/ssv2.yaml"])
def test_gasm_cast_is_compared_with_all_that_its_specification_names(name, plan_of):
    plan = plan_of(name)
    design, exchange, streams = (plan.ablated(f"gasm_cast_{part}") for part in ("design", "exchange", "streams"))
    assert len(plan.params.ablations["gasm_cast_design"].rows) == 13 and len(design) == 39
    models = [run.config.model for run in (*design.values(), *exchange.values())]
    assert {field: len({getattr(model, field) for model in models}) for field in COMPARED} == COMPARED
    # What lists share is one run: all of the streams', the reference in each, and that of the result.
    reference = plan.results["ssv2_top1"]
    keys = {part: {run.key for run in runs.values()} for part, runs in (("design", design), ("exchange", exchange))}
    assert {run.key for run in streams.values()} < keys["design"] and len(streams) == 15
    assert reference.key in keys["design"] & keys["exchange"] and len(keys["design"] & keys["exchange"]) == 3


@pytest.mark.parametrize("name", ["params.yaml", "configs/ssv2.yaml"])
def test_a_row_of_the_design_changes_one_thing(name, plan_of):
    plan = plan_of(name)
    runs = plan.ablated("gasm_cast_design")
    reference = runs["reference", 0].config.model.model_dump()
    for (variant, _), run in runs.items():
        apart = {field for field, value in run.config.model.model_dump().items() if value != reference[field]}
        assert len(apart - {"radii"}) == (variant != "reference"), variant
