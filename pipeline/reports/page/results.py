"""A section a result: what the model does and where it fails. Knows documents and tables, no store and no video."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.reports.alignment import DIRECTIONS, FORMS
from pipeline.reports.ood import FIGURES, SCORES, threshold
from pipeline.reports.page import charts
from pipeline.reports.page.blocks import Cell, Note, Section, Table, command, picture, plot, slug
from pipeline.reports.page.explained import explained
from pipeline.reports.page.gather import Result
from pipeline.reports.page.overview import DASH, provenance, tiles
from pipeline.reports.page.probes import baseline_parts
from pipeline.tasks import TASKS

EXAMPLES = 12  # rows of a table of single samples
# Stills that are on the page as plots, which say more.
REDRAWN = {"confusion", "classes", "training", "gamma", "retrieval", "scores", "lambda", "features", "importance"}
# The end of a still's name -> its alternative text, its caption.
STILLS = {
    "worst": (
        "Timelines of the worst videos: truth over prediction, wrong frames marked in red, confidence below",
        "The videos of lowest F1@50. Above what was labelled, below it what was predicted; red marks wrong frames, and "
        "the area at the bottom is the confidence. Numbers are classes, listed below the last video.",
    ),
    "best": (
        "Timelines of the best videos: truth over prediction, wrong frames marked in red, confidence below",
        "The videos of highest F1@50, drawn in the same way.",
    ),
    "overlays": (
        "Pictures of high, low and borderline scores, each with its class-activation map and its background",
        "Each picture as CLIP saw it, its class-activation map over it, and the background that P_align is computed "
        "from, the object left black.",
    ),
    "attention": (
        "Where the model looks in several videos, over their frames",
        "Where the model looks, frame by frame, in videos that it recognised and in videos that it did not.",
    ),
    "class_attention": (
        "Average attention of each class over the frames",
        "Attention, averaged over the videos of each class.",
    ),
    "scatter": (
        "What was predicted over what it is, a panel a number",
        "A point an evaluated sample; on the dotted line both are the same.",
    ),
}


def result_section(result: Result, mini: frozenset[str], snakemake: str) -> Section:
    """All that is known of a finished result."""
    title = f"{result.name}: {TASKS[result.task].title}"
    parts = [
        *baseline_parts(result, result.document or {}),
        *TASKS[result.task].code("page")(result, result.document or {}),
        *_training(result),
        *_stills(result, snakemake),
        *explained(result, snakemake),
        provenance(result, mini),
    ]
    blocks = [tiles(result)]
    if result.evaluation is None:
        said = "The evaluation that it was published from is gone: its curves and single samples are not shown."
        blocks.append(Note(said, command(snakemake, f"results/{result.name}.json"), "bad"))
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
    mistakes = result.predictions("sample", "label", "prediction", "probabilities")
    if mistakes is not None:
        mistakes = mistakes.assign(probability=[of[0] for of in mistakes.pop("probabilities")])
        wrong = mistakes[mistakes["label"] != mistakes["prediction"]]
        wrong = wrong.sort_values(["probability", "sample"], ascending=[False, True], kind="stable").head(EXAMPLES)
        shown = [[of.sample, of.label, of.prediction, f"{100 * of.probability:.1f} %"] for of in wrong.itertuples()]
        caption = "Wrong answers that the model was surest of: a look at these samples tells most."
        yield Section(
            f"{result.name}-mistakes",
            "Surest mistakes",
            [Table(["sample", "label", "prediction", "probability"], shown, caption)],
            contents="surest mistakes",
        )
    between = " to ".join(f"{100 * edge:.1f}" for edge in document["ece_ci95"])
    caption = (
        f"How often the model is right when it is this sure. On the dotted line it would be calibrated; the expected "
        f"calibration error, the mean distance from it, is {100 * document['ece']:.1f} points "
        f"({between}). Lines are 95 % intervals of a bin's accuracy."
    )
    figure = charts.reliability(document["calibration"])
    yield Section(
        f"{result.name}-reliability",
        "Reliability",
        [plot(f"{result.name}-reliability-plot", figure, caption, 380)],
        contents="reliability",
    )


def segmentation_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    if "curve" in document:
        lines, area = charts.gamma(document)
        blocks = [
            plot(
                f"{result.name}-gamma",
                lines,
                "Accuracy on seen and unseen classes, all of them to choose from, as γ is taken from the scores of "
                f"seen ones. γ = {document['gamma']:.3g} was chosen on classes that a second training did not see.",
            ),
            plot(
                f"{result.name}-ausuc",
                area,
                "Seen over unseen accuracy: every γ is a point of the curve, and the area below it is AUSUC, "
                f"{document['ausuc']:.1f}."
                if document["ausuc"] is not None
                else "Seen over unseen accuracy.",
            ),
        ]
        yield Section(f"{result.name}-unseen", "Seen and unseen classes", blocks, contents="seen and unseen")
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


def alignment_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    yield _classes(result, document["per_class"], "recall", "recall")
    yield _confusions(result, document["confusion"]["classes"], document["confusion"]["matrix"], "videos")
    blocks = []
    for direction, name in DIRECTIONS.items():
        found = {form: of[direction] for form, of in document["retrieval"].items()}
        forms = {form: said.replace("\n", "<br>") for form, said in FORMS.items()}
        chance = next((of["chance_r1"] for of in found.values() if of["chance_r1"] is not None), None)
        one = found["published"]
        caption = (
            f"{name.capitalize()}: how often the right one is first, or among the first five, of {one['gallery']}, in "
            f"{one['queries']} queries. Under its own map a video may find it by the map it was shown (the leak); "
            "under a uniform one it cannot."
        )
        blocks.append(plot(f"{result.name}-{direction}", charts.retrieval(forms, found, chance), caption, 340))
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


def ood_parts(result: Result, document: Mapping[str, Any]) -> Iterator[Section]:
    table = result.predictions("set", "part", *SCORES)
    if table is not None:
        evaluated = table[table["part"] == "evaluated"]
        inside = evaluated[evaluated["set"] == "id"]
        blocks = []
        for name, of in document["sets"].items():
            outside = evaluated[evaluated["set"] == name]
            for kind, title in SCORES.items():
                scores = inside[kind].to_numpy()
                figure = charts.score_histogram(scores, outside[kind].to_numpy(), threshold(scores))
                caption = (
                    f"{name}: {title}. Dashed, the score that 95 % of the ID pictures reach; FPR95, the share of OOD "
                    f"above it, is {of[kind]['fpr95']:.1f} %, AUROC {of[kind]['auroc']:.1f} %."
                )
                blocks.append(plot(f"{result.name}-{name}-{kind}", figure, caption, 280))
        yield Section(f"{result.name}-scores", "Scores", blocks, contents="scores")
    rows = []
    for name, of in {**document["sets"], "mean": document["average"]}.items():
        for kind, title in SCORES.items():
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
    blocks = [
        plot(
            f"{result.name}-lambda-{key}",
            charts.over_lambda(sweeps, document["lambda"], key, FIGURES[key]),
            f"{FIGURES[key]} of the evaluated pictures over λ, the weight of P_align, which was chosen without them.",
            320,
        )
        for key in ("auroc", "fpr95")
    ]
    yield Section(f"{result.name}-over-lambda", "Over λ", blocks, contents="over λ")


# --- what several kinds share -----------------------------------------------------------------------------------------


def _classes(result: Result, rows: Sequence[Mapping[str, Any]], key: str, name: str, more: str = "") -> Section:
    figure, shown = charts.class_bars(rows, key, name)
    some = (
        f"the {charts.EDGE} worst and the {charts.EDGE} best of {len(rows)} classes"
        if shown < len(rows)
        else "every class"
    )
    caption = f"{name.capitalize()} of {some} with its 95 % interval, worst on top{more}."
    bars = plot(f"{result.name}-classes-plot", figure, caption, 120 + 19 * shown, wide=True)
    optional = [column for column in ("precision", "recall", "f1", "f1@10", "f1@25", "f1@50") if column in rows[0]]
    scale = TASKS[result.task].scale
    table = [
        [
            row["class"],
            str(row["n"]),
            DASH if row["recall_ci95"] is None else "{:.1f} to {:.1f}".format(*row["recall_ci95"]),
            *(_figure(row[column], 1 if column == key else scale) for column in optional),
        ]
        for row in sorted(rows, key=lambda row: (row[key] is None, row[key], row["class"]))
    ]
    columns, folded = ["class", "n", f"{name}, 95 %", *optional], f"all {len(rows)} classes as a table"
    every = Table(columns, table, "In percent, worst first.", folded=folded)
    return Section(f"{result.name}-classes", "Classes", [bars, every], contents="classes")


def _confusions(result: Result, classes: Sequence[str], matrix: Sequence[Sequence[int]], of: str) -> Section:
    caption = (
        f"A row a true class, a column a prediction: the stronger the colour, the more of the row's {of} went there."
    )
    chart = charts.confusion(classes, matrix, of)
    names = max(map(len, chart.layout.xaxis.ticktext or [""]))
    size = min(800, 180 + 5 * names + 15 * len(classes))
    figure = plot(
        f"{result.name}-confusion-plot",
        chart,
        caption,
        size,
        wide=True,
        widest=size + 120,
    )
    counts = np.asarray(matrix, dtype=np.int64)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:EXAMPLES]
    pairs = [divmod(int(place), len(classes)) for place in order if wrong.flat[place]]
    rows = [
        [classes[t], classes[p], str(counts[t, p]), f"{100 * counts[t, p] / counts[t].sum():.1f} %"] for t, p in pairs
    ]
    table = Table(["true", "predicted", of, "of the true class"], rows, "What is confused most often.")
    return Section(f"{result.name}-confusion", "Confusion", [figure, table], contents="confusion")


def _training(result: Result) -> Iterator[Section]:
    history = result.history
    if history is None:
        return
    loss = {"train_loss": "train", "holdout_loss": "holdout"}
    judged = TASKS[result.task].judged
    accuracy = {"holdout_accuracy": f"holdout {judged}"}
    blocks = [
        plot(
            f"{result.name}-loss",
            charts.training(history, loss, "loss", False),
            "Loss by epoch, of what is learned from and of what is held out.",
            300,
        ),
        plot(
            f"{result.name}-accuracy",
            charts.training(history, accuracy, f"{judged}, %", True),
            f"{judged[0].upper()}{judged[1:]} on what is held out; the weights of the dotted epoch are kept.",
            300,
        ),
    ]
    yield Section(f"{result.name}-training", "Training", blocks, contents="training")


def _stills(result: Result, snakemake: str) -> Iterator[Section]:
    blocks = []
    order = [*STILLS, *(name for name in result.pictures if name not in STILLS)]
    for name in order:
        path = result.pictures.get(name)
        folder = TASKS[result.task].expected.get(name)
        if path is None and folder is not None and folder not in result.made:
            target = f"results/{result.name}/{folder}"
            blocks.append(Note(f"{target}/pictures/{name}.png is not made yet.", command(snakemake, target), "faint"))
        if path is None or name in REDRAWN:
            continue
        alt, caption = STILLS.get(name, (f"{name.replace('_', ' ')} of {result.name}", f"{name.replace('_', ' ')}."))
        blocks.append(picture(path, alt, caption))
    if blocks:
        yield Section(f"{result.name}-pictures", "Pictures", blocks, contents="pictures")


def _figure(value: float | None, scale: float = 1) -> str | Cell:
    return Cell(DASH, tone="faint") if value is None or pd.isna(value) else f"{scale * value:.1f}"
