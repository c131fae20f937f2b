"""Why a finished run answers as it does: what it looks at, where it sees samples, which inputs it needs.

Opens stores, runs and videos; what is drawn and written is drawn and written by reports.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pipeline.config import Params
from pipeline.digests import write_json
from pipeline.evaluation.provenance import deterministic
from pipeline.explanation.attention import watched
from pipeline.explanation.finished import ExplanationError, Finished
from pipeline.explanation.importance import importance
from pipeline.explanation.space import feature_space
from pipeline.explanation.streams import streams_of
from pipeline.reports.attention import attention_figure, class_attention_figure
from pipeline.reports.files import save_figure
from pipeline.reports.importance import importance_figure
from pipeline.reports.numbers import compact
from pipeline.reports.space import space_figure

__all__ = ["PARTS", "ExplanationError", "Finished", "explain"]


def explain(
    params: Params,
    head: str,
    manifest: Path,
    features: Mapping[str, Path],
    run: Path,
    out: Path,
    parts: Collection[str] = (),
    progress: Callable[[str], None] = print,
) -> None:
    """Writes each part beside `out`, which is a name without a suffix: results/ssv2_top1.

    Args:
        params: holds the head and `compute`.
        head: its name.
        manifest: the data set's Parquet manifest.
        features: role -> directory of the store.
        run: folder of an evaluated run.
        parts: of PARTS; all that the head has if empty.
        progress: called with a line a part.

    Raises:
        ExplanationError: a part that the head does not have, or too little to explain.
        RunError, DataError: no finished run, and as for `evaluation.evaluate`.
    """
    finished = Finished(params, head, manifest, features, run)
    has = [part for part in PARTS if part != "attention" or finished.config.task == "classification"]
    if unknown := sorted(set(parts) - set(has)):
        raise ExplanationError(f"{head} has no {unknown[0]!r} to explain; it has {', '.join(has)}")
    with deterministic():
        for part in has:
            if not parts or part in parts:
                progress(f"{out}: {PARTS[part](finished, out)}")


def _attention(finished: Finished, out: Path) -> str:
    clips, classes, absent = watched(finished)
    save_figure(class_attention_figure(classes, absent), _beside(out, "class_attention.png"))
    save_figure(attention_figure(clips, absent), _beside(out, "attention.png"))
    return f"attention of {len(clips)} clips and {len(classes.names)} classes"


def _features(finished: Finished, out: Path) -> str:
    document = feature_space(finished)
    save_figure(space_figure(document), _beside(out, "features.png"))
    write_json(_beside(out, "features.json"), compact(document), indent=None)
    return f"{len(document['samples'])} points, {document['thumbnails_note']}"


def _importance(finished: Finished, out: Path) -> str:
    document = importance(streams_of(finished), finished.config.seed)
    document = {"head": finished.head, "result": finished.config.result, **document}
    save_figure(importance_figure(document), _beside(out, "importance.png"))
    write_json(_beside(out, "importance.json"), compact(document), indent=None)
    drops = (f"{name} {of['permutation']['drop']:.1f}" for name, of in document["streams"].items())
    return f"{document['metric']} {document['base']:.1f}, permuted less {', '.join(drops)}"


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}_{ending}")


PARTS = {"attention": _attention, "features": _features, "importance": _importance}
