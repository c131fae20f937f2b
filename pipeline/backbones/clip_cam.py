"""Class-activation maps of CLIP's last block, in closed form, from the tokens entering it. Knows no store, no video.

Shape suffixes: B images, T tokens (CLS, then N patches), N patches, D width, H heads, V width of a head, F width of the
MLP, E embedding width, K targets, C classes.

A target t is any vector beside the embedding: S = unit(embedding) . t is what the map explains. Grad-CAM's channel
weights are w = mean over the patches i of dS/du_i, its map u_i . w, where u is the site that is looked at. The usual
site, the output of the last block, has no map: S reads CLS alone, so dS/du_i = 0 there for every patch. Its first norm
and its input are sites where patches still count. All maps here are signed, before Grad-CAM's ReLU: ranks need the
sign, and `map.relu()` is the picture.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionModelWithProjection

from pipeline.backbones.base import BackboneError, unit
from pipeline.backbones.towers import CLIP
from pipeline.config import Weights

Site = Literal["layer_norm1", "block_input"]
ClipTower = CLIPModel | CLIPVisionModelWithProjection


class _Cls(NamedTuple):
    """CLS on its way through the block. p is the query in the terms of u: score of token i = p . u_i + const.

    Neither keys nor values of the patches are ever made: that is most of what the block costs.
    """

    u_BTD: Tensor
    p_BHD: Tensor
    attention_BHT: Tensor
    turn_BHV: Tensor  # CLS's own value less the mean value read
    y_BD: Tensor
    h_BF: Tensor
    z_BD: Tensor
    embed_BE: Tensor


class LastBlock:
    """The end of a frozen CLIP picture tower: last block, last norm, projection; a function of `Clip`'s cam_tokens.

    It computes in one dtype, whatever that of the tokens: float32 for features, float64 for tests of the formulas.

    Attributes:
        shape: (T, D) of the tokens of an image.
        grid: (rows, columns) of its N patches, row by row.
        embed_dim: E.
    """

    def __init__(
        self,
        weights: Weights | ClipTower,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        finite: bool = False,
    ):
        """
        Args:
            weights: as a feature names them, or a model, which is copied.
            device: where to compute; the CPU by default.
            dtype: in which to compute.
            finite: whether all tokens are known to be finite, as those of a store: to look costs a wait for the device.

        Raises:
            BackboneError: weights that cannot be loaded, or an activation that is not CLIP's.
        """
        model = CLIP.model(weights) if isinstance(weights, Weights) else weights
        parts = (model.vision_model.encoder.layers[-1], model.vision_model.post_layernorm, model.visual_projection)
        parts = deepcopy(nn.ModuleList(parts)).requires_grad_(False).eval().to(device or "cpu", dtype)
        self.block, self.post_norm, self.projection = parts
        self.device, self.dtype, self.finite = torch.device(device or "cpu"), dtype, finite

        config = model.vision_model.config
        if config.hidden_act not in _SLOPES:
            raise BackboneError(
                f"this CLIP's MLP uses {config.hidden_act!r}, expected {' or '.join(map(repr, _SLOPES))}; "
                "use autograd_cams, or a checkpoint with one of these"
            )
        self.slope = _SLOPES[config.hidden_act]
        cells = config.image_size // config.patch_size
        self.grid, self.shape = (cells, cells), (cells * cells + 1, config.hidden_size)
        self.embed_dim = self.projection.out_features
        attention = self.block.self_attn
        self.heads = (attention.num_heads, attention.head_dim)
        self.key_HVD, self.value_HVD = (
            projection.weight.unflatten(0, self.heads) for projection in (attention.k_proj, attention.v_proj)
        )

    @torch.inference_mode()
    def embed(self, tokens_BTD: Tensor) -> Tensor:
        """(B, E) projected embeddings, not of unit length, for 1 % of the block's arithmetic."""
        return self._read(self._checked(tokens_BTD)).embed_BE

    @torch.inference_mode()
    def cam(self, tokens_BTD: Tensor, target_BE: Tensor, site: Site = "layer_norm1") -> Tensor:
        """The map of one target an image.

        Args:
            tokens_BTD: what enters the last block, CLS first.
            target_BE: a text's unit vector or, for softmax probabilities, `softmax_target`.
            site: where the map is taken: the output of the block's first norm, or the block's input.

        Returns:
            (B, N), signed.

        Raises:
            BackboneError: tokens or targets of another shape or not finite, or another site.
        """
        if tuple(target_BE.shape) != (len(tokens_BTD), self.embed_dim):
            raise BackboneError(
                f"got targets {tuple(target_BE.shape)}, expected {(len(tokens_BTD), self.embed_dim)}: "
                "a vector an image, as wide as this CLIP's embeddings"
            )
        return self._maps(tokens_BTD, target_BE[:, None], site).squeeze(1)

    @torch.inference_mode()
    def cams(self, tokens_BTD: Tensor, site: Site = "layer_norm1") -> Tensor:
        """(B, N, E): each image's linear map from a target to its map, `cams(tokens) @ t == cam(tokens, t)`.

        At ViT-B/16 on one core 80 ms an image, twice the whole block and 50 times `cam`, and 20 to 35 MiB meanwhile.
        """
        targets_EE = torch.eye(self.embed_dim, dtype=self.dtype, device=self.device)
        return self._maps(tokens_BTD, targets_EE.expand(len(tokens_BTD), -1, -1), site).mT

    @torch.inference_mode()
    def patch_embed(self, tokens_BTD: Tensor, post_norm: bool) -> Tensor:
        """(B, N, E) projections, not of unit length, of the patches as the block leaves them.

        Args:
            tokens_BTD: what enters the last block, CLS first.
            post_norm: whether each patch passes through the last norm first, as CLS does.
        """
        patches_BND = self.block(self._checked(tokens_BTD), None)[:, 1:]
        return self.projection(self.post_norm(patches_BND) if post_norm else patches_BND)

    @torch.inference_mode()
    def value_embed(self, tokens_BTD: Tensor) -> Tensor:
        """(B, N, E) projections, not of unit length, of each patch's own value: the block without attention.

        A patch that attends speaks of the whole picture; its value, put through the output projection, the last norm
        and the projection, speaks of itself. Neither residual nor MLP is added.

        Args:
            tokens_BTD: what enters the last block, CLS first.

        Source: Miyai et al., "GL-MCM: Global and Local Maximum Concept Matching for Zero-Shot Out-of-Distribution
        Detection", IJCV 2025, after Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022.
        """
        patches_BND = self.block.layer_norm1(self._checked(tokens_BTD)[:, 1:])
        attention = self.block.self_attn
        return self.projection(self.post_norm(attention.out_proj(attention.v_proj(patches_BND))))

    @staticmethod
    def softmax_target(embed_BE: Tensor, classes_CE: Tensor, class_B: Tensor, scale: float) -> Tensor:
        """The target whose map is that of a class's softmax probability.

        For p = softmax_c(scale unit(embed) . t_c), dp_c = scale p_c (t_c - sum_j p_j t_j) . d unit(embed).

        Args:
            embed_BE: embeddings of any length.
            classes_CE: unit vectors of the classes' texts.
            class_B: index of each image's class.
            scale: of the logits; CLIP's is 100.

        Returns:
            (B, E).
        """
        probability_BC = (scale * unit(embed_BE) @ classes_CE.T).softmax(dim=1)
        own_B1 = probability_BC.gather(1, class_B[:, None])
        return scale * own_B1 * (classes_CE[class_B] - probability_BC @ classes_CE)

    # --- the closed form ----------------------------------------------------------------------------------------------

    def _maps(self, tokens_BTD: Tensor, targets_BKE: Tensor, site: Site) -> Tensor:
        """(B, K, N) maps of K targets an image."""
        check_site(site)
        x_BTD = self._checked(tokens_BTD)
        cls = self._read(x_BTD)
        pull_BKHV = self._pull(cls, targets_BKE.to(self.device, self.dtype)).unflatten(-1, self.heads)
        if site == "layer_norm1":
            return self._norm_weights(cls, pull_BKHV) @ cls.u_BTD[:, 1:].mT
        return self._input_weights(x_BTD, cls, pull_BKHV) @ x_BTD[:, 1:].mT

    def _read(self, x_BTD: Tensor) -> _Cls:
        """Runs CLS through the block and out of the tower."""
        block, attention = self.block, self.block.self_attn
        u_BTD = block.layer_norm1(x_BTD)
        query_BHV = (attention.q_proj(u_BTD[:, 0]) * attention.scale).unflatten(-1, self.heads)
        # A key's bias adds the same to every score of a head, so softmax does not see it.
        p_BHD = torch.einsum("bhv,hvd->bhd", query_BHV, self.key_HVD)
        attention_BHT = (p_BHD @ u_BTD.mT).softmax(dim=-1)
        read_BHD = attention_BHT @ u_BTD
        bias_HV = attention.v_proj.bias.unflatten(0, self.heads)
        value_BHV = torch.einsum("bhd,hvd->bhv", read_BHD, self.value_HVD) + bias_HV
        turn_BHV = torch.einsum("bhd,hvd->bhv", u_BTD[:, :1] - read_BHD, self.value_HVD)
        y_BD = x_BTD[:, 0] + attention.out_proj(value_BHV.flatten(1))
        h_BF = block.mlp.fc1(block.layer_norm2(y_BD))
        z_BD = y_BD + block.mlp.fc2(block.mlp.activation_fn(h_BF))
        return _Cls(u_BTD, p_BHD, attention_BHT, turn_BHV, y_BD, h_BF, z_BD, self.projection(self.post_norm(z_BD)))

    def _pull(self, cls: _Cls, targets_BKE: Tensor) -> Tensor:
        """(B, K, D) gradients of each S with respect to what CLS reads, its heads side by side."""
        mlp, out = self.block.mlp, self.block.self_attn.out_proj
        embed_B1E = cls.embed_BE[:, None]
        unit_B1E = unit(embed_B1E)
        along_BK1 = (targets_BKE * unit_B1E).sum(dim=-1, keepdim=True)
        g_BKE = (targets_BKE - along_BK1 * unit_B1E) / embed_B1E.norm(dim=-1, keepdim=True)
        g_BKD = _norm_vjp(self.post_norm, cls.z_BD, g_BKE @ self.projection.weight)
        g_BKF = g_BKD @ mlp.fc2.weight * self.slope(cls.h_BF)[:, None]
        g_BKD = g_BKD + _norm_vjp(self.block.layer_norm2, cls.y_BD, g_BKF @ mlp.fc1.weight)
        return g_BKD @ out.weight

    def _norm_weights(self, cls: _Cls, pull_BKHV: Tensor) -> Tensor:
        """(B, K, D): the mean over the patches of dS/du.

        A head's dS/du_i = a_i r + d_i p with r = its gradient in the terms of u, a its attention and d that of its
        scores. Over all tokens a sums to 1 and d to 0, so the sums over the patches follow from CLS alone.
        """
        cls_BH, patches = cls.attention_BHT[:, :, 0], cls.u_BTD.shape[1] - 1
        slope_BKH = cls_BH[:, None] * (pull_BKHV * cls.turn_BHV[:, None]).sum(dim=-1)
        weighted_BKD = ((1 - cls_BH)[:, None, :, None] * pull_BKHV).flatten(2) @ self.value_HVD.flatten(0, 1)
        return (weighted_BKD - slope_BKH @ cls.p_BHD) / patches

    def _input_weights(self, x_BTD: Tensor, cls: _Cls, pull_BKHV: Tensor) -> Tensor:
        """(B, K, D): the mean over the patches of dS/dx, which is dS/du through the first norm.

        dS/dx_i = (g_i - mean(g_i) - n_i mean(g_i n_i)) / deviation_i, with n_i the token normalised and g_i dS/du_i
        times the norm's weight: summed over i before any array of K, N and D is made.
        """
        norm = self.block.layer_norm1
        normal_BTD = F.layer_norm(x_BTD, norm.normalized_shape, eps=norm.eps)
        scaled_BTD = normal_BTD * norm.weight
        value_BTHV = (scaled_BTD @ self.value_HVD.flatten(0, 1).T).unflatten(-1, self.heads)
        gain_BKHT = torch.einsum("bkhv,bthv->bkht", pull_BKHV, value_BTHV)
        a_B1HT = cls.attention_BHT[:, None]
        d_BKHT = a_B1HT * (gain_BKHT - (a_B1HT * gain_BKHT).sum(dim=-1, keepdim=True))
        score_B1HT = (cls.p_BHD @ scaled_BTD.mT)[:, None]
        along_BKT = (a_B1HT * gain_BKHT + d_BKHT * score_B1HT).sum(dim=2) / x_BTD.shape[2]

        patches = x_BTD.shape[1] - 1
        share_BT = (x_BTD.var(dim=-1, correction=0) + norm.eps).rsqrt() / patches
        share_BT[:, 0] = 0  # CLS is no patch
        a_BH, d_BKH = (cls.attention_BHT @ share_BT[..., None])[..., 0], (d_BKHT @ share_BT[:, None, :, None])[..., 0]
        g_BKD = (a_BH[:, None, :, None] * pull_BKHV).flatten(2) @ self.value_HVD.flatten(0, 1) + d_BKH @ cls.p_BHD
        g_BKD = g_BKD * norm.weight
        return g_BKD - g_BKD.mean(dim=-1, keepdim=True) - (share_BT[:, None] * along_BKT) @ normal_BTD

    def _checked(self, tokens_BTD: Tensor) -> Tensor:
        if tokens_BTD.ndim != 3 or tuple(tokens_BTD.shape[1:]) != self.shape:
            raise BackboneError(
                f"got tokens {tuple(tokens_BTD.shape)}, expected (B, {self.shape[0]}, {self.shape[1]}), CLS and a "
                f"{self.grid[0]} x {self.grid[1]} grid of patches; take cam_tokens of the same weights"
            )
        tokens_BTD = tokens_BTD.to(self.device, self.dtype)
        if self.finite:
            return tokens_BTD
        finite_B = tokens_BTD.isfinite().flatten(1).all(dim=1)
        if not finite_B.all():
            rows = (~finite_B).nonzero().flatten().tolist()
            raise BackboneError(
                f"tokens of the images in rows {rows[:5]} of the batch ({len(rows)} in all) are not finite; "
                "extract those images again"
            )
        return tokens_BTD


# --- pieces -----------------------------------------------------------------------------------------------------------


def _norm_vjp(norm: nn.LayerNorm, x_BD: Tensor, g_BKD: Tensor) -> Tensor:
    """Gradients with respect to a layer norm's input, from K gradients an image with respect to its output."""
    normal_B1D = F.layer_norm(x_BD, norm.normalized_shape, eps=norm.eps)[:, None]
    g_BKD = g_BKD * norm.weight
    along_BK1 = (g_BKD * normal_B1D).mean(dim=-1, keepdim=True)
    rate_B11 = (x_BD.var(dim=-1, correction=0) + norm.eps).rsqrt()[:, None, None]
    return rate_B11 * (g_BKD - g_BKD.mean(dim=-1, keepdim=True) - normal_B1D * along_BK1)


def _quick_gelu_slope(h: Tensor) -> Tensor:
    """Derivative of h sigmoid(1.702 h)."""
    gate = torch.sigmoid(1.702 * h)
    return gate * (1 + 1.702 * h * (1 - gate))


def _gelu_slope(h: Tensor) -> Tensor:
    """Derivative of h times the normal distribution function."""
    return torch.special.ndtr(h) + h * torch.exp(-h.square() / 2) / math.sqrt(2 * math.pi)


# OpenAI's checkpoints use the first one, most trained elsewhere the second.
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": _quick_gelu_slope, "gelu": _gelu_slope}


def check_site(site: str) -> None:
    """Raises BackboneError for a site at which no map is defined."""
    if site not in get_args(Site):
        raise BackboneError(
            f"got the site {site!r}, expected {' or '.join(map(repr, get_args(Site)))}; at the last block's output "
            "every patch has the gradient 0"
        )
