"""What the channels of FACT's classifiers mean: classes, held-out classes, verbs and nouns. Knows no module.

Shape suffixes: C channels of a frame or segment classifier, K of the token classifier, A classes (C = A unless the
channels are verbs and nouns), V verbs, N nouns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MASKED = -1e4  # for the logit of a held-out class: its probability is exactly 0 in every float type, its gradient too


@dataclass(frozen=True)
class Classes:
    """A classes, either a channel each or a listed pair of verb and noun each.

    With pairs, C = [verbs | nouns] and K = [verbs | null | nouns | null]; the parts have a softmax each and
    log p(class) = log p(verb) + log p(noun). Without, C = A and K = A + 1, null last.

    Attributes:
        seen_A: bool; a class that is False was held out of training: no softmax gives it any probability. A verb or
            noun counts as seen if any seen pair has it.
        n_verbs, pairs_A2: V, and the int64 verb and noun of each class; 0 and None without verbs and nouns.
        n_nouns: N.
    """

    seen_A: Tensor
    n_verbs: int = 0
    n_nouns: int = 0
    pairs_A2: Tensor | None = None

    def channels(self, null: bool) -> int:
        """C, or K with null."""
        if self.pairs_A2 is None:
            return len(self.seen_A) + null
        return self.n_verbs + self.n_nouns + 2 * null

    def probabilities(self, logits: Tensor, null: bool) -> Tensor:
        """Softmax of (..., C or K) logits, part by part: what a block feeds on. Shape and dtype of the logits."""
        parts = self._log_softmax(logits, null)
        return torch.cat([part.exp() for part in parts], dim=-1).to(logits.dtype)

    def log_probabilities(self, logits: Tensor, null: bool) -> Tensor:
        """(..., A), or (..., A + 1) with null last: log p of each class.

        Pairs that are not listed have probability too, so with verbs and nouns a row sums to less than 1.
        """
        parts = self._log_softmax(logits, null)
        if self.pairs_A2 is None:
            return parts[0]
        verbs, nouns = parts
        pairs = verbs[..., self.pairs_A2[:, 0]] + nouns[..., self.pairs_A2[:, 1]]
        pairs = pairs.masked_fill(~self.seen_A, MASKED)
        return torch.cat([pairs, verbs[..., -1:] + nouns[..., -1:]], dim=-1) if null else pairs

    @torch.no_grad()
    def likeliest(self, logits: Tensor) -> Tensor:
        """(...) int64: the likeliest seen class of frame or segment logits (..., C)."""
        if self.pairs_A2 is None:
            return logits.masked_fill(~self.seen_A, MASKED).argmax(dim=-1)
        return self.log_probabilities(logits, null=False).argmax(dim=-1)

    def _log_softmax(self, logits: Tensor, null: bool) -> list[Tensor]:
        """Of each part, over its seen channels."""
        if self.pairs_A2 is None:
            sizes, seen = (len(self.seen_A),), (self.seen_A,)
        else:
            sizes = (self.n_verbs, self.n_nouns)
            seen = [
                self.seen_A.new_zeros(size, dtype=torch.int64).index_add_(0, pair_A, self.seen_A.long()) > 0
                for size, pair_A in zip(sizes, self.pairs_A2.unbind(1), strict=True)
            ]
        out = []
        for part, seen_C in zip(logits.split([size + null for size in sizes], dim=-1), seen, strict=True):
            if null:
                seen_C = torch.cat([seen_C, seen_C.new_ones(1)])
            out.append(part.masked_fill(~seen_C, MASKED).log_softmax(dim=-1))
        return out
