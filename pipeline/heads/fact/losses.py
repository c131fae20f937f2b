"""What FACT is trained by: targets of a padded batch, and every loss over them. Knows no module and no trainer.

Each term is that of one video alone, then the mean over the batch's videos, so padding and company change nothing.
Frames labelled IGNORE are in no loss; classes that are not seen are in no softmax, so they take no gradient at all.

Shape suffixes: B videos, T frames, P positions of an axis (frames, or a block's own segments), M tokens, S true
segments, C channels of the frame classifier, K channels of the token classifier, N rows of anything.

Source: Lu & Elhamifar, "FACT: Frame-Action Cross-Attention Temporal Modeling for Efficient Action Segmentation",
CVPR 2024. Where its public code is another, and why: docs/fact.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .matching import (
    IGNORE,
    MODES,
    UNMATCHED,
    Segments,
    Softmax,
    log_softmax,
    match,
    segments_of,
    softmaxes,
)
from .outputs import BlockOutput

AUTOMATIC = -1.0  # the null weight that makes null as frequent as any class
ROUGHEST = 16.0  # where the smoothing is clamped: a change by e^4


@dataclass(frozen=True)
class LossSettings:
    """How the terms are weighed.

    Attributes:
        pc, a2fc: weights of class probability and of IoU in the matching cost.
        sw: weight of the smoothing.
        bgw: weight of background classes, in frames, tokens and attention.
        nullw: weight of null in the token loss; -1 is `null_weight`.
        match: "o2o", "o2m" or "seq".
        avg_segments: segments a video on average, for nullw -1.
        background: the classes that are background.

    Raises:
        ValueError: an unknown match, or a negative weight.
    """

    pc: float
    a2fc: float
    sw: float
    bgw: float
    nullw: float
    match: str
    avg_segments: float
    background: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.match not in MODES:
            raise ValueError(f"match must be one of {', '.join(MODES)}, got {self.match!r}")
        for name in ("pc", "a2fc", "sw", "bgw", "nullw"):
            weight = getattr(self, name)
            if weight < 0 and (name, weight) != ("nullw", AUTOMATIC):
                raise ValueError(f"{name} must be 0 or more (nullw may be -1, automatic), got {weight}")


class Targets(NamedTuple):
    """What a batch is to be taught, given the last block's answer.

    Attributes:
        label_BT: class of each frame; IGNORE where it is padded, held out or not labelled.
        mask_BT: bool, True for real frames.
        segments: runs of label_BT.
        token_of_segment_BS, token_of_frame_BT: the token that stands for each; UNMATCHED for none.
        token_label_BM: the class of each token's segments; IGNORE for tokens that stand for none.
        null_BM: bool, the tokens to be taught null: real, unmatched, and not at work on frames that no loss may see.
    """

    label_BT: Tensor
    mask_BT: Tensor
    segments: Segments
    token_of_segment_BS: Tensor
    token_of_frame_BT: Tensor
    token_label_BM: Tensor
    null_BM: Tensor


def targets_of(
    output: BlockOutput, labels_BT: Tensor, mask_BT: Tensor, settings: LossSettings, n_segments: int | None = None
) -> Targets:
    """Match the last block's tokens to the true segments: once a step, for all blocks and for the contrastive loss.

    Args:
        output: of the last block.
        labels_BT: int64 class of each frame, IGNORE where it is not labelled; held-out classes count as IGNORE.
        mask_BT: bool, True for real frames.
        n_segments: as for `segments_of`: give it, and the host waits for the device once only.
    """
    label_BT = labels_BT.masked_fill(~mask_BT, IGNORE)
    if output.classes is not None:
        label_BT = label_BT.masked_fill(~output.classes.seen_A[label_BT.clamp_min(0)], IGNORE)
    segments = segments_of(label_BT, mask_BT, n_segments)
    token_BS = match(output, segments, mask_BT, settings.match, settings.pc, settings.a2fc)
    tokens = output.token_mask_BM.shape[1]
    spare = label_BT.new_full((len(label_BT), tokens + 1), IGNORE)  # unmatched segments write to the last column
    token_label_BM = spare.scatter(1, token_BS.masked_fill(token_BS == UNMATCHED, tokens), segments.label_BS)[:, :-1]
    inside_BT = segments.of_frame_BT != IGNORE
    token_of_frame_BT = token_BS.gather(1, segments.of_frame_BT.clamp_min(0)).masked_fill(~inside_BT, UNMATCHED)
    null_BM = output.token_mask_BM & (token_label_BM == IGNORE)
    if output.a2f_BTM is not None:
        null_BM = null_BM & ~on_hidden_frames(output, mask_BT, inside_BT)
    return Targets(label_BT, mask_BT, segments, token_BS, token_of_frame_BT, token_label_BM, null_BM)


@torch.no_grad()
def on_hidden_frames(output: BlockOutput, mask_BT: Tensor, labelled_BT: Tensor) -> Tensor:
    """(B, M) bool: tokens that get most of their attention from real frames without a label.

    Such a token may stand for a held-out segment. To teach it null would teach that held-out classes are nothing.
    """
    attention_BTM = log_softmax(output.a2f_BTM, output.token_mask_BM.unsqueeze(1)).exp()
    frames_B2T = torch.stack([mask_BT & labelled_BT, mask_BT & ~labelled_BT], 1)
    shown_BM, hidden_BM = (frames_B2T.to(attention_BTM) @ attention_BTM).unbind(1)
    return hidden_BM > shown_BM


def fact_loss(outputs: Sequence[BlockOutput], targets: Targets, settings: LossSettings) -> dict[str, Tensor]:
    """The loss of FACT: the mean over blocks of frame + token + f2a + a2f + sw * smooth.

    A block with temporal down-sampling has half of its frame term from its segments; its attention is between tokens
    and segments and is not smoothed. A block without attention has only frame, token and smooth.

    Args:
        outputs: of all blocks, in order.
        targets: by `targets_of` from the last one.

    Returns:
        Scalars "frame", "token", "f2a", "a2f", "smooth", and "loss", their sum with smooth times sw.

    Raises:
        ValueError: see `null_weight`.
    """
    terms = dict.fromkeys(("frame", "token", "f2a", "a2f", "smooth"), targets.label_BT.new_zeros((), dtype=torch.float))
    for output in outputs:
        for name, value_B in _block(output, targets, settings):
            terms[name] = terms[name] + value_B.mean() / len(outputs)
    smooth = settings.sw * terms["smooth"] if settings.sw else 0
    return {"loss": terms["frame"] + terms["token"] + terms["f2a"] + terms["a2f"] + smooth, **terms}


def _block(output: BlockOutput, targets: Targets, settings: LossSettings) -> Iterator[tuple[str, Tensor]]:
    """The terms of one block by name, each (B,)."""
    parts = softmaxes(output)
    label_BT, token_mask_BM = targets.label_BT, output.token_mask_BM
    weight_BT = class_weight(label_BT, settings.background, settings.bgw)
    frames = frame_axis(label_BT)
    axis, f2a_BMP, a2f_BPM = frames, output.f2a_BMT, output.a2f_BTM
    frame_B = class_loss(output.frame_logits_BTC, frames, label_BT, weight_BT, parts)
    if output.segment_logits_BSC is not None:
        axis = segment_axis(label_BT, output.segment_of_frame_BT, output.segment_logits_BSC.shape[1])
        f2a_BMP, a2f_BPM = output.f2a_BMS, output.a2f_BSM
        frame_B = (frame_B + class_loss(output.segment_logits_BSC, axis, label_BT, weight_BT, parts)) / 2
    yield "frame", frame_B
    yield "token", token_loss(output.token_logits_BMK, targets, parts, settings)
    keep_BT1 = frames.keep_BP.unsqueeze(2)
    keep_BTA = keep_BT1 if output.classes is None else keep_BT1 & output.classes.seen_A
    yield "smooth", smoothness(action_log_probabilities(output.frame_logits_BTC, parts), keep_BTA)
    token_BT = targets.token_of_frame_BT
    weight_BT = weight_BT.masked_fill(token_BT == UNMATCHED, 0)
    if f2a_BMP is not None:
        yield "f2a", f2a_loss(f2a_BMP, axis, token_BT, weight_BT)
        if axis is frames:
            yield "smooth", attention_smoothness(f2a_BMP.transpose(1, 2), keep_BT1 & token_mask_BM.unsqueeze(1))
    if a2f_BPM is not None:
        yield "a2f", a2f_loss(a2f_BPM, axis, token_BT, targets.token_label_BM != IGNORE, weight_BT)
        if axis is frames:
            yield "smooth", attention_smoothness(a2f_BPM, keep_BT1 & token_mask_BM.unsqueeze(1))


class Axis(NamedTuple):
    """Where the frames lie on a block's axis: one by one, or pooled to its own segments.

    A loss against targets that are average-pooled to positions, over the sum of these targets, is a sum over the
    frames themselves, each with the share that it has of its position: no (P, C) or (P, S) array of targets is made.

    Attributes:
        position_BT: int64, the position that holds each frame.
        share_BT: 1 / number of frames at the position; 0 for frames without a label.
        keep_BP: bool, positions with any labelled frame.
    """

    position_BT: Tensor
    share_BT: Tensor
    keep_BP: Tensor


def frame_axis(label_BT: Tensor) -> Axis:
    """Every frame a position of its own."""
    labelled_BT = label_BT != IGNORE
    time_BT = torch.arange(label_BT.shape[1], device=label_BT.device).expand_as(label_BT)
    return Axis(time_BT, labelled_BT.float(), labelled_BT)


def segment_axis(label_BT: Tensor, segment_of_frame_BT: Tensor, n_segments: int) -> Axis:
    """Frames pooled to a block's own segments; `segment_of_frame_BT` is negative for padded frames."""
    labelled_BT, real_BT = label_BT != IGNORE, segment_of_frame_BT >= 0
    position_BT = segment_of_frame_BT.clamp_min(0)
    empty_BP = label_BT.new_zeros(len(label_BT), n_segments)
    length_BT = empty_BP.scatter_add(1, position_BT, real_BT.long()).gather(1, position_BT)
    return Axis(
        position_BT,
        labelled_BT / length_BT.clamp_min(1),
        empty_BP.scatter_add(1, position_BT, labelled_BT.long()) > 0,
    )


def class_weight(labels: Tensor, background: Sequence[int], bgw: float) -> Tensor:
    """`bgw` for background classes and 1 for others, in the shape of the labels."""
    is_background = torch.zeros_like(labels, dtype=torch.bool)
    for label in background:
        is_background |= labels == label
    return torch.where(is_background, bgw, 1.0)


def class_loss(logits_BPC: Tensor, axis: Axis, label_BT: Tensor, weight_BT: Tensor, parts: Sequence[Softmax]) -> Tensor:
    """(B,) cross entropy of frames, or of segments against pooled labels: the mean over labels, weighted by class.

    The sum of the weighted terms is divided by their number, not by the sum of the weights. Verbs and nouns: mean.
    """
    losses = [
        _mean(_at(part.frames(logits_BPC), axis.position_BT, part.channel(label_BT)), weight_BT, axis.share_BT)
        for part in parts
    ]
    return torch.stack(losses).mean(0)


def token_loss(logits_BMK: Tensor, targets: Targets, parts: Sequence[Softmax], settings: LossSettings) -> Tensor:
    """(B,) cross entropy of tokens against the class of their segments, or null, weighted by class.

    The sum is divided by that of the weights; of verbs and nouns, whose two losses are averaged, by the number of
    tokens that are taught. Published for either so: with nullw 0.05 and half of the tokens null, a factor of 2.
    """
    label_BM, matched_BM = targets.token_label_BM, targets.token_label_BM != IGNORE
    taught_BM = matched_BM | targets.null_BM
    weight_BM = class_weight(label_BM, settings.background, settings.bgw)
    weight_BM = torch.where(matched_BM, weight_BM, null_weight(label_BM.shape[1], parts, settings))
    weight_BM = torch.where(taught_BM, weight_BM, 0.0)
    losses = []
    for part in parts:
        log_BMK = part.tokens(logits_BMK)
        channel_BM = torch.where(matched_BM, part.channel(label_BM), log_BMK.shape[2] - 1)
        losses.append(-log_BMK.gather(2, channel_BM.unsqueeze(2)).squeeze(2) * weight_BM)
    divisor_B = weight_BM.sum(1) if len(parts) == 1 else taught_BM.sum(1)
    return torch.stack(losses).mean(0).sum(1) / _positive(divisor_B)


def null_weight(n_tokens: int, parts: Sequence[Softmax], settings: LossSettings) -> Tensor | float:
    """The weight of null: as set, or tokens / (unmatched tokens on average * classes), so that null weighs one class.

    Classes are the seen ones; of verbs and nouns, the mean of the two numbers. Where each token is the next segment's
    ("seq") and none is to spare, no weight is needed.

    Raises:
        ValueError: no token is to spare on average, so the automatic weight has no meaning.
    """
    if settings.nullw != AUTOMATIC:
        return settings.nullw
    spare = n_tokens - settings.avg_segments
    if spare <= 0:
        if settings.match == "seq":
            return 0.0
        raise ValueError(
            f"nullw -1 needs more tokens than the {settings.avg_segments} segments that a video has on average, got "
            f"{n_tokens} tokens; give more tokens, or a nullw of your own"
        )
    classes = sum(p.frame.stop - p.frame.start if p.seen is None else p.seen.sum() for p in parts) / len(parts)
    return n_tokens / (spare * classes)


def f2a_loss(f2a_BMP: Tensor, axis: Axis, token_of_frame_BT: Tensor, weight_BT: Tensor) -> Tensor:
    """(B,) cross entropy of each matched token's attention over positions against the frames of its segments.

    The softmax is over positions with a label, so a held-out frame is no negative either. The sum is divided by the
    number of labelled frames (positions), those of unmatched segments, whose weight is 0, too.
    """
    log_BMP = log_softmax(f2a_BMP, axis.keep_BP.unsqueeze(1))
    return _mean(_at(log_BMP, token_of_frame_BT.clamp_min(0), axis.position_BT), weight_BT, axis.share_BT)


def a2f_loss(a2f_BPM: Tensor, axis: Axis, token_of_frame_BT: Tensor, matched_BM: Tensor, weight_BT: Tensor) -> Tensor:
    """(B,) cross entropy of each position's attention over the matched tokens against its segment's token.

    Divided like `f2a_loss`.
    """
    log_BPM = log_softmax(a2f_BPM, matched_BM.unsqueeze(1))
    return _mean(_at(log_BPM, axis.position_BT, token_of_frame_BT.clamp_min(0)), weight_BT, axis.share_BT)


def action_log_probabilities(logits_BTC: Tensor, parts: Sequence[Softmax]) -> Tensor:
    """(B, T, A): log p of each class, that of its verb and its noun together where it has them.

    Of a class that is not seen, a number that means nothing.
    """
    return sum(
        log_BTC if part.channel_of_class is None else log_BTC[..., part.channel_of_class]
        for part in parts
        for log_BTC in [part.frames(logits_BTC)]
    )


def attention_smoothness(logits_BNM: Tensor, keep_BNM: Tensor) -> Tensor:
    """`smoothness` of attention logits over the tokens that are kept."""
    return smoothness(log_softmax(logits_BNM, keep_BNM), keep_BNM)


def smoothness(log_BNC: Tensor, keep_BNC: Tensor) -> Tensor:
    """(B,) mean of clamp((change of log-probability from one row to the next)², 0, 16) over the pairs of kept entries.

    Args:
        log_BNC: log-probabilities; what is not kept may be anything.
        keep_BNC: bool, broadcasts.

    Source: the truncated smoothing loss of Abu Farha & Gall, "MS-TCN", CVPR 2019.
    """
    both_BNC = (keep_BNC[:, 1:] & keep_BNC[:, :-1]).expand(-1, -1, log_BNC.shape[2])
    rough_BNC = torch.where(both_BNC, log_BNC.diff(dim=1), 0.0).square().clamp_max(ROUGHEST)
    return rough_BNC.sum((1, 2)) / both_BNC.sum((1, 2)).clamp_min(1)


def _at(log_BRC: Tensor, row_BN: Tensor, column_BN: Tensor) -> Tensor:
    """(B, N) negative log-probability of each choice of row and column."""
    return -log_BRC.flatten(1).gather(1, row_BN * log_BRC.shape[2] + column_BN)


def _mean(loss_BN: Tensor, weight_BN: Tensor, share_BN: Tensor) -> Tensor:
    """(B,) weighted sum over the sum of shares; 0 for a video without any."""
    return (loss_BN * (weight_BN * share_BN)).sum(1) / _positive(share_BN.sum(1))


def _positive(divisor: Tensor) -> Tensor:
    """The same; 1 for 0, of which the dividend is 0 as well."""
    return torch.where(divisor > 0, divisor, 1.0)
