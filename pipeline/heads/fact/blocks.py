"""The blocks of FACT, chained by its model: i and I read the frozen features, u and U update both branches.

Shape suffixes: B videos, T frames, S segments, M tokens, C channels of the frame classifier, K of the token
classifier, D any width, A width of the tokens between blocks, H width of processed features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .branches import CrossAttention, FrameBranch, Mask, SegmentBranch, TokenBranch, masked
from .classes import Classes
from .kernels import Segments, segments, to_frames
from .outputs import BlockOutput

BRANCHES = ("m", "m2", "cnn")


@dataclass(frozen=True)
class BlockSettings:
    """One block.

    Attributes:
        kind: "i" input; "I" input whose tokens read segments; "u" update; "U" update on segments.
        hid_dim: H, the same in all blocks.
        dropout: everywhere in the block.
        a_dim, a_ffdim, a_layers, a_nhead: of the token branch: width, feed-forward width, layers, heads.
        f, f_dim, f_layers, f_ln: of the frame branch: "m", "m2" or "cnn", width, layers, LayerNorm after each.
        s_layers: of the GRU over segments; for I and U.

    Raises:
        ValueError: values that do not fit each other, with both sides and the remedy.
    """

    kind: str
    hid_dim: int
    dropout: float
    a_dim: int
    a_ffdim: int
    a_layers: int
    a_nhead: int
    f: str
    f_dim: int
    f_layers: int
    f_ln: bool
    s_layers: int = 1

    def __post_init__(self) -> None:
        where = f"of block {self.kind!r}"
        if self.kind not in KINDS:
            raise ValueError(f"kind of a block is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.f not in BRANCHES:
            raise ValueError(f"f {where} is {self.f!r}, expected one of {', '.join(BRANCHES)}")
        if self.f == "m2" and self.f_ln:
            raise ValueError(f"f {where} is 'm2' and f_ln is true; m2 has no LayerNorm: set f_ln to false, or f to 'm'")
        if self.hid_dim % 2:
            raise ValueError(f"hid_dim {where} is {self.hid_dim}, expected an even number: sines and cosines, two ways")
        if self.a_dim % self.a_nhead:
            raise ValueError(f"a_dim {where} is {self.a_dim}, which a_nhead {self.a_nhead} does not divide")
        if self.a_dim > self.hid_dim:
            raise ValueError(
                f"a_dim {where} is {self.a_dim}, expected at most hid_dim {self.hid_dim}: the tokens' positions join "
                "processed features; lower a_dim or raise hid_dim"
            )


def blocks(
    chain: str, Bi: Mapping[str, Any], Bu: Mapping[str, Any] | None = None, BU: Mapping[str, Any] | None = None
) -> list[BlockSettings]:
    """The settings of each block of a chain such as "iuUU".

    What Bu leaves unset (absent or None) is filled from Bi; what BU leaves unset, from the block before.

    Args:
        Bi: fields of `BlockSettings` except kind, for i and I.
        Bu, BU: likewise for u, and for U.

    Raises:
        ValueError: an unknown block, or a value that neither the block nor what it inherits from sets.

    >>> tiny = dict(hid_dim=8, dropout=0.0, a_dim=4, a_ffdim=4, a_layers=2, a_nhead=1, f="m", f_dim=4, f_ln=False)
    >>> made = blocks("iuU", tiny | {"f_layers": 3}, {"f_layers": 2, "a_dim": 8}, {"a_layers": 1, "f_layers": None})
    >>> [(block.f_layers, block.a_dim, block.a_layers) for block in made]
    [(3, 4, 2), (2, 8, 2), (2, 8, 1)]
    """
    known = {field.name for field in fields(BlockSettings)} - {"kind"}
    own = {"i": Bi, "I": Bi, "u": Bu or {}, "U": BU or {}}
    made: list[BlockSettings] = []
    filled: Mapping[str, Any] = {}
    for kind in chain:
        if kind not in own:
            raise ValueError(f"block {kind!r} of chain {chain!r} is unknown, expected one of {', '.join(own)}")
        if unknown := own[kind].keys() - known:
            raise ValueError(f"block {kind!r} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
        filled = (Bi if kind == "u" else filled) | {k: v for k, v in own[kind].items() if v is not None}
        if missing := known - {"s_layers"} - {k for k, v in filled.items() if v is not None}:
            raise ValueError(f"block {kind!r} of chain {chain!r} lacks {', '.join(sorted(missing))}; set it in Bi")
        made.append(BlockSettings(kind=kind, **filled))
    return made


class Surroundings(NamedTuple):
    """What all blocks of one forward share. A mask that is None: nothing is padded."""

    classes: Classes
    mask_BT: Tensor
    padding_BT: Mask
    token_mask_BM: Tensor
    token_padding_BM: Mask
    token_class_BM: Tensor | None  # of a transcript
    frame_position_TH: Tensor | None
    token_position_MA: Tensor | None
    token_position_MH: Tensor | None  # the same, zeros in the channels beyond A


class Processed(NamedTuple):
    """A branch's output, split by channels; `fed` is concat(features, softmax(logits))."""

    fed: Tensor
    features: Tensor
    logits: Tensor


def process(x_BND: Tensor, classes: Classes, null: bool) -> Processed:
    """Split off the last C (with null: K) channels as logits."""
    channels = classes.channels(null)
    features, logits = x_BND[..., :-channels], x_BND[..., -channels:]
    return Processed(torch.cat([features, classes.probabilities(logits, null)], dim=-1), features, logits)


class Pooled(NamedTuple):
    """A batch down-sampled to its segments."""

    segments: Segments
    processed: Processed
    position_BSH: Tensor | None
    mask_BS: Tensor
    padding_BS: Mask


class Block(nn.Module):
    """What the blocks have in common: the branches, and temporal down-sampling. `last` is the model's last block."""

    def __init__(self, settings: BlockSettings, feature_dim: int | None, last: bool):
        super().__init__()
        s = settings
        self.last = last
        self.frames = FrameBranch(s.f, feature_dim, s.f_dim, s.hid_dim, s.f_layers, s.dropout, s.f_ln)
        memory = None if feature_dim is None else s.hid_dim
        self.tokens = TokenBranch(s.a_layers, s.a_dim, memory, s.hid_dim, s.a_nhead, s.a_ffdim, s.dropout)
        self.segments = SegmentBranch(s.hid_dim, s.s_layers) if s.kind in ("I", "U") else None

    def pool(self, frames_BTH: Tensor, logits_BTC: Tensor, around: Surroundings) -> Pooled:
        """Runs of the likeliest class as segments, with features, logits and positions of their own."""
        found = segments(around.classes.likeliest(logits_BTC), around.mask_BT)
        processed = process(self.segments(frames_BTH, found), around.classes, null=False)
        place = around.frame_position_TH
        position_BSH = None if place is None else place[found.middle_BS]
        mask_BS = found.mask_BS
        ragged = bool((found.count_B < mask_BS.shape[1]).any())
        return Pooled(found, processed, position_BSH, mask_BS, mask_BS if ragged else None)


def answer(frame: Processed, token: Processed, around: Surroundings, **rest: Tensor | None) -> BlockOutput:
    """A block's output; what it has besides the two branches is in `rest`."""
    return BlockOutput(
        frame_logits_BTC=frame.logits,
        token_logits_BMK=token.logits,
        frame_features_BTH=frame.features,
        token_features_BMH=token.features,
        token_mask_BM=around.token_mask_BM,
        token_class_BM=around.token_class_BM,
        classes=around.classes,
        **rest,
    )


def pooled_answer(pooled: Pooled, f2a_BMS: Tensor | None, a2f_BSM: Tensor | None) -> dict[str, Tensor | None]:
    """What a block with segments answers besides."""
    return {
        "segment_logits_BSC": pooled.processed.logits,
        "segment_of_frame_BT": pooled.segments.segment_of_frame_BT,
        "segment_mask_BS": pooled.mask_BS,
        "f2a_BMS": f2a_BMS,
        "a2f_BSM": a2f_BSM,
        "a2f_BTM": None if a2f_BSM is None else to_frames(a2f_BSM, pooled.segments),
    }


class InputBlock(Block):
    """i: convolutions over the frames, tokens that read them. I: tokens that read their segments.

    Between its branches attention is multi-head and in layers. If this block is the model's last, its last layer's
    logits, the mean over heads, stand for both directions: matching and prediction need one.
    """

    def forward(
        self, x_BTD: Tensor, tokens_BMA: Tensor, around: Surroundings
    ) -> tuple[Processed, Processed, BlockOutput]:
        frame = process(self.frames(x_BTD, around.padding_BT), around.classes, null=False)
        if self.segments is None:
            memory, place, padding = frame.fed, around.frame_position_TH, around.padding_BT
        else:
            pooled = self.pool(frame.fed, frame.logits, around)
            memory, place, padding = pooled.processed.fed, pooled.position_BSH, pooled.padding_BS
        tokens, f2a = self.tokens(
            tokens_BMA,
            around.token_position_MA,
            around.token_padding_BM,
            memory,
            place,
            padding,
            logits=self.last,
        )
        token = process(tokens, around.classes, null=True)
        a2f = None if f2a is None else masked_back(f2a, around.token_padding_BM, padding)
        rest = {"f2a_BMT": f2a, "a2f_BTM": a2f} if self.segments is None else pooled_answer(pooled, f2a, a2f)
        return frame, token, answer(frame, token, around, **rest)


class UpdateBlock(Block):
    """u: tokens read frames, then each other; frames read the tokens, then the convolutions."""

    def __init__(self, settings: BlockSettings, feature_dim: None, last: bool):
        super().__init__(settings, feature_dim, last)
        s = settings
        self.f2a = CrossAttention(s.hid_dim, s.a_dim, s.dropout)
        self.a2f = CrossAttention(s.hid_dim, s.f_dim, s.dropout)

    def forward(
        self, frame: Processed, token: Processed, around: Surroundings
    ) -> tuple[Processed, Processed, BlockOutput]:
        token, frame_BTE, f2a_BMT, a2f_BTM = self.exchange(
            frame.fed, token, around.frame_position_TH, around.padding_BT, around
        )
        frame = process(self.frames(frame_BTE, around.padding_BT), around.classes, null=False)
        return frame, token, answer(frame, token, around, f2a_BMT=f2a_BMT, a2f_BTM=a2f_BTM)

    def exchange(
        self, x_BNH: Tensor, token: Processed, position: Tensor | None, padding_BN: Mask, around: Surroundings
    ) -> tuple[Processed, Tensor, Tensor, Tensor]:
        """Tokens read x (frames or segments), x reads the tokens: tokens, x, and the logits of both readings."""
        tokens, f2a = self.f2a(token.fed, x_BNH, around.token_position_MH, position, padding_BN)
        tokens, _ = self.tokens(tokens, around.token_position_MA, around.token_padding_BM)
        token = process(tokens, around.classes, null=True)
        x_BNE, a2f = self.a2f(x_BNH, token.fed, position, around.token_position_MH, around.token_padding_BM)
        return token, x_BNE, f2a, a2f


class SegmentUpdateBlock(UpdateBlock):
    """U: the exchange of u, but between tokens and segments; then segments go back to their frames."""

    def __init__(self, settings: BlockSettings, feature_dim: None, last: bool):
        super().__init__(settings, feature_dim, last)
        self.merge = nn.Linear(settings.f_dim + settings.hid_dim, settings.f_dim)

    def forward(
        self, frame: Processed, token: Processed, around: Surroundings
    ) -> tuple[Processed, Processed, BlockOutput]:
        pooled = self.pool(frame.fed, frame.logits, around)
        token, segment_BSE, f2a_BMS, a2f_BSM = self.exchange(
            pooled.processed.fed, token, pooled.position_BSH, pooled.padding_BS, around
        )
        # W [segment -> frame | frame]: each part where it has fewer rows.
        segment_EE, frame_EH = self.merge.weight.tensor_split([segment_BSE.shape[-1]], dim=1)
        from_segments = to_frames(F.linear(segment_BSE, segment_EE), pooled.segments)
        merged_BTE = F.relu(F.linear(frame.fed, frame_EH, self.merge.bias) + from_segments)
        frame = process(self.frames(merged_BTE, around.padding_BT), around.classes, null=False)
        return frame, token, answer(frame, token, around, **pooled_answer(pooled, f2a_BMS, a2f_BSM))


def masked_back(f2a_BMN: Tensor, token_padding_BM: Mask, padding_BN: Mask) -> Tensor:
    """(B, N, M): the same logits read the other way; those of padded rows are 0."""
    back = f2a_BMN.transpose(1, 2)
    back = back if padding_BN is None else back.masked_fill(~padding_BN.unsqueeze(2), 0)
    return masked(back, token_padding_BM)


KINDS = {"i": InputBlock, "I": InputBlock, "u": UpdateBlock, "U": SegmentUpdateBlock}
