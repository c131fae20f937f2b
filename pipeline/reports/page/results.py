"""A section a result: what the model does and where it fails. Knows documents and tables, no store and no video."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.reports.alignment import DIRECTIONS, FORMS
from pipeline.reports.ood import FIGURES, SCORES, score_shares, threshold, titles
from pipeline.reports.page.blocks import Bar, Cell, Note, Section, Table, slug
from pipeline.reports.page.explained import explained
from pipeline.reports.page.gather import Result
from pipeline.reports.page.overview import DASH, provenance, tiles
from pipeline.reports.page.probes import baseline_parts
from pipeline.reports.page.stills import others, still
from pipeline.tasks import TASKS

EXAMPLES = 12  # rows of a table of single samples


def result_section(result: Result, mini: frozenset[str]) -> Section:
    """All that is known of a finished result."""
    title = f"{result.name}: {TASKS[result.task].title}"
    parts = [
        *baseline_parts(result, result.document or {}),
        *TASKS[result.task].code("page")(result, result.document or {}),
        *_training(result),
        *explained(result),
    ]
    parts += [*others(result, parts), provenance(result, mini)]
    blocks = [tiles(result)]
    if result.evaluation is None:
        said = "The evaluation that it was published from is gone: its curves and single samples are not shown."
        blocks.append(Note(said, f"results/{result.name}.json", "bad"))
    return Section(slug(result.name), title, blocks, f"Head {result.head}.", parts, result.name)


# --- kinds of results -------------------------------------------------------------------------------------------------


def classification_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    rows = [
        row
        if row["recall"] is None
        else {**row, "recall": 100 * row["recall"], "recall_ci95": [100 * edge for edge in row["recall_ci95"]]}
        for row in document["per_class"]
    ]
    yield _classes(result, rows, "recall", "recall")
    classes, matrix = document["confusion"]["classes"], document["confusion"]["matrix"]
    yield _confusions(result, classes, matrix, "samples")
    if others := document.get("elsewhere"):
        head = ["data set", "as", "split", "samples", "top-1", "95 %", "worst class", "of it"]
        caption = "Other data sets, of which nothing was learned or chosen; in percent."
        table = Table(head, [_elsewhere(name, of) for name, of in others.items()], caption)
        yield Section(f"{result.name}-elsewhere", "On other data sets", [table], contents="other data sets")
    mistakes = result.predictions("sample", "label", "prediction", "probabilities")
    if mistakes is not None:
        mistakes = mistakes.assign(probability=[of[0] for of in mistakes.pop("probabilities")])
        wrong = mistakes[mistakes["label"] != mistakes["prediction"]]
        wrong = wrong.sort_values(["probability", "sample"], ascending=[False, True], kind="stable").head(EXAMPLES)
        shown = [[of.sample, of.label, of.prediction, f"{100 * of.probability:.1f} %"] for of in wrong.itertuples()]
        caption = "Wrong answers that the model was surest of: a look at these samples tells most."
        table = Table(["sample", "label", "prediction", "probability"], shown, caption)
        if shown:
            yield Section(f"{result.name}-mistakes", "Surest mistakes", [table], contents="surest mistakes")
    bins = [
        [
            f"{100 * row['lower']:.0f} to {100 * row['upper']:.0f}",
            str(row["n"]),
            f"{100 * row['confidence']:.1f}",
            f"{100 * row['accuracy']:.1f}",
            "{:.1f} to {:.1f}".format(*(100 * edge for edge in row["accuracy_ci95"])),
        ]
        for row in document["calibration"]
        if row["n"]
    ]
    columns = ["confidence", "n", "mean confidence", "accuracy", "accuracy, 95 %"]
    table = Table(columns, bins, "In percent, a row a bin that has samples.", folded="the bins as a table")
    blocks = [*still(result, "reliability"), table]
    yield Section(f"{result.name}-reliability", "Reliability", blocks, contents="reliability")


def _elsewhere(name: str, of: Mapping[str, Any]) -> list[str]:
    low, high = (100 * edge for edge in of["ci95"])
    least = f"{100 * of['worst']['recall']:.1f} of {of['worst']['n']}"
    told = [of["dataset"], name, of["split"], str(of["samples"]["evaluated"])]
    return [*told, f"{100 * of['top1']:.1f}", f"{low:.1f} to {high:.1f}", of["worst"]["class"], least]


def segmentation_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    if "curve" in document:
        names = {"gamma": "γ", "seen": "S, seen", "unseen": "U, unseen", "harmonic": "H, harmonic mean"}
        names["fraction_unseen"] = "frames put on unseen"
        columns = [[f"{of:.4g}" for of in document["curve"]["gamma"]]]
        columns += [[_figure(of) for of in document["curve"][key]] for key in list(names)[1:]]
        rows = list(zip(*columns, strict=True))
        caption = f"In percent; γ = {document['gamma']:.3g} was chosen, and chance is {document['chance']:.1f}."
        table = Table(list(names.values()), rows, caption, folded="the curve as a table")
        blocks = [*still(result, "gamma"), table]
        yield Section(f"{result.name}-unseen", "Seen and unseen classes", blocks, contents="seen and unseen")
    if "decode" in document:
        yield _decoding(result, document)
    unseen = {document["classes"][index] for index in document["unseen_classes"]}
    rows = [
        {**row, "class": f"{row['class']} *" if row["class"] in unseen else row["class"]}
        for row in document["per_class"]
    ]
    yield _classes(result, rows, "recall", "frame accuracy", "; * was not seen in training" if unseen else "")
    videos = result.predictions("sample", "acc", "edit", "f1@50")
    if videos is not None:
        ordered = videos.sort_values(["f1@50", "acc", "sample"], kind="stable").to_dict("records")
        shown = [[of["sample"], *(_figure(of[key]) for key in ("acc", "edit", "f1@50"))] for of in ordered]
        caption = "Every evaluated video, worst first, in percent."
        table = Table(["video", "frame accuracy", "edit", "F1@50"], shown, caption)
        yield Section(f"{result.name}-videos", "Videos", [table], contents="videos")
    yield _confusions(result, document["classes"], document["confusion"], "frames")
    blocks = [*still(result, "worst"), *still(result, "best")]
    if blocks:
        yield Section(f"{result.name}-timelines", "Timelines", blocks, contents="timelines")


def _decoding(result: Result, document: Mapping[str, Any]) -> Section:
    """What decoding whole videos changes, and what each cost of a change of class gave on the holdout."""
    names = {"acc": "frame accuracy", "edit": "edit", "f1@50": "F1@50"}
    if "harmonic" in document:
        names |= {"seen": "S, seen", "unseen": "U, unseen", "harmonic": "H"}
    figures = [
        ["each frame by itself, as published", *(_figure(document["undecoded"][key]) for key in names)],
        ["decoded", *(_figure(document[key]) for key in names)],
    ]
    decode = document["decode"]
    told = f"Viterbi over each video; the cost of a change of class is {decode['switch']:g}, in frames of a sure score."
    blocks = [Table(["of the evaluated videos", *names.values()], figures, f"In percent. {told}")]
    if tried := decode.get("tried"):
        rows = [[f"{row['switch']:g}", *(_figure(row[key]) for key in list(names)[:3])] for row in tried]
        caption = "The costs that were tried, on videos held out of training: the one whose mean is highest is taken."
        blocks.append(Table(["cost", *list(names.values())[:3]], rows, caption, folded="the costs as a table"))
    return Section(f"{result.name}-decoding", "Decoding", blocks, contents="decoding")


def alignment_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    yield _classes(result, document["per_class"], "recall", "recall")
    yield _confusions(result, document["confusion"]["classes"], document["confusion"]["matrix"], "videos")
    rows = [
        [
            direction,
            form.replace("\n", " "),
            *(_with_interval(found, key) for key in ("r1", "r5", "chance_r1", "median_rank")),
            str(found["queries"]),
            str(found["gallery"]),
        ]
        for way, direction in DIRECTIONS.items()
        for kind, form in FORMS.items()
        if kind in document["retrieval"]
        for found in (document["retrieval"][kind][way],)
    ]
    columns = ["direction", "the video is embedded under", "R@1", "R@5", "R@1 by chance", "median rank"]
    columns += ["queries", "gallery"]
    blocks = [
        *still(result, "retrieval"),
        Table(columns, rows, "Recalls in percent, with 95 % intervals over patients."),
    ]
    videos = result.predictions(
        "sample", "label", "prediction", "similarity", "rank_video_to_map", "rank_video_to_map_unguided"
    )
    if videos is not None:
        known = videos.dropna(subset=["rank_video_to_map_unguided"])
        known = known.sort_values(["rank_video_to_map_unguided", "sample"], kind="stable").to_dict("records")
        half = EXAMPLES // 2
        chosen = known if len(known) <= EXAMPLES else [*known[:half], *known[-half:]]
        keys = ("rank_video_to_map", "rank_video_to_map_unguided")
        shown = [
            [
                of["sample"],
                of["label"],
                of["prediction"],
                *(f"{of[key]:.0f}" for key in keys),
                f"{of['similarity']:.3f}",
            ]
            for of in chosen
        ]
        caption = "Where a video's own map stands among all maps (1 is first): the videos that find it best, and worst."
        columns = ["video", "label", "prediction", "rank", "rank, unguided", "similarity"]
        blocks.append(Table(columns, shown, caption))
    yield Section(f"{result.name}-retrieval", "Retrieval", blocks, contents="retrieval")
    blocks = still(result, "attention")
    if "predicted_map" in document:
        found = document["predicted_map"]
        said = f"{found['overlap']:.1f} ({found['ci95'][0]:.1f} to {found['ci95'][1]:.1f})"
        rows = [["the clinician's of the video", said], ["another patient's", _figure(found["of_others"])]]
        caption = (
            "Overlap of the predicted map a with a drawn one m: the sum of √(a m), in percent, 100 where both agree."
        )
        blocks += [Table(["predicted map and", "overlap"], rows, caption), *still(result, "maps", "explanation")]
    if blocks:
        yield Section(f"{result.name}-attention", "Attention", blocks, contents="attention")


def _with_interval(found: Mapping[str, Any], key: str) -> str:
    """A figure with its 95 % interval, where it has one."""
    edges = (found.get("ci95") or {}).get(key)
    return _figure(found[key]) + ("" if edges is None else f" ({edges[0]:.1f} to {edges[1]:.1f})")


def ood_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    table = result.predictions("set", "part", *SCORES)
    blocks: list[Any] = still(result, "scores")
    if table is not None:
        evaluated = table[table["part"] == "evaluated"]
        for kind, title in titles(document).items():
            shares = score_shares(evaluated, kind)
            shown = [[f"{middle:.4g}", *(f"{of:.1f}" for of in row)] for middle, *row in shares.itertuples()]
            reached = threshold(evaluated[evaluated["set"] == "id"][kind].to_numpy())
            caption = (
                f"Percent of each set's pictures by score, by the middle of a bin; 95 % of ID reach {reached:.4g}."
            )
            columns = ["score", *("ID" if name == "id" else name for name in shares)]
            blocks.append(Table(columns, shown, caption, folded=f"{title} as a table"))
    if blocks:
        yield Section(f"{result.name}-scores", "Scores", blocks, contents="scores")
    rows = []
    for name, of in {**document["sets"], "mean": document["average"]}.items():
        for kind, title in titles(document).items():
            intervals = of.get("ci95", {}) if kind == "negalign" else {}
            said = [
                f"{of[kind][key]:.1f}" + ("" if key not in intervals else " ({:.1f} to {:.1f})".format(*intervals[key]))
                for key in FIGURES
            ]
            rows.append([name, title, *said])
    words = ", ".join(f"{count} {role}" for role, count in document["words"].items())
    caption = (
        f"In percent, with 95 % intervals of the final score. Negative words: {words}. λ = {document['lambda']:.3g}."
    )
    yield Section(
        f"{result.name}-sets",
        "Figures by set",
        [Table(["set", "score", *FIGURES.values()], rows, caption)],
        contents="figures by set",
    )
    sweeps = {name: of["lambda_sweep"] for name, of in document["sets"].items()} | {"mean": document["lambda_sweep"]}
    figures = [(key, name) for key in ("auroc", "fpr95") for name in sweeps]
    rows = [
        [lam, *(_figure(sweeps[name][lam][key]) for key, name in figures)]
        for lam in sorted(document["lambda_sweep"], key=float)
    ]
    columns = ["λ", *(f"{FIGURES[key]}, {name}" for key, name in figures)]
    table = Table(
        columns, rows, f"In percent; λ = {document['lambda']:.3g} was chosen.", folded="the curves as a table"
    )
    blocks = [*still(result, "lambda"), table]
    yield Section(f"{result.name}-over-lambda", "Over λ", blocks, contents="over λ")


# --- what several kinds share -----------------------------------------------------------------------------------------


def _classes(result: Result, rows: Sequence[Mapping[str, Any]], key: str, name: str, more: str = "") -> Section:
    optional = [column for column in ("precision", "recall", "f1", "f1@10", "f1@25", "f1@50") if column in rows[0]]
    scale = TASKS[result.task].scale
    table = [
        [
            row["class"],
            Cell() if row[key] is None else Cell(bar=Bar(row[key], 0.0, *(row["recall_ci95"] or ()))),
            str(row["n"]),
            DASH if row["recall_ci95"] is None else "{:.1f} to {:.1f}".format(*row["recall_ci95"]),
            *(_figure(row[column], 1 if column == key else scale) for column in optional),
        ]
        for row in sorted(rows, key=lambda row: (row[key] is None, row[key], row["class"]))
    ]
    columns = ["class", f"{name}, 0 to 100", "n", f"{name}, 95 %", *optional]
    caption = f"All {len(rows)} classes in percent, worst first; lines are 95 % intervals{more}."
    return Section(f"{result.name}-classes", "Classes", [Table(columns, table, caption)], contents="classes")


def _confusions(result: Result, classes: Sequence[str], matrix: Sequence[Sequence[int]], of: str) -> Section:
    counts = np.asarray(matrix, dtype=np.int64)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:EXAMPLES]
    pairs = [divmod(int(place), len(classes)) for place in order if wrong.flat[place]]
    rows = [
        [classes[t], classes[p], str(counts[t, p]), f"{100 * counts[t, p] / counts[t].sum():.1f} %"] for t, p in pairs
    ]
    most = Table(["true", "predicted", of, "of the true class"], rows, "What is confused most often.")
    rows = [
        [
            classes[t],
            str(counts[t].sum()),
            str(counts[t, t]),
            "; ".join(f"{classes[p]} {wrong[t, p]}" for p in np.argsort(-wrong[t], kind="stable") if wrong[t, p]),
        ]
        for t in range(len(classes))
    ]
    columns = ["true", of, "right", f"predicted instead, {of}"]
    caption = f"All {of} of every class, by what they were taken for."
    every = Table(columns, rows, caption, folded=f"all {len(classes)} classes as a table")
    blocks = [*still(result, "confusion"), *([most] if pairs else []), every]
    return Section(f"{result.name}-confusion", "Confusion", blocks, contents="confusion")


def _training(result: Result) -> Iterator[Section]:
    history = result.history
    if history is None:
        return
    scales = {"train_loss": 1, "holdout_loss": 1, "holdout_accuracy": 100}
    judged = TASKS[result.task].judged
    epochs = history.to_dict("records")
    rows = [[str(row["epoch"]), *(f"{of * row[key]:.4g}" for key, of in scales.items())] for row in epochs]
    columns = ["epoch", "loss, train", "loss, holdout", f"{judged}, holdout, %"]
    table = Table(columns, rows, "The training's history.", folded=f"all {len(rows)} epochs as a table")
    blocks = [*still(result, "training"), table]
    yield Section(f"{result.name}-training", "Training", blocks, contents="training")


def _figure(value: float | None, scale: float = 1) -> str | Cell:
    return Cell(DASH, tone="faint") if value is None or pd.isna(value) else f"{scale * value:.1f}"
