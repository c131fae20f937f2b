"""The study of clip_align is what its page says, row by row, in every parameter set that has one."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_params, override

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "clip-align.md").read_text()
ROWS = dict(re.findall(r"^\| ([BC]\d\w*) \| (.+) \|$", PAGE, re.MULTILINE))
# What the rows are about; nothing else may differ from B3.
SWITCHES = (
    "model.map_guided",
    "model.map_guided_type",
    "model.sigmoid_gate",
    "loss.clip_weight",
    "loss.lambda_token",
)
# What B3 has besides, where the head in params predicts maps: no row without guidance can feel it.
UNFELT = {"model.map_dropout", "model.map_guided_type"}


def at(document: dict[str, Any], dotted: str) -> Any:
    for name in dotted.split("."):
        document = document[name]
    return document


def flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.fixture(params=["params.yaml", "configs/clinic.yaml"])
def study(request):
    params = load_params(ROOT / request.param)
    ablation = params.ablations["clinic_clip_align_ablations"]
    assert len(ablation.seeds) >= 3
    head = params.head("clip_align")
    return {name: override(head, changes).model_dump(mode="json") for name, changes in ablation.rows.items()}


def test_the_page_names_the_rows_of_the_published_study():
    assert set(ROWS) == {"B0", "B1", "B2", "B3", "B4", "C1", "C2", "C3_sigmoid"}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_exactly_its_switches(study, row):
    for switch in re.findall(r"`(.+?)`", ROWS[row]):
        name, relation, wanted = re.fullmatch(r"([\w.]+)([=>])(\w+)", switch).groups()
        found = at(study[row], name)
        if relation == ">":
            assert found > float(wanted), switch
        else:
            assert str(found).lower().removesuffix(".0") == wanted, switch
    apart = {name for name, value in flat(study[row]).items() if value != flat(study["B3"])[name]}
    if not study[row]["model"]["map_guided"]:
        apart -= UNFELT
    assert apart <= set(SWITCHES)
    named = set(re.findall(r"`([\w.]+)[=>]", ROWS[row]))
    assert apart <= named, "a switch that the page does not name"


def test_the_other_rows_are_there(study):
    sources, encoders = (
        {at(of, f"model.{name}") for of in study.values()} for name in ("classifier_source", "encoder")
    )
    assert sources == {"video", "attn", "fusion"} and encoders == {"3dcnn", "2dcnn", "cnn_lstm"}
    assert {of["fraction"] for of in study.values()} == {0.1, 0.25, 0.5, 1.0}
    whole = study["predicted"]
    for of in study.values():
        times = of["epochs"] / whole["epochs"]
        assert times >= 1 / of["fraction"], "fewer patients have as many steps"
        assert (of["warmup_epochs"], of["patience"]) == (times * whole["warmup_epochs"], times * whole["patience"])
    attention = study["attention"]
    assert attention["model"]["map_teach"] == attention["loss"]["lambda_map"] == 0, "the same pooling without maps"
    assert "published" in {of["compat"] for of in study.values()}
