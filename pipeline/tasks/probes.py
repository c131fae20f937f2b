"""What a probe reads from frozen features: one label a sample, several, or numbers. The first two are shares, and so is
R², in percent."""

from .base import Task

CODE = {
    "scale": 100.0,
    "samples": "pipeline.training.probed:probed_samples",
    "model": "pipeline.training.probed:ready",
    "table": "pipeline.training.probed:Probed",
    "step": "pipeline.training.probes:ProbeStep",
    "pinned": "d93df429b4",
    "graph": "pipeline.deployment.graphs:of_classifier",
    "evaluate": "pipeline.evaluation.probes:evaluate",
    "predict": "pipeline.prediction.probes:probe",
    "streams": "pipeline.explanation.streams:Probing",
    "baselines": True,
}

PROBE = Task(
    name="probe",
    title="what a probe recognises",
    headline="top1",
    columns="pipeline.evaluation.metrics:COLUMNS",
    follows="pipeline.reports.following:top1",
    publish="pipeline.reports.classification:publish_classification",
    points="pipeline.explanation.space:of_classifier",
    page="pipeline.reports.page.results:classification_parts",
    headlines="pipeline.reports.page.overview:classification_headlines",
    **CODE,
)

MULTILABEL = Task(
    name="multilabel",
    title="several labels a sample",
    headline="map",
    judged="mAP",
    columns="pipeline.evaluation.target_metrics:LABEL_COLUMNS",
    follows="pipeline.reports.following:mean_average_precision",
    publish="pipeline.reports.probes:publish_labels",
    points="pipeline.explanation.space:of_targets",
    page="pipeline.reports.page.probes:label_parts",
    headlines="pipeline.reports.page.overview:label_headlines",
    **CODE,
)

REGRESSION = Task(
    name="regression",
    title="numbers a sample",
    headline="r2",
    judged="R²",
    columns="pipeline.evaluation.target_metrics:NUMBER_COLUMNS",
    follows="pipeline.reports.following:r2",
    publish="pipeline.reports.probes:publish_numbers",
    points="pipeline.explanation.space:of_targets",
    page="pipeline.reports.page.probes:number_parts",
    headlines="pipeline.reports.page.overview:number_headlines",
    **CODE,
)
