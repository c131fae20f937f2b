"""From caches and negative words to out-of-distribution scores: nothing is trained, no picture is opened.

Shape suffixes: B pictures, N patches, E embedding width, C ID classes, M negative words.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.accelerator import device
from pipeline.datasets.manifest import read_manifest
from pipeline.digests import json_bytes
from pipeline.evaluation.draws import Draws
from pipeline.evaluation.negatives import TABLE, embedded, read_negatives, vectors
from pipeline.evaluation.ood_metrics import (
    FIGURES,
    choose_lambda,
    fit_lambda,
    lambda_sweep,
    ood_draws,
    ood_intervals,
    ood_metrics,
)
from pipeline.evaluation.provenance import Evaluated, read_ahead
from pipeline.heads.negalign.config import NegAlignHead
from pipeline.heads.negalign.local import evidence, local_evidence
from pipeline.heads.negalign.masks import background_embedding, foreground, p_align
from pipeline.heads.negalign.scores import Standard, Variant, combine, groups, neglabels, predict
from pipeline.heads.negalign.words import by_role
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.training.dataset import DataError, refuse_mixed, refuse_stale, shuffled, usable
from pipeline.training.table import Batch, Table
from pipeline.transfers import returned, sent, uploaded

GROUPS = "groups.json"
CHUNK = 256  # pictures whose patches are in memory at once
KINDS = ("neglabel", "star", "negalign")  # S_NegLabel, S_NegLabel*, and the score of `score.local`
# `score.local` -> what it is the sum of: a column, and λ times another.
TERMS: dict[str, tuple[str, str | None]] = {
    "max": ("evidence", "local"),
    "p_align": ("star", "p_align"),
    "none": ("star", None),
}


class Stored(NamedTuple):
    """A store that a result rests on."""

    store: FeatureStore


@dataclass(frozen=True)
class Pictures:
    """What can be scored, and what cannot and why.

    Attributes:
        sets: "id" or the name of an OOD set -> {"reference": ids, "evaluated": ids}; the reference is for choosing.
        failed: "<set>/<sample>" -> reason.
        skipped: pictures of splits that are neither.
        streams: role -> Stored.
        grid: (rows, columns) of the maps.
    """

    sets: dict[str, dict[str, list[str]]]
    failed: dict[str, str]
    skipped: int
    streams: dict[str, Stored] = field(repr=False)
    grid: tuple[int, int]

    @property
    def counts(self) -> dict[str, int]:
        """Every row of every manifest of pictures counted once."""
        found = {f"{name}.{part}": len(ids) for name, parts in self.sets.items() for part, ids in parts.items()}
        return {**found, "failed": len(self.failed), "skipped": self.skipped}


def open_pictures(run: Run) -> Pictures:
    """Opens the stores and the manifests of the pictures and joins them.

    A picture of an OOD set that is byte for byte one in distribution has failed: it cannot be on both sides.

    Raises:
        DataError: manifests and stores that do not belong together, or a set without a usable picture, or of pictures
            that are all in distribution.
    """
    config: NegAlignHead = run.config
    streams = {role: Stored(FeatureStore(directory, verify=True)) for role, directory in run.features.items()}
    refuse_mixed(run.params.compute, (stream.store for stream in streams.values()))
    sets, failed, skipped = {}, {}, 0
    inside: set[str] = set()
    for name, (dataset, prefix) in config.sets.items():
        frame = read_manifest(run.root / dataset / "manifest.parquet")
        stores = {role: streams[f"{prefix}{role}"].store for role in ("image", "cam")}
        if name == "id":
            inside = set(frame.loc[frame["status"] == "ok", "digest"])
        else:
            _set_apart(frame, inside, f"ood.{name} ({dataset})", config.dataset)
        if name == "id" and "masks" in streams:
            refuse_stale(frame, "masks", streams["masks"].store)
        wanted = (config.reference_split, config.eval_split) if name == "id" else tuple(sorted(set(frame["split"])))
        found = usable(frame, stores, [split for split in wanted if split is not None], frame["status"].notna())
        if name == "id" and config.reference_split is not None:
            sets[name] = {"reference": found.splits[wanted[0]], "evaluated": found.splits[wanted[1]]}
        else:
            ids = [sample for split in found.splits.values() for sample in split]
            sets[name] = _carved(ids, config.lam.validation, config.seed)
        for part, ids in sets[name].items():
            if not ids:
                raise DataError(
                    f"{dataset} has no usable picture for {part}: {len(found.failed)} failed, and the manifest's "
                    f"splits are {sorted(set(frame['split']))}; correct the splits in params"
                )
        failed |= {f"{name}/{sample}": reason for sample, reason in found.failed.items()}
        skipped += found.skipped
    _, rows, columns = streams["cam"].store.provenance["grid"]
    return Pictures(sets, failed, skipped, streams, (rows, columns))


def _set_apart(frame: pd.DataFrame, inside: Collection[str], whose: str, dataset: str) -> None:
    """Gives the pictures of an OOD set whose digests are `inside` a status that says so."""
    shared = (frame["status"] == "ok") & frame["digest"].isin(inside)
    if shared.any() and shared[frame["status"] == "ok"].all():
        raise DataError(
            f"all {shared.sum()} pictures of {whose} are pictures of {dataset} too, byte for byte, and that is in "
            "distribution; name another data set in ood"
        )
    frame.loc[shared, "status"] = f"a picture of {dataset} too"


def _carved(ids: list[str], share: float, seed: int) -> dict[str, list[str]]:
    """A share for choosing, by a hash of seed and id, and the others."""
    chosen = set(shuffled(ids, seed)[: round(share * len(ids))])
    return {
        "reference": [sample for sample in ids if sample in chosen],
        "evaluated": [sample for sample in ids if sample not in chosen],
    }


def evaluate(run: Run) -> Evaluated:
    """Scores of every picture, λ, and how well in- and out-of-distribution pictures are told apart.

    Beside the result lies groups.json, the words of each group that was drawn.

    Raises:
        DataError: no table of negative words in the run's folder, or one that does not fit.
    """
    config: NegAlignHead = run.config
    samples, texts = run.samples, read_texts(run)
    scorer = Scorer(config, run.head, texts, samples.grid, device(run.params.compute))
    table = pd.concat([scored(scorer, run, name, part) for name, parts in samples.sets.items() for part in parts])
    table = table.reset_index(drop=True)
    at, standard = _parts(table), {}
    try:
        if config.score.zscore:
            fitted = Standard.fit(torch.tensor(at["id", "reference"]["star"].to_numpy()))
            table["star"] = fitted.apply(torch.tensor(table["star"].to_numpy())).numpy()
            standard = {"standard": fitted._asdict()}
        lam = weigh(config, table)
    except ValueError as error:
        raise DataError(f"heads.{run.head}: {error}") from error
    table["negalign"] = combined(config, table, lam)
    at, pointed = _parts(table), _pointed(samples)
    inside = at["id", "evaluated"]
    sets = {name: _told_apart(config, inside, at[name, "evaluated"]) for name in sorted(config.ood)}
    mean = {kind: _mean(found[kind] for found in sets.values()) for kind in KINDS}
    scores = {
        **mean["negalign"],
        **{f"{name}_neglabel": value for name, value in mean["neglabel"].items()},
        "lambda": lam,
        "local": config.score.local,
        "sets": sets,
        "average": mean,
        "lambda_sweep": {
            f"{lam:g}": _mean(found["lambda_sweep"][f"{lam:g}"] for found in sets.values()) for lam in config.lam.values
        },
        "statistics": {name: _statistics(at[name, "evaluated"]) for name in config.sets},
        "pointing_game": None if pointed is None else {**(100 * pointed.mean()).to_dict(), "pictures": len(pointed)},
        "words": scorer.words,
        "classes": scorer.classes,
        **standard,
    }
    said = (
        f"λ {lam:g}: AUROC {scores['auroc']:.2f} (S_NegLabel {scores['auroc_neglabel']:.2f}), "
        f"FPR95 {scores['fpr95']:.2f} ({scores['fpr95_neglabel']:.2f}), means of {len(sets)} sets"
    )
    files, read = {GROUPS: json_bytes(scorer.drawn)}, {TABLE: texts.digest}
    return Evaluated(scores, table, said, {}, files, read, _draws(config, table, pointed))


def _draws(config: NegAlignHead, table: pd.DataFrame, pointed: pd.DataFrame | None) -> Draws:
    """The figures of each set and their means, and the pointing game, over resamples of pictures."""
    rows = table[table["part"] == "evaluated"]
    names, ids = rows["set"].to_numpy(), rows["sample"].to_numpy()
    dataset = {name: of for name, (of, _) in config.sets.items()}
    draws = Draws([f"{dataset[name]}/{sample}" for name, sample in zip(names, ids, strict=True)], config.bootstrap)
    inside = names == "id"
    for kind in KINDS:
        scores, found = rows[kind].to_numpy(), []
        for name in sorted(config.ood):
            sides = (inside, names == name)
            weights = zip(*(draws.weights[:, side] for side in sides), strict=True)
            of = ood_draws(*(scores[side] for side in sides), weights)
            draws.figures |= {f"sets.{name}.{kind}.{figure}": values for figure, values in of.items()}
            found.append(of)
        for figure in FIGURES:
            mean = np.mean([of[figure] for of in found], axis=0)
            draws.figures[f"average.{kind}.{figure}"] = mean
            draws.figures |= {figure: mean} if kind == "negalign" else {}
            draws.figures |= {f"{figure}_neglabel": mean} if kind == "neglabel" else {}
    if pointed is not None:
        place = {sample: column for column, sample in enumerate(ids) if inside[column]}
        weights = draws.weights[:, [place[sample] for sample in pointed.index]]
        for figure in pointed:
            draws.share(f"pointing_game.{figure}", pointed[figure].to_numpy(), 100, weights)
    return draws


class Texts(NamedTuple):
    """What pictures are compared with: names and unit vectors of ID classes and of negative words.

    Attributes:
        negatives: a row a word, with its role.
        digest: sha256 of the file that they were read from.
    """

    classes: list[str]
    classes_CE: Tensor
    negatives: pd.DataFrame
    negatives_ME: Tensor
    digest: str


def read_texts(run: Run) -> Texts:
    """The ID classes of a head, and the negative words in its run's folder.

    Raises:
        DataError: a class without an embedding, and as `read_negatives`.
        Damaged: as `read_negatives`.
    """
    table, digest = read_negatives(run)
    classes, classes_CE = embedded(run, "classes")
    negatives_ME = vectors(FeatureStore(run.features["words"], verify=True), table["word"].tolist())
    return Texts(classes, classes_CE, table, negatives_ME, digest)


class Scorer:
    """Scores pictures, one or many, of any set; holds what all of them share: texts, groups, words.

    Attributes:
        classes: names of the ID classes.
        words: how many negative words have each role.
        drawn: kind of score -> the words of each of its groups.
    """

    def __init__(self, config: NegAlignHead, head: str, texts: Texts, grid: tuple[int, int], device: torch.device):
        """
        Args:
            config: the head.
            head: its name, for messages.
            texts: of `read_texts`.
            grid: (rows, columns) of the maps.
            device: where to compute.

        Raises:
            DataError: words that do not fit the classes, or too few of them.
        """
        self.config, self.grid, self.device, self.classes = config, grid, device, texts.classes
        self.classes_CE, self.negatives_ME = texts.classes_CE.to(device), texts.negatives_ME.to(device)
        names, chosen = texts.negatives["word"].tolist(), config.score
        try:
            self.by_role = by_role(names, texts.negatives["role"].tolist(), self.classes)
            starring = list(range(len(names)))
            if chosen.role_aware:
                starring = sorted(self.by_role["object"] + (self.by_role["ambiguous"] if chosen.ambiguous else []))
            self.plain_GK = groups(len(names), chosen.groups, config.seed)
            self.star_GK = groups(starring, chosen.groups, config.seed)
        except ValueError as error:
            raise DataError(f"heads.{head}: {error}") from error
        self.words = {role: len(found) for role, found in self.by_role.items()}
        drawn = {"neglabel": self.plain_GK, "star": self.star_GK}
        self.drawn = {kind: [[names[i] for i in group] for group in of.tolist()] for kind, of in drawn.items()}

    def score(self, images_BE: Tensor, maps_BN: Tensor, patches_BNE: Tensor) -> dict[str, np.ndarray]:
        """`scores` as arrays."""
        (found,) = returned([self.scores(images_BE, maps_BN, patches_BNE)])
        return found

    def scores(self, images_BE: Tensor, maps_BN: Tensor, patches_BNE: Tensor) -> dict[str, Tensor]:
        """predicted (an index), cam_valid, neglabel, star and p_align of pictures, one or many; numbers are float64.

        With score.local max also evidence, local and patch: e of the picture, the largest e of a patch, and which.
        """
        chosen, background = self.config.score, self.config.background
        variants = [Variant(self.plain_GK), Variant(self.star_GK, chosen.topk)]
        plain_B, star_B = neglabels(images_BE, self.classes_CE, self.negatives_ME, variants, chosen.scale)
        predicted_B = predict(images_BE, self.classes_CE)
        shown_BN = foreground(maps_BN, background.percentile, background.dilate, self.grid)
        behind_BE, valid_B = background_embedding(patches_BNE, shown_BN)
        words_ME = self.negatives_ME[self.by_role["background"]]
        align_B = p_align(behind_BE, self.classes_CE, predicted_B, words_ME, background.k_neg, valid_B)
        found = {
            "predicted": predicted_B,
            "cam_valid": valid_B,
            "neglabel": plain_B,
            "star": star_B,
            "p_align": align_B,
        }
        if chosen.local == "max":
            texts = self.classes_CE, self.negatives_ME, chosen.scale
            found["evidence"] = evidence(images_BE, *texts)
            found["local"], found["patch"] = local_evidence(patches_BNE, *texts)
        return {key: value.double() if value.is_floating_point() else value for key, value in found.items()}


def scored(scorer: Scorer, run: Run, name: str, part: str) -> pd.DataFrame:
    """A row a picture: set, part, sample, predicted, cam_valid, neglabel, star, p_align, and as `Scorer.scores` has."""
    _, prefix = run.config.sets[name]
    image, cam = (run.samples.streams[f"{prefix}{role}"].store for role in ("image", "cam"))
    ids = run.samples.sets[name][part]
    images_BE = sent(vectors(image, ids), scorer.device)
    chunks = [list(range(start, min(start + CHUNK, len(ids)))) for start in range(0, len(ids), CHUNK)]

    def scores(batch: Batch) -> dict[str, Tensor]:
        rows = slice(int(batch["row"][0]), int(batch["row"][-1]) + 1)
        return scorer.scores(images_BE[rows], batch["map"].float(), batch["patch_embed"])

    patches = uploaded(read_ahead(run.params.compute, Patches(cam, ids), chunks), scorer.device)
    found = list(returned(map(scores, patches)))
    columns = {key: np.concatenate([of[key] for of in found]) for key in found[0]}
    columns["predicted"] = np.array(scorer.classes, dtype=object)[columns["predicted"]]
    return pd.DataFrame({"set": name, "part": part, "sample": ids, **columns})


class Patches(Table):
    """Pictures by lists of rows: map (B, N) and patch_embed (B, N, E) as stored, row (B,) int64."""

    in_memory = False

    def __init__(self, cam: FeatureStore, ids: Sequence[str]) -> None:
        self.cam, self.ids = cam, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        ids = [self.ids[row] for row in rows]
        found = {name: torch.from_numpy(self.cam.read(ids, name)) for name in ("map", "patch_embed")}
        return {**found, "row": torch.as_tensor(rows, dtype=torch.int64)}


def read_patches(cam: FeatureStore, ids: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Maps (B, N) and embeddings (B, N, E) of the patches of a few pictures."""
    (found,) = uploaded([Patches(cam, ids)[range(len(ids))]], device)
    return found["map"].float(), found["patch_embed"]


def _pointed(samples: Pictures) -> pd.DataFrame | None:
    """The pointing game of each evaluated ID picture by its name: shares in [0, 1], whose means are the figures.

    A peak is a patch, the first of equals. `touched`: some of that patch is the object, which is the published game
    with half a patch for its tolerance of 15 pixels; `half`: at least half of it is. `chance` and `chance_half` are the
    same of a map without a peak, all zeros, any patch of which may be taken: the means over patches. Pictures whose
    mask is absent or empty are left out; None where no picture is left.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016.
    """
    if "masks" not in samples.streams:
        return None
    cam, masks = (samples.streams[role].store for role in ("cam", "masks"))
    known = set(masks.samples)
    ids = [sample for sample in samples.sets["id"]["evaluated"] if sample in known]
    if not ids:
        return None
    covered_BN = masks.read(ids, "maps").reshape(len(ids), -1).astype(np.float64)
    shown = covered_BN.any(axis=1)
    covered_BN, maps_BN = covered_BN[shown], cam.read(ids, "map")[shown]
    if not len(covered_BN):
        return None
    peak_B = np.take_along_axis(covered_BN, maps_BN.argmax(axis=1)[:, None], axis=1)[:, 0]
    shares = {
        "touched": peak_B > 0,
        "half": peak_B >= 0.5,
        "chance": (covered_BN > 0).mean(axis=1),
        "chance_half": (covered_BN >= 0.5).mean(axis=1),
    }
    return pd.DataFrame(shares, index=np.array(ids)[shown], dtype=np.float64)


def _parts(table: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """(set, part) -> its rows."""
    return {key: rows for key, rows in table.groupby(["set", "part"], sort=False)}


def weigh(config: NegAlignHead, table: pd.DataFrame) -> float:
    """λ as params choose it: never from the pictures that are evaluated, whose rows may be there or not."""
    if config.fixed_lambda is not None:
        return float(config.fixed_lambda)
    at = _parts(table)
    inside = _terms(config, at["id", "reference"])
    outside = [_terms(config, at[name, "reference"]) for name in sorted(config.ood)]
    if config.lam.choose == "adaptive":
        return fit_lambda(*inside, *map(np.concatenate, zip(*outside, strict=True)))
    return choose_lambda(inside, outside, config.lam.values, config.lam.guard)


def combined(config: NegAlignHead, rows: Mapping[str, Any], lam: float) -> Any:
    """The final score of `score.local` from the columns of its terms: arrays, tensors or series."""
    first, second = TERMS[config.score.local]
    return rows[first] if second is None else combine(rows[first], rows[second], lam)


def _told_apart(config: NegAlignHead, inside: pd.DataFrame, outside: pd.DataFrame) -> dict[str, Any]:
    """Figures of one OOD set: of each kind of score with intervals, and over λ."""
    pairs = {kind: (inside[kind].to_numpy(), outside[kind].to_numpy()) for kind in KINDS}
    sweep = lambda_sweep(*_terms(config, inside), *_terms(config, outside), config.lam.values)
    return {
        **{kind: ood_metrics(*pair) for kind, pair in pairs.items()},
        "ci95": ood_intervals(*pairs["negalign"], config.bootstrap, config.seed),
        "lambda_sweep": {f"{lam:g}": found for lam, found in sweep.items()},
    }


def _terms(config: NegAlignHead, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What the final score is the sum of: a score, and what λ weighs."""
    first, second = TERMS[config.score.local]
    return rows[first].to_numpy(), np.zeros(len(rows)) if second is None else rows[second].to_numpy()


def _mean(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over sets, each set once."""
    return pd.DataFrame(list(figures)).mean().to_dict()


def _statistics(rows: pd.DataFrame) -> dict[str, float]:
    columns = ("neglabel", "star", "p_align", "evidence", "local", "negalign")
    means = {column: float(rows[column].mean()) for column in columns if column in rows}
    return {"pictures": len(rows), **means, "cam_valid_rate": float(rows["cam_valid"].mean())}
