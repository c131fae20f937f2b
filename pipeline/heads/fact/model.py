"""FACT: frames and action tokens that attend to each other, block after block. Knows no loss, no store and no params.

Shape suffixes: B videos, T frames, S segments of a transcript, M action tokens, A classes, D feature width, C channels
of the frame classifier, K of the token classifier, H width of processed features.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import blocks as chain
from .blocks import KINDS, BlockSettings, Surroundings
from .classes import Classes
from .kernels import sinusoid, time_windows
from .outputs import BlockOutput


class TimeMask(NamedTuple):
    """In training, `times` windows of each video are zeroed: under `longest` frames, at most `share` of the video."""

    longest: int
    share: float
    times: int


class Parts(NamedTuple):
    """Classes that are pairs of a verb and a noun."""

    n_verbs: int
    n_nouns: int
    pairs_A2: Tensor  # int64, the verb and the noun of each class


class Fact(nn.Module):
    """Frame and token logits of each block, from a batch of videos' frozen features.

    Args:
        feature_dim: D, width of the frozen features.
        n_classes: A; with `parts`, the number of pairs.
        tokens: M, action tokens with a learned query each; of no matter with a transcript.
        blocks: as the function `blocks` makes them: i or I first, then any of u and U; all of one hid_dim and a_dim.
        fpos: whether frames have positions (sinusoids over hid_dim).
        transcript: whether a token stands for each segment of a given transcript, in order, among which `predict` then
            chooses; else tokens are learned.
        cmr: in training, the share of feature channels blanked, for a whole video.
        time_mask: in training; None is off.
        parts: of the verb/noun variant.

    Attributes:
        seen: (A,) bool buffer, all True. What is False was held out: no softmax that feeds the next block gives it
            probability, no segment is made of it, in training or after; the outputs' logits are unmasked.
        hid_dim, frame_width, token_width: H, and the widths of the outputs' frame and token features.

    Raises:
        ValueError: arguments that do not fit each other, with both sides and the remedy.

    Source: Lu & Elhamifar, "FACT: Frame-Action Cross-Attention Temporal Modeling for Efficient Action Segmentation",
    CVPR 2024.
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        n_classes: int,
        tokens: int,
        blocks: Sequence[BlockSettings],
        fpos: bool,
        transcript: bool,
        cmr: float,
        time_mask: tuple[int, float, int] | None = None,
        parts: tuple[int, int, Tensor] | None = None,
    ):
        super().__init__()
        self.feature_dim, self.transcript, self.cmr = feature_dim, transcript, cmr
        self.time_mask = None if time_mask is None else TimeMask(*time_mask)
        self.register_buffer("seen", torch.ones(n_classes, dtype=torch.bool))
        self.n_parts = (0, 0) if parts is None else tuple(parts[:2])
        self.register_buffer("pairs_A2", None if parts is None else torch.as_tensor(parts[2]).clone())
        _check(blocks, n_classes, tokens, transcript, cmr, self.time_mask, parts, self.classes)

        width, self.hid_dim = blocks[0].a_dim, blocks[0].hid_dim
        self.frame_width = self.hid_dim - self.classes.channels(null=False)
        self.token_width = self.hid_dim - self.classes.channels(null=True)
        if not transcript:
            self.query_MA = nn.Parameter(torch.randn(tokens, width))
        elif parts is None:
            self.embed = nn.ModuleList([nn.Embedding(n_classes, width)])
        else:
            self.embed = nn.ModuleList(
                nn.Embedding(n, size) for n, size in zip(self.n_parts, (width // 2, width - width // 2), strict=True)
            )
        self.position = Position(self.hid_dim) if fpos else None
        self.token_position = Position(width) if transcript else None
        self.blocks = nn.ModuleList(
            KINDS[block.kind](block, feature_dim if i == 0 else None, last=i == len(blocks) - 1)
            for i, block in enumerate(blocks)
        )

    @classmethod
    def of(cls, config: Any, samples: Any) -> "Fact":
        """The head that a person's choices and the frames of samples make."""
        chosen = config.model
        head = cls(
            feature_dim=samples.streams["frames"].width,
            n_classes=len(samples.classes),
            tokens=chosen.tokens,
            blocks=chain.blocks(chosen.blocks, *(getattr(chosen, name).model_dump() for name in ("Bi", "Bu", "BU"))),
            fpos=chosen.frame_positions,
            transcript=chosen.transcript,
            cmr=chosen.channel_dropout,
            time_mask=None if chosen.time_mask is None else TimeMask(**chosen.time_mask.model_dump()),
            parts=verbs_and_nouns(samples),
        )
        head.seen.copy_(torch.from_numpy(samples.seen))
        return head

    @property
    def classes(self) -> Classes:
        """What the channels mean, on the model's device."""
        return Classes(self.seen, *self.n_parts, self.pairs_A2)

    def forward(
        self, frames_BTD: Tensor, mask_BT: Tensor | None = None, transcript_BS: Tensor | None = None
    ) -> list[BlockOutput]:
        """The blocks' outputs, first to last.

        Args:
            frames_BTD: frozen features of any float type; finite in padded frames too.
            mask_BT: bool, True for a video's own frames, which come first, at least one; None if nothing is padded.
            transcript_BS: int64 classes of the segments, in order; -1 pads, at least one each. With `transcript` only.

        Raises:
            ValueError: a shape that is not what the model was built for, or a transcript too many or too few.
        """
        frames_BTD = frames_BTD.to(self.blocks[0].frames.leave.weight.dtype)
        padding_BT, mask_BT = self._frame_mask(frames_BTD, mask_BT)
        tokens_BMA, position_MA, token_padding_BM = self._tokens(len(frames_BTD), transcript_BS)
        around = Surroundings(
            classes=self.classes,
            mask_BT=mask_BT,
            padding_BT=padding_BT,
            token_mask_BM=(
                torch.ones_like(tokens_BMA[..., 0], dtype=torch.bool) if token_padding_BM is None else token_padding_BM
            ),
            token_padding_BM=token_padding_BM,
            token_class_BM=transcript_BS,
            frame_position_TH=None if self.position is None else self.position(frames_BTD.shape[1]),
            token_position_MA=position_MA,
            token_position_MH=None
            if position_MA is None
            else F.pad(position_MA, (0, self.hid_dim - position_MA.shape[1])),
        )
        frame, token = self.blank(frames_BTD, mask_BT), tokens_BMA
        outputs = []
        for block in self.blocks:
            frame, token, output = block(frame, token, around)
            outputs.append(output)
        return outputs

    def blank(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """In training, the features with channels and windows of time blanked, on a copy; else the features."""
        if self.training and self.cmr:
            channels_B1D = torch.rand(len(frames_BTD), 1, self.feature_dim, device=frames_BTD.device) >= self.cmr
            frames_BTD = frames_BTD * (channels_B1D / (1 - self.cmr)).to(frames_BTD.dtype)
        if self.training and self.time_mask:
            windows_BT = time_windows(mask_BT.sum(dim=1), *self.time_mask, frames=frames_BTD.shape[1])
            frames_BTD = frames_BTD.masked_fill(windows_BT.unsqueeze(-1), 0)
        return frames_BTD

    def _frame_mask(self, frames_BTD: Tensor, mask_BT: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Where frames are padded, None if the host can tell that none is; and the mask itself."""
        if frames_BTD.ndim != 3 or frames_BTD.shape[-1] != self.feature_dim or not frames_BTD.shape[1]:
            raise ValueError(
                f"frames have shape {tuple(frames_BTD.shape)}, expected (videos, frames >= 1, {self.feature_dim}); "
                "build the model with the feature's own width"
            )
        if mask_BT is None:
            return None, torch.ones_like(frames_BTD[..., 0], dtype=torch.bool)
        if mask_BT.shape != frames_BTD.shape[:2] or mask_BT.dtype != torch.bool:
            raise ValueError(
                f"the mask has shape {tuple(mask_BT.shape)} and type {mask_BT.dtype}, expected "
                f"{tuple(frames_BTD.shape[:2])} and torch.bool, True for real frames"
            )
        # On an accelerator to look would be to wait for it.
        if mask_BT.device.type == "cpu":
            if not mask_BT.any(dim=1).all():
                raise ValueError("a video of the batch has no frame at all; leave it out")
            if mask_BT.all():
                return None, mask_BT
        return mask_BT, mask_BT

    def _tokens(self, videos: int, transcript_BS: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Content (B, M, A), position (M, A) or None, and which tokens are padding, None for none."""
        if self.transcript != (transcript_BS is not None):
            wants = "a transcript and got none" if self.transcript else "no transcript and got one"
            raise ValueError(f"the model was built to take {wants}; set `transcript` as the data has it")
        if transcript_BS is None:
            return self.query_MA.new_zeros(videos, *self.query_MA.shape), self.query_MA, None
        mask_BM = transcript_BS >= 0
        empty = not mask_BM.shape[1] or (mask_BM.device.type == "cpu" and not mask_BM[:, 0].all())
        if mask_BM.shape[0] != videos or empty:
            raise ValueError(
                f"transcripts have shape {tuple(mask_BM.shape)}, expected {videos} of at least one segment"
            )
        class_BM = transcript_BS.clamp_min(0)
        words = [class_BM] if self.pairs_A2 is None else self.pairs_A2[class_BM].unbind(-1)
        content = torch.cat([embed(word) for embed, word in zip(self.embed, words, strict=True)], dim=-1)
        return content + self.token_position(transcript_BS.shape[1]), None, mask_BM


def verbs_and_nouns(samples: Any) -> Parts | None:
    """How the classes of samples are made of verbs and nouns, if they are."""
    return None if samples.pairs is None else Parts(*samples.n_parts, torch.from_numpy(samples.pairs))


class Position(nn.Module):
    """Sinusoids of the first rows, kept and made longer when a longer video comes."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("code_TH", sinusoid(1024, width), persistent=False)

    def forward(self, length: int) -> Tensor:
        if length > len(self.code_TH):
            self.code_TH = sinusoid(2 * length, self.code_TH.shape[1]).to(self.code_TH)
        return self.code_TH[:length]


def _check(blocks, n_classes, tokens, transcript, cmr, time_mask, parts, classes) -> None:
    """Raises ValueError for arguments of Fact that do not fit each other."""
    chain = "".join(block.kind for block in blocks)
    if chain[:1] not in ("i", "I") or set(chain[1:]) - {"u", "U"}:
        raise ValueError(f"blocks are {chain!r}, expected i or I first (it takes the features), then any of u and U")
    for name in ("hid_dim", "a_dim"):
        if len(values := {getattr(block, name) for block in blocks}) > 1:
            raise ValueError(f"{name} is {sorted(values)} in different blocks, expected one; set it in Bi alone")
    if n_classes < 1 or (tokens < 1 and not transcript):
        raise ValueError(f"there are {n_classes} classes and {tokens} tokens, expected at least one of each")
    if parts is not None:
        pairs, wanted = torch.as_tensor(parts[2]), torch.tensor(parts[:2])
        if pairs.shape != (n_classes, 2) or (pairs < 0).any() or (pairs >= wanted).any():
            raise ValueError(
                f"pairs have shape {tuple(pairs.shape)}, expected {(n_classes, 2)}, with verbs under {parts[0]} and "
                f"nouns under {parts[1]}: one pair for each class"
            )
    channels = classes.channels(null=True)
    if blocks[0].hid_dim <= channels:
        raise ValueError(
            f"hid_dim is {blocks[0].hid_dim}, expected more than the {channels} channels of the token classifier "
            "(classes and null), which are the last of hid_dim; raise hid_dim"
        )
    if not 0 <= cmr < 1:
        raise ValueError(f"cmr is {cmr}, expected a share of the channels, at least 0 and below 1")
    if time_mask is not None and not (time_mask.longest > 0 and 0 <= time_mask.share < 1 and time_mask.times > 0):
        raise ValueError(f"time_mask is {tuple(time_mask)}, expected (frames > 0, share of a video < 1, windows > 0)")
