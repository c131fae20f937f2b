"""Whether a picture is of the known classes at all: out-of-distribution detection. Trains nothing."""

from .base import Task

OOD = Task(
    name="ood",
    title="out-of-distribution detection",
    headline="auroc",
    columns="pipeline.evaluation.ood_metrics:COLUMNS",
    samples="pipeline.evaluation.ood:open_pictures",
    mines=("pipeline.evaluation.negatives",),
    pinned="bc1b4bffaf",
    evaluate="pipeline.evaluation.ood:evaluate",
    follows="pipeline.reports.following:auroc",
    publish="pipeline.reports.ood:publish_ood",
    predict="pipeline.prediction.pictures:score",
    points="pipeline.explanation.space:of_pictures",
    streams="pipeline.explanation.streams:Detection",
    page="pipeline.reports.page.results:ood_parts",
    headlines="pipeline.reports.page.overview:ood_headlines",
    swept=True,
)
