"""A diagnosis from a video and a clinician's attention, in one space."""

from .base import Column, Task

ALIGNMENT = Task(
    name="alignment",
    title="diagnosis, aligned with attention",
    headline="accuracy",
    columns=(
        *(Column(name, 1) for name in ("accuracy", "macro_f1", "auroc")),
        Column("accuracy_without_map", 1, title="without a map"),
        Column("patient.accuracy", 1, title="of patients"),
        *(
            Column(f"retrieval.{form}.{way}.r{k}", 1, best, f"R@{k} {arrow}, {form}")
            for form, best in (("published", None), ("unguided", "high"), ("shuffled", None))
            for way, arrow in (("video_to_map", "v→m"), ("map_to_video", "m→v"))
            for k in (1, 5)
        ),
        *(
            Column(f"agreement.{form}.{figure}", 2, None, f"{figure}, {form}")
            for form in ("published", "unguided")
            for figure in ("gap", "point_biserial")
        ),
    ),
    recalls=True,
    folder="results",  # where the head's specification wants the whole study
    samples="pipeline.training.clips:clip_samples",
    table="pipeline.training.clips:ClipTable",
    step="pipeline.training.alignment:AlignmentStep",
    pinned="7dbf691b63",
    evaluate="pipeline.evaluation.alignment:evaluate",
    follows="pipeline.reports.following:accuracy",
    publish="pipeline.reports.alignment:publish_alignment",
    options=("map",),
    predict="pipeline.prediction.videos:diagnose",
    points="pipeline.explanation.space:of_classifier",
    streams="pipeline.explanation.streams:Diagnosis",
    page="pipeline.reports.page.results:alignment_parts",
    headlines="pipeline.reports.page.overview:alignment_headlines",
    baselines=True,
)
