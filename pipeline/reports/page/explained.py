"""What explains a result: its feature space to look around in, and what it would lose. Knows documents, no file."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.reports.importance import KINDS, METRICS
from pipeline.reports.page.blocks import Note, Section, Space, Table, embedded, slug
from pipeline.reports.page.gather import Result
from pipeline.reports.page.stills import still
from pipeline.reports.segmentation import class_colours
from pipeline.reports.space import COLOURS, NAMES

PICTURE = "data:image/"
FOLDER = "explanation"


def explained(result: Result) -> Iterator[Section]:
    """The feature space and the importance of features and streams, or how they are made."""
    if FOLDER not in result.pictures and not result.explained:
        note = Note("Not made yet.", f"results/{result.name}/{FOLDER}", "faint")
        yield Section(f"{result.name}-{FOLDER}", "Explanation", [note], contents=FOLDER)
        return
    for kind, (title, more) in {
        "features": ("Feature space", _space),
        "importance": ("Importance", _importance),
    }.items():
        document = result.explained.get(kind)
        if document is not None:
            blocks = [*still(result, kind, FOLDER), more(result, document)]
            yield Section(f"{result.name}-{kind}", title, blocks, contents=title.lower())


def _space(result: Result, document: Mapping[str, Any]) -> Space:
    classes, projections = document["classes"], document["projections"]
    known = [name for name in NAMES if name in projections]
    colours = COLOURS if len(classes) <= len(COLOURS) else class_colours(len(classes))
    wrong = [int(label != guess) for label, guess in zip(document["labels"], document["predicted"], strict=True)]
    spec = {
        "samples": document["samples"],
        "labels": document["labels"],
        "predicted": document["predicted"],
        "probability": document["probability"],
        "classes": classes,
        "projections": {NAMES[name]: projections[name] for name in known},
        "colourings": {
            "true class": {"of": document["labels"], "names": classes, "colours": colours},
            "prediction": {"of": document["predicted"], "names": classes, "colours": colours},
            "correctness": {"of": wrong, "names": ["right", "wrong"], "colours": [COLOURS[0], COLOURS[3]]},
        },
        "thumbnails": {
            sample: source for sample, source in sorted(document["thumbnails"].items()) if source.startswith(PICTURE)
        },
    }
    notes = "; ".join(f"{NAMES[name]}: {projections[name]['note']}" for name in known if projections[name].get("note"))
    said, number = document["space"], len(document["samples"])
    caption = f"{said[:1].upper()}{said[1:]}: a point a sample, {number:,} in all. {notes}".rstrip()
    switches = [NAMES[name] for name in known], list(spec["colourings"]), classes
    return Space(slug(f"{result.name}-space"), embedded(spec), *switches, caption)


def _importance(result: Result, document: Mapping[str, Any]) -> Table:
    rows = [
        [name, of["feature"], *(f"{of[kind]['drop']:.2f} ± {of[kind]['deviation']:.2f}" for kind in KINDS)]
        for name, of in document["streams"].items()
    ]
    caption = (
        f"Percentage points that {METRICS[document['metric']]}, {document['base']:.1f} % with everything, loses in "
        f"{document['samples']} samples, and one standard deviation."
    )
    return Table(["input", "feature", *(said for said, _ in KINDS.values())], rows, caption)
