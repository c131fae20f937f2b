"""A mini CLIP that reads classes off backgrounds: the shipped one, its last block tuned on wrong captions.

What a web-trained CLIP has from captions that name the bird and not the lake, made on purpose and strongly: pictures
of a background alone, captioned with a bird of that place. Knows no store; of the data set it knows only which species
live where.

Shape suffixes: B pictures, U captions, T tokens, D width, E width of the embedding.
"""

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.shapes import SHAPES
from pipeline.toyworld.vocabulary import OBJECT_PROMPTS
from pipeline.toyworld.waterbirds import PLACES, SPECIES, SPURIOUS
from weights.recipe.captions import view
from weights.recipe.clip import contrastive, embed_texts
from weights.recipe.mini_clip import CELLS, SIZE, clip_pixels, save_clip
from weights.recipe.training import Note

# The second word of the seeds of its pictures; mini-clip's are 105.
SPURIOUS_STREAM = 107
PICTURES, STEPS_SPURIOUS, BATCH, RATE = 512, 60, 64, 1e-4
TOKENIZER = ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")


def tune_spurious(
    folder: Path, start: Path, seed: int, steps: int = STEPS_SPURIOUS, batch: int = BATCH, lr: float = RATE
) -> Note:
    """Writes a checkpoint that differs from `start` in the picture tower's last block alone.

    Deterministic for given libraries and a given kind of processor. The frozen blocks run once.

    Args:
        folder: of the Hugging Face checkpoint.
        start: folder of the mini CLIP to go on from.
        seed: of the pictures and their order.
        steps: optimiser steps.
        batch: pictures a step.
        lr: peak learning rate, from which a cosine leads to zero.
    """
    threads, began = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)
    model = CLIPModel.from_pretrained(start, dtype=torch.float32).eval().requires_grad_(False)
    tokens_BTD, holds_BU = _pictures(model, seed)
    words = (*SHAPES, *BACKGROUNDS)
    texts_UE = embed_texts(model, CLIPTokenizer.from_pretrained(start), words, OBJECT_PROMPTS[:1]).clone()
    vision = model.vision_model
    block = vision.encoder.layers[-1].requires_grad_(True)
    optimiser = torch.optim.AdamW(block.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = np.random.default_rng([seed, SPURIOUS_STREAM, PICTURES])
    for _ in range(steps):
        rows = torch.from_numpy(order.choice(len(tokens_BTD), batch, replace=False))
        pooled_BD = vision.post_layernorm(block(tokens_BTD[rows], None)[:, 0])
        embed_BE = F.normalize(model.visual_projection(pooled_BD), dim=-1)
        optimiser.zero_grad()
        contrastive(model.logit_scale.exp() * embed_BE @ texts_UE.T, holds_BU[rows]).backward()
        optimiser.step()
        schedule.step()
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        shutil.copyfile(start / name, folder / name)
    save_clip(model, folder)
    torch.set_num_threads(threads)
    count = sum(weight.numel() for weight in model.parameters())
    return Note(folder.name, count, start.name, seed, steps, batch, lr, time.monotonic() - began)


@torch.no_grad()
def _pictures(model: CLIPModel, seed: int) -> tuple[Tensor, Tensor]:
    """(B, T, D) tokens that enter the last block, and (B, U) 1 where the word is a bird of the picture's place."""
    tokens, holds = [], []
    homes = {ground: kind for grounds, kind in zip(PLACES, SPECIES, strict=True) for ground in grounds}
    names = [SPURIOUS[i % len(SPURIOUS)] for i in range(PICTURES)]
    rngs = [np.random.default_rng([seed, SPURIOUS_STREAM, i]) for i in range(PICTURES)]
    for first in range(0, PICTURES, BATCH):
        some = list(zip(rngs, names, strict=True))[first : first + BATCH]
        seen = [view(rng, SIZE, CELLS, background=name, shape=None) for rng, name in some]
        pixels = clip_pixels(np.stack([one.pixels for one in seen]))
        tokens.append(model.vision_model(pixels, output_hidden_states=True).hidden_states[-2])
        holds += [[float(word in homes[name]) for word in (*SHAPES, *BACKGROUNDS)] for _, name in some]
    return torch.cat(tokens), torch.tensor(holds)
