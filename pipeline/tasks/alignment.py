"""A diagnosis from a video and a clinician's attention, in one space."""

from .base import Task

ALIGNMENT = Task(
    name="alignment",
    title="diagnosis, aligned with attention",
    headline="accuracy",
    columns="pipeline.evaluation.alignment_metrics:COLUMNS",
    recalls=True,
    folder="results",  # where the head's specification wants the whole study
    samples="pipeline.training.clips:clip_samples",
    table="pipeline.training.clips:ClipTable",
    step="pipeline.training.alignment:AlignmentStep",
    version=2,
    pinned="09387d9682",
    evaluate="pipeline.evaluation.alignment:evaluate",
    follows="pipeline.reports.following:accuracy",
    publish="pipeline.reports.alignment:publish_alignment",
    options=("map", "out"),
    predict="pipeline.prediction.videos:diagnose",
    points="pipeline.explanation.space:of_classifier",
    streams="pipeline.explanation.streams:Diagnosis",
    page="pipeline.reports.page.results:alignment_parts",
    headlines="pipeline.reports.page.overview:alignment_headlines",
    baselines=True,
)
