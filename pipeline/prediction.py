"""NegAlign on single picture files, and a look at a finished run of it: pixels, backbones and evaluation in one place.

Shape suffixes: B pictures, T tokens, N patches, D width, E embedding width, H W pixels, C colours.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.backbones import load, preprocessor
from pipeline.backbones.clip import unit
from pipeline.config import ClipFeature, NegAlignHead, Params
from pipeline.datasets import read_manifest, video_folder
from pipeline.evaluation.ood import Scorer, read_texts
from pipeline.extraction.cams import Cams
from pipeline.extraction.device import Device
from pipeline.heads.negalign.masks import foreground
from pipeline.heads.negalign.scores import Standard, combine
from pipeline.reports.overlays import Overlay
from pipeline.store import FeatureStore
from pipeline.video import VideoError
from pipeline.video.pictures import read_picture

SHOWN = 3  # pictures of each kind in an overlay


class PredictionError(ValueError):
    """Pictures cannot be scored as asked; the message gives the remedy."""


class Scored(NamedTuple):
    """A picture's scores: S_NegLabel, S_NegLabel*, P_align and their sum, its class, whether it has a background."""

    path: str
    plain: float
    star: float
    p_align: float
    final: float
    predicted: str
    cam_valid: bool


class FinishedRun:
    """What an evaluated NegAlign left in its folder.

    Attributes:
        lam: λ.
        standard: of S_NegLabel*, None where M3 is off.
        table: a row a picture: set, part, sample, predicted, cam_valid, neglabel, star, p_align, negalign.
        result: the whole result.
    """

    def __init__(self, params: Params, head: str, run: Path) -> None:
        """Raises PredictionError: another kind of head, or one that is not evaluated."""
        self.config: NegAlignHead = params.head(head)
        if self.config.task != "ood":
            raise PredictionError(
                f"{head} tells nothing in- from out-of-distribution; name a head of the kind negalign"
            )
        paths = run / "result.json", run / "predictions.parquet"
        remedy = f"evaluate it first, with the same params: `mine {head}`, then `evaluate {head}`"
        for path in paths:
            if not path.exists():
                raise PredictionError(f"{path} is not there: {head} has no finished run of these params; {remedy}")
        self.result: dict[str, Any] = json.loads(paths[0].read_text(encoding="utf-8"))
        self.lam, self.table = float(self.result["lambda"]), pd.read_parquet(paths[1])
        self.standard = None
        if self.config.score.zscore:
            if "standard" not in self.result:
                raise PredictionError(f"{paths[0]} does not hold the mean and deviation of its z-scores; {remedy}")
            self.standard = Standard(**self.result["standard"])

    @property
    def sets(self) -> dict[str, tuple[str, str]]:
        """ "id" and the names of the OOD sets -> (data set, prefix of its features' roles)."""
        others = {name: (dataset, f"ood.{name}.") for name, dataset in self.config.ood.items()}
        return {"id": (self.config.dataset, ""), **others}

    @property
    def threshold(self) -> float:
        """The score that 95 % of the evaluated ID pictures reach: FPR95 is what of OOD reaches it."""
        evaluated = self.table[(self.table["set"] == "id") & (self.table["part"] == "evaluated")]
        ordered = np.sort(evaluated["negalign"].to_numpy())[::-1]
        return float(ordered[-(-19 * len(ordered) // 20) - 1])


class Predictor:
    """Scores picture files as the finished run scored those of its data sets; CLIP runs once a picture.

    Numbers go through float16 where a store holds them so: a picture's scores are those of its row in the run.
    """

    def __init__(self, params: Params, head: str, root: Path, features: Mapping[str, Path], run: Path) -> None:
        """
        Args:
            params: holds the head and its features.
            head: its name.
            root: the features' folder, where the manifests of the texts lie.
            features: role -> directory of the store: classes, words.
            run: folder of the finished run.

        Raises:
            PredictionError: there is no finished run, or the head's features are not of one pass of CLIP.
            DataError, ExtractionError: its texts cannot be used.
            BackboneError: its weights cannot be loaded.
        """
        self.run = FinishedRun(params, head, run)
        config, device = self.run.config, Device(params.compute.device).device
        tokens = tokens_feature(params, head)
        self.texts = read_texts(config, head, root, features, run)
        self.pixels, self.tower = preprocessor(tokens), load(tokens, device)
        self.cams = Cams(params, config.features.cam, root)
        self.scorer = Scorer(config, head, self.texts, self.cams.blocks.last.grid, device)

    def score(self, path: Path) -> Scored:
        """Raises VideoError: the file cannot be read. PredictionError: what CLIP makes of it is not finite."""
        tokens_BTD = self.tokens(path)
        try:
            last = self.cams.blocks.last
            image_BE = _stored(unit(last.embed(self.cams.blocks.before_last(tokens_BTD))))
            maps_BN, patches_BNE = map(_stored, self.cams.of(_stored(tokens_BTD)))
            found = self.scorer.score(image_BE, maps_BN, patches_BNE)
        except ValueError as error:
            raise PredictionError(f"{path}: {error}") from error
        star_B, p_align_B = (torch.from_numpy(found[name]) for name in ("star", "p_align"))
        if self.run.standard is not None:
            star_B = self.run.standard.apply(star_B)
        final_B = combine(star_B, p_align_B, self.run.lam)
        plain, predicted, valid = (found[name].item() for name in ("neglabel", "predicted", "cam_valid"))
        scores = plain, star_B.item(), p_align_B.item(), final_B.item()
        return Scored(str(path), *scores, self.scorer.classes[predicted], valid)

    def scores(self, paths: Sequence[Path]) -> Iterator[Scored | VideoError | PredictionError]:
        """Of each file its scores, or why it has none."""
        for path in paths:
            try:
                yield self.score(path)
            except (VideoError, PredictionError) as error:
                yield error

    def tokens(self, path: Path) -> Tensor:
        """(1, T, D) float32: what enters the block that the maps begin with. Raises VideoError."""
        pixels_1CHW = torch.from_numpy(self.pixels(read_picture(path)[None]))
        return self.tower(pixels_1CHW[None])["cam_tokens"]


def _stored(values: Tensor) -> Tensor:
    return values.half().float()


def tokens_feature(params: Params, head: str) -> ClipFeature:
    """The feature of the tokens from which both of a picture's features follow.

    Raises:
        PredictionError: the head's image embedding and its maps are not of one CLIP and one view of the picture.
    """
    names = params.head(head).features
    image, cam = (params.features[name] for name in (names.image, names.cam))
    if not isinstance(image, ClipFeature) or cam.backbone != "clip_cam":
        raise PredictionError(
            f"heads.{head}.features are of the backbones {image.backbone} and {cam.backbone}, expected clip and "
            "clip_cam: only of these can single pictures be scored"
        )
    tokens = params.features[cam.source]
    for what in ("weights", "preprocess", "precision"):
        if getattr(image, what) != getattr(tokens, what):
            raise PredictionError(
                f"{names.image} and {cam.source} differ in {what}: CLIP runs once a picture, so let them be equal"
            )
    return tokens


# --- overlays ---------------------------------------------------------------------------------------------------------


def overlays(
    params: Params, head: str, features: Mapping[str, Path], root: Path, run: Path, shown: int = SHOWN
) -> tuple[FinishedRun, dict[str, list[Overlay]]]:
    """The evaluated pictures of highest, lowest and borderline scores, in and out of distribution.

    Args:
        params: holds the head.
        head: its name.
        features: role -> directory of the store: cam, ood.<name>.cam.
        root: the features' folder, where the manifests lie.
        run: folder of the finished run.
        shown: how many of each kind.

    Returns:
        The run, and what a group of pictures shares -> the pictures.

    Raises:
        PredictionError: there is no finished run.
        VideoError: a picture is not where its manifest says, or cannot be read any more.
    """
    finished = FinishedRun(params, head, run)
    evaluated = finished.table[finished.table["part"] == "evaluated"]
    pixels = preprocessor(tokens_feature(params, head))
    stores = {name: FeatureStore(features[f"{prefix}cam"]) for name, (_, prefix) in finished.sets.items()}
    paths = {}
    for name, (dataset, _) in finished.sets.items():
        frame, folder = read_manifest(root / dataset / "manifest.parquet"), video_folder(params.datasets[dataset])
        paths |= {(name, row.sample): folder / row.path for row in frame.itertuples() if isinstance(row.path, str)}

    def draw(row: Any) -> Overlay:
        store, background = stores[row.set], finished.config.background
        _, rows, columns = store.provenance["grid"]
        map_1N = torch.from_numpy(store.read([row.sample], "map")).float()
        mask_1N = foreground(map_1N, background.percentile, background.dilate, (rows, columns))
        picture_CHW = pixels(read_picture(paths[row.set, row.sample])[None])[0]
        name = row.sample if row.set == "id" else f"{row.set}: {row.sample}"
        scores = row.negalign, row.neglabel, row.p_align, row.predicted, row.cam_valid
        grids = (of_1N.view(rows, columns).numpy() for of_1N in (map_1N, ~mask_1N))
        return Overlay(name, picture_CHW.transpose(1, 2, 0), *grids, *scores)

    groups = {}
    for side, own in (
        ("ID", evaluated[evaluated["set"] == "id"]),
        ("OOD", evaluated[evaluated["set"] != "id"]),
    ):
        own = own.sort_values(["negalign", "set", "sample"], ascending=[False, True, True])
        near = (own["negalign"] - finished.threshold).abs().argsort(kind="stable")
        for kind, rows in (("highest", own[:shown]), ("borderline", own.iloc[near[:shown]]), ("lowest", own[-shown:])):
            groups[f"{side}, {kind}"] = [draw(row) for row in rows.itertuples()]
    return finished, groups
