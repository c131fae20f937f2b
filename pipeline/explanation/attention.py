"""What a head with attention looks at in the evaluated videos: in a few of them, and on average in those of a class.

Shape suffixes: C classes, T steps, R rows and L columns of tokens.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.datasets import read_manifest
from pipeline.evaluation.provenance import batches, inference
from pipeline.explanation.errors import NotOffered
from pipeline.explanation.pictures import NotShown, Pictures, seen_by
from pipeline.heads.gasm_cast.attention import Look, absent
from pipeline.plugins import load
from pipeline.reports.attention import ClassLooks, WatchedClip
from pipeline.runs import Run
from pipeline.training.table import Batch
from pipeline.transfers import ON_HOST, returned

SHOWN = 2  # clips that were recognised, and as many that were not
CLASSES = 16  # of the class averages: of more classes, the commonest


def watched(run: Run) -> tuple[list[WatchedClip], ClassLooks, list[str]]:
    """The clips of highest probability, right and wrong; the class averages; what this fusion has no attention of.

    A video that is not there any more is shown without its frames.

    Raises:
        NotOffered: the head has no attention to show.
    """
    if not run.config.attention:
        raise NotOffered(f"{run.config.kind} offers no attention")
    ids = run.samples.parts["evaluated"]
    labels = torch.tensor([run.samples.labels[sample] for sample in ids])
    chosen = telling(run.predictions)
    table, kept = run.table(ids), {}
    place = {sample: row for row, sample in enumerate(ids)}
    rows = [place[sample] for sample in chosen["sample"]]
    totals: dict[Look, Tensor] = {}
    with inference(run):
        for found in returned(look_at(run, batch) for batch in batches(run, table)):
            seen = found.pop(ON_HOST)
            for at, looked in found.items():
                looked_BTN = torch.from_numpy(looked)
                if at not in totals:
                    totals[at] = torch.zeros(len(run.samples.classes), *looked_BTN.shape[1:], dtype=torch.float64)
                totals[at].index_add_(0, labels[seen], looked_BTN.double())
                for number, row in enumerate(seen.tolist()):
                    if row in rows:
                        kept.setdefault(row, {})[at] = looked_BTN[number].clone()
    counts = torch.bincount(labels, minlength=len(run.samples.classes))
    common = torch.argsort(-counts, stable=True)[:CLASSES].sort().values
    common = common[counts[common] > 0]
    means = {at: (total[common] / counts[common, None, None]) for at, total in totals.items()}
    names = [run.samples.classes[number] for number in common.tolist()]
    averages = ClassLooks(names, counts[common].tolist(), int((counts > 0).sum()), on_grid(run, means))
    clips = _with_frames(run, chosen, [on_grid(run, kept[row]) for row in rows])
    return clips, averages, absent(run.config.model, totals)


def look_at(run: Run, batch: Batch) -> dict[Look | str, Tensor]:
    """(B, T, N) of each attention, and which rows these are."""
    streams = {role: batch[role].float() for role in run.samples.streams}
    return {**load(run.config.attention)(run.model, {**batch, **streams}), ON_HOST: batch[ON_HOST]}


def on_grid(run: Run, looks: Mapping[Look, Tensor]) -> dict[Look, np.ndarray]:
    """(..., T, N) as (..., T, R, L)."""
    grids = {role: stream.grid[1:] for role, stream in run.samples.streams.items()}
    return {at: found.unflatten(-1, grids[at.stream]).numpy() for at, found in looks.items()}


def telling(predictions: pd.DataFrame) -> pd.DataFrame:
    """The most confident right answers, then the most confident wrong ones; sample, label, prediction, probability."""
    rows = predictions.assign(probability=[of[0] for of in predictions["probabilities"]])
    rows = rows.sort_values(["probability", "sample"], ascending=[False, True])
    right = rows["label"] == rows["prediction"]
    return pd.concat([rows[right][:SHOWN], rows[~right][:SHOWN]])[["sample", "label", "prediction", "probability"]]


def _with_frames(run: Run, chosen: pd.DataFrame, looks: list[dict[Look, np.ndarray]]) -> list[WatchedClip]:
    config, store = run.config, next(iter(run.samples.streams.values())).store
    manifest = read_manifest(run.manifest)
    pictures = Pictures(run.params, config.dataset, seen_by(run), manifest, chosen["sample"])
    clips = []
    for row, seen in zip(chosen.itertuples(index=False), looks, strict=True):
        times = store.meta(row.sample)["times"]
        try:
            frames, why = pictures.frames(row.sample, times), ""
        except NotShown as error:
            frames, why = None, str(error)
        clips.append(WatchedClip(row.sample, row.label, row.prediction, row.probability, times, frames, why, seen))
    return clips
