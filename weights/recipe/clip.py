"""Pretraining of the mini CLIP on captioned pictures, and what it knows then. Knows no task and no store.

Shape suffixes: B pictures, U captions, N patches, D width, E width of the embedding, K classes.
"""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPModel, CLIPTokenizer

from pipeline.backbones.clip_cam_blocks import autograd_cams
from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.shapes import COLOURS, SHAPES
from pipeline.toyworld.vocabulary import (
    ACTION_PROMPTS,
    BACKGROUND_PROMPTS,
    COLOUR_PROMPTS,
    OBJECT_PROMPTS,
    OBJECT_WORDS,
    ROLES,
    VERBS,
    phrases,
)
from weights.recipe.captions import FINE, PORTRAIT, Caption, View, captions, view
from weights.recipe.mini_clip import (
    CELLS,
    SIZE,
    WIDTH,
    begin_locally,
    build_clip,
    clip_pixels,
    save_clip,
)
from weights.recipe.probes import HELD_OUT_STREAM
from weights.recipe.tokenizer import write_tokenizer
from weights.recipe.training import Note

# The second word of the seeds of its pictures; data sets use 0 to 99 there.
CLIP_STREAM = 105
# Throw-away heads: patches at the input of the last block, where a CAM reads them, and the pooled picture.
PATCH_PARTS = (len(SHAPES), len(COLOURS), len(BACKGROUNDS), len(VERBS) + 1, 1, 3, PORTRAIT**2)
PICTURE_PARTS = (len(SHAPES), len(COLOURS), len(BACKGROUNDS), len(VERBS) + 1)
# The logit scale goes from CLIP's first value to that of its clamp, with which scores read its similarities, half way.
LAST_SCALE = math.log(100)
# A whole training: its steps, and how many of them are without captions.
STEPS_CLIP, MUTE_CLIP = 2600, 800
SAVE_EVERY = 200


# --- batches ----------------------------------------------------------------------------------------------------------


class Batches(Dataset[dict[str, Tensor]]):
    """One batch a step, drawn from (seed, step) alone: pictures with their truth, captions, and which hold of which."""

    def __init__(self, folder: Path, seed: int, steps: int, batch: int):
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.seed, self.steps, self.batch = seed, steps, batch

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rngs = [np.random.default_rng([self.seed, CLIP_STREAM, step, i]) for i in range(self.batch)]
        views = [view(rng, SIZE, CELLS) for rng in rngs]
        written = {caption for rng, seen in zip(rngs, views, strict=True) for caption in captions(rng, seen)}
        # The patches' own words go first: shapes, then backgrounds.
        texts = [Caption(f"a {name}", shape=name) for name in SHAPES]
        texts += [Caption(f"a {name}", background=name) for name in BACKGROUNDS]
        texts += sorted(written - set(texts), key=lambda caption: caption.text)
        holds = [[caption.holds(seen) for caption in texts] for seen in views]
        tokens = self.tokenizer([caption.text for caption in texts], padding=True, return_tensors="pt")
        return {
            "pixels": clip_pixels(np.stack([seen.pixels for seen in views])),
            "ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "holds": torch.tensor(holds, dtype=torch.float32),
            "shape": _truth(views, "shape"),
            "colour": _truth(views, "colour"),
            "act": _truth(views, "act"),
            "cover": _truth(views, "cover"),
            "mask": _truth(views, "mask"),
            "place": _truth(views, "place"),
            "portrait": _truth(views, "portrait"),
            "background": torch.tensor([BACKGROUNDS.index(seen.background) for seen in views]),
            "present": torch.tensor([_present(seen) for seen in views]),
            "verb": torch.tensor([VERBS.index(seen.verb) if seen.verb else len(VERBS) for seen in views]),
        }


def _truth(views: Sequence[View], field: str) -> Tensor:
    """(B, N, ...) of what each patch shows."""
    return torch.from_numpy(np.stack([getattr(seen, field) for seen in views])).flatten(1, 2)


def _present(seen: View) -> list[float]:
    """Which shapes and which colours are in view."""
    shapes, colours = {sight.shape for sight in seen.sights}, {sight.colour for sight in seen.sights}
    return [float(name in shapes) for name in SHAPES] + [float(name in colours) for name in COLOURS]


# --- losses -----------------------------------------------------------------------------------------------------------


def contrastive(logits_BU: Tensor, holds_BU: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy where several captions hold of a picture, and several pictures bear a caption out.

    Args:
        logits_BU: scaled similarities.
        holds_BU: 1 where the caption is true of the picture, else 0; captions that hold of none are negatives only.

    Returns:
        A scalar; the target is uniform over what holds, and the least possible value, its entropy, is taken off.
    """

    def one_way(logits: Tensor, holds: Tensor) -> Tensor:
        count = holds.sum(dim=1)
        known = count > 0
        target = holds[known] / count[known, None]
        return ((-target * logits[known].log_softmax(dim=1)).sum(dim=1) - count[known].log()).mean()

    return 0.5 * (one_way(logits_BU, holds_BU) + one_way(logits_BU.T, holds_BU.T))


def _losses(model: CLIPModel, heads: nn.ModuleDict, batch: dict[str, Tensor], with_text: bool) -> dict[str, Tensor]:
    vision = model.vision_model(batch["pixels"], output_hidden_states=True)
    # What the patches show, at the input of the last block, and their outlines two blocks earlier.
    late, early = vision.hidden_states[-2][:, 1:].flatten(0, 1), vision.hidden_states[-4][:, 1:].flatten(0, 1)
    shape, colour, ground, act, cover, place, portrait = heads["patch"](late).split(PATCH_PARTS, 1)
    true_shape, true_colour, true_cover = (batch[name].flatten() for name in ("shape", "colour", "cover"))
    ground_of_patch, known = batch["background"].repeat_interleave(CELLS**2), true_shape >= 0
    shapes, colours, grounds, verbs = heads["picture"](vision.pooler_output).split(PICTURE_PARTS, 1)
    losses = {
        "shape": F.cross_entropy(shape, true_shape),
        "act": 0.7 * F.cross_entropy(act, batch["act"].flatten()),
        "place": F.smooth_l1_loss(place[known], batch["place"].flatten(0, 1)[known]),
        "portrait": 3 * F.binary_cross_entropy_with_logits(portrait[known], batch["portrait"].flatten(0, 1)[known]),
        "mask": F.binary_cross_entropy_with_logits(heads["mask"](early), batch["mask"].flatten(0, 1)),
        "rest": 0.3 * F.cross_entropy(colour, true_colour)
        + 0.2 * F.cross_entropy(ground, ground_of_patch)
        + 0.5 * F.binary_cross_entropy_with_logits(cover[:, 0], true_cover),
        "picture": 3 * F.binary_cross_entropy_with_logits(torch.cat([shapes, colours], 1), batch["present"])
        + 0.2 * F.cross_entropy(grounds, batch["background"])
        + 0.7 * F.cross_entropy(verbs, batch["verb"]),
    }
    if not with_text:
        return losses
    text = model.text_model(input_ids=batch["ids"], attention_mask=batch["attention_mask"])
    image_BE = F.normalize(model.visual_projection(vision.pooler_output), dim=-1)
    text_UE = F.normalize(model.text_projection(text.pooler_output), dim=-1)
    scale = model.logit_scale.exp()
    # A patch of the last block, projected, says the word of what it shows, if that is clear.
    patch_NE = F.normalize(model.visual_projection(vision.last_hidden_state[:, 1:].flatten(0, 1)), dim=-1)
    word = torch.where(known, true_shape, len(SHAPES) + ground_of_patch)
    word = torch.where((true_cover > 0.05) & (true_cover < 0.4), -100, word)
    words_KE = text_UE[: len(SHAPES) + len(BACKGROUNDS)]
    losses["contrastive"] = contrastive(scale * image_BE @ text_UE.T, batch["holds"])
    losses["dense"] = 0.3 * F.cross_entropy(scale * patch_NE @ words_KE.T, word)
    return losses


# --- training ---------------------------------------------------------------------------------------------------------


def pretrain_clip(
    folder: Path, seed: int, steps: int, batch: int = 64, lr: float = 1e-3, start: Path | None = None, mute: int = 0
) -> Note:
    """CLIP mini: pictures and the captions that hold of them find each other; throw-away heads name what patches show.

    Deterministic for given libraries and a given kind of processor. A second process draws the pictures.

    Args:
        folder: of the Hugging Face checkpoint; written every SAVE_EVERY steps and at the end.
        seed: of weights and pictures.
        steps: optimiser steps.
        batch: pictures a step, with three captions each.
        lr: peak learning rate.
        start: folder of weights to go on from, instead of random ones.
        mute: steps before the first caption; until then only the heads teach, which is cheaper where shapes are slow.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    vocabulary = write_tokenizer(folder, sentences())
    model = build_clip(vocabulary)
    if start:
        model = CLIPModel.from_pretrained(start, dtype=torch.float32)
    else:
        begin_locally(model)
    model.train()
    heads = nn.ModuleDict(
        {
            "patch": nn.Linear(WIDTH, sum(PATCH_PARTS)),
            "mask": nn.Linear(WIDTH, FINE**2),
            "picture": nn.Linear(WIDTH, sum(PICTURE_PARTS)),
        }
    )
    weights = [weight for part in (model, heads) for weight in part.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": 0.05},
            {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=lr,
        betas=(0.9, 0.98),
    )
    warm_up = max(1, round(0.03 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * float(np.cos(np.pi * step / steps)))
    )
    first_scale = model.logit_scale.requires_grad_(False).item()
    started, recent = time.monotonic(), list[dict[str, float]]()
    for step, drawn in enumerate(DataLoader(Batches(folder, seed, steps, batch), batch_size=None, num_workers=1), 1):
        model.logit_scale.fill_(first_scale + min(1, 2 * step / steps) * (LAST_SCALE - first_scale))
        optimiser.zero_grad()
        losses = _losses(model, heads, drawn, with_text=step > mute)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        recent.append({name: loss.item() for name, loss in losses.items()})
        if step % 50 == 0 or step == steps:
            told = ", ".join(f"{name} {np.mean([row[name] for row in recent if name in row]):.3f}" for name in losses)
            print(f"mini-clip: step {step}/{steps}, {told}, {time.monotonic() - started:.0f} s", flush=True)
            recent.clear()
        if step % SAVE_EVERY == 0 or step == steps:
            save_clip(model, folder)
    torch.set_num_threads(threads)
    return Note(
        name="mini-clip",
        parameters=sum(weight.numel() for weight in model.parameters()),
        start=start.name if start else "random",
        seed=seed,
        steps=steps,
        batch=batch,
        lr=lr,
        seconds=time.monotonic() - started,
    )


def sentences() -> Iterable[str]:
    """What the tokenizer learns from: every phrase of the vocabulary, and the prompts."""
    prompts = (*OBJECT_PROMPTS, *BACKGROUND_PROMPTS, *COLOUR_PROMPTS, *ACTION_PROMPTS)
    return (*phrases(), *(prompt.format("") for prompt in prompts), "an object on it")


# --- what it knows ----------------------------------------------------------------------------------------------------

Scores = dict[str, dict[str, float]]


@torch.inference_mode()
def embed_texts(model: CLIPModel, tokenizer: CLIPTokenizer, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """(K, E) unit vectors of names, each the mean of its prompts' unit vectors."""
    texts = [prompt.format(name) for name in names for prompt in prompts]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    each_UE = F.normalize(model.text_projection(model.text_model(**tokens).pooler_output), dim=-1)
    return F.normalize(each_UE.unflatten(0, (len(names), len(prompts))).mean(dim=1), dim=-1)


@torch.inference_mode()
def embed_pictures(model: CLIPModel, views: Sequence[View]) -> Tensor:
    """(B, E) unit vectors."""
    pixels = clip_pixels(np.stack([seen.pixels for seen in views]))
    pooled = torch.cat([model.vision_model(chunk).pooler_output for chunk in pixels.split(64)])
    return F.normalize(model.visual_projection(pooled), dim=-1)


def measure_clip(weights: Path, seed: int = 9, pictures: int = 600) -> Scores:
    """Asks a mini CLIP and the same architecture with random weights about held-out renderings.

    Args:
        weights: the folder of the mini CLIP.
        seed: of the held-out pictures; no training and no data set shares them.
        pictures: a question.

    Returns:
        {question: {"pretrained", "random", "chance"}}: shares of right answers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = CLIPTokenizer.from_pretrained(weights)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random = build_clip(len(tokenizer)).eval()
    shipped = CLIPModel.from_pretrained(weights, dtype=torch.float32).eval()
    found = Scores()
    for name, model in (("pretrained", shipped), ("random", random)):
        for question, (score, chance) in ask(model, tokenizer, seed, pictures).items():
            found.setdefault(question, {"chance": chance})[name] = score
    torch.set_num_threads(threads)
    return found


def ask(model: CLIPModel, tokenizer: CLIPTokenizer, seed: int, pictures: int) -> dict[str, tuple[float, float]]:
    """Question -> (share of right answers, chance)."""

    def draw(question: int, **wanted: Sequence[str | None]) -> list[View]:
        """Pictures of which each wanted thing takes turns."""
        rngs = (np.random.default_rng([seed, HELD_OUT_STREAM, 10 + question, i]) for i in range(pictures))
        turns = [{what: names[i % len(names)] for what, names in wanted.items()} for i in range(pictures)]
        return [view(rng, SIZE, CELLS, 0.0, **turn) for rng, turn in zip(rngs, turns, strict=True)]

    def zero_shot(views: list[View], names: Sequence[str], prompts: Sequence[str]) -> tuple[float, float]:
        """Pictures against texts; picture i shows name i % K."""
        similarity_BK = embed_pictures(model, views) @ embed_texts(model, tokenizer, names, prompts).T
        right = similarity_BK.argmax(dim=1) == torch.arange(len(views)) % len(names)
        return right.float().mean().item(), 1 / len(names)

    stills = draw(0, shape=SHAPES, verb=[None])
    grounds, empty = draw(1, background=BACKGROUNDS, verb=[None]), draw(2, background=BACKGROUNDS, shape=[None])
    coloured = draw(3, colour=tuple(COLOURS), verb=[None])
    acts = [(verb, shape) for verb in VERBS for shape in SHAPES]
    moving = draw(4, verb=[verb for verb, _ in acts], shape=[shape for _, shape in acts])
    plain, objects, scenes = ("a photo of a {}",), OBJECT_PROMPTS[:2], BACKGROUND_PROMPTS[:3]
    answers = {
        "shape (12)": zero_shot(stills, SHAPES, plain),
        "shape (12), prompt ensemble": zero_shot(stills, SHAPES, objects),
        "shape (12), synonyms": zero_shot(stills, [row[1] for row in OBJECT_WORDS.values()], objects),
        "background (8)": zero_shot(grounds, BACKGROUNDS, ("a background of {}",)),
        "background (8), prompt ensemble": zero_shot(grounds, BACKGROUNDS, scenes),
        "background (8), prompts of objects": zero_shot(grounds, BACKGROUNDS, objects),
        "background (8), nothing else in view": zero_shot(empty, BACKGROUNDS, scenes),
        "colour (8)": zero_shot(coloured, tuple(COLOURS), ("a photo of a {} object",)),
        "verb x shape (72)": zero_shot(moving, [f"{verb} the {shape}" for verb, shape in acts], ("{}",)),
    }
    similarity = embed_pictures(model, moving) @ embed_texts(model, tokenizer, VERBS, ("{}",)).T
    right = similarity.argmax(dim=1) == torch.arange(len(moving)) % len(acts) // len(SHAPES)
    answers["verb (6), shown by a trail"] = right.float().mean().item(), 1 / len(VERBS)
    answers["word's role, by text alone"] = _roles(model, tokenizer), 0.5
    answers["word of a projected patch (20)"] = _patch_words(model, tokenizer, stills)
    answers["CAM's peak on the object"] = _pointing(model, tokenizer, stills)
    return answers


def _roles(model: CLIPModel, tokenizer: CLIPTokenizer) -> float:
    """How often an object word leans more to objects' prompts than a background word does: the area under ROC."""

    def lean(role: str) -> Tensor:
        word, thing, ground = (
            embed_texts(model, tokenizer, ROLES[role], prompts)
            for prompts in (("a {}",), OBJECT_PROMPTS[:2], BACKGROUND_PROMPTS[:3])
        )
        return (word * thing).sum(dim=1) - (word * ground).sum(dim=1)

    return (lean("object")[:, None] > lean("background")).float().mean().item()


@torch.inference_mode()
def _patch_words(model: CLIPModel, tokenizer: CLIPTokenizer, views: list[View]) -> tuple[float, float]:
    """Shares of patches, mostly object or only background, whose projection is nearest to the word of what is there.

    The second is that of the commonest word.
    """
    texts = embed_texts(model, tokenizer, (*SHAPES, *BACKGROUNDS), ("a {}",))
    pixels = clip_pixels(np.stack([seen.pixels for seen in views]))
    tokens = torch.cat([model.vision_model(chunk).last_hidden_state[:, 1:] for chunk in pixels.split(64)])
    named = (F.normalize(model.visual_projection(tokens), dim=-1) @ texts.T).argmax(dim=-1).flatten()
    shape = torch.from_numpy(np.stack([seen.shape for seen in views])).flatten()
    cover = torch.from_numpy(np.stack([seen.cover for seen in views])).flatten()
    ground = torch.tensor([BACKGROUNDS.index(seen.background) for seen in views]).repeat_interleave(CELLS**2)
    word = torch.where(cover >= 0.5, shape, len(SHAPES) + ground)
    clear = (cover >= 0.5) | (cover == 0)
    commonest = word[clear].bincount().max() / clear.sum()
    return (named == word)[clear].float().mean().item(), commonest.item()


def _pointing(model: CLIPModel, tokenizer: CLIPTokenizer, views: list[View]) -> tuple[float, float]:
    """(share of pictures whose map peaks on a patch with some object in it, share of such patches)."""
    texts = embed_texts(model, tokenizer, [seen.sights[0].shape for seen in views], ("a photo of a {}",)).clone()
    pixels = clip_pixels(np.stack([seen.pixels for seen in views]))
    pairs = zip(pixels.split(64), texts.split(64), strict=True)
    peak = torch.cat([autograd_cams(model, *pair).argmax(dim=1) for pair in pairs])
    inside = torch.from_numpy(np.stack([seen.shape for seen in views])).flatten(1) >= 0
    hit = inside.gather(1, peak[:, None])
    return hit.float().mean().item(), inside.float().mean().item()
