"""From a block's two answers, one: the class of each frame. Needs no labels.

Shape suffixes: B videos, T frames, M tokens (with a transcript, its positions), A classes, C channels of the frame
classifier.
"""

import torch
from torch import Tensor

from .classes import Classes
from .matching import log_softmax
from .outputs import BlockOutput


def predict(output: BlockOutput, mask_BT: Tensor | None, mwt: float) -> Tensor:
    """Each frame's scores of the classes, from its attention to the tokens and from the frame classifier.

    Learned tokens: those whose likeliest class is null are out. p = (1 - mwt) * p of the token that the frame attends
    to most, null left aside, + mwt * p of the frame; if a video has no token left, p of the frame. With verbs and
    nouns p of the token is among the listed pairs and p of the frame is not; classes that are held out have 0.

    A transcript: p of each of its positions = (1 - mwt) * attention to it + mwt * p of the frame of its class. A class
    has that of its likeliest position, and one that is not in the transcript 0: the best class is the class of the best
    position.

    Args:
        output: of the last block.
        mask_BT: bool, True for real frames; None if nothing is padded.
        mwt: weight of the frame branch, in [0, 1].

    Returns:
        (B, T, A) in float32 or wider, in [0, 1]; zeros in padded frames. Rows sum to 1, with verbs and nouns or a
        transcript to at most 1.

    Raises:
        ValueError: a block without attention of frames over tokens (an i or I that is not the model's last).

    Source: Lu & Elhamifar, CVPR 2024, section 3.5.
    """
    if output.a2f_BTM is None:
        raise ValueError("the block has no attention of frames over tokens; predict from the model's last block")
    logits_BTC = output.frame_logits_BTC
    classes = output.classes or Classes(torch.ones(logits_BTC.shape[-1], dtype=torch.bool, device=logits_BTC.device))
    frame_BTA = classes.log_probabilities(_wide(logits_BTC), null=False).exp()
    from_branches = _among_tokens if output.token_class_BM is None else _among_positions
    answer = from_branches(output, classes, frame_BTA, mwt)
    return answer if mask_BT is None else answer.masked_fill(~mask_BT.unsqueeze(-1), 0)


def _among_tokens(output: BlockOutput, classes: Classes, frame_BTA: Tensor, mwt: float) -> Tensor:
    token = classes.log_probabilities(_wide(output.token_logits_BMK), null=True)
    token_BMA, null = token[..., :-1].softmax(dim=-1), token.shape[-1] - 1
    kept_BM = (token.argmax(dim=-1) != null) & output.token_mask_BM

    a2f_BTM = output.a2f_BTM.masked_fill(~kept_BM.unsqueeze(1), -torch.inf)
    chosen_BT1 = a2f_BTM.argmax(dim=-1, keepdim=True)
    from_tokens = token_BMA.gather(1, chosen_BT1.expand(-1, -1, token_BMA.shape[-1]))
    mixed_BTA = (1 - mwt) * from_tokens + mwt * frame_BTA
    return torch.where(kept_BM.any(dim=1)[:, None, None], mixed_BTA, frame_BTA)


def _among_positions(output: BlockOutput, classes: Classes, frame_BTA: Tensor, mwt: float) -> Tensor:
    class_BTM = output.token_class_BM.clamp_min(0).unsqueeze(1).expand(-1, frame_BTA.shape[1], -1)
    attention_BTM = log_softmax(output.a2f_BTM, output.token_mask_BM.unsqueeze(1)).exp()
    position_BTM = (1 - mwt) * attention_BTM + mwt * frame_BTA.gather(2, class_BTM)
    position_BTM = position_BTM.masked_fill(~(output.token_mask_BM & classes.seen_A[class_BTM[:, 0]]).unsqueeze(1), 0)
    return torch.zeros_like(frame_BTA).scatter_reduce(2, class_BTM, position_BTM, "amax")


def _wide(logits: Tensor) -> Tensor:
    """In single precision at least."""
    return logits if logits.dtype == torch.float64 else logits.float()
