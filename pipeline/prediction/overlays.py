"""Chooses and reads what NegAlign's overlays show: pictures of a finished run, their maps and masks. Draws nothing.

Shape suffixes: N patches, H W pixels, C colours.
"""

from typing import Any

import pandas as pd
import torch

from pipeline.backbones import preprocessor
from pipeline.datasets import read_manifest, samples_by_name, unchanged, video_folder
from pipeline.extraction.shards import refuse_stale
from pipeline.heads.negalign.masks import foreground
from pipeline.prediction.pictures import tokens_feature
from pipeline.reports.ood import threshold
from pipeline.reports.overlays import Overlay
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.video.pictures import read_picture

SHOWN = 3  # pictures of each kind


def accepted_from(predictions: pd.DataFrame) -> float:
    """The score that 95 % of the evaluated ID pictures reach: FPR95 is what of OOD reaches it."""
    evaluated = predictions[(predictions["set"] == "id") & (predictions["part"] == "evaluated")]
    return threshold(evaluated["negalign"].to_numpy())


def overlays(run: Run, shown: int = SHOWN) -> dict[str, list[Overlay]]:
    """The evaluated pictures of highest, lowest and borderline scores, in and out of distribution.

    Args:
        run: a finished one of NegAlign.
        shown: how many of each kind.

    Returns:
        What a group of pictures shares -> the pictures.

    Raises:
        RunError: there is no finished run.
        VideoError: a picture is not where its manifest says, cannot be read any more, or was replaced.
        StoreError: a map is damaged, or of another picture than the manifest's.
    """
    table, config, params, accepted = run.predictions, run.config, run.params, accepted_from(run.predictions)
    evaluated = table[table["part"] == "evaluated"]
    pixels = preprocessor(tokens_feature(run))
    stores, folders, listed = {}, {}, {}
    for name, (dataset, prefix) in config.sets.items():
        stores[name] = FeatureStore(run.features[f"{prefix}cam"], verify=True)
        folders[name] = video_folder(params.datasets[dataset])
        listed[name] = samples_by_name(read_manifest(run.root / dataset / "manifest.parquet"))

    def draw(row: Any) -> Overlay:
        store, background = stores[row.set], config.background
        _, rows, columns = store.provenance["grid"]
        map_1N = torch.from_numpy(store.read([row.sample], "map")).float()
        mask_1N = foreground(map_1N, background.percentile, background.dilate, (rows, columns))
        of = listed[row.set][row.sample]
        refuse_stale(store, [of], row.set)
        picture_CHW = pixels(read_picture(unchanged(folders[row.set], of))[None])[0]
        name = row.sample if row.set == "id" else f"{row.set}: {row.sample}"
        scores = row.negalign, row.neglabel, row.p_align, row.predicted, row.cam_valid
        local = (row.local, divmod(row.patch, columns)) if config.score.local == "max" else ()
        grids = (of_1N.view(rows, columns).numpy() for of_1N in (map_1N, ~mask_1N))
        return Overlay(name, picture_CHW.transpose(1, 2, 0), *grids, *scores, *local)

    groups = {}
    for side, own in (
        ("ID", evaluated[evaluated["set"] == "id"]),
        ("OOD", evaluated[evaluated["set"] != "id"]),
    ):
        own = own.sort_values(["negalign", "set", "sample"], ascending=[False, True, True])
        near = (own["negalign"] - accepted).abs().argsort(kind="stable")
        for kind, rows in (("highest", own[:shown]), ("borderline", own.iloc[near[:shown]]), ("lowest", own[-shown:])):
            groups[f"{side}, {kind}"] = [draw(row) for row in rows.itertuples()]
    return groups
