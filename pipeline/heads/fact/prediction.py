"""From a block's two answers, one: the class of each frame. Needs no labels.

Shape suffixes: B videos, T frames, M tokens, A classes, C channels of the frame classifier.
"""

import torch
from torch import Tensor

from .classes import Classes
from .outputs import BlockOutput


def predict(output: BlockOutput, mask_BT: Tensor | None, mwt: float) -> Tensor:
    """Each frame's class probabilities, from the token it attends to most and from the frame classifier.

    Tokens whose likeliest class is null are out. p = (1 - mwt) * p of the token, null left aside, + mwt * p of the
    frame; if a video has no token left, p of the frame. With verbs and nouns both are among the listed pairs; classes
    that are held out have 0.

    Args:
        output: of the last block.
        mask_BT: bool, True for real frames; None if nothing is padded.
        mwt: weight of the frame branch, in [0, 1].

    Returns:
        (B, T, A) in float32 or wider, rows sum to 1; zeros in padded frames.

    Raises:
        ValueError: a block without attention of frames over tokens (an i or I that is not the model's last).

    Source: Lu & Elhamifar, CVPR 2024, section 3.5.
    """
    if output.a2f_BTM is None:
        raise ValueError("the block has no attention of frames over tokens; predict from the model's last block")
    logits_BTC = output.frame_logits_BTC
    classes = output.classes or Classes(torch.ones(logits_BTC.shape[-1], dtype=torch.bool, device=logits_BTC.device))
    frame_BTA = classes.log_probabilities(_wide(logits_BTC), null=False).softmax(dim=-1)
    token = classes.log_probabilities(_wide(output.token_logits_BMK), null=True)
    token_BMA, null = token[..., :-1].softmax(dim=-1), token.shape[-1] - 1
    kept_BM = (token.argmax(dim=-1) != null) & output.token_mask_BM

    a2f_BTM = output.a2f_BTM.masked_fill(~kept_BM.unsqueeze(1), -torch.inf)
    chosen_BT1 = a2f_BTM.argmax(dim=-1, keepdim=True)
    from_tokens = token_BMA.gather(1, chosen_BT1.expand(-1, -1, token_BMA.shape[-1]))
    mixed_BTA = (1 - mwt) * from_tokens + mwt * frame_BTA
    answer = torch.where(kept_BM.any(dim=1)[:, None, None], mixed_BTA, frame_BTA)
    return answer if mask_BT is None else answer.masked_fill(~mask_BT.unsqueeze(-1), 0)


def _wide(logits: Tensor) -> Tensor:
    """In single precision at least."""
    return logits if logits.dtype == torch.float64 else logits.float()
