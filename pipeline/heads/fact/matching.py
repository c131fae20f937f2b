"""Which token stands for which true segment: runs of labels, soft IoU, assignment. Knows no loss and no module.

Shape suffixes: B videos, T frames, M tokens, S true segments, A classes, K channels of the
token classifier.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .outputs import BlockOutput

IGNORE = -1  # the label of a frame that no loss may see: held out, or not labelled
UNMATCHED = -1  # the token of a segment that has none
MODES = ("o2o", "o2m", "seq")


class Segments(NamedTuple):
    """The runs of equal labels of each video, in order.

    Attributes:
        label_BS, start_BS, stop_BS: int64; the segment holds frames start to stop - 1. 0 where mask_BS is False.
        mask_BS: bool, True for real segments.
        of_frame_BT: int64, the segment that holds each frame; IGNORE for frames of none.
    """

    label_BS: Tensor
    start_BS: Tensor
    stop_BS: Tensor
    mask_BS: Tensor
    of_frame_BT: Tensor


def segments_of(labels_BT: Tensor, mask_BT: Tensor, n_segments: int | None = None) -> Segments:
    """Runs of the truth. Frames labelled IGNORE and padded frames belong to none; a run that they interrupt is two.

    Args:
        labels_BT: int64 class of each frame, or IGNORE.
        mask_BT: bool, True for real frames.
        n_segments: S, at least the most segments of any video. None counts them, which makes the host wait for the
            device. S is never below 1.

    >>> found = segments_of(torch.tensor([[4, 4, 7, -1, 7, 9]]), torch.tensor([[True] * 5 + [False]]))
    >>> found.label_BS.tolist(), found.start_BS.tolist(), found.stop_BS.tolist(), found.of_frame_BT.tolist()
    ([[4, 7, 7]], [[0, 2, 4]], [[2, 3, 5]], [[0, 0, 1, -1, 2, -1]])
    """
    label_BT = labels_BT.masked_fill(~mask_BT, IGNORE)
    labelled_BT = label_BT != IGNORE
    change = label_BT[:, 1:] != label_BT[:, :-1]
    edge = torch.ones_like(labelled_BT[:, :1])
    begins_BT = torch.cat([edge, change], 1) & labelled_BT
    ends_BT = torch.cat([change, edge], 1) & labelled_BT
    run_BT, count_B1 = begins_BT.cumsum(1) - 1, begins_BT.sum(1, keepdim=True)
    size = max(int(count_B1.max()) if n_segments is None else n_segments, 1)

    def gathered(value_BT: Tensor, chosen_BT: Tensor) -> Tensor:
        """(B, S): the value at the one chosen frame of each run; the rest falls into a column that is cut off."""
        slots = value_BT.new_zeros(len(value_BT), size + 1)
        return slots.scatter(1, run_BT.masked_fill(~chosen_BT, size), value_BT)[:, :-1]

    time_BT = torch.arange(label_BT.shape[1], device=label_BT.device).expand_as(label_BT)
    return Segments(
        label_BS=gathered(label_BT, begins_BT),
        start_BS=gathered(time_BT, begins_BT),
        stop_BS=gathered(time_BT + 1, ends_BT),
        mask_BS=torch.arange(size, device=label_BT.device) < count_B1,
        of_frame_BT=run_BT.masked_fill(~labelled_BT, IGNORE),
    )


def soft_iou(attention_BTM: Tensor, segment_of_frame_BT: Tensor, n_segments: int) -> Tensor:
    """Soft IoU between the frames' attention to the tokens and the true segments.

    Args:
        attention_BTM: attention of each frame over the tokens, in [0, 1]; zero on padded frames.
        segment_of_frame_BT: the segment that holds each frame; IGNORE for none.
        n_segments: S.

    Returns:
        (B, M, S) in [0, 1]. A segment's mask is 0 or 1 and attention at most 1, so the union, a sum over frames of
        min(attention + mask, 1), is |segment| + sum of attention - overlap: no (T, M, S) array is made.

    Source: Lu & Elhamifar, "FACT: Frame-Action Cross-Attention Temporal Modeling for Efficient Action
    Segmentation", CVPR 2024, the matching cost.

    >>> soft_iou(torch.tensor([[[1.0], [0.5], [0.0], [0.5]]]), torch.tensor([[0, 0, 1, 1]]), 2)
    tensor([[[0.6000, 0.1429]]])
    """
    videos, _, tokens = attention_BTM.shape
    slot_BT = segment_of_frame_BT.masked_fill(segment_of_frame_BT == IGNORE, n_segments)
    row_BT = slot_BT + torch.arange(videos, device=slot_BT.device).unsqueeze(1) * (n_segments + 1)
    sums = attention_BTM.new_zeros(videos * (n_segments + 1), tokens)
    sums = sums.index_add(0, row_BT.flatten(), attention_BTM.reshape(-1, tokens))
    overlap_BMS = sums.view(videos, n_segments + 1, tokens)[:, :-1].transpose(1, 2)
    length = attention_BTM.new_zeros(videos, n_segments + 1)
    length_B1S = length.scatter_add(1, slot_BT, torch.ones_like(attention_BTM[..., 0]))[:, None, :-1]
    union_BMS = length_B1S + attention_BTM.sum(1).unsqueeze(2) - overlap_BMS
    return overlap_BMS / union_BMS.clamp_min(torch.finfo(union_BMS.dtype).tiny)


def log_softmax(logits: Tensor, keep: Tensor | None = None) -> Tensor:
    """Log-softmax over the last axis, among the entries to `keep` only (bool, broadcasts; None keeps all).

    At least single precision. What is not kept takes no gradient and stands as a huge negative number: a row that
    keeps nothing stays finite, and so do its gradients.

    >>> log_softmax(torch.tensor([1.0, 9.0, 1.0]), torch.tensor([True, False, True])).exp()
    tensor([0.5000, 0.0000, 0.5000])
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if keep is not None:
        logits = logits.masked_fill(~keep, torch.finfo(logits.dtype).min)
    return logits.log_softmax(-1)


class Softmax(NamedTuple):
    """One softmax among the channels of the classifiers: all of them, or the verbs', or the nouns'.

    Attributes:
        frame, token: its channels in the frame and the token classifier; the token's last one is null.
        seen: bool, a channel of the frame classifier each: those that some seen class has; None is all.
        channel_of_class: int64, a class each; None is the class itself.
    """

    frame: slice
    token: slice
    seen: Tensor | None
    channel_of_class: Tensor | None

    def frames(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the frame classifier among the seen channels."""
        return log_softmax(logits[..., self.frame], self.seen)

    def tokens(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the token classifier among the seen channels and null."""
        keep = None if self.seen is None else torch.cat([self.seen, self.seen.new_ones(1)])
        return log_softmax(logits[..., self.token], keep)

    def channel(self, labels: Tensor) -> Tensor:
        """The channel that answers for each label; for IGNORE, any."""
        labels = labels.clamp_min(0)
        return labels if self.channel_of_class is None else self.channel_of_class[labels]


def softmaxes(output: BlockOutput) -> list[Softmax]:
    """How the channels of the classifiers divide into softmaxes: one, or with verbs and nouns two."""
    classes, channels = output.classes, output.frame_logits_BTC.shape[-1]
    if classes is None or classes.pairs_A2 is None:
        seen = None if classes is None else classes.seen_A
        return [Softmax(slice(0, channels), slice(0, channels + 1), seen, None)]
    found, start = [], 0
    for part, (size, channel_A) in enumerate(
        zip((classes.n_verbs, channels - classes.n_verbs), classes.pairs_A2.unbind(1), strict=True)
    ):
        stop = start + size
        times_seen = classes.seen_A.new_zeros(size, dtype=torch.long).index_add(0, channel_A, classes.seen_A.long())
        found.append(Softmax(slice(start, stop), slice(start + part, stop + part + 1), times_seen > 0, channel_A))
        start = stop
    return found


def class_probability(output: BlockOutput, label_BS: Tensor) -> Tensor:
    """(B, M, S): what each token's classifier gives to each segment's class, among the seen ones and null."""
    logits_BMK = output.token_logits_BMK
    log_BMS = 0
    for softmax in softmaxes(output):
        channel_B1S = softmax.channel(label_BS).unsqueeze(1)
        log_BMS = log_BMS + softmax.tokens(logits_BMK).gather(2, channel_B1S.expand(-1, logits_BMK.shape[1], -1))
    return log_BMS.exp()


def one_to_one(cost_MS: np.ndarray) -> np.ndarray:
    """(S,) int64: the token of each segment in the cheapest assignment; UNMATCHED where segments outnumber tokens.

    >>> one_to_one(np.array([[-1.0, -3.0, 0.0], [0.0, -3.0, -1.0]])).tolist()
    [0, 1, -1]
    """
    token_S = np.full(cost_MS.shape[1], UNMATCHED)
    tokens, segments = linear_sum_assignment(cost_MS)
    token_S[segments] = tokens
    return token_S


def one_to_many(cost_MS: np.ndarray, label_S: np.ndarray) -> np.ndarray:
    """(S,) int64: the token of each segment, where a token may stand for several segments of one class.

    Tokens are given to classes at the least summed cost, one each; those left over go to their cheapest class; then
    each segment takes the cheapest token of its class, UNMATCHED where classes outnumber tokens.

    >>> one_to_many(np.array([[-5.0, 0.0, -4.0], [0.0, -1.0, 0.0]]), np.array([8, 2, 8])).tolist()
    [0, 1, 0]
    """
    classes, class_of_S = np.unique(label_S, return_inverse=True)
    cost_MC = np.stack([cost_MS[:, class_of_S == c].sum(1) for c in range(len(classes))], 1)
    class_of_M = cost_MC.argmin(1)
    tokens, given = linear_sum_assignment(cost_MC)
    class_of_M[tokens] = given
    allowed_MS = np.where(class_of_M[:, None] == class_of_S, cost_MS, np.inf)
    return np.where(np.isinf(allowed_MS).all(0), UNMATCHED, allowed_MS.argmin(0))


@torch.no_grad()
def match(
    output: BlockOutput,
    segments: Segments,
    mask_BT: Tensor,
    mode: str,
    pc: float,
    a2fc: float,
) -> Tensor:
    """The token that stands for each true segment, at cost -pc * probability of its class - a2fc * soft IoU.

    Args:
        output: of the last block.
        mask_BT: bool, True for real frames; held-out ones among them count in the union of the IoU.
        mode: "o2o", one token a segment; "o2m", a token may stand for several segments of its class; "seq", token i
            for segment i: a transcript must then list these segments, without those held out.

    Returns:
        (B, S) int64, UNMATCHED for padded segments and for those that are left over. The host waits for the device
        once, for the costs of the whole batch; for "seq" not at all.

    Raises:
        ValueError: an unknown mode, costs that are not numbers, or an IoU asked of a block that has none.
    """
    if mode not in MODES:
        raise ValueError(f"match must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "seq":
        token_BS = torch.arange(segments.mask_BS.shape[1], device=mask_BT.device).expand_as(segments.mask_BS)
        has_token = segments.mask_BS & (token_BS < output.token_mask_BM.sum(1, keepdim=True))
        return token_BS.masked_fill(~has_token, UNMATCHED)
    cost_BMS = -pc * class_probability(output, segments.label_BS)
    if a2fc:
        if output.a2f_BTM is None:
            raise ValueError("the last block attends to no tokens, so a2fc has no IoU to weigh; set a2fc to 0")
        attention_BTM = log_softmax(output.a2f_BTM, output.token_mask_BM.unsqueeze(1)).exp() * mask_BT.unsqueeze(2)
        cost_BMS = cost_BMS - a2fc * soft_iou(attention_BTM, segments.of_frame_BT, segments.mask_BS.shape[1])
    real_BMS = output.token_mask_BM.unsqueeze(2) & segments.mask_BS.unsqueeze(1)
    cost_BMS = cost_BMS.masked_fill(~real_BMS, np.inf)
    # Labels travel as one more row: one transfer, and float32 holds integers to 16 million exactly.
    packed = torch.cat([cost_BMS, segments.label_BS.unsqueeze(1).to(cost_BMS)], 1).cpu().numpy()
    found_BS = np.full(segments.mask_BS.shape, UNMATCHED)
    for video, (cost_MS, label_S) in enumerate(zip(packed[:, :-1], packed[:, -1], strict=True)):
        if np.isnan(cost_MS).any():
            raise ValueError(f"video {video} of the batch has matching costs that are not numbers: the model diverged")
        tokens, size = (~np.isinf(cost_MS)).any(1).sum(), (~np.isinf(cost_MS)).any(0).sum()
        if not size:
            continue
        cost_MS, label_S = cost_MS[:tokens, :size], label_S[:size]
        found_BS[video, :size] = one_to_one(cost_MS) if mode == "o2o" else one_to_many(cost_MS, label_S)
    return torch.from_numpy(found_BS).to(mask_BT.device)
