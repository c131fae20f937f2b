"""Chooses and reads what NegAlign's overlays show: pictures of a finished run, their maps and masks. Draws nothing.

Shape suffixes: N patches, H W pixels, C colours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.backbones import preprocessor
from pipeline.config import Params
from pipeline.datasets import read_manifest, video_folder
from pipeline.heads.negalign.masks import foreground
from pipeline.prediction.pictures import FinishedRun, tokens_feature
from pipeline.reports.overlays import Overlay
from pipeline.store import FeatureStore
from pipeline.video.pictures import read_picture

SHOWN = 3  # pictures of each kind


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
        RunError: there is no finished run.
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
