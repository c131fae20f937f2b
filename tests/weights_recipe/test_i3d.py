"""The shipped mini I3D: whole, small, and with knowledge that random weights do not have."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import backbones
from tests.later import Later

i3d = Later("weights.recipe.i3d")

pytestmark = pytest.mark.weights

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.fixture(scope="module")
def found():
    with torch.random.fork_rng():
        return i3d.measure_i3d(WEIGHTS, seed=5, windows=240)


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_a_file_is_a_small_state_dict_of_public_names_that_extraction_loads(stream):
    file = WEIGHTS / i3d.FILES[stream]
    assert file.stat().st_size < 0.8e6
    assert {"Conv3d_1a_7x7.conv3d.weight", "Mixed_5c.b3b.bn.running_var"} <= set(load_file(file))
    backbone = backbones.load(i3d.i3d_feature(**{stream: file}))
    pixels = torch.zeros(i3d.WINDOW + 1, {"rgb": 3, "flow": 2}[stream], i3d.SIZE, i3d.SIZE, dtype=torch.uint8)
    rows = backbone.rows({stream: pixels})["frames"]
    assert rows.shape == (2, 128) and rows.isfinite().all()


def test_mini_i3d_flow_knows_how_things_move(found):
    for question, lead in (("direction (4)", 0.1), ("velocity, R2", 0.4), ("shaking, pulsing or rocking (3)", 0.3)):
        row = found["i3d_flow"][question]
        assert row["pretrained"] > row["random"] + lead, question


def test_mini_i3d_rgb_knows_what_there_is(found):
    for question, lead in (("shape (12)", 0.3), ("colour (8)", 0.3), ("background (8)", 0.3)):
        row = found["i3d_rgb"][question]
        assert row["pretrained"] > row["random"] + lead, question


def test_it_was_taught_on_flow_as_the_flow_feature_makes_it():
    windows, streams = i3d._draw([0, 1, 2], 1)
    frames = torch.from_numpy(windows[0].pixels).permute(0, 3, 1, 2)
    assert torch.equal(backbones.load(i3d.flow_feature()).rows({"rgb": frames})["flow"], streams["flow"][0])
    assert torch.equal(frames[: i3d.WINDOW], streams["rgb"][0])


@pytest.mark.slow
def test_pretraining_is_deterministic_and_notes_what_it_was(tmp_path):
    with torch.random.fork_rng():
        notes, _ = (i3d.pretrain_i3d(tmp_path / name, 3, steps=2, batch=2) for name in ("one", "two"))
    for file in i3d.FILES.values():
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert [(note.name, note.steps, note.seed) for note in notes] == [("mini-i3d-rgb", 2, 3), ("mini-i3d-flow", 2, 3)]
