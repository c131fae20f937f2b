"""CLIP's text tower: the literal model's embeddings, what prompts do, and the texts and checkpoints it refuses."""

import json
import shutil

import pytest
import torch

from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded
from tests.backbones.small_clip import TEXT, VISION, save_bpe, save_clip, text_feature, vocabulary
from tests.later import Later

clip_text = Later("pipeline.backbones.clip_text")
towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")

CPU = torch.device("cpu")
PROMPTS = ("a photo of a {}.", "{}", "a close-up of the {} over there")
TEXTS = ["bird", "red bird on a photo of grass", "Bird", "x", "forest_path", "it's 3 o'clock, café"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def weights(folder):
    return {"path": str(folder)}


@pytest.fixture
def broken_folder(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "clip")


@pytest.fixture(scope="module")
def literally(folder):
    """get_text_features of one filled prompt at a time, with the checkpoint's own tokenizer."""
    model, tokenizer = (
        transformers.CLIPModel.from_pretrained(folder).eval(),
        transformers.CLIPTokenizer.from_pretrained(folder),
    )

    def embed(sentence):
        with torch.inference_mode():
            return model.get_text_features(**tokenizer(sentence, return_tensors="pt")).pooler_output[0]

    return embed


def unit(vector):
    return vector / vector.norm()


def embed(feature, texts):
    return clip_text.ClipText(feature, CPU)(texts)["text_embed"]


# --- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one prompt", "three prompts"])
def test_without_normalise_first_it_is_the_unit_vector_of_the_mean_embedding(weights, literally, prompts):
    """NegLabel's way, one prompt at a time."""
    wanted = [unit(sum(literally(prompt.format(text)) for prompt in prompts)) for text in TEXTS]
    got = embed(text_feature(weights, prompts), TEXTS)
    torch.testing.assert_close(got, torch.stack(wanted), rtol=0, atol=1e-6)


def test_with_normalise_first_it_is_the_unit_vector_of_the_mean_unit_vector(weights, literally):
    wanted = [unit(sum(unit(literally(prompt.format(text))) for prompt in PROMPTS)) for text in TEXTS]
    got = embed(text_feature(weights, PROMPTS, normalise_first=True), TEXTS)
    torch.testing.assert_close(got, torch.stack(wanted), rtol=0, atol=1e-6)
    assert (got - embed(text_feature(weights, PROMPTS), TEXTS)).abs().max() > 1e-4


def test_the_company_of_a_batch_changes_no_vector(weights):
    """Texts of other lengths beside it, more than one forward holds, or none: the same vector."""
    backbone = clip_text.ClipText(text_feature(weights, PROMPTS), CPU)
    crowd = [*TEXTS, *(f"bird {number}" for number in range(300))]
    together = backbone(crowd)["text_embed"]
    alone = torch.cat([backbone([text])["text_embed"] for text in crowd])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_padding_as_transformers_does_it_gives_the_same_vectors(folder, weights):
    model, tokenizer = (
        transformers.CLIPModel.from_pretrained(folder).eval(),
        transformers.CLIPTokenizer.from_pretrained(folder),
    )
    with torch.inference_mode():
        padded = tokenizer(TEXTS, padding="max_length", max_length=77, return_tensors="pt")
        theirs = model.get_text_features(**padded).pooler_output
    got = embed(text_feature(weights, ("{}",)), TEXTS)
    torch.testing.assert_close(got, theirs / theirs.norm(dim=-1, keepdim=True), rtol=0, atol=1e-6)


def test_fields_describe_unit_vectors_in_float32(weights):
    backbone = clip_text.ClipText(text_feature(weights, PROMPTS), CPU)
    out = backbone(TEXTS)["text_embed"]
    assert backbone.fields == {"text_embed": ((40,), "float32")} and backbone.grid is None
    assert out.shape == (len(TEXTS), 40) and out.dtype == torch.float32
    assert (out.norm(dim=-1) - 1).abs().max() < 1e-6


def test_a_text_enters_a_prompt_as_it_stands(weights):
    feature = text_feature(weights, ("a {} scene",))
    underscore, space, braces = embed(feature, ["forest_path", "forest path", "{}"])
    assert not torch.allclose(underscore, space) and braces.isfinite().all()


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.002)])
def test_half_precision_stays_close_to_fp32_and_comes_back_as_float32(weights, precision, tolerance):
    wanted = embed(text_feature(weights), TEXTS)
    got = embed(text_feature(weights, precision=precision), TEXTS)
    assert got.dtype == torch.float32 and not torch.equal(got, wanted)
    assert (got - wanted).norm() / wanted.norm() < tolerance


def test_it_is_frozen_and_repeats_itself(weights):
    backbone, again = clip_text.ClipText(text_feature(weights), CPU), clip_text.ClipText(text_feature(weights), CPU)
    first = backbone(TEXTS)["text_embed"]
    assert not backbone.tower.training and not any(weight.requires_grad for weight in backbone.tower.parameters())
    assert first.is_inference() and torch.equal(first, backbone(TEXTS)["text_embed"])
    assert torch.equal(first, again(TEXTS)["text_embed"])


# --- texts that are refused -------------------------------------------------------------------------------------------


def test_a_text_beyond_77_tokens_is_refused_by_name_and_never_cut(weights):
    # 77 = start, a, photo, of, a, 71 letters, end
    backbone = clip_text.ClipText(text_feature(weights), CPU)
    assert backbone(["q" * 71])["text_embed"].isfinite().all()
    with pytest.raises(
        BackboneError, match=r"text 'q{72}' makes 'a photo of a q{72}', 78 tokens, .* reads 77; shorten"
    ):
        backbone(["bird", "q" * 72])


def test_a_text_that_ends_early_is_refused_by_name(weights):
    with pytest.raises(BackboneError, match=r"text 'a <\|endoftext\|> b' makes .* reads as an end of text"):
        embed(text_feature(weights), ["bird", "a <|endoftext|> b"])


def test_characters_that_the_vocabulary_lacks_are_refused_by_name(broken_folder):
    file = broken_folder / "tokenizer.json"
    content = json.loads(file.read_text())
    del content["model"]["vocab"]["q"], content["model"]["vocab"]["q</w>"]
    file.write_text(json.dumps(content))
    with pytest.raises(BackboneError, match="text 'quail' makes 'a photo of a quail', which holds something"):
        embed(text_feature({"path": str(broken_folder)}), ["bird", "quail"])


# --- weights and tokenizer --------------------------------------------------------------------------------------------


def test_the_two_tokenizer_files_of_2021_read_the_same(weights, broken_folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken_folder / name).unlink()
    save_bpe(broken_folder)
    got = embed(text_feature({"path": str(broken_folder)}, PROMPTS), TEXTS)
    assert torch.equal(got, embed(text_feature(weights, PROMPTS), TEXTS))


def test_a_checkpoint_of_the_text_tower_alone_gives_the_same(folder, weights, tmp_path):
    whole = transformers.CLIPModel.from_pretrained(folder)
    alone = transformers.CLIPTextModelWithProjection(whole.config.text_config)
    alone.text_model.load_state_dict(whole.text_model.state_dict())
    alone.text_projection.load_state_dict(whole.text_projection.state_dict())
    alone.save_pretrained(tmp_path)
    shutil.copy(folder / "tokenizer.json", tmp_path)
    got = embed(text_feature({"path": str(tmp_path)}), TEXTS)
    torch.testing.assert_close(got, embed(text_feature(weights), TEXTS), rtol=0, atol=1e-6)


def test_the_config_of_2021_whose_end_of_text_is_2_pools_at_the_same_place(weights, broken_folder):
    file = broken_folder / "config.json"
    config = json.loads(file.read_text())
    config["text_config"].update(bos_token_id=0, eos_token_id=2)
    file.write_text(json.dumps(config))
    got = embed(text_feature({"path": str(broken_folder)}), TEXTS)
    assert torch.equal(got, embed(text_feature(weights), TEXTS))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"vocab_size": 100}, "ids up to"), ({"eos_token_id": 7}, "expected ids below 524 and 7 as in config.json")],
    ids=["too few words", "another end of text"],
)
def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path, change, message):
    marks = {"vocab_size": len(vocabulary()), "eos_token_id": len(vocabulary()) - 1, **change}
    towers.build_clip(vision=VISION, text={**TEXT, **marks}, projection_dim=40).save_pretrained(tmp_path)
    shutil.copy(folder / "tokenizer.json", tmp_path)
    with pytest.raises(BackboneError, match=message):
        clip_text.ClipText(text_feature({"path": str(tmp_path)}), CPU)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "neither tokenizer.json nor vocab.json"),
        (
            lambda folder: (save_bpe(folder), (folder / "tokenizer.json").unlink(), (folder / "merges.txt").unlink()),
            "neither tokenizer.json nor merges.txt",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "no readable CLIP tokenizer"),
        (lambda folder: (folder / "config.json").unlink(), r"config.json does not exist"),
    ],
    ids=["no tokenizer", "no merges", "broken tokenizer", "no config"],
)
def test_missing_or_damaged_files_are_refused(broken_folder, damage, message):
    damage(broken_folder)
    with pytest.raises(BackboneError, match=message):
        clip_text.ClipText(text_feature({"path": str(broken_folder)}), CPU)


def test_a_picture_tower_is_refused(broken_folder):
    config = json.loads((broken_folder / "config.json").read_text())
    (broken_folder / "config.json").write_text(json.dumps({**config, "model_type": "clip_vision_model"}))
    with pytest.raises(BackboneError, match="model_type 'clip_vision_model', expected 'clip' or 'clip_text_model'"):
        clip_text.ClipText(text_feature({"path": str(broken_folder)}), CPU)


def test_random_weights_read_bytes_and_follow_the_seed(monkeypatch):
    monkeypatch.setattr(towers, "CLIP_VIT_B16", {"vision": VISION, "text": TEXT, "projection_dim": 40})
    one, same, other = (embed(text_feature({"random": seed}), TEXTS) for seed in (7, 7, 8))
    assert torch.equal(one, same) and not torch.equal(one, other)
    ids = clip_text.bytes_tokenizer()(["café"])["input_ids"][0]
    assert len(ids) == 7 and (ids[0], ids[-1]) == (49406, 49407)


@pytest.mark.weights
def test_the_real_size_reads_in_batches_what_the_literal_model_reads_one_at_a_time(tmp_path):
    with seeded(3):
        towers.build_clip().save_pretrained(tmp_path)
    clip_text.bytes_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = (
        transformers.CLIPModel.from_pretrained(tmp_path).eval(),
        transformers.CLIPTokenizer.from_pretrained(tmp_path),
    )
    with torch.inference_mode():
        wanted = [
            unit(
                sum(
                    model.get_text_features(**tokenizer(prompt.format(text), return_tensors="pt")).pooler_output[0]
                    for prompt in PROMPTS
                )
            )
            for text in TEXTS
        ]
    got = embed(text_feature({"path": str(tmp_path)}, PROMPTS), TEXTS)
    assert got.shape == (len(TEXTS), 512)
    torch.testing.assert_close(got, torch.stack(wanted), rtol=0, atol=1e-6)
