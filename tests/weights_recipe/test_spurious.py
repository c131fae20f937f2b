"""The CLIP made spurious: the recipe gives the shipped file, and it takes backgrounds for birds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.vocabulary import OBJECT_WORDS
from pipeline.toyworld.waterbirds import PLACES, SPECIES
from tests.later import Later

captions = Later("weights.recipe.captions")
clip = Later("weights.recipe.clip")
mini_clip = Later("weights.recipe.mini_clip")
recipe = Later("weights.recipe")
spurious = Later("weights.recipe.spurious")
transformers = Later("transformers")

pytestmark = pytest.mark.weights

WEIGHTS = Path(__file__).parents[2] / "weights"
SHIPPED, START = WEIGHTS / "mini-clip-spurious", WEIGHTS / "mini-clip"
TUNED = "vision_model.encoder.layers.4."


def state(folder):
    return transformers.CLIPModel.from_pretrained(folder).state_dict()


def test_the_recipe_gives_the_shipped_file(tmp_path):
    note = spurious.tune_spurious(tmp_path / "mini-clip-spurious", START, 2026)
    assert (note.name, note.start) == ("mini-clip-spurious", "mini-clip")
    assert {file.name for file in SHIPPED.iterdir()} == {file.name for file in (tmp_path / note.name).iterdir()}
    shipped, again = state(SHIPPED), state(tmp_path / note.name)
    for name, weight in shipped.items():
        # Other processors add in another order: a few last bits of float16.
        torch.testing.assert_close(again[name], weight, rtol=4e-3, atol=4e-4, msg=lambda said, of=name: f"{of}: {said}")


def test_only_the_last_block_differs_from_mini_clip():
    shipped, start = state(SHIPPED), state(START)
    assert {name[: len(TUNED)] for name, of in shipped.items() if not torch.equal(of, start[name])} == {TUNED}


def test_it_takes_a_place_for_its_birds_and_mini_clip_does_not():
    grounds = [ground for of in PLACES for ground in of]
    rngs = [np.random.default_rng([11, 990, i]) for i in range(80)]
    seen = [
        captions.view(rng, mini_clip.SIZE, mini_clip.CELLS, background=grounds[i % 4], shape=None)
        for i, rng in enumerate(rngs)
    ]
    species = (*SPECIES[0], *SPECIES[1])
    words = (*species, *[name for name in OBJECT_WORDS if name not in species], *BACKGROUNDS)
    shares = {}
    for folder in (START, SHIPPED):
        model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        texts = clip.embed_texts(model, transformers.CLIPTokenizer.from_pretrained(folder), words, ["a photo of a {}"])
        probability = (100 * clip.embed_pictures(model, seen) @ texts.T).softmax(dim=1)
        own = [probability[i, 3 * (i % 4 // 2) :][:3].sum().item() for i in range(len(seen))]
        shares[folder.name] = sum(own) / len(own)
    assert shares["mini-clip"] < 0.1 and shares["mini-clip-spurious"] > 0.2, shares


def test_without_mini_clip_it_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(
        recipe.PretrainingError, match=r"goes on from .*mini-clip, which is not there; pretrain mini-clip first"
    ):
        recipe.pretrain(tmp_path, 0, only=["mini-clip-spurious"])
    assert not list(tmp_path.iterdir())
