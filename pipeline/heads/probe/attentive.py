"""V-JEPA's attentive pooler: blocks of self-attention, then a learned query that attends to their tokens.

Shape suffixes: B samples, L tokens, D width, H heads, W width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATIO = 4  # of an MLP's width to that of the tokens
STD = 0.02


class AttentivePooler(nn.Module):
    """(B, L, D) tokens -> (B, D).

    Args:
        width: D.
        heads: H, which divides it. Published: 16.
        blocks: `blocks` - 1 of self-attention, and one of cross-attention. Published: 4 (V-JEPA 2), 1 (V-JEPA).

    Source: Assran et al., "V-JEPA 2", 2025, section 5 and appendix; Bardes et al., "Revisiting Feature Prediction for
    Learning Visual Representations from Video", 2024. The cross-attention has no output projection, and normalises
    what it attends to, not its query.
    """

    def __init__(self, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SelfBlock(width, heads) for _ in range(blocks - 1))
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.cross = CrossBlock(width, heads)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.query, std=STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)
        # What is added to the residual stream by deeper blocks is smaller, as published.
        for depth, block in enumerate(self.blocks, 1):
            for layer in (block.out, block.mlp[2]):
                nn.init.trunc_normal_(layer.weight, std=STD / depth**0.5)
        nn.init.trunc_normal_(self.cross.mlp[2].weight, std=STD / (len(self.blocks) + 1) ** 0.5)

    def forward(self, tokens_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Pools. `mask_BL` is True where a token is there; padded ones are attended to by none."""
        there_B11L = None if mask_BL is None else mask_BL[:, None, None]
        for block in self.blocks:
            tokens_BLD = block(tokens_BLD, there_B11L)
        return self.cross(self.query.expand(tokens_BLD.shape[0], -1, -1), tokens_BLD, there_B11L).squeeze(1)


class SelfBlock(nn.Module):
    """Attention among tokens and an MLP, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), mlp(width)

    def forward(self, tokens_BLD: Tensor, there_B11L: Tensor | None) -> Tensor:
        q, k, v = self.qkv(self.norm(tokens_BLD)).chunk(3, dim=-1)
        tokens_BLD = tokens_BLD + self.out(attend(q, k, v, self.heads, there_B11L))
        return tokens_BLD + self.mlp(self.mlp_norm(tokens_BLD))


class CrossBlock(nn.Module):
    """Attention of a query to tokens and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.q, self.kv = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), mlp(width)

    def forward(self, query_B1D: Tensor, tokens_BLD: Tensor, there_B11L: Tensor | None) -> Tensor:
        k, v = self.kv(self.norm(tokens_BLD)).chunk(2, dim=-1)
        query_B1D = query_B1D + attend(self.q(query_B1D), k, v, self.heads, there_B11L)
        return query_B1D + self.mlp(self.mlp_norm(query_B1D))


def mlp(width: int) -> nn.Sequential:
    """Two layers with a GELU between."""
    return nn.Sequential(nn.Linear(width, RATIO * width), nn.GELU(), nn.Linear(RATIO * width, width))


def attend(q_BQD: Tensor, k_BLD: Tensor, v_BLD: Tensor, heads: int, there_B11L: Tensor | None) -> Tensor:
    """(B, Q, D): scaled dot products of several heads."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_BQD, k_BLD, v_BLD))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=there_B11L).transpose(1, 2).flatten(2)
