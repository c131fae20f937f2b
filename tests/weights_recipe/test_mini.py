"""The shipped mini backbones: whole, small, and with knowledge that random weights do not have."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.later import Later

mini = Later("weights.recipe.mini")
probes = Later("weights.recipe.probes")
recipe = Later("weights.recipe")
recipe_card = Later("weights.recipe.card")
tokens = Later("weights.recipe.tokens")
training = Later("weights.recipe.training")

pytestmark = pytest.mark.weights

WEIGHTS = Path(__file__).parents[2] / "weights"


def test_what_is_shipped_is_under_sixteen_megabytes():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 16e6


def test_mini_dinov3_knows_more_than_random_weights(tmp_path):
    probes.write_random(tmp_path, seed=0)
    shipped, random = (probes.probe_dinov3(folder / "mini-dinov3", 5, 240) for folder in (WEIGHTS, tmp_path))
    for question in ("shape", "round or with corners"):
        assert shipped[question][0] > random[question][0] + 0.1, question
    assert shipped["round or with corners"][0] > 0.8


def test_mini_r3d18_knows_more_than_random_weights(tmp_path):
    probes.write_random(tmp_path, seed=0)
    shipped, random = (probes.probe_r3d18(folder / "mini-r3d18.safetensors", 5, 60) for folder in (WEIGHTS, tmp_path))
    for question in ("busy on the spot or not", "shaking or pulsing", "velocity, R2"):
        assert shipped[question][0] > random[question][0] + 0.1, question


def test_the_card_tells_of_the_shipped_weights():
    text = (WEIGHTS / "README.md").read_text()
    for note in json.loads((WEIGHTS / "pretraining.json").read_text())["trainings"]:
        assert f"| `{note['name']}` | {note['parameters']:,} | {note['start']} | {note['seed']} |" in text


def test_pixels_are_normalised_as_the_backbones_do_it():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    wanted = (frames / 255 - np.float64((0.485, 0.456, 0.406))) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(mini.dinov3_pixels(frames), wanted.transpose(0, 3, 1, 2), atol=1e-5)
    wanted = (frames / 255 - np.float64((0.43216, 0.394666, 0.37645))) / (0.22803, 0.22145, 0.216989)
    np.testing.assert_allclose(mini.r3d18_pixels(frames[None])[0], wanted.transpose(3, 0, 1, 2), atol=1e-5)


def test_an_unknown_backbone_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(
        recipe.PretrainingError, match="unknown mini backbone 'nope'; known are mini-dinov3, mini-r3d18"
    ):
        recipe.pretrain(tmp_path, 0, only=["mini-r3d18", "nope"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_pretraining_is_deterministic_and_its_card_is_measured(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        notes = [
            tokens.pretrain_dinov3(folder / "mini-dinov3", 3, steps=2, batch=4),
            tokens.pretrain_r3d18(folder / "mini-r3d18.safetensors", 3, steps=2, batch=2),
        ]
        training.write_notes(folder, notes)
    for file in ("mini-dinov3/model.safetensors", "mini-r3d18.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with torch.random.fork_rng():
        found = probes.measure(tmp_path / "one", tmp_path / "random", seed=4, pictures=60, clips=40)
    some = {"shape": {"pretrained": 0.5, "random": 0.25, "chance": 0.125}}
    times = {**found["milliseconds"], "1 rgb row": 1.0, "1 flow row": 1.0, "flow of 1 frame": 1.0}
    others = {"i3d_rgb": some, "i3d_flow": some, "clip": some, "milliseconds": times}
    recipe_card.write_card(tmp_path / "one", {**found, **others})
    card = (tmp_path / "one" / "README.md").read_text()
    assert f"{found['dinov3']['shape']['pretrained']:.3f}" in card and "{" not in card
