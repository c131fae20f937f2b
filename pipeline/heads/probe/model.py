"""Probes of frozen features: tensors in, scores out. Knows no store, no params and no trainer.

Shape suffixes: B samples, L tokens, D width, C classes or numbers, N neighbours that may be voted with, H heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attentive import AttentivePooler

MASK = ".mask"  # behind a role: which of its tokens are there; no role's name has a dot
CHUNK = 65_536  # vectors that are compared with a batch at once


class Probe(nn.Module):
    """What a probe reads from streams; `logits` gives a score a class, or numbers in their own unit.

    Args:
        reader: (batch) -> (B, D), or of neighbours (B, C) at once.
        width: D; None where the reader scores by itself.
        outputs: C.
        centre, spread: (C,) of the numbers to be read, which are learned as distances from the first in the second;
            None of classes.
    """

    def __init__(
        self,
        reader: nn.Module,
        width: int | None,
        outputs: int,
        centre: Sequence[float] | None = None,
        spread: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.head = nn.Identity() if width is None else nn.Linear(width, outputs)
        if width is not None:
            nn.init.trunc_normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)
        self.is_scaled = centre is not None
        if self.is_scaled:
            self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))
            self.register_buffer("spread", torch.tensor(spread, dtype=torch.float32))

    @classmethod
    def of(cls, config: Any, samples: Any) -> "Probe":
        """A new one. `samples` has `classes`, `streams`, role -> `width` of its tokens and `pooled` of its vector, and
        of numbers `centre` and `spread`."""
        streams, outputs = samples.streams, len(samples.classes)
        scale = (samples.centre, samples.spread) if config.targets == "target" else (None, None)
        if config.probe == "knn":
            pooled = {role: stream.pooled for role, stream in streams.items()}
            return cls(Neighbours(pooled, outputs, config.k, config.temperature, config.targets), None, outputs)
        if config.probe == "linear":
            reader: nn.Module = Normalised({role: stream.pooled for role, stream in streams.items()})
        else:
            widths = {role: stream.width for role, stream in streams.items()}
            reader = Tokens(widths, config.attention_heads, config.blocks)
        return cls(reader, reader.width, outputs, *scale)

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, C)."""
        scores_BC = self.head(self.reader(batch))
        return scores_BC * self.spread + self.centre if self.is_scaled else scores_BC


class Normalised(nn.Module):
    """Vectors side by side, each channel normalised: He et al., "Masked Autoencoders Are Scalable Vision Learners",
    CVPR 2022, appendix A.1 (an extra batch norm without affine parameters before the linear classifier).

    Args:
        widths: role -> width of its vector.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.roles, self.width = tuple(widths), sum(widths.values())
        self.norm = nn.BatchNorm1d(self.width, affine=False, eps=1e-6)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        joined_BD = torch.cat([batch[role] for role in self.roles], dim=1)
        # The spread of one sample is none: it is normalised as those before it.
        if self.training and len(joined_BD) == 1:
            return F.batch_norm(joined_BD, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        return self.norm(joined_BD)


class Tokens(nn.Module):
    """Streams of tokens, one behind the other, read by an attentive pooler.

    Streams of several features are first brought to the width of the widest by a linear layer each, whose bias also
    says of which stream a token is.

    Args:
        widths: role -> width of its tokens.
        heads: H.
        blocks: of the pooler.
    """

    def __init__(self, widths: Mapping[str, int], heads: int, blocks: int) -> None:
        super().__init__()
        self.roles, self.width = tuple(widths), max(widths.values())
        if self.width % heads:
            raise ValueError(f"attention_heads {heads} does not divide the width {self.width}; choose a divisor")
        one = len(widths) == 1
        self.inputs = nn.ModuleList(nn.Identity() if one else nn.Linear(w, self.width) for w in widths.values())
        self.pooler = AttentivePooler(self.width, heads, blocks)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        parts, there = [], []
        for role, layer in zip(self.roles, self.inputs, strict=True):
            tokens_BLD = batch[role]
            parts.append(layer(tokens_BLD))
            mask_BL = batch.get(f"{role}{MASK}")
            there.append(tokens_BLD.new_ones(tokens_BLD.shape[:2], dtype=torch.bool) if mask_BL is None else mask_BL)
        mask_BL = torch.cat(there, dim=1) if any(f"{role}{MASK}" in batch for role in self.roles) else None
        return self.pooler(torch.cat(parts, dim=1), mask_BL)


class Neighbours(nn.Module):
    """Votes of the nearest neighbours by cosine, each weighed by exp(cosine / temperature).

    Each stream's vector has length one before they are joined, so that none outweighs another. What it votes with is
    given by `remember`; as it is learned from nothing, it is in no state.

    Args:
        widths: role -> width of its vector.
        outputs: C.
        k: neighbours, or all if there are fewer.
        temperature: of the weights.
        targets: "label" gives the logarithm of each class's share of the votes; "labels" the logit of the share that
            has the class; "target" the weighted mean.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section
    3.4; k = 20 and 0.07 are those of Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, k: int, temperature: float, targets: str) -> None:
        super().__init__()
        self.roles, self.k, self.temperature, self.targets = tuple(widths), k, temperature, targets
        self.register_buffer("vectors_ND", torch.zeros(0, sum(widths.values())), persistent=False)
        self.register_buffer("said", torch.zeros(0), persistent=False)
        self.outputs = outputs

    def direction(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, D) of length one."""
        parts = [F.normalize(batch[role].float(), dim=1) for role in self.roles]
        return F.normalize(torch.cat(parts, dim=1), dim=1)

    def remember(self, vectors_ND: Tensor, said: Tensor) -> None:
        """What to vote with: directions, and the label (N,) of each, or what it says of each class or number (N, C)."""
        self.vectors_ND, self.said = vectors_ND, said

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        cosine_BK, nearest_BK = self._nearest(self.direction(batch))
        weights_BK = (cosine_BK / self.temperature).softmax(dim=1)
        said_BKC = self.said[nearest_BK]
        if self.said.ndim == 1:
            said_BKC = F.one_hot(said_BKC, self.outputs)
        share_BC = torch.einsum("bk,bkc->bc", weights_BK, said_BKC.float())
        if self.targets == "label":
            return share_BC.log()
        # A share of rounding's more than one has no logit.
        return share_BC.clamp(0, 1).logit(eps=1e-6) if self.targets == "labels" else share_BC

    def _nearest(self, queries_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and places of the nearest, best first: of one chunk after the other, so that memory is bounded."""
        best_BK = queries_BD.new_empty(queries_BD.shape[0], 0)
        place_BK = torch.empty(queries_BD.shape[0], 0, dtype=torch.int64, device=queries_BD.device)
        for start in range(0, len(self.vectors_ND), CHUNK):
            chunk = self.vectors_ND[start : start + CHUNK]
            found_BN = queries_BD @ chunk.T
            places_N = torch.arange(start, start + len(chunk), device=queries_BD.device)
            best_BK = torch.cat([best_BK, found_BN], dim=1)
            place_BK = torch.cat([place_BK, places_N.expand(queries_BD.shape[0], -1)], dim=1)
            best_BK, kept = best_BK.topk(min(self.k, best_BK.shape[1]), dim=1)
            place_BK = place_BK.gather(1, kept)
        return best_BK, place_BK
