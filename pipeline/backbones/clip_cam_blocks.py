"""Class-activation maps of any of CLIP's last blocks, from the tokens entering one. Knows no store, no video.

Maps of the last block alone come in closed form, from `clip_cam`; deeper ones by automatic differentiation.

Shape suffixes: B images, T tokens (CLS, then N patches), N patches, D width, E embedding width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbones.base import BackboneError, unit
from pipeline.backbones.clip_cam import ClipTower, LastBlock, Site, check_site
from pipeline.backbones.towers import CLIP
from pipeline.config import Weights


class LastBlocks:
    """The last blocks of a frozen CLIP picture tower, for maps of more than the very last one.

    Attributes:
        last: the very last block.
    """

    def __init__(self, weights: Weights, first: int, device: torch.device | None = None, finite: bool = False):
        """
        Args:
            weights: as a feature names them.
            first: the block that the tokens enter, counted from the end: -1 is the last.
            device: where to compute; the CPU by default.
            finite: as of LastBlock.

        Raises:
            BackboneError: weights that cannot be loaded, or fewer blocks than that.
        """
        model = CLIP.model(weights)
        layers = model.vision_model.encoder.layers
        if -first > len(layers):
            raise BackboneError(f"tokens that enter block {first} of a tower of {len(layers)}; choose a later block")
        self.last, self.first = LastBlock(model, device, finite=finite), first
        self.model = model.requires_grad_(False).eval().to(device or "cpu", torch.float32)

    @torch.inference_mode()
    def before_last(self, tokens_BTD: Tensor) -> Tensor:
        """(B, T, D): what enters the very last block."""
        for layer in self.model.vision_model.encoder.layers[self.first : -1]:
            tokens_BTD = layer(tokens_BTD, None)
        return tokens_BTD

    def cam(self, tokens_BTD: Tensor, target_BE: Tensor, blocks: Sequence[int], site: Site) -> Tensor:
        """(B, N), signed: in closed form for the last block alone, otherwise by `autograd_cams`."""
        if tuple(blocks) == (-1,):
            return self.last.cam(self.before_last(tokens_BTD), target_BE, site)
        return autograd_cams(self.model, tokens_BTD, target_BE, blocks, site, self.first)


def autograd_cams(
    model: ClipTower,
    inputs: Tensor,
    target_BE: Tensor,
    blocks: Sequence[int] = (-1,),
    site: Site = "layer_norm1",
    first: int | None = None,
) -> Tensor:
    """Maps of any blocks by automatic differentiation: the reference for the closed form, and the way to deeper maps.

    Args:
        model: a CLIP with a picture tower. Its weights' gradients are neither read nor written.
        inputs: pixels (B, 3, H, W) as the model itself takes them; with `first`, the tokens (B, T, D) that enter that
            block.
        target_BE: a vector an image, as for LastBlock.cam.
        blocks: which ones; -1 is the last.
        site: where in each block.
        first: a block, counted from the end.

    Returns:
        (B, N), signed: the one block's map as it stands, or the mean of several, each scaled to [0, 1] by `minmax`
        first, since the gradients of blocks differ by magnitudes.

    Raises:
        BackboneError: no block, one that the tower lacks, or another site.
    """
    check_site(site)
    layers = model.vision_model.encoder.layers
    if not blocks or not all(-len(layers) <= block < len(layers) for block in blocks):
        raise BackboneError(f"got blocks {list(blocks)}, expected one or more of the tower's, 0 to {len(layers) - 1}")
    if first is not None and min(block % len(layers) for block in blocks) < first % len(layers):
        raise BackboneError(f"got blocks {list(blocks)} of tokens that enter block {first}; take those from there on")
    sites: dict[int, Tensor] = {}

    def record(number: int, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> Any:
        """A hook before a block or after its first norm. Frozen weights record nothing before the first site."""
        site_BTD = inputs[0] if output is None else output
        site_BTD = sites[number] = site_BTD if site_BTD.requires_grad else site_BTD.detach().requires_grad_()
        return (site_BTD, *inputs[1:]) if output is None else site_BTD

    numbers, hooks = [block % len(layers) for block in blocks], []
    with torch.inference_mode(False), torch.enable_grad():
        try:
            for number in numbers:
                hook = partial(record, number)
                if site == "block_input":
                    hooks.append(layers[number].register_forward_pre_hook(hook))
                else:
                    hooks.append(layers[number].layer_norm1.register_forward_hook(hook))
            # Clones, since what was made in inference mode cannot be recorded.
            inputs = inputs.clone()
            if first is None:
                pooled_BD = model.vision_model(inputs).pooler_output
            else:
                for layer in layers[first:]:
                    inputs = layer(inputs, None)
                pooled_BD = model.vision_model.post_layernorm(inputs[:, 0])
            embed_BE = model.visual_projection(pooled_BD)
        finally:
            for hook in hooks:
                hook.remove()
        slopes = torch.autograd.grad((unit(embed_BE) * target_BE.clone()).sum(), [sites[n] for n in numbers])
    maps = [
        torch.einsum("bnd,bd->bn", sites[number].detach()[:, 1:], slope_BTD[:, 1:].mean(dim=1))
        for number, slope_BTD in zip(numbers, slopes, strict=True)
    ]
    return maps[0] if len(maps) == 1 else torch.stack([minmax(map_BN) for map_BN in maps]).mean(dim=0)


def minmax(map_BN: Tensor) -> Tensor:
    """Each image's map scaled to [0, 1]; a constant one is 0.

    >>> minmax(torch.tensor([[-1.0, 1.0, 0.0], [3.0, 3.0, 3.0]])).tolist()
    [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]
    """
    low_B1, high_B1 = map_BN.amin(dim=-1, keepdim=True), map_BN.amax(dim=-1, keepdim=True)
    span_B1 = high_B1 - low_B1
    return (map_BN - low_B1) / torch.where(span_B1 > 0, span_B1, 1)
