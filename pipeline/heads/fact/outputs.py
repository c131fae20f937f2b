"""What a block of FACT hands on: to the losses, to the prediction and to the CLIP head. Knows no module.

Shape suffixes: B videos, T frames, S segments of a block with temporal down-sampling (runs of its input's likeliest
class), M action tokens, C channels of the frame classifier, K channels of the token classifier, H processed width less
the class channels (a width of its own for frames and for tokens).
"""

from dataclasses import dataclass

from torch import Tensor

from .classes import Classes


@dataclass(frozen=True)
class BlockOutput:
    """One block's answers for a padded batch.

    Attention is given as logits, -inf where the other end is padding; what stands in the rows of padded frames,
    segments or tokens is finite and means nothing. A block has attention between the branches if it is an update block
    (u, U) or the model's last; on segments it is given for segments.

    Attributes:
        frame_logits_BTC, token_logits_BMK: of the two classifiers, unmasked; `classes` says what the channels mean.
        frame_features_BTH, token_features_BMH: the processed features without their class channels.
        token_mask_BM: bool, True for real tokens (transcripts of a batch differ in length).
        token_class_BM: int64, the class that a transcript gives each token, any where token_mask_BM is False; None
            where tokens are learned.
        a2f_BTM: attention logits of frames over tokens; of U and I, each frame has those of its segment.
        f2a_BMT: attention logits of tokens over frames; None for U and I, which have f2a_BMS.
        segment_logits_BSC, segment_mask_BS (bool), f2a_BMS, a2f_BSM: of U and I.
        segment_of_frame_BT: int64, of U and I: the segment that holds a frame; -1 for a padded frame.
        classes: what the channels mean, and which classes were held out; None: C = A and all seen.
    """

    frame_logits_BTC: Tensor
    token_logits_BMK: Tensor
    frame_features_BTH: Tensor
    token_features_BMH: Tensor
    token_mask_BM: Tensor
    f2a_BMT: Tensor | None = None
    a2f_BTM: Tensor | None = None
    segment_logits_BSC: Tensor | None = None
    segment_of_frame_BT: Tensor | None = None
    segment_mask_BS: Tensor | None = None
    f2a_BMS: Tensor | None = None
    a2f_BSM: Tensor | None = None
    classes: Classes | None = None
    token_class_BM: Tensor | None = None
