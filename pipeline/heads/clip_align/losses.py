"""The losses of clip_align: classify, tell whose map it is, put the tokens' energy where the clinician looks.

Pure functions of the model's output. Shape suffixes: B videos, E width of the embedding, T steps, H rows, W columns, D
width of a token, K classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import PUBLISHED, AlignOutput

LARGEST_SCALE = 100.0
# Standard deviation over root mean square of what counts as constant; single precision rounds by 6e-8.
CONSTANT = 1e-6


@dataclass(frozen=True)
class LossSettings:
    """How the terms are weighed.

    Attributes:
        clip_weight, lambda_token, lambda_map: of the terms beside the classification; 0 switches a term off. The last
            is of a model that predicts maps.
        label_smoothing: of the classification.
        compat: "published": the original formulas, whose positives are the diagonal and whose token term is taken after
            gating (where it is nearly free); None: this project's.
    """

    clip_weight: float
    lambda_token: float
    label_smoothing: float
    compat: str | None = None
    lambda_map: float = 0.0


def align_loss(
    output: AlignOutput,
    label_B: Tensor,
    map_B: Tensor,
    group_B: Tensor,
    settings: LossSettings,
    class_weight_K: Tensor | None = None,
) -> dict[str, Tensor]:
    """The classification + clip_weight * clip + lambda_token * token + lambda_map * map.

    Args:
        output: of the model.
        label_B: int64, the diagnoses.
        map_B: int64, the same for the same map; without meaning in rows without a map.
        group_B: int64, the same for the same patient.
        class_weight_K: of the classification.

    Returns:
        Scalars "loss", "classification", "clip", "token" and "map", the last three unweighed, and 0 where switched off.
    """
    published, valid_B = settings.compat == PUBLISHED, output.has_map
    classification = classification_loss(output.logits, label_B, settings.label_smoothing, class_weight_K)
    clip = token = maps = torch.zeros_like(classification)
    loss = classification
    if settings.clip_weight:
        positives_BB, excluded_BB = pairs(map_B, group_B, settings.compat)
        clip = clip_loss(output.video_embed, output.attn_embed, output.log_scale, positives_BB, valid_B, excluded_BB)
        loss = loss + settings.clip_weight * clip
    if settings.lambda_token:
        tokens_BTHWD = output.gated_tokens if published else output.video_tokens
        token = token_loss(tokens_BTHWD, output.token_map, valid_B)
        loss = loss + settings.lambda_token * token
    if settings.lambda_map and output.log_map is not None:
        maps = map_loss(output.log_map, output.step_map, valid_B)
        loss = loss + settings.lambda_map * maps
    return {"loss": loss, "classification": classification, "clip": clip, "token": token, "map": maps}


def classification_loss(logits_BK: Tensor, label_B: Tensor, smoothing: float, weight_K: Tensor | None = None) -> Tensor:
    """Cross entropy with label smoothing; with class weights, the weighted sum over the sum of the labels' weights."""
    return F.cross_entropy(logits_BK.float(), label_B, weight_K, label_smoothing=smoothing)


def pairs(map_B: Tensor, group_B: Tensor, compat: str | None = None) -> tuple[Tensor, Tensor]:
    """Which pairs of a batch attract each other, and which do nothing.

    Returns:
        positives (B, B), bool: the same map; published: the diagonal. Excluded (B, B), bool: another clip of the same
        patient with another map, which is neither a match nor a fair mismatch; published: none.

    >>> positives, excluded = pairs(torch.tensor([7, 7, 8, 9]), torch.tensor([0, 1, 1, 2]))
    >>> positives.int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    >>> excluded.nonzero().tolist()
    [[1, 2], [2, 1]]
    """
    if compat == PUBLISHED:
        own_BB = torch.eye(len(map_B), dtype=torch.bool, device=map_B.device)
        return own_BB, torch.zeros_like(own_BB)
    positives_BB = map_B[:, None] == map_B
    return positives_BB, (group_B[:, None] == group_B) & ~positives_BB


def clip_loss(
    video_BE: Tensor,
    attn_BE: Tensor,
    log_scale: Tensor,
    positives_BB: Tensor,
    valid_B: Tensor,
    excluded_BB: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE with several positives; 0 at perfect alignment, however many videos share a map.

    In each direction, the mean over rows of the divergence of softmax(scale * cosines) from an even share for each
    positive: the usual cross entropy, less its floor, the log of their number. On a diagonal alone, videos that share a
    map are each other's negatives: 6 maps in a batch of 32 cost 1.72 nats at best.

    Args:
        video_BE, attn_BE: unit vectors.
        log_scale: scalar; its exponential is clamped at 100.
        positives_BB: bool, the diagonal included; rows are videos, columns maps.
        valid_B: bool; the others are in no softmax.
        excluded_BB: bool, pairs that are neither positive nor negative.

    Returns:
        Scalar; 0 with a gradient of 0 if no row is valid.

    Source: Radford et al., CLIP, 2021; Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, the form that
    averages outside of the log.

    >>> maps = torch.tensor([0, 0, 1])
    >>> positives, _ = pairs(maps, maps)
    >>> round(float(clip_loss(torch.eye(2)[maps], torch.eye(2)[maps], torch.tensor(9.0), positives, maps >= 0)), 4)
    0.0
    """
    keep_BB = valid_B[:, None] & valid_B
    if excluded_BB is not None:
        keep_BB = keep_BB & ~excluded_BB
    with torch.autocast(video_BE.device.type, enabled=False):
        wide = torch.promote_types(video_BE.dtype, torch.float32)
        scale = log_scale.to(wide).exp().clamp_max(LARGEST_SCALE)
        logits_BB = scale * (video_BE.to(wide) @ attn_BE.to(wide).T)
        to_map = _divergence(logits_BB, positives_BB & keep_BB, keep_BB)
        to_video = _divergence(logits_BB.T, (positives_BB & keep_BB).T, keep_BB.T)
    return (to_map + to_video) / 2


def _divergence(logits_BB: Tensor, positives_BB: Tensor, keep_BB: Tensor) -> Tensor:
    """The mean over rows of cross entropy against an even share of each positive, less the log of their number."""
    # The least number rather than -inf: a row without any pair stays finite, and so do gradients.
    log_BB = logits_BB.masked_fill(~keep_BB, torch.finfo(logits_BB.dtype).min).log_softmax(1)
    count_B = positives_BB.sum(1)
    some_B = count_B.clamp_min(1)
    loss_B = -torch.where(positives_BB, log_BB, 0.0).sum(1) / some_B - some_B.log()
    used_B = count_B > 0
    return torch.where(used_B, loss_B, 0.0).sum() / used_B.sum().clamp_min(1)


def token_loss(tokens_BTHWD: Tensor, map_BTHW: Tensor, valid_B: Tensor) -> Tensor:
    """The mean over valid videos of 1 - Pearson correlation of the tokens' energy (their norm) and the map.

    Tokens before gating: after it, the map's part of the energy is there for free (random tokens fall from 1.00 to 0.12
    at alpha = 1).

    Args:
        map_BTHW: the `token_map`, on the same grid.
        valid_B: bool.

    Returns:
        Scalar in [0, 2]. The term of a video whose map or energy is constant is 0, with a gradient of 0.
    """
    wide = torch.promote_types(tokens_BTHWD.dtype, torch.float32)
    energy_BN = torch.linalg.vector_norm(tokens_BTHWD.to(wide), dim=-1).flatten(1)
    map_BN = map_BTHW.to(wide).flatten(1)
    use_B = valid_B & _varies(energy_BN) & _varies(map_BN)
    # Rows that have no correlation are replaced before the division, so that no NaN is there to have a gradient.
    stand_in_N = torch.linspace(0, 1, map_BN.shape[1], dtype=wide, device=map_BN.device)
    energy_BN, map_BN = (torch.where(use_B[:, None], x, stand_in_N) for x in (energy_BN, map_BN))
    one_BN, other_BN = (x - x.mean(1, keepdim=True) for x in (energy_BN, map_BN))
    correlation_B = F.cosine_similarity(one_BN, other_BN, dim=1, eps=0.0)
    return torch.where(use_B, 1 - correlation_B, 0.0).sum() / valid_B.sum().clamp_min(1)


def map_loss(log_map_BHW: Tensor, step_map_BTHW: Tensor, valid_B: Tensor) -> Tensor:
    """How far the predicted map is from the clinician's: mean_t KL(m_t || a), then the mean over videos.

    Args:
        log_map_BHW: log a; a sums to 1.
        step_map_BTHW: m, each step summing to 1, or all 0 where nothing is marked; such a step is in no mean.
        valid_B: bool; the others are in no mean, nor is a video in which no step is marked.

    Returns:
        Scalar >= 0; 0 with a gradient of 0 if no video counts.
    """
    wide = torch.promote_types(log_map_BHW.dtype, torch.float32)
    m_BTHW, log_BHW = step_map_BTHW.to(wide), log_map_BHW.to(wide)
    with torch.autocast(log_BHW.device.type, enabled=False):
        of_BT = torch.xlogy(m_BTHW, m_BTHW).sum((2, 3)) - torch.einsum("bthw,bhw->bt", m_BTHW, log_BHW)
    marked_BT = (m_BTHW.sum((2, 3)) > 0) & valid_B[:, None]
    steps_B = marked_BT.sum(1)
    of_B = torch.where(marked_BT, of_BT, 0.0).sum(1) / steps_B.clamp_min(1)
    return of_B.sum() / (steps_B > 0).sum().clamp_min(1)


def _varies(value_BN: Tensor) -> Tensor:
    """(B,) bool: not constant."""
    spread_B = (value_BN - value_BN.mean(1, keepdim=True)).norm(dim=1)
    return (spread_B > CONSTANT * value_BN.norm(dim=1)).detach()
