"""A CLIP of both towers, a few layers deep, saved as the published ones are: tokenizer and preprocessor beside it."""

import json
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from pipeline.backbones.base import seeded
from pipeline.config import ClipFeature, ClipTextFeature
from tests.later import Later

towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")

SIDE = 32
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 8,
    "image_size": SIDE,
}
TEXT = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
MERGES = ["p h", "o f</w>", "ph o", "pho t", "phot o</w>", "b i", "r d</w>", "bi rd</w>", "s c", "sc e"]


def vocabulary() -> dict[str, int]:
    """As OpenAI's is laid out: bytes, bytes that end a word, what merges make, and the two marks last."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in MERGES)]
    return {token: row for row, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def tokenizer():
    return transformers.CLIPTokenizer(
        vocab=vocabulary(), merges=[tuple(merge.split()) for merge in MERGES], model_max_length=77
    )


def save_bpe(folder: Path) -> None:
    """The tokenizer in the two files of 2021."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")


def save_clip(folder: Path, seed: int = 1) -> Path:
    marks = {
        "vocab_size": len(vocabulary()),
        "bos_token_id": len(vocabulary()) - 2,
        "eos_token_id": len(vocabulary()) - 1,
    }
    with seeded(seed):
        towers.build_clip(vision=VISION, text={**TEXT, **marks}, projection_dim=40).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    transformers.CLIPImageProcessor(
        image_mean=MEAN, image_std=STD, size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


def image_feature(weights, output="image_embed", *, frames=1, resize=SIDE, crop=(SIDE, SIDE), **fields):
    return ClipFeature(
        backbone="clip",
        weights=weights,
        output=output,
        sampling={"frames": frames},
        preprocess={"resize": resize, "crop": crop},
        **fields,
    )


def text_feature(weights, prompts=("a photo of a {}",), **fields):
    return ClipTextFeature(backbone="clip_text", weights=weights, prompts=prompts, **fields)
