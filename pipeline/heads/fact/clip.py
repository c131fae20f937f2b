"""FACT_CLIP: FACT whose features also answer to texts. The vocabulary is an argument everywhere, never a weight.

Shape suffixes: B videos, T frames, M tokens, N items that are aligned (tokens or frames), C classes of a vocabulary, E
width of the embedding that texts and items share.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import Targets
from .matching import IGNORE, log_softmax, softmaxes
from .model import Fact
from .outputs import BlockOutput
from .prediction import predict

# What a target aligns with the texts, each by a projection of its own.
TARGETS = {
    "both": ("action_token", "frame"),
    "action_token": ("action_token",),
    "frame": ("frame",),
    "logit": ("logit",),
}
SCORINGS = ("cosine", "classifier")
Embeddings = Mapping[str, Tensor]  # what is aligned -> (B, N, E) unit vectors


class FactClip(nn.Module):
    """FACT, and projections of what its last block knows to the width of the texts.

    Args:
        fact: the head itself, of learned tokens: a transcript would name the classes that are to be recognised.
        text_dim: E.
        target: what is aligned with texts. "action_token" and "frame": the class-agnostic features of either branch;
            "both": each of these; "logit": the frame classifier's logits, of seen classes only (the baseline: it knows
            a frame only by what it has of the seen classes).
        hidden, dropout: of each projection, Linear, LayerNorm, ReLU, dropout, Linear.
        temperature: that similarities are divided by, in the loss and in the scores.

    Raises:
        ValueError: an unknown target, or a head that takes a transcript.
    """

    def __init__(self, fact: Fact, text_dim: int, target: str, hidden: int, dropout: float, temperature: float):
        super().__init__()
        _known("target", target, TARGETS)
        if fact.transcript:
            raise ValueError("FACT_CLIP recognises classes that a transcript would name; set `transcript` to false")
        self.fact, self.temperature = fact, temperature
        logits = fact.classes.channels(null=False)
        width = {"action_token": fact.token_width, "frame": fact.frame_width, "logit": logits}
        self.project = nn.ModuleDict(
            {
                part: nn.Sequential(
                    nn.Linear(width[part], hidden),
                    nn.LayerNorm(hidden),
                    nn.ReLU(),
                    nn.Dropout(dropout),
                    nn.Linear(hidden, text_dim),
                )
                for part in TARGETS[target]
            }
        )

    @classmethod
    def of(cls, config: Any, samples: Any) -> "FactClip":
        """The head that a person's choices, the frames of samples and the texts of their classes make."""
        chosen, (_, text_dim) = config.alignment, samples.text.shape
        fact = Fact.of(config, samples)
        return cls(fact, text_dim, chosen.target, chosen.hidden, chosen.dropout, chosen.temperature)

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor | None = None) -> tuple[list[BlockOutput], Embeddings]:
        """The blocks' outputs, and the embeddings of the last: (B, M, E) of tokens, (B, T, E) of frames, unit norm.

        Arguments as for `Fact`.
        """
        outputs = self.fact(frames_BTD, mask_BT)
        embeddings = {
            part: F.normalize(project(aligned(outputs[-1], part)).float(), dim=-1)
            for part, project in self.project.items()
        }
        return outputs, embeddings


def aligned(output: BlockOutput, part: str) -> Tensor:
    """(B, N, width): what is projected."""
    if part == "action_token":
        return output.token_features_BMH
    if part == "frame":
        return output.frame_features_BTH
    parts = [(output.frame_logits_BTC[..., softmax.frame], softmax.seen) for softmax in softmaxes(output)]
    return torch.cat([x if seen is None else x.masked_fill(~seen, 0) for x, seen in parts], -1)


def similarity(embeddings_BNE: Tensor, text_CE: Tensor) -> Tensor:
    """(B, N, C) cosines of unit vectors, in single precision at least, even under autocast.

    Raises:
        ValueError: texts of another width.
    """
    if embeddings_BNE.shape[-1] != text_CE.shape[-1]:
        raise ValueError(
            f"texts have width {text_CE.shape[-1]} and embeddings {embeddings_BNE.shape[-1]}; use the text feature "
            "that the model was trained with"
        )
    wide = torch.promote_types(embeddings_BNE.dtype, torch.float32)
    with torch.autocast(embeddings_BNE.device.type, enabled=False):
        return embeddings_BNE.to(wide) @ text_CE.to(wide).T


def centred(text_CE: Tensor, seen_C: Tensor) -> Tensor:
    """(C, E) unit vectors to the texts from the mean of the seen ones; from the mean of all where none is seen.

    Texts lie in a narrow cone: what all have in common (here a cosine of 0.75 on average) takes up most of each and
    tells no class from another. Seen from their mean, they differ by what tells them apart. A text at the mean is 0.

    Args:
        text_CE: unit vectors of any vocabulary.
        seen_C: bool, of the vocabulary.

    Source: Mu & Viswanath, "All-but-the-Top", ICLR 2018, the first of its two steps.

    >>> centred(torch.tensor([[0.8, 0.6], [0.8, -0.6]]), torch.tensor([True, True])).tolist()
    [[0.0, 1.0], [0.0, -1.0]]
    """
    with torch.autocast(text_CE.device.type, enabled=False):
        weight_1C = (seen_C | ~seen_C.any()).to(text_CE).unsqueeze(0)
        return F.normalize(text_CE - weight_1C @ text_CE / weight_1C.sum(), dim=-1)


def clip_loss(embeddings: Embeddings, targets: Targets, text_CE: Tensor, seen_C: Tensor, temperature: float) -> Tensor:
    """Contrastive loss of matched tokens, and of labelled frames, and the texts of the seen classes, seen from their
    mean: `contrast` of `centred`, the mean over what is aligned.

    Args:
        embeddings: of `FactClip`.
        targets: by `targets_of`.
        text_CE: unit vectors, a class each.
        seen_C: bool.

    Raises:
        ValueError: texts of another width.
    """
    way_CE = centred(text_CE, seen_C)
    label = {"action_token": targets.token_label_BM, "frame": targets.label_BT, "logit": targets.label_BT}
    losses = [contrast(items, label[part], way_CE, seen_C, temperature) for part, items in embeddings.items()]
    return sum(losses) / len(losses)


def contrast(embeddings_BNE: Tensor, label_BN: Tensor, text_CE: Tensor, seen_C: Tensor, temperature: float) -> Tensor:
    """Symmetric contrastive loss with several positives a text; 0 at perfect alignment, however often classes repeat.

    Items to texts: cross entropy over the seen vocabulary, the mean over items. Texts to items: for each class that is
    present, cross entropy over the video's items against an even share for each item of the class, less its floor, the
    log of their number; the mean over these classes. So the size depends on neither length nor vocabulary. The mean of
    the two, then over videos; a video without items counts as 0. Classes that are not seen are in no softmax.

    Args:
        embeddings_BNE, text_CE: unit vectors.
        label_BN: int64; items of IGNORE or of a class that is not seen take no part.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, the form that averages outside of the log.
    A plain diagonal takes each repetition of a class for its negative: perfect alignment of classes [0, 5, 9, 5, 12, 5,
    9] costs (3 log 3 + 2 log 2) / 7 = 0.669 there.

    >>> labels = torch.tensor([[0, 5, 9, 5, 12, 5, 9]])
    >>> round(float(contrast(torch.eye(13)[labels], labels, torch.eye(13), torch.ones(13).bool(), 0.07)), 4)
    0.0
    """
    logits_BNC = similarity(embeddings_BNE, text_CE) / temperature
    chosen_BN = (label_BN != IGNORE) & seen_C[label_BN.clamp_min(0)]
    label_BN = label_BN.clamp_min(0)
    to_text_BN = -log_softmax(logits_BNC, seen_C).gather(2, label_BN.unsqueeze(2)).squeeze(2)
    to_item_BCN = log_softmax(logits_BNC.transpose(1, 2), chosen_BN.unsqueeze(1))
    to_item_BN = -to_item_BCN.gather(1, label_BN.unsqueeze(1)).squeeze(1)

    count_BC = logits_BNC.new_zeros(logits_BNC.shape[::2]).scatter_add(1, label_BN, chosen_BN.to(logits_BNC))
    alike_BN = count_BC.gather(1, label_BN).clamp_min(1)  # items of the same class
    to_text_B = torch.where(chosen_BN, to_text_BN, 0.0).sum(1) / chosen_BN.sum(1).clamp_min(1)
    excess_BN = torch.where(chosen_BN, (to_item_BN - alike_BN.log()) / alike_BN, 0.0)
    to_item_B = excess_BN.sum(1) / (count_BC > 0).sum(1).clamp_min(1)
    return (to_text_B + to_item_B).mean() / 2


def score(
    output: BlockOutput,
    embeddings: Embeddings,
    text_CE: Tensor,
    mask_BT: Tensor,
    mwt: float,
    gamma: float,
    seen_C: Tensor,
    scoring: str,
    temperature: float,
) -> Tensor:
    """Each frame's scores over a vocabulary, seen and unseen classes alike: the largest is the answer.

    "cosine": p of an item is the softmax, over the whole vocabulary, of its similarity to the `centred` texts divided
    by the temperature. Frames, or logits, alone: p of the frame. Tokens and frames: FACT's own merge, (1 - mwt) * p of
    the token which the frame attends to most + mwt * p of the frame. Tokens alone: (1 - mwt) * p of that token + mwt *
    the mean of the tokens' p, weighed by the frame's attention. Tokens that the classifier takes for null are not left
    out: it knows seen classes only, and the token of another may look like null.
    "classifier": `predict`, which knows seen classes only; unseen ones have 0.

    Args:
        output: of the last block.
        embeddings: of `FactClip`.
        text_CE: unit vectors of any vocabulary; for "classifier", that of the training.
        mask_BT: bool, True for real frames.
        mwt: weight of the frame branch, in [0, 1].
        gamma: calibrated stacking: taken from the scores of seen classes.
        seen_C: bool, of the vocabulary.
        temperature: above 0.

    Returns:
        (B, T, C): probabilities, less gamma where seen; zeros in padded frames.

    Raises:
        ValueError: unknown choices, or a vocabulary that does not fit.

    Sources: merge: Lu & Elhamifar, CVPR 2024, section 3.5; stacking: Chao et al., "An Empirical Study and Analysis of
    Generalized Zero-Shot Learning", ECCV 2016.
    """
    _known("scoring", scoring, SCORINGS)
    if len(seen_C) != len(text_CE):
        raise ValueError(f"seen says something of {len(seen_C)} classes and there are {len(text_CE)} texts")
    if scoring == "classifier":
        scores_BTC = predict(output, mask_BT, mwt)
        if scores_BTC.shape[2] != len(text_CE):
            raise ValueError(
                f"the classifier has {scores_BTC.shape[2]} classes and the vocabulary {len(text_CE)}; score another "
                "vocabulary than that of the training by cosine"
            )
    else:
        way_CE = centred(text_CE, seen_C)
        p = {part: (similarity(items, way_CE) / temperature).softmax(-1) for part, items in embeddings.items()}
        scores_BTC = _merged(output, p, mwt) if "action_token" in p else next(iter(p.values()))
    return torch.where(seen_C, scores_BTC - gamma, scores_BTC).masked_fill(~mask_BT.unsqueeze(2), 0)


def _merged(output: BlockOutput, p: Mapping[str, Tensor], mwt: float) -> Tensor:
    """(B, T, C): p of the token that a frame attends to most, and of the frame, or of all tokens where it has none."""
    log_BTM = log_softmax(output.a2f_BTM, output.token_mask_BM.unsqueeze(1))
    token_BMC = p["action_token"]
    chosen_BT1 = log_BTM.argmax(2, keepdim=True)
    hard_BTC = token_BMC.gather(1, chosen_BT1.expand(-1, -1, token_BMC.shape[2]))
    if "frame" in p:
        return (1 - mwt) * hard_BTC + mwt * p["frame"]
    with torch.autocast(token_BMC.device.type, enabled=False):
        return (1 - mwt) * hard_BTC + mwt * log_BTM.exp().to(token_BMC) @ token_BMC


def _known(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
