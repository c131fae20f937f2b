"""One label a sample: action recognition."""

from .base import Column, Task

# The last two are those of the steps in other orders.
OF_CLASSES = (
    Column("top1", 3),
    Column("top5", 3),
    Column("ece", 3, "low"),
    Column("top1_reversed", 3, None, optional=True),
    Column("top1_shuffled", 3, None, optional=True),
)

CLASSIFICATION = Task(
    name="classification",
    title="action recognition",
    headline="top1",
    scale=100.0,
    columns=OF_CLASSES,
    samples="pipeline.training.dataset:labelled_samples",
    table="pipeline.training.tokens:Tokens",
    step="pipeline.training.classification:ClassificationStep",
    pinned="291803d3ab",
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
