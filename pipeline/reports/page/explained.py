"""What explains a result: its feature space to look around in, and what it would lose. Knows documents, no file."""

from collections.abc import Iterator, Mapping
from typing import Any

from plotly.io.json import to_json_plotly

from pipeline.reports.importance import KINDS, METRICS
from pipeline.reports.page import charts
from pipeline.reports.page.blocks import Note, Section, Space, command, plot, slug
from pipeline.reports.page.gather import Result
from pipeline.reports.segmentation import class_colours
from pipeline.reports.space import NAMES

PICTURE = "data:image/"


def explained(result: Result, snakemake: str) -> Iterator[Section]:
    """The feature space and the importance of features and streams, or how they are made."""
    for kind, (title, draw) in {
        "features": ("Feature space", _space),
        "importance": ("Importance", _importance),
    }.items():
        document = result.explained.get(kind)
        if document is None and "explanation" in result.made:
            continue
        target = f"results/{result.name}/explanation"
        blocks = (
            [Note("Not made yet.", command(snakemake, target), "faint")] if document is None else draw(result, document)
        )
        yield Section(f"{result.name}-{kind}", title, blocks, contents=title.lower())


def _space(result: Result, document: Mapping[str, Any]) -> list[Any]:
    classes, projections = document["classes"], document["projections"]
    known = [name for name in NAMES if name in projections]
    colours = None if len(classes) <= len(charts.LIGHT) else class_colours(len(classes))
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
            "correctness": {"of": wrong, "names": ["right", "wrong"], "colours": None, "symbols": ["circle", "x"]},
        },
        "thumbnails": {
            sample: source for sample, source in sorted(document["thumbnails"].items()) if source.startswith(PICTURE)
        },
    }
    notes = "; ".join(f"{NAMES[name]}: {projections[name]['note']}" for name in known if projections[name].get("note"))
    said, number = document["space"], len(document["samples"])
    caption = (
        f"{said[:1].upper()}{said[1:]}: a point a sample, {number:,} in all. Near points are alike to the "
        f"model; in t-SNE and UMAP distances between groups say little. {notes}".rstrip()
    )
    switches = [NAMES[name] for name in known], list(spec["colourings"]), classes
    return [Space(slug(f"{result.name}-space"), to_json_plotly(spec), *switches, caption)]


def _importance(result: Result, document: Mapping[str, Any]) -> list[Any]:
    streams = {f"{name}: {of['feature']}": of for name, of in document["streams"].items()}
    drops = {
        said: {name: (of[kind]["drop"], of[kind]["deviation"]) for name, of in streams.items()}
        for kind, (said, _) in KINDS.items()
    }
    caption = (
        f"What {METRICS[document['metric']]}, {document['base']:.1f} % with everything, loses in "
        f"{document['samples']} samples when a stream says nothing of the sample at hand. Lines are one standard "
        "deviation: over resamples of them where a stream is replaced by its mean, over permutations where samples "
        "have that of another."
    )
    height = 130 + 62 * len(streams)
    return [plot(f"{result.name}-importance-plot", charts.drops(drops), caption, height, wide=True)]
