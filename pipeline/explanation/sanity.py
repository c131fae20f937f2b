"""Whether a finished NegAlign may be trusted: checks with figures, each of a way in which one silently goes wrong.

Shape suffixes: B pictures, T tokens, N patches, D width, E embedding width, S mask settings.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones.base import unit
from pipeline.backbones.clip_cam import LastBlock
from pipeline.datasets import read_manifest, samples_by_name, unchanged, video_folder
from pipeline.evaluation.negatives import vectors
from pipeline.evaluation.ood import Scorer, read_patches, weigh
from pipeline.heads.negalign.masks import foreground
from pipeline.prediction import Predictor
from pipeline.runs import Run
from pipeline.store import FeatureStore

PERCENTILES = (60.0, 80.0, 95.0)
LEAST_VALID = 0.9  # share of pictures with a background
FEW, SOME, CHUNK = 4, 256, 4096  # pictures that CLIP runs on, whose patches are read, whose maps are in memory
EXACT, AS_STORED = 1e-9, 1e-3  # of scores: double precision; float16 stores and batches of another size


class Check(NamedTuple):
    """One thing that must hold, and the figures that say whether it does."""

    says: str
    figures: str
    holds: bool


def sanity(run: Run) -> list[Check]:
    """The checks of a finished run, in the order in which a failure of one explains those after it.

    Raises:
        PredictionError: there is no finished run, or single pictures cannot be scored with its features.
        VideoError: a picture that CLIP should run on cannot be read any more, or was replaced.
        StoreError: a store that is checked is damaged.
    """
    predictor = Predictor(run)
    return [found for check in CHECKS for found in check(predictor)]


def _evaluated(run: Run, most: int) -> list[str]:
    """The first evaluated ID pictures."""
    table = run.predictions
    return table[(table["set"] == "id") & (table["part"] == "evaluated")]["sample"].tolist()[:most]


def _valid(predictor: Predictor) -> Iterator[Check]:
    valid = predictor.run.predictions["cam_valid"]
    figures = f"{valid.mean():.2%} of {len(valid)}, expected {LEAST_VALID:.0%} at least"
    yield Check("pictures have a background (cam_valid)", figures, bool(valid.mean() >= LEAST_VALID))


def _maps(predictor: Predictor) -> Iterator[Check]:
    zero, constant, count = 0, 0, 0
    for name, (_, prefix) in predictor.run.config.sets.items():
        store = FeatureStore(predictor.run.features[f"{prefix}cam"], verify=True)
        ids = predictor.run.predictions.loc[predictor.run.predictions["set"] == name, "sample"].tolist()
        for start in range(0, len(ids), CHUNK):
            map_BN = store.read(ids[start : start + CHUNK], "map")
            zero += int((map_BN == 0).all(axis=1).sum())
            constant += int((map_BN == map_BN[:, :1]).all(axis=1).sum())
            count += len(map_BN)
    yield Check("no map is identically zero", f"{zero} of {count}", zero == 0)
    yield Check("no map is constant", f"{constant} of {count}", constant == 0)


def _sites(predictor: Predictor) -> Iterator[Check]:
    """Why the maps are not taken at the usual site, and that `predict` sees what the run saw."""
    run = predictor.run
    ids, listed = _evaluated(run, FEW), samples_by_name(read_manifest(run.manifest))
    folder = video_folder(run.params.datasets[run.dataset])
    paths = [unchanged(folder, listed[sample]) for sample in ids]

    cams = predictor.cams
    tokens_BTD = torch.cat([predictor.tokens(path) for path in paths])
    last, last_BTD = cams.blocks.last, cams.blocks.before_last(tokens_BTD)
    target_BE = cams.targets(last_BTD)
    usual, ours = output_map(last, last_BTD, target_BE), last.cam(last_BTD, target_BE, cams.chosen.site)
    figures = f"largest of {len(ids)} pictures {float(usual.abs().max()):.3g}"
    yield Check("by autograd, the map at the last block's output is zero", figures, not usual.any())
    least = float(ours.abs().amax(dim=1).min())
    yield Check(f"the map at {cams.chosen.site} is not", f"least of their largest {least:.3g}", least > 0)

    table = predictor.run.predictions.query("set == 'id'").set_index("sample")
    columns = {"plain": "neglabel", "star": "star", "p_align": "p_align", "final": "negalign"}
    chosen = predictor.run.config.score
    logits = {"final": chosen.scale} if chosen.local == "max" else {}  # the others are cosines and shares
    apart = max(
        abs(getattr(predictor.score(path), name) - table.loc[sample, column]) / logits.get(name, 1)
        for sample, path in zip(ids, paths, strict=True)
        for name, column in columns.items()
    )
    figures = f"largest difference of {len(ids)} pictures {apart:.1e}, expected {AS_STORED:g} at most"
    yield Check("predict gives the run's scores", figures, bool(apart <= AS_STORED))


def output_map(block: LastBlock, tokens_BTD: Tensor, target_BE: Tensor) -> Tensor:
    """(B, N): Grad-CAM where it is usually taken, at the last block's output, by automatic differentiation.

    The embedding reads CLS alone there, so no patch has a gradient, and the map is zero whatever the picture.
    """
    with torch.inference_mode(False), torch.enable_grad():
        site_BTD = block.block(tokens_BTD.clone(), None).detach().requires_grad_()
        embed_BE = block.projection(block.post_norm(site_BTD[:, 0]))
        (slope_BTD,) = torch.autograd.grad((unit(embed_BE) * target_BE.clone()).sum(), site_BTD)
    return torch.einsum("bnd,bd->bn", site_BTD.detach()[:, 1:], slope_BTD[:, 1:].mean(dim=1))


def _masks(predictor: Predictor) -> Iterator[Check]:
    ids, scorer, config = _evaluated(predictor.run, SOME), predictor.scorer, predictor.run.config
    image_BE = vectors(FeatureStore(predictor.run.features["image"], verify=True), ids).to(scorer.device)
    map_BN, patches_BNE = read_patches(FeatureStore(predictor.run.features["cam"], verify=True), ids, scorer.device)
    shares, aligned = [], []
    for percentile in PERCENTILES:
        changed = config.background.model_copy(update={"percentile": percentile})
        shares.append(foreground(map_BN, percentile, changed.dilate, scorer.grid).float().mean().item())
        other = Scorer(
            config.model_copy(update={"background": changed}),
            predictor.run.head,
            predictor.texts,
            scorer.grid,
            scorer.device,
        )
        aligned.append(other.score(image_BE, map_BN, patches_BNE)["p_align"])
    settings = " / ".join(f"{percentile:g}" for percentile in PERCENTILES)
    figures = " / ".join(f"{share:.1%}" for share in shares)
    yield Check(f"percentile {settings} hides less and less", figures, bool((np.diff(shares) < 0).all()))
    moves = [float(np.abs(after - before).mean()) for before, after in pairwise(aligned)]
    figures = " / ".join(f"{move:.3g}" for move in moves)
    yield Check("and moves P_align, in the mean by", figures, min(moves) > 0)


def _switches(predictor: Predictor) -> Iterator[Check]:
    """S_NegLabel as it is defined, P / (P + Q), against S_NegLabel* with its switches off."""
    ids, scorer, config = _evaluated(predictor.run, SOME), predictor.scorer, predictor.run.config
    image_BE = vectors(FeatureStore(predictor.run.features["image"], verify=True), ids).double().to(scorer.device)
    maps, patches = read_patches(FeatureStore(predictor.run.features["cam"], verify=True), ids, scorer.device)
    off = config.score.model_copy(update={"topk": None, "role_aware": False, "zscore": False})
    plain = Scorer(
        config.model_copy(update={"score": off}), predictor.run.head, predictor.texts, scorer.grid, scorer.device
    )
    star_B = plain.score(image_BE, maps, patches)["star"]
    fit_BC, unfit_BM = (
        (config.score.scale * (image_BE @ words.double().T)).cpu().numpy()
        for words in (scorer.classes_CE, scorer.negatives_ME)
    )
    shift_B1 = np.maximum(fit_BC.max(axis=1), unfit_BM.max(axis=1))[:, None]  # P and Q times one number: no overflow
    fit_B, unfit_BM = np.exp(fit_BC - shift_B1).sum(axis=1), np.exp(unfit_BM - shift_B1)
    literal_B = np.mean([fit_B / (fit_B + unfit_BM[:, group].sum(axis=1)) for group in scorer.plain_GK.numpy()], axis=0)
    apart = float(np.abs(star_B - literal_B).max())
    figures = f"largest difference of {len(ids)} pictures {apart:.1e}"
    yield Check("with every switch off, S* is S_NegLabel", figures, apart <= EXACT)


def _means(predictor: Predictor) -> Iterator[Check]:
    evaluated = predictor.run.predictions.query("part == 'evaluated'")
    means = evaluated.groupby("set")["negalign"].mean()
    for name in predictor.run.config.ood:
        says = f"final scores: the mean of ID is above that of {name}"
        yield Check(says, f"{means['id']:.4g} and {means[name]:.4g}", bool(means["id"] > means[name]))


def _weight(predictor: Predictor) -> Iterator[Check]:
    config, lam, table = predictor.run.config, predictor.lam, predictor.run.predictions
    both = table.groupby(["set", "sample"])["part"].nunique()
    figures = f"{int((both > 1).sum())} of {len(both)} pictures"
    yield Check("no picture is both for choosing and evaluated", figures, not (both > 1).any())
    if config.fixed_lambda is not None:
        yield Check("λ is that of params", f"{lam:.3g}", lam == config.fixed_lambda)
        return
    reference = table[table["part"] == "reference"]
    again = weigh(config, reference)
    figures = f"{lam:.3g}; from the {len(reference)} pictures for choosing alone {again:.3g}"
    yield Check("λ was chosen without evaluated pictures", figures, bool(np.isclose(again, lam, rtol=1e-6)))


CHECKS = (_valid, _maps, _sites, _masks, _switches, _means, _weight)
