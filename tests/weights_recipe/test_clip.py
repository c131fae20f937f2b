"""The mini CLIP: its loss, its beginnings, its files, and what the shipped one knows of pictures it has not seen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.shapes import SHAPES
from pipeline.toyworld.vocabulary import BACKGROUND_PROMPTS, OBJECT_PROMPTS
from tests.later import Later

captions = Later("weights.recipe.captions")
clip = Later("weights.recipe.clip")
clip_cam_blocks = Later("pipeline.backbones.clip_cam_blocks")
mini_clip = Later("weights.recipe.mini_clip")
recipe_tokenizer = Later("weights.recipe.tokenizer")
transformers = Later("transformers")

pytestmark = pytest.mark.weights

SHIPPED = Path(__file__).parents[2] / "weights" / "mini-clip"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shipped():
    return transformers.CLIPModel.from_pretrained(
        SHIPPED, dtype=torch.float32
    ).eval(), transformers.CLIPTokenizer.from_pretrained(SHIPPED)


def renderings(count, **wanted):
    """Pictures of seeds that neither pretraining nor its measurement uses; each wanted thing takes turns."""
    turns = [{what: names[i % len(names)] for what, names in wanted.items()} for i in range(count)]
    return [
        captions.view(np.random.default_rng([77, 777, i]), mini_clip.SIZE, mini_clip.CELLS, 0.0, **turn)
        for i, turn in enumerate(turns)
    ]


def accuracy(shipped, views, names, prompts):
    model, tokenizer = shipped
    similarity = clip.embed_pictures(model, views) @ clip.embed_texts(model, tokenizer, names, prompts).T
    return (similarity.argmax(dim=1) == torch.arange(len(views)) % len(names)).float().mean().item()


def test_it_names_shapes_and_backgrounds_that_it_was_never_shown_so(shipped):
    assert accuracy(shipped, renderings(120, shape=SHAPES, verb=[None]), SHAPES, OBJECT_PROMPTS[:2]) >= 0.85
    views = renderings(120, background=BACKGROUNDS, verb=[None])
    assert accuracy(shipped, views, BACKGROUNDS, BACKGROUND_PROMPTS[:3]) >= 0.85


def test_its_map_points_at_the_object(shipped):
    model, tokenizer = shipped
    views = renderings(48, shape=SHAPES, verb=[None])
    texts = clip.embed_texts(model, tokenizer, SHAPES, ("a photo of a {}",)).repeat(4, 1).clone()
    peak = clip_cam_blocks.autograd_cams(
        model, mini_clip.clip_pixels(np.stack([seen.pixels for seen in views])), texts
    ).argmax(dim=1)
    inside = torch.from_numpy(np.stack([seen.shape.ravel() for seen in views])) >= 0
    assert inside.gather(1, peak[:, None]).float().mean() >= 0.8 > 2 * inside.float().mean()


def test_the_shipped_folder_is_small_and_whole():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 4.6e6
    processor = transformers.CLIPImageProcessor.from_pretrained(SHIPPED)
    seen = renderings(1)[0]
    wanted = processor(seen.pixels, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(mini_clip.clip_pixels(seen.pixels[None]), wanted, atol=1e-5, rtol=0)
    assert transformers.CLIPModel.from_pretrained(SHIPPED).dtype == torch.float32


def test_captions_that_hold_of_several_pictures_are_not_their_negatives():
    torch.manual_seed(0)
    holds = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]])
    assert clip.contrastive(torch.where(holds > 0, 50.0, -50.0), holds).item() == pytest.approx(0, abs=1e-6)
    logits = torch.randn(2, 4, dtype=torch.float64)

    def plainly(rows, truths):
        spent = []
        for row, truth in zip(rows, truths, strict=True):
            true = [i for i, value in enumerate(truth) if value]
            if true:
                chances = np.exp(row) / np.exp(row).sum()
                spent.append(-np.mean([np.log(chances[i]) for i in true]) - np.log(len(true)))
        return np.mean(spent)

    wanted = 0.5 * (plainly(logits.numpy(), holds.numpy()) + plainly(logits.numpy().T, holds.numpy().T))
    assert clip.contrastive(logits, holds.double()).item() == pytest.approx(wanted)


def test_it_begins_by_looking_around_each_patch():
    torch.manual_seed(0)
    model = mini_clip.build_clip(600).eval()
    pixels = mini_clip.clip_pixels(renderings(1)[0].pixels[None])
    own = []
    for begin in (lambda model: None, mini_clip.begin_locally):
        begin(model)
        model.set_attn_implementation("eager")
        attention = model.vision_model(pixels, output_attentions=True).attentions[0][0, :, 1:, 1:].mean(dim=0)
        own.append(attention.diagonal().mean().item())
    assert own[1] > 3 * own[0]


def test_the_files_are_half_precision_and_load_as_single(tmp_path):
    torch.manual_seed(0)
    model = mini_clip.build_clip(recipe_tokenizer.write_tokenizer(tmp_path, clip.sentences()))
    mini_clip.save_clip(model, tmp_path)
    loaded = transformers.CLIPModel.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight.half().float(), atol=0, rtol=0)
    ids = transformers.CLIPTokenizer.from_pretrained(tmp_path)(
        ["star", "a red star on grass"], padding=True, return_tensors="pt"
    )
    # The end token, not padding after it, is what a text is pooled from.
    alone = loaded.text_model(ids["input_ids"][:1, :3]).pooler_output
    torch.testing.assert_close(loaded.text_model(**ids).pooler_output[:1], alone, atol=1e-5, rtol=1e-5)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.slow
def test_pretraining_is_deterministic_and_can_go_on(tmp_path):
    one, two = (clip.pretrain_clip(tmp_path / name, 3, steps=3, batch=4, mute=1) for name in ("one", "two"))
    assert (one.start, one.steps, one.parameters) == (two.start, two.steps, two.parameters)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    note = clip.pretrain_clip(tmp_path / "three", 4, steps=1, batch=4, start=tmp_path / "one")
    assert note.start == "one"
    found = clip.measure_clip(tmp_path / "three", pictures=72)
    assert all(set(row) == {"pretrained", "random", "chance"} for row in found.values())


def test_the_shipped_tokenizer_is_the_one_that_the_vocabulary_gives(tmp_path):
    recipe_tokenizer.write_tokenizer(tmp_path, clip.sentences())
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes(), name
