"""One label a sample: action recognition."""

from .base import Task

CLASSIFICATION = Task(
    name="classification",
    title="action recognition",
    headline="top1",
    scale=100.0,
    columns="pipeline.evaluation.metrics:COLUMNS",
    samples="pipeline.training.dataset:labelled_samples",
    table="pipeline.training.tokens:Tokens",
    graph="pipeline.deployment.graphs:of_classifier",
    step="pipeline.training.classification:ClassificationStep",
    pinned="379f4dabe4",
    evaluate="pipeline.evaluation.classification:evaluate",
    follows="pipeline.reports.following:top1",
    publish="pipeline.reports.classification:publish_classification",
    predict="pipeline.prediction.videos:classify",
    points="pipeline.explanation.space:of_classifier",
    streams="pipeline.explanation.streams:Recognition",
    page="pipeline.reports.page.results:classification_parts",
    headlines="pipeline.reports.page.overview:classification_headlines",
    baselines=True,
)
