"""A project's finished files, made up in shape: results, runs, explanations, quality, stores and logs of every head.

The numbers come from the functions that evaluations use, over labels and scores that nothing predicted.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.config import load_params
from pipeline.digests import write_json
from pipeline.evaluation.classification import summary
from pipeline.evaluation.elsewhere import worst
from pipeline.evaluation.ood_metrics import lambda_sweep, ood_intervals, ood_metrics
from pipeline.evaluation.segment_metrics import (
    bootstrap_intervals,
    class_confusion,
    class_intervals,
    class_table,
    figures,
    pooled,
    segment_counts,
)
from pipeline.evaluation.zeroshot_metrics import decided, stacked, zeroshot_intervals, zeroshot_metrics
from pipeline.files import write_bytes
from pipeline.plan import Plan
from pipeline.store.manifest import encode_manifest
from pipeline.tasks import TASKS
from tests.evaluations import leave

ROOT = Path(__file__).parents[2]
HEADS = ("gasm_cast", "fact", "fact_clip", "clip_align", "negalign")


def plan() -> Plan:
    """Of the params that come with the project."""
    return Plan(load_params(str(ROOT / "params.yaml")))


class MadeUp:
    """A project's folder.

    Args:
        root: where; empty.
        classes, samples: of the classification.
        name: a class and a sample are called this, beside "class 0", "class 1"….
        weights: what the results say of them.
        names: of all classes, in place of the others.
    """

    def __init__(
        self,
        root: Path,
        classes: int = 5,
        samples: int = 60,
        name: str = "a cup",
        weights: str = "trained",
        names: Sequence[str] = (),
    ) -> None:
        self.root, self.samples, self.weights, self.plan = root, samples, weights, plan()
        self.classes = list(names) or [name, *(f"class {i}" for i in range(1, classes))]
        self.ids = [f"{name} 1", *(f"sample {i:05d}" for i in range(1, samples))]
        self.random = np.random.default_rng(0)

    def finish(self, *heads: str) -> "MadeUp":
        """Everything that these heads leave."""
        make = {
            "classification": self._classification,
            "segmentation": self._segmentation,
            "zeroshot": self._zeroshot,
            "alignment": self._alignment,
            "ood": self._ood,
        }
        for name, run in self.plan.results.items():
            if run.head in heads:
                document, predictions = make[run.config.task](run.config)
                self._publish(name, run, document, predictions)
        return self

    def explain(self, name: str) -> "MadeUp":
        """The feature space and the importance of a result's inputs."""
        n, thumbnails = self.samples, [self._thumbnail() for _ in range(20)]
        labels = self.random.integers(0, len(self.classes), n)
        predicted = np.where(self.random.random(n) < 0.8, labels, self.random.integers(0, len(self.classes), n))

        def points() -> dict[str, Any]:
            angle = 2 * np.pi * labels / len(self.classes)
            centres = np.stack([np.cos(angle), np.sin(angle)]) * 6
            x, y = centres + self.random.normal(size=(2, n))
            return {"x": _short(x), "y": _short(y), "note": "made up"}

        shown = self.ids[:: max(1, n // 300)][:300]
        space = {
            "space": "what the classifier reads",
            "samples": self.ids,
            "classes": self.classes,
            "labels": labels.tolist(),
            "predicted": predicted.tolist(),
            "probability": _short(self.random.uniform(0.3, 1, n)),
            "projections": {kind: points() for kind in ("pca", "tsne", "umap")},
            "thumbnails": {sample: thumbnails[i % 20] for i, sample in enumerate(shown)},
        }
        entry = {"drop": 21.3, "deviation": 1.5, "repeats": 5}
        streams = {
            stream: {"feature": f"{stream} tokens", "ablation": entry, "permutation": entry}
            for stream in ("semantic", "motion")
        }
        importance = {"metric": "top1", "base": 90.0, "samples": n, "streams": streams}
        self.write(f"results/{name}/explanation/features.json", space)
        self.write(f"results/{name}/explanation/importance.json", importance)
        return self

    def draw(self, *names: str) -> "MadeUp":
        """Stills, results/<name>.png: of a result in a folder of it."""
        for name in names:
            pixels = self.random.integers(0, 255, (12, 20, 3), dtype=np.uint8)
            path = self.root / "results" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((1800, 1080)).save(path)
        return self

    def study(self) -> "MadeUp":
        """Every ablation's table, and the claims: one holds, one does not."""
        for name, ablation in self.plan.params.ablations.items():
            task = self.plan.params.head(ablation.head).task
            columns = [column.name for column in TASKS[task].code("columns")]

            def variant(changes: dict[str, Any], columns: list[str] = columns, n: int = len(ablation.seeds)) -> dict:
                per_seed = {column: self.random.uniform(10, 90, n).tolist() for column in columns}
                mean = {column: float(np.mean(of)) for column, of in per_seed.items()}
                sd = {column: float(np.std(of, ddof=1)) if n > 1 else None for column, of in per_seed.items()}
                return {"changes": changes, "mean": mean, "sd": sd, "per_seed": per_seed, "runs": []}

            variants = {row: variant(changes) for row, changes in ablation.rows.items()}
            document = {"head": ablation.head, "seeds": ablation.seeds, "variants": variants}
            self.write(f"{self.plan.ablation_folder(name)}/{name}.json", document)
        claim = {
            "says": "one is above the other",
            "why": None,
            "verdict": "holds",
            "undecided": None,
            "mean": 0.9,
            "sd": 0.01,
            "wants": "> 0.8",
            "difference": {"mean": 0.1, "sd": 0.01, "ci95": [0.05, 0.15], "per_seed": [0.1, 0.1, 0.1]},
            "seeds": 3,
            "units": 192,
            "seeds_that_agree": 3,
        }
        failed = {
            **claim,
            "says": "the other is above the one",
            "verdict": "fails",
            "why": "it is not",
            "seeds_that_agree": 0,
        }
        open_ = {**claim, "verdict": "undecided", "undecided": "more seeds would tell", "units": None}
        self.write("results/claims.json", {"first": claim, "second": failed, "third": open_})
        return self

    def log(self) -> "MadeUp":
        """Quality, stores and the logs of jobs of one data set."""
        splits = {"train": {"ok": 50}, "validation": {"ok": 8, "missing": 2}}
        counts = {"train": {"a": 30, "b": 20}, "validation": {"a": 5, "b": 3}}
        spread = {"min": 1.0, "median": 2.0, "max": 3.0}
        quality = {
            "kind": "video",
            "samples": 60,
            "ok": 58,
            "not_ok": {"missing": {"count": 2, "samples": []}},
            "splits": splits,
            "classes": {"count": 2, "counts": counts, "not_in_train": []},
            "duration": {**spread, "hours": 0.1},
            "fps": spread,
            "bytes": 123_000_000,
            "same_content": {"count": 1, "across_splits": 1, "groups": []},
            "alike": {"classes": {"count": 1, "groups": [["a", "A"]]}},
        }
        self.write("features/toy-ssv2/quality.json", quality)
        for shard in range(2):
            manifest = encode_manifest({"format": 1, "counts": {"ok": 29, "failed": shard}})
            write_bytes(self.root / f"features/toy-ssv2/dinov3_patches-0123456789/shard-{shard:03d}.json", manifest)
        header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"
        places = [
            "extract/toy-ssv2/dinov3_patches-0123456789/shard-000",
            "train/gasm_cast-0123456789",
            "claims",
            "page",
        ]
        for place in places:
            path = self.root / "logs" / f"{place}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{header}\n90.0\t0:01:30\t512.0\t-\t-\t-\t0.0\t0.0\t90.0\t81.0\n")
        return self

    def write(self, path: str, document: Any) -> Path:
        """JSON below the folder."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, document, ordered=True)
        return file

    # --- results ------------------------------------------------------------------------------------------------------

    def evaluate(self, *runs: Any) -> "MadeUp":
        """What evaluations of classifiers and their probes leave, published nowhere; each as good as chance has it."""
        for run in runs:
            document, predictions = self._classification(run.config)
            probe = run.config.task == "probe"
            self._leave(run, {**document, **({"chance": 0.2, "majority": 0.25} if probe else {})}, predictions)
        return self

    def _publish(self, name: str, run: Any, document: dict[str, Any], predictions: pd.DataFrame) -> None:
        place = self._leave(run, document, predictions)
        write_bytes(self.root / f"results/{name}.json", (place / "result.json").read_bytes())

    def _leave(self, run: Any, document: dict[str, Any], predictions: pd.DataFrame) -> Path:
        made = {
            "task": run.config.task,
            "samples": {
                "evaluated": self.samples,
                "failed": 1,
                "skipped": 2,
                "failures": [{"sample": "x", "reason": "cut off"}],
            },
            **document,
            "provenance": self._provenance(run.config),
        }
        history = None
        if run.config.task != "ood":
            epochs = np.arange(1, 13)
            history = {"epoch": epochs, "train_loss": 3 / epochs, "holdout_loss": 3.2 / epochs}
            history["holdout_accuracy"] = 1 - 0.8 / epochs
        return leave(self.root / run.evaluation_folder, made, predictions, history)

    def _provenance(self, config: Any) -> dict[str, Any]:
        feature = {"name": "dinov3_patches", "key": "0123456789", "backbone": "dinov3", "dataset": config.dataset}
        digest = "random:7" if self.weights == "random" else "f" * 64
        return {
            "params": config.learned | config.evaluated,
            "features": {"semantic": {**feature, "weights": {"weights": digest}, "failed": 1}},
            "weights": self.weights,
            "code": "c" * 64,
            "seed": config.seed,
            "versions": {"python": "3.11", "torch": "2.9"},
            "device": "cpu",
            "timings": {"evaluate_s": 1.5, "train": {"epochs": 12, "fit_s": 90.0}},
        }

    def _probabilities(self, labels: np.ndarray, n_classes: int) -> np.ndarray:
        logits = self.random.normal(size=(len(labels), n_classes))
        logits[np.arange(len(labels)), labels] += self.random.normal(4, 2, len(labels))
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    def _classification(self, config: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        labels = np.arange(self.samples) % len(self.classes)
        probabilities = self._probabilities(labels, len(self.classes))
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        names = np.array(self.classes, dtype=object)
        predictions = pd.DataFrame(
            {
                "sample": self.ids,
                "label": names[labels],
                "prediction": names[best[:, 0]],
                "probabilities": np.take_along_axis(probabilities, best, axis=1).tolist(),
            }
        )
        scores = summary(labels, probabilities, self.classes, config)
        told = {"split": config.eval_split, "samples": {"evaluated": self.samples}, "worst": worst(scores["per_class"])}
        there = {name: {"dataset": of, **told, **scores} for name, of in getattr(config, "elsewhere", {}).items()}
        scores |= {f"top1_{name}": scores["top1"] for name in there} | ({"elsewhere": there} if there else {})
        return {**scores, "top1_tokens_reversed": 0.5, "top1_tokens_shuffled": 0.4}, predictions

    def _videos(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        truths = [np.repeat(self.random.integers(0, len(self.classes), 8), 12) for _ in range(6)]
        scores = [np.log(self._probabilities(truth, len(self.classes))) for truth in truths]
        return truths, scores

    def _segmented(self, truths: list[np.ndarray], scores: list[np.ndarray]) -> tuple[dict[str, Any], pd.DataFrame]:
        guesses = [of.argmax(axis=1) for of in scores]
        counts = segment_counts(guesses, truths)
        measured = figures(counts)
        predictions = pd.DataFrame({"sample": [f"video {i}" for i in range(len(truths))]})
        predictions[["acc", "edit", "f1@50"]] = measured[["acc", "edit", "f1@50"]].to_numpy()
        document = {
            **pooled(counts),
            "ci95": bootstrap_intervals(counts, 50, 0),
            "classes": self.classes,
            "background": [],
            "unseen_classes": [1, 2],
            "per_class": [
                row | {"recall_ci95": edges}
                for row, edges in zip(
                    class_table(guesses, truths, self.classes),
                    class_intervals(guesses, truths, len(self.classes), 50, 0),
                    strict=True,
                )
            ],
            "confusion": class_confusion(guesses, truths, len(self.classes)).tolist(),
        }
        return document, predictions

    def _segmentation(self, config: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        document, predictions = self._segmented(*self._videos())
        return {**document, "unseen_classes": []}, predictions

    def _zeroshot(self, config: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        truths, scores = self._videos()
        seen = ~np.isin(np.arange(len(self.classes)), [1, 2])
        found = zeroshot_metrics(scores, truths, seen, 0.5, background=())
        document, predictions = self._segmented(truths, scores)
        guesses = [of.argmax(axis=1) for of in scores]
        document["ci95"] |= zeroshot_intervals(guesses, truths, seen, 50, 0)
        alone = decided([stacked(of, seen, 0.5) for of in scores], truths, seen)
        tried = [{"switch": cost, "acc": 61.0, "edit": 52.0 + cost, "f1@50": 43.0} for cost in (0.0, 2.0)]
        decoded = {
            "decode": {"switch": 2.0, "tried": tried},
            "undecoded": {**alone, "acc": 60.5, "edit": 17.25, "f1@50": 33.0},
        }
        return {**found, **document, **decoded}, predictions

    def _alignment(self, config: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        document, predictions = self._classification(_Bins)
        percent = ("accuracy", "precision", "recall", "f1")
        rows = [
            {
                **row,
                **{key: row[key] and 100 * row[key] for key in percent},
                "recall_ci95": row["recall_ci95"] and [100 * edge for edge in row["recall_ci95"]],
            }
            for row in document["per_class"]
        ]
        way = {"r1": 20.0, "r5": 50.0, "chance_r1": 2.0, "median_rank": 5.0, "gallery": 50, "queries": 50}
        forms = ("published", "unguided", "shuffled")
        ranks = self.random.integers(1, 50, (2, self.samples)).astype(float)
        predictions = predictions.assign(
            similarity=0.5, rank_video_to_map=ranks[0], rank_video_to_map_unguided=ranks[1]
        )
        return {
            "accuracy": 100 * document["top1"],
            "ci95": [100 * edge for edge in document["ci95"]],
            "accuracy_without_map": 40.0,
            "ci95_without_map": [30.0, 50.0],
            "macro_f1": 70.0,
            "per_class": rows,
            "confusion": document["confusion"],
            "retrieval": {form: {"video_to_map": way, "map_to_video": way} for form in forms},
        }, predictions

    def _ood(self, config: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        kinds = ("neglabel", "star", "negalign")
        tables = {
            name: pd.DataFrame({kind: self.random.normal(2 * (name == "id"), 1, 80) for kind in kinds}).assign(
                p_align=self.random.normal(size=80), set=name, part="evaluated"
            )
            for name in ("id", *config.ood)
        }
        inside, sets = tables["id"], {}
        for name in config.ood:
            outside = tables[name]
            columns = [rows[column].to_numpy() for rows in (inside, outside) for column in ("star", "p_align")]
            sweep = lambda_sweep(*columns, config.lam.values)
            pair = inside["negalign"].to_numpy(), outside["negalign"].to_numpy()
            sets[name] = {
                **{kind: ood_metrics(inside[kind].to_numpy(), outside[kind].to_numpy()) for kind in kinds},
                "ci95": ood_intervals(*pair, 20, 0),
                "lambda_sweep": {f"{lam:g}": found for lam, found in sweep.items()},
            }
        first = next(iter(sets.values()))
        return {
            "sets": sets,
            "average": {kind: first[kind] for kind in kinds},
            **first["negalign"],
            "lambda": 0.5,
            "lambda_sweep": first["lambda_sweep"],
            "words": {"object": 4, "background": 3},
        }, pd.concat(tables.values(), ignore_index=True)

    def _thumbnail(self) -> str:
        pixels = self.random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((96, 96)).save(buffer, "JPEG", quality=60)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class _Bins:
    bootstrap, calibration_bins, seed = 50, 5, 0
    eval_split, elsewhere = "validation", {"reversed_video": "toy-ssv2-reversed"}


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
