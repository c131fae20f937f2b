"""Where a head sees the evaluated samples: its last features, projected onto two dimensions in three ways.

Shape suffixes: N points, D width.
"""

import atexit
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from pipeline.datasets import read_manifest
from pipeline.evaluation.negatives import vectors
from pipeline.evaluation.provenance import batches, inference
from pipeline.evaluation.segment_metrics import segments
from pipeline.explanation.errors import NotOffered
from pipeline.explanation.pictures import NotShown, Pictures, seen_by, thumbnail
from pipeline.prediction.overlays import accepted_from
from pipeline.runs import Run
from pipeline.training.answers import answer
from pipeline.training.dataset import shuffled
from pipeline.training.registry import predict
from pipeline.training.table import Batch
from pipeline.transfers import ON_HOST, returned

MOST, FEWEST = 25_000, 5  # points
KEPT = 50  # principal components that t-SNE and UMAP start from
THUMBNAILS = 300
NEIGHBOURS, PERPLEXITY = 15, 30  # the libraries' own


class Points(NamedTuple):
    """What is projected.

    Attributes:
        space: what the points are, in words.
        values_ND: float32.
        names: a unique one a point.
        classes: names; labels and predicted are (N,) indices into them.
        probability: (N,), of what was predicted.
        shown: of each point (data set, sample, seconds), the frame that stands for it; None: in the middle.
    """

    space: str
    values_ND: np.ndarray
    names: list[str]
    classes: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    shown: list[tuple[str, str, float | None]]


def feature_space(run: Run) -> dict[str, Any]:
    """What results/<result>_features.json holds; see docs/explain.md. Raises NotOffered: too few points."""
    points = run.task.code("points")(run)
    found = projections(points.values_ND, run.config.seed, run.params.compute.threads, run.head)
    thumbnails, note = _thumbnails(run, points)
    return {
        "space": points.space,
        "samples": points.names,
        "classes": points.classes,
        "labels": points.labels.tolist(),
        "predicted": points.predicted.tolist(),
        "probability": points.probability.tolist(),
        "projections": found,
        "thumbnails": thumbnails,
        "thumbnails_note": note,
    }


# --- projections ------------------------------------------------------------------------------------------------------


def projections(values_ND: np.ndarray, seed: int, threads: int, head: str) -> dict[str, dict[str, Any]]:
    """PCA, and from its first components t-SNE and UMAP: name -> x, y and a note. The same to the bit at any call.

    Raises:
        NotOffered: too few points, or all the same.

    Sources: van der Maaten & Hinton, JMLR 2008; McInnes et al., "UMAP", 2018.
    """
    # Before the limits below, which hold for libraries that are loaded.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, width = values_ND.shape
    if n < FEWEST or not np.ptp(values_ND, axis=0).any():
        what = f"{n} points, expected {FEWEST} at least" if n < FEWEST else f"{n} points that are all the same"
        raise NotOffered(f"{head}: its features are {what}; evaluate more samples, or train the head again")
    state = seed % 2**32
    with threadpool_limits(threads):  # it decides the order of sums, and t-SNE makes much of a last bit
        pca = PCA(min(KEPT, n, width), svd_solver="covariance_eigh")
        kept_NK = pca.fit_transform(values_ND.astype(np.float64))
        perplexity, neighbours = min(PERPLEXITY, (n - 1) / 3), min(NEIGHBOURS, n - 1)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=state, n_jobs=1).fit_transform(kept_NK)
        umap = _umap()(n_neighbors=neighbours, init="pca", random_state=state, n_jobs=1).fit_transform(kept_NK)
    shares = 100 * pca.explained_variance_ratio_
    first = kept_NK if kept_NK.shape[1] > 1 else np.pad(kept_NK, ((0, 0), (0, 1)))
    from_what = f"of {kept_NK.shape[1]} principal components ({shares.sum():.0f} % of the variance)"
    said = ", ".join(f"{share:.0f} %" for share in shares[:2])
    return {
        "pca": _plane(first, f"explained variance {said}"),
        "tsne": _plane(tsne, f"{from_what}, perplexity {perplexity:.3g}"),
        "umap": _plane(umap, f"{from_what}, {neighbours} neighbours"),
    }


def _umap() -> type:
    """The class: seconds of compilation, which nothing else should pay for, kept for later where that is possible."""
    try:
        from umap import UMAP
    except RuntimeError as error:
        # numba's: neither the library's folder nor the home can be written to.
        if "no locator available" not in str(error):
            raise
        import numba

        folder = tempfile.TemporaryDirectory(prefix="permafrost-numba-")
        atexit.register(folder.cleanup)
        numba.config.CACHE_DIR = folder.name
        from umap import UMAP
    return UMAP


def _plane(values_N2: np.ndarray, note: str) -> dict[str, Any]:
    x, y = values_N2[:, :2].astype(np.float64).T
    return {"x": x.tolist(), "y": y.tolist(), "note": note}


# --- points, by task --------------------------------------------------------------------------------------------------


def of_classifier(run: Run) -> Points:
    """The input of the last linear layer."""
    samples, table = run.samples, run.predictions
    ids = some(samples.parts["evaluated"], run.config.seed)
    with inference(run), inputs_of_last(run.model, len(samples.classes)) as seen:

        def given(batch: Batch) -> dict[str, Tensor]:
            predict(run.model, batch, samples.streams)
            if not seen:
                raise NotOffered(f"{run.config.kind} has no linear layer that gives each class a score")
            last = seen[-1]
            seen.clear()
            return {"given": last}

        values = [found["given"] for found in returned(map(given, batches(run, run.table(ids))))]
    rows = table.set_index("sample").loc[ids]
    return Points(
        f"the features that the last layer of {run.head} reads, a point a video of {run.config.eval_split}",
        np.concatenate(values),
        ids,
        samples.classes,
        np.array([samples.labels[sample] for sample in ids]),
        _indices(rows["prediction"], samples.classes),
        np.array([max(of) for of in rows["probabilities"]]),
        [(run.config.dataset, sample, None) for sample in ids],
    )


def of_targets(run: Run) -> Points:
    """Raises NotOffered: a point has the colour of one class, and these samples have several, or numbers."""
    raise NotOffered(f"{run.head} learns {run.task.title}: a point of the feature space shows one class")


@contextmanager
def inputs_of_last(module: nn.Module, n_classes: int):
    """A list whose last entry is, after each forward, what the last linear layer with a score a class was given.

    Entries are (B, D), where the model is.
    """
    seen: list[Tensor] = []
    layers = [of for of in module.modules() if isinstance(of, nn.Linear) and of.out_features == n_classes]
    handles = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def of_segments(run: Run) -> Points:
    """Of each true segment, the mean of its frames' features after the last block."""
    samples, ids = run.samples, run.samples.parts["evaluated"]
    rows = run.predictions.set_index("sample")
    fps = run.params.datasets[run.config.dataset].label_fps or samples.streams["frames"].fps
    values, names, shown, labels, predicted, probability = [], [], [], [], [], []

    def features(batch: Batch) -> dict[str, Tensor]:
        return {"features": answer(run.model, batch)[0][-1].frame_features_BTH, ON_HOST: batch[ON_HOST]}

    with inference(run):
        for found in returned(map(features, batches(run, run.table(ids)))):
            for number, features_TH in zip(found[ON_HOST].tolist(), found["features"], strict=True):
                sample = ids[number]
                truth, guess, sure = (np.array(rows.at[sample, key]) for key in ("truth", "prediction", "confidence"))
                row_of_label = samples.row_of_label[sample]
                for start, stop in runs(truth):
                    common = np.bincount(guess[start:stop]).argmax()
                    values.append(features_TH[row_of_label[start:stop]].mean(axis=0))
                    names.append(f"{sample}, {start / fps:.1f} to {stop / fps:.1f} s")
                    shown.append((run.config.dataset, sample, (start + stop) / 2 / fps))
                    labels.append(truth[start])
                    predicted.append(common)
                    probability.append(sure[start:stop][guess[start:stop] == common].mean())
    points = Points(
        f"the mean of the last block's frame features of {run.head} over each true segment of "
        f"{run.config.eval_split}; predicted is what most of its frames were taken for",
        np.array(values),
        names,
        samples.classes,
        np.array(labels),
        np.array(predicted),
        np.array(probability),
        shown,
    )
    kept = set(some(names, run.config.seed))
    return taken(points, [row for row, name in enumerate(names) if name in kept])


def runs(labels_L: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each run of equal labels, without those below 0.

    >>> runs(np.array([4, 4, -1, 7, 7, 7]))
    [(0, 2), (3, 6)]
    """
    of = segments(labels_L)
    every = zip(of.label.tolist(), of.start.tolist(), of.stop.tolist(), strict=True)
    return [(start, stop) for label, start, stop in every if label >= 0]


def of_pictures(run: Run) -> Points:
    """CLIP's embeddings of pictures in and out of distribution."""
    table = run.predictions[run.predictions["part"] == "evaluated"].reset_index(drop=True)
    table["point"] = table["set"] + ": " + table["sample"]
    table = table[table["point"].isin(set(some(table["point"], run.config.seed)))]
    classes = ["in distribution", *(f"out: {name}" for name in sorted(run.config.ood)), "told to be out"]
    labels = _indices(table["set"], list(run.config.sets))
    inside, accepted = labels == 0, (table["negalign"] >= accepted_from(table)).to_numpy()
    values = [
        vectors(run.samples.streams[f"{run.config.sets[name][1]}image"].store, rows["sample"].tolist()).numpy()
        for name, rows in table.groupby("set", sort=False)
    ]
    return Points(
        "CLIP's embeddings of pictures, in and out of distribution; one is predicted to be in distribution where its "
        "score is reached by 95 % of those that are, a picture that is out and told to be out counts as recognised, "
        "and the probability is the score",
        np.concatenate(values),
        table["point"].tolist(),
        classes,
        labels,
        np.where(accepted, 0, np.where(inside, len(classes) - 1, labels)),
        table["negalign"].to_numpy(),
        [(run.config.sets[row.set][0], row.sample, None) for row in table.itertuples()],
    )


def some(names: Iterable[str], seed: int, most: int = MOST) -> list[str]:
    """All of them, or a part of that size that follows from the seed, in their order."""
    names = list(names)
    if len(names) <= most:
        return names
    kept = set(shuffled(names, seed)[:most])
    return [name for name in names if name in kept]


def taken(points: Points, rows: Sequence[int]) -> Points:
    """Some of the points."""
    arrays = {name: getattr(points, name)[rows] for name in ("values_ND", "labels", "predicted", "probability")}
    lists = {name: [getattr(points, name)[row] for row in rows] for name in ("names", "shown")}
    return points._replace(**arrays, **lists)


def _indices(names: Iterable[str], classes: Sequence[str]) -> np.ndarray:
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[name] for name in names])


# --- thumbnails -------------------------------------------------------------------------------------------------------


def _thumbnails(run: Run, points: Points) -> tuple[dict[str, str], str]:
    """Point -> picture, of as many as there is room for, and in words what is not there."""
    params, chosen = run.params, worth_showing(points.labels, points.predicted)
    datasets = {points.shown[row][0] for row in chosen}
    feature = seen_by(run)
    pictures = {}
    for dataset in datasets:
        manifest = read_manifest(run.root / dataset / "manifest.parquet")
        wanted = [points.shown[row][1] for row in chosen if points.shown[row][0] == dataset]
        pictures[dataset] = Pictures(params, dataset, feature, manifest, wanted)
    found, why = {}, ""
    for row in chosen:
        dataset, sample, time = points.shown[row]
        of = pictures[dataset]
        try:
            found[points.names[row]] = thumbnail(of.frames(sample, [of.middle(sample) if time is None else time])[0])
        except NotShown as error:
            why = why or str(error)
    note = f"thumbnails of {len(found)} of {len(points.names)}"
    return found, f"{note}; {len(chosen) - len(found)} could not be shown, first: {why}" if why else note


def worth_showing(labels: np.ndarray, predicted: np.ndarray, most: int = THUMBNAILS) -> list[int]:
    """Rows, ascending: errors before right answers, each in turn one of every class.

    >>> worth_showing(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 0]), 3)
    [0, 3, 4]
    """
    rows = pd.DataFrame({"right": labels == predicted, "label": labels})
    rows["turn"] = rows.groupby(["right", "label"]).cumcount()
    return sorted(rows.sort_values(["right", "turn", "label"], kind="stable").index[:most].tolist())
