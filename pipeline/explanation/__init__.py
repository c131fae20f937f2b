"""Why a finished run answers as it does: what it looks at, where it sees samples, which inputs it needs.

Opens stores, runs and videos; what is drawn and written is drawn and written by reports.
"""

from collections.abc import Callable, Collection
from pathlib import Path

from pipeline.accelerator import deterministic
from pipeline.digests import write_json
from pipeline.evaluation.provenance import opened
from pipeline.explanation.errors import ExplanationError, NotOffered
from pipeline.reports.files import beside, save_figure
from pipeline.reports.numbers import compact
from pipeline.runs import Run

__all__ = ["PARTS", "ExplanationError", "NotOffered", "explain"]


def explain(run: Run, out: Path, parts: Collection[str] = (), progress: Callable[[str], None] = print) -> None:
    """Writes each part into the folder `out`/explanation, where `out` is results/ssv2_top1; says what it leaves out.

    Args:
        run: an evaluated one.
        parts: of PARTS; all that the head offers if empty.
        progress: called with a line a part.

    Raises:
        ExplanationError: a part that there is not, or too little to explain.
        NotOffered: a part that was asked for, of a head that has it not.
        RunError, DataError: no finished run, and as for `evaluation.evaluate`.
    """
    _ = run.result
    opened(run)
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ExplanationError(f"there is no {unknown[0]!r} to explain; there are {', '.join(PARTS)}")
    with deterministic():
        for part, made in PARTS.items():
            if parts and part not in parts:
                continue
            try:
                progress(f"{out}: {made(run, out)}")
            except NotOffered as error:
                if parts:
                    raise
                progress(f"{out}: left out {part}: {error}")


# A part imports what it needs: scikit-learn projects features, and nothing else.
def _attention(run: Run, out: Path) -> str:
    from pipeline.explanation.attention import watched
    from pipeline.reports.attention import attention_figure, class_attention_figure

    clips, classes, absent = watched(run)
    save_figure(class_attention_figure(classes, absent), _beside(out, "class_attention.png"))
    save_figure(attention_figure(clips, absent), _beside(out, "attention.png"))
    return f"attention of {len(clips)} clips and {len(classes.names)} classes"


def _features(run: Run, out: Path) -> str:
    from pipeline.explanation.space import feature_space
    from pipeline.reports.space import space_figure

    document = feature_space(run)
    save_figure(space_figure(document), _beside(out, "features.png"))
    write_json(_beside(out, "features.json"), compact(document), indent=None)
    return f"{len(document['samples'])} points, {document['thumbnails_note']}"


def _importance(run: Run, out: Path) -> str:
    from pipeline.explanation.importance import importance
    from pipeline.reports.importance import importance_figure

    document = importance(run.task.code("streams")(run), run.config.seed)
    document = {"head": run.head, "result": run.config.result, **document}
    save_figure(importance_figure(document), _beside(out, "importance.png"))
    write_json(_beside(out, "importance.json"), compact(document), indent=None)
    drops = (f"{name} {of['permutation']['drop']:.1f}" for name, of in document["streams"].items())
    return f"{document['metric']} {document['base']:.1f}, permuted less {', '.join(drops)}"


def _maps(run: Run, out: Path) -> str:
    from pipeline.explanation.maps import marked
    from pipeline.reports.maps import maps_figure

    groups = marked(run)
    save_figure(maps_figure(groups), _beside(out, "maps.png"))
    return f"predicted maps of {sum(map(len, groups.values()))} videos"


def _overlays(run: Run, out: Path) -> str:
    from pipeline.prediction.overlays import accepted_from, overlays
    from pipeline.reports.ood import titles
    from pipeline.reports.overlays import overlays_figure
    from pipeline.video import VideoError

    if not hasattr(run.config, "ood"):
        raise NotOffered(f"{run.config.kind} has no maps of what it takes for background")
    try:
        groups = overlays(run)
    except VideoError as error:
        raise NotOffered(str(error)) from None
    figure = overlays_figure(
        groups, run.result["lambda"], accepted_from(run.predictions), titles(run.result)["negalign"]
    )
    save_figure(figure, _beside(out, "overlays.png"))
    return f"overlays of {sum(map(len, groups.values()))} pictures"


def _beside(out: Path, name: str) -> Path:
    return beside(out, name, "explanation")


PARTS = {
    "attention": _attention,
    "features": _features,
    "importance": _importance,
    "maps": _maps,
    "overlays": _overlays,
}
