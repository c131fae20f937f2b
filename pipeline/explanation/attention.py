"""What a head with attention looks at in the evaluated videos: in a few of them, and on average in those of a class.

Shape suffixes: C classes, T steps, R rows and L columns of tokens.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.datasets import read_manifest
from pipeline.explanation.finished import Finished, NotOffered
from pipeline.explanation.pictures import NotShown, Pictures
from pipeline.heads.gasm_cast.attention import Look, absent
from pipeline.plugins import load
from pipeline.reports.attention import ClassLooks, WatchedClip
from pipeline.training.table import Batch

SHOWN = 2  # clips that were recognised, and as many that were not
CLASSES = 16  # of the class averages: of more classes, the commonest


def watched(finished: Finished) -> tuple[list[WatchedClip], ClassLooks, list[str]]:
    """The clips of highest probability, right and wrong; the class averages; what this fusion has no attention of.

    A video that is not there any more is shown without its frames.

    Raises:
        NotOffered: the head has no attention to show.
    """
    if not finished.config.attention:
        raise NotOffered(f"{finished.config.kind} offers no attention")
    ids = finished.samples.parts["evaluated"]
    labels = torch.tensor([finished.samples.labels[sample] for sample in ids])
    chosen = telling(finished.predictions)
    table, kept = finished.table(ids), {}
    place = {sample: row for row, sample in enumerate(ids)}
    rows = [place[sample] for sample in chosen["sample"]]
    totals: dict[Look, Tensor] = {}
    with finished.inference():
        for batch in finished.batches(table):
            for at, looked_BTN in look_at(finished, batch).items():
                if at not in totals:
                    totals[at] = torch.zeros(len(finished.samples.classes), *looked_BTN.shape[1:], dtype=torch.float64)
                totals[at].index_add_(0, labels[batch["row"].cpu()], looked_BTN.double())
                for number, row in enumerate(batch["row"].tolist()):
                    if row in rows:
                        kept.setdefault(row, {})[at] = looked_BTN[number].clone()
    counts = torch.bincount(labels, minlength=len(finished.samples.classes))
    common = torch.argsort(-counts, stable=True)[:CLASSES].sort().values
    common = common[counts[common] > 0]
    means = {at: (total[common] / counts[common, None, None]) for at, total in totals.items()}
    names = [finished.samples.classes[number] for number in common.tolist()]
    averages = ClassLooks(names, counts[common].tolist(), int((counts > 0).sum()), on_grid(finished, means))
    clips = _with_frames(finished, chosen, [on_grid(finished, kept[row]) for row in rows])
    return clips, averages, absent(finished.config.model, totals)


def look_at(finished: Finished, batch: Batch) -> dict[Look, Tensor]:
    """(B, T, N) on the CPU, of each attention."""
    streams = {role: batch[role].float() for role in finished.samples.streams}
    found = load(finished.config.attention)(finished.model, {**batch, **streams})
    return {at: looked.cpu() for at, looked in found.items()}


def on_grid(finished: Finished, looks: Mapping[Look, Tensor]) -> dict[Look, np.ndarray]:
    """(..., T, N) as (..., T, R, L)."""
    grids = {role: stream.grid[1:] for role, stream in finished.samples.streams.items()}
    return {at: found.unflatten(-1, grids[at.stream]).numpy() for at, found in looks.items()}


def telling(predictions: pd.DataFrame) -> pd.DataFrame:
    """The most confident right answers, then the most confident wrong ones; sample, label, prediction, probability."""
    rows = predictions.assign(probability=[of[0] for of in predictions["probabilities"]])
    rows = rows.sort_values(["probability", "sample"], ascending=[False, True])
    right = rows["label"] == rows["prediction"]
    return pd.concat([rows[right][:SHOWN], rows[~right][:SHOWN]])[["sample", "label", "prediction", "probability"]]


def _with_frames(finished: Finished, chosen: pd.DataFrame, looks: list[dict[Look, np.ndarray]]) -> list[WatchedClip]:
    config, store = finished.config, next(iter(finished.samples.streams.values())).store
    manifest = read_manifest(finished.manifest)
    pictures = Pictures(finished.params, config.dataset, finished.seen_by, manifest, chosen["sample"])
    clips = []
    for row, seen in zip(chosen.itertuples(index=False), looks, strict=True):
        times = store.meta(row.sample)["times"]
        try:
            frames, why = pictures.frames(row.sample, times), ""
        except NotShown as error:
            frames, why = None, str(error)
        clips.append(WatchedClip(row.sample, row.label, row.prediction, row.probability, times, frames, why, seen))
    return clips
