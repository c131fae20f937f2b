"""A label a frame: action segmentation, with every class known, or with some that are known by their names alone."""

from .base import Column, Task

CODE = {
    "samples": "pipeline.training.frames:frame_samples",
    "table": "pipeline.training.frames:Rows",
    "step": "pipeline.training.segmentation:SegmentationStep",
    "pinned": "6135b77a1d",
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
    columns=tuple(Column(name, 1) for name in ("acc", "edit", "f1@10", "f1@25", "f1@50")),
    options=("out", "transcripts"),
    headlines="pipeline.reports.page.overview:segmentation_headlines",
    **CODE,
)

ZEROSHOT = Task(
    name="zeroshot",
    title="segmentation with unseen classes",
    headline="harmonic",
    columns=(
        *(Column(name, 1) for name in ("seen", "unseen", "harmonic", "ausuc", "seen_restricted", "unseen_restricted")),
        Column("fraction_unseen", 1, None),
        *(Column(name, 1) for name in ("acc", "edit", "f1@50")),
    ),
    options=("out",),
    compared={"seen_unseen": "pipeline.reports.segmentation:seen_unseen_figure"},
    headlines="pipeline.reports.page.overview:zeroshot_headlines",
    **CODE,
)
