"""Chooses and reads what NegAlign's overlays show: pictures of a finished run, their maps and masks. Draws nothing.

Shape suffixes: N patches, H W pixels, C colours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.backbones import preprocessor
from pipeline.config import Params
from pipeline.datasets import read_manifest, samples_by_name, unchanged, video_folder
from pipeline.extraction.shards import refuse_stale
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
        VideoError: a picture is not where its manifest says, cannot be read any more, or was replaced.
        StoreError: a map is damaged, or of another picture than the manifest's.
    """
    finished = FinishedRun(params, head, run)
    evaluated = finished.table[finished.table["part"] == "evaluated"]
    pixels = preprocessor(tokens_feature(params, head))
    stores, folders, listed = {}, {}, {}
    for name, (dataset, prefix) in finished.sets.items():
        stores[name] = FeatureStore(features[f"{prefix}cam"], verify=True)
        folders[name] = video_folder(params.datasets[dataset])
        listed[name] = samples_by_name(read_manifest(root / dataset / "manifest.parquet"))

    def draw(row: Any) -> Overlay:
        store, background = stores[row.set], finished.config.background
        _, rows, columns = store.provenance["grid"]
        map_1N = torch.from_numpy(store.read([row.sample], "map")).float()
        mask_1N = foreground(map_1N, background.percentile, background.dilate, (rows, columns))
        of = listed[row.set][row.sample]
        refuse_stale(store, [of], row.set)
        picture_CHW = pixels(read_picture(unchanged(folders[row.set], of))[None])[0]
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
