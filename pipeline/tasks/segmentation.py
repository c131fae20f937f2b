"""A label a frame: action segmentation, with every class known, or with some that are known by their names alone."""

from .base import Task

CODE = {
    "samples": "pipeline.training.frames:frame_samples",
    "table": "pipeline.training.frames:Rows",
    "step": "pipeline.training.segmentation:SegmentationStep",
    "pinned": "8c80cbc405",
    "evaluate": "pipeline.evaluation.segmentation:evaluate",
    "follows": "pipeline.reports.following:frame_accuracy",
    "publish": "pipeline.reports.segmentation:publish_segmentation",
    "predict": "pipeline.prediction.segmentation:segment",
    "points": "pipeline.explanation.space:of_segments",
    "streams": "pipeline.explanation.streams:Segmentation",
    "page": "pipeline.reports.page.results:segmentation_parts",
    "looks": True,
}

SEGMENTATION = Task(
    name="segmentation",
    title="action segmentation",
    headline="acc",
    columns="pipeline.evaluation.segment_metrics:COLUMNS",
    options=("out", "transcripts"),
    headlines="pipeline.reports.page.overview:segmentation_headlines",
    **CODE,
)

ZEROSHOT = Task(
    name="zeroshot",
    title="segmentation with unseen classes",
    headline="harmonic",
    columns="pipeline.evaluation.zeroshot_metrics:COLUMNS",
    options=("out",),
    compared={"seen_unseen": "pipeline.reports.segmentation:seen_unseen_figure"},
    headlines="pipeline.reports.page.overview:zeroshot_headlines",
    **CODE,
)
