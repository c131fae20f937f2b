"""Where a clip_align predicts that a clinician would look, beside where one did: the best and the worst of a run.

Shape suffixes: T steps, R rows and L columns of tokens.
"""

import pandas as pd

from pipeline.datasets import read_manifest
from pipeline.evaluation.provenance import inference
from pipeline.explanation.errors import NotOffered
from pipeline.explanation.pictures import NotShown, Pictures, seen_by
from pipeline.reports.maps import Marked
from pipeline.runs import Run
from pipeline.transfers import returned, uploaded

SHOWN = 3  # videos of each group
COLUMN = "map_overlap"  # of the predictions


def marked(run: Run) -> dict[str, list[Marked]]:
    """The evaluated videos whose predicted map is nearest to the clinician's, and those where it is farthest.

    A video that is not there any more is shown without its frames.

    Raises:
        NotOffered: the head predicts no map, or no evaluated video has one to compare with.
    """
    if not getattr(run.config, "predicts_map", False):
        raise NotOffered(f"{run.config.kind} predicts no attention map here")
    table = run.predictions.dropna(subset=[COLUMN]) if COLUMN in run.predictions else run.predictions[:0]
    if table.empty:
        raise NotOffered("no evaluated video has a map to compare with")
    table = table.sort_values([COLUMN, "sample"], ascending=[False, True])
    most = min(SHOWN, max(len(table) // 2, 1))
    groups = {"predicted best": table[:most], "predicted worst": table[most:][-most:]}
    groups = {name: of for name, of in groups.items() if len(of)}
    chosen = pd.concat(list(groups.values()))
    store = run.samples.streams["tokens"].store
    pictures = Pictures(run.params, run.config.dataset, seen_by(run), read_manifest(run.manifest), chosen["sample"])
    with inference(run):
        table, there = run.table(chosen["sample"].tolist()), next(run.model.parameters()).device
        (batch,) = uploaded([table[range(len(chosen))]], there)
        output = run.model(batch["tokens"], batch["maps"], batch["has_map"])
        (found,) = returned([{"predicted": output.log_map.exp(), "drawn": output.step_map}])
    shown = {}
    for row, predicted_RL, drawn_TRL in zip(chosen.itertuples(), found["predicted"], found["drawn"], strict=True):
        times = store.meta(row.sample)["times"]
        try:
            frames, why = pictures.frames(row.sample, times), ""
        except NotShown as error:
            frames, why = None, str(error)
        said = f"overlap {100 * getattr(row, COLUMN):.0f} %, {row.label}; without a map: {row.prediction_without_map}"
        shown[row.sample] = Marked(row.sample, said, times, frames, why, predicted_RL, drawn_TRL)
    return {name: [shown[sample] for sample in of["sample"]] for name, of in groups.items()}
