"""NegAlign as one writes it from its description, image by image: what benchmarks.negalign measures ours against.

Three forwards and a backward: the embedding, Grad-CAM by hooks at the last block's first norm, the patches. Knows
nothing of pipeline. Shape suffixes: N patches, C classes, M negatives, G groups, K words of a group, E embedding width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPModel


class Answer(NamedTuple):
    """Of one image: its unit embedding, the map of its best class before ReLU, and its patches' projections."""

    image_E: Tensor
    map_N: Tensor
    patches_NE: Tensor


def look(model: CLIPModel, pixels_1CHW: Tensor, classes_CE: Tensor, cut: bool = False) -> Answer:
    """
    Args:
        model: as from_pretrained gives it, so that the backward reaches every weight of the picture tower.
        pixels_1CHW: of one image, normalised.
        classes_CE: unit vectors.
        cut: computes no other gradient than the map's own.
    """
    with torch.no_grad():
        embed_1E = model.get_image_features(pixels_1CHW).pooler_output
        predicted = int((embed_1E @ classes_CE.T).argmax())

    kept = []
    norm = model.vision_model.encoder.layers[-1].layer_norm1
    hook = norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
    again_1E = model.get_image_features(pixels_1CHW).pooler_output
    hook.remove()
    cosine = (again_1E / again_1E.norm() @ classes_CE[predicted]).sum()
    if cut:
        (slope_1TD,) = torch.autograd.grad(cosine, kept)
    else:
        kept[0].retain_grad()
        model.zero_grad()
        cosine.backward()
        slope_1TD = kept[0].grad
    map_N = kept[0].detach()[0, 1:] @ slope_1TD[0, 1:].mean(dim=0)

    with torch.no_grad():
        states = model.vision_model(pixels_1CHW, output_hidden_states=True).hidden_states[-1]
        patches_NE = model.visual_projection(states[0, 1:])
    return Answer((embed_1E / embed_1E.norm())[0], map_N, patches_NE)


def score(image_E: Tensor, classes_CE: Tensor, negatives_ME: Tensor, groups_GK: Tensor, topk: int | None) -> Tensor:
    """S_NegLabel of one image, by a softmax for each group over the classes and the group's words."""
    own_C, other_M = 100 * classes_CE @ image_E, 100 * negatives_ME @ image_E
    size, total = groups_GK.shape[1], 0
    for group_K in groups_GK:
        worst_K = other_M[group_K].topk(topk or size).values
        logits = torch.cat([own_C, worst_K + torch.log(torch.tensor(size / len(worst_K)))])
        total = total + logits.softmax(dim=0)[: len(own_C)].sum()
    return total / len(groups_GK)


def p_align(patches_NE: Tensor, foreground_N: Tensor, class_E: Tensor, background_ME: Tensor, k_neg: int) -> Tensor:
    """P_align of one image that has a background."""
    mean_E = patches_NE.float()[~foreground_N].mean(dim=0)
    unit_E = mean_E / mean_E.norm()
    return unit_E @ class_E - (background_ME @ unit_E).topk(k_neg).values.mean()


def local(patches_NE: Tensor, classes_CE: Tensor, negatives_ME: Tensor) -> Tensor:
    """The largest evidence of one image's patches: every patch against every text."""
    unit_NE = patches_NE.float() / patches_NE.float().norm(dim=1, keepdim=True)
    own_N, other_N = ((100 * unit_NE @ texts.T).logsumexp(dim=1) for texts in (classes_CE, negatives_ME))
    return (own_N - other_N).max()
