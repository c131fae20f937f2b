"""A small data set of made-up features that can be learned: stores and manifest as stage 1 would leave them."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from pipeline.config import Params, override, parse_params
from pipeline.datasets.manifest import FACTS, LATER, write_manifest
from pipeline.runs import Run
from pipeline.store import ShardWriter

EPOCHS = 6  # of the run that tests compare with
STEPS = 4
GRIDS = {"semantic": (STEPS, 4, 4), "motion": (STEPS, 2, 2)}
WIDTHS = {"semantic": 16, "motion": 8}
FIELDS = {"semantic": "patch_tokens", "motion": "clip_tokens"}
FEATURES = {"semantic": "patches", "motion": "clips"}
CLASSES = ("falling", "rising", "sitting", "walking")
HEAD: dict[str, Any] = {
    "dataset": "made",
    "features": FEATURES,
    "result": "made_top1",
    "seed": 3,
    "model": {
        "fusion": "cast",
        "layers": 1,
        "attention_heads": 2,
        "width": 8,
        "bottleneck": 8,
        "window": "cell",
        "graph": "full",
        "radii": [1],
        "semantic_neighbours": 2,
        "motion_neighbours": 1,
        "dropout": 0.1,
        "token_dropout": 0.1,
    },
    "lr": 0.04,
    "batch_size": 16,
    "epochs": 4,
    "warmup_epochs": 1,
    "weight_decay": 0.05,
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "ema_decay": 0.8,
    "precision": "32-true",
    "patience": 50,
    "holdout": 0.2,
    "train_split": "train",
    "eval_split": "validation",
    "bootstrap": 200,
    "calibration_bins": 15,
}


@dataclass(frozen=True)
class Made:
    """What a run reads."""

    params: Params
    manifest: Path
    features: dict[str, Path]

    def run(self, folder: Path, **changes: Any) -> Run:
        """The run in a folder, the head's dotted params changed."""
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        head = override(self.params.head("gasm_cast"), changes)
        return Run(self.params.replacing("gasm_cast", head), "gasm_cast", self.manifest, self.features, folder)


def made_params(compute: dict[str, Any] | None = None) -> Params:
    """Params of the made-up set, one thread on the CPU."""
    common = {"weights": {"random": 1}, "preprocess": {"resize": [64, 64]}}
    features = {
        "patches": {"backbone": "dinov3", "sampling": {"frames": STEPS}, **common},
        "clips": {"backbone": "r3d18", "sampling": {"frames": 4 * STEPS}, **common},
    }
    return parse_params(
        {
            "compute": {"device": "cpu", "threads": 1, **(compute or {})},
            "datasets": {"made": {"layout": "ssv2", "root": "nowhere"}},
            "features": features,
            "heads": {"gasm_cast": {"kind": "gasm_cast", **HEAD}},
        }
    )


def digest(sample: str) -> str:
    """What stands for the sha256 of the sample's video."""
    return hashlib.sha256(sample.encode()).hexdigest()


def tokens(sample: str, label: str | None, role: str) -> np.ndarray:
    """(T, N, D): each class is a path through the steps, "rising" the reverse of "falling", under noise."""
    random = np.random.default_rng([int(digest(sample)[:8], 16), len(role)])
    path = np.zeros((STEPS, WIDTHS[role]))
    if label in ("falling", "rising"):
        path[np.arange(STEPS), np.arange(STEPS)[:: 1 if label == "falling" else -1]] = 3
    elif label is not None:
        path[:, 5 if label == "sitting" else 6] = 3
    rows, columns = GRIDS[role][1:]
    return (path[:, None] + random.normal(size=(STEPS, rows * columns, WIDTHS[role]))).astype(np.float16)


def frame(per_class: dict[str, int]) -> pd.DataFrame:
    """A manifest: `per_class` samples of each class in each split."""
    rows = [
        {"sample": f"{split}-{label}-{i}", "label": label, "split": split}
        for split, count in per_class.items()
        for i in range(count)
        for label in CLASSES
    ]
    table = pd.DataFrame(rows).astype({"label": object})
    table["path"] = table["sample"] + ".webm"
    table["template"] = table["label"]
    table["digest"] = [digest(sample) for sample in table["sample"]]
    table["status"] = "ok"
    table["shard"] = 0
    for name in LATER:
        table[name] = None
    facts = {"duration": 4.0, "frames": 48, "fps": 12.0, "width": 64, "height": 64, "codec": "vp9", "rotation": 0}
    facts |= {"edit_list": False, "mirrored": False, "video_streams": 1, "grid": "12", "key_frames": "0:0:5eed"}
    for name, value in {**facts, "decord_doubt": "", "bytes": 1, "mtime_ns": 1}.items():
        table[name] = value
    assert set(FACTS) <= set(table.columns)
    return table


def write_store(
    root: Path, role: str, table: pd.DataFrame, failed: dict[str, str] | None = None, **changes: Any
) -> Path:
    """A finished store; `changes` replace parts of its provenance, and `times` those of the tokens."""
    directory = root / f"{FEATURES[role]}-key{role}"
    times = changes.pop("times", [0.5, 1.5, 2.5, 3.5])
    provenance = {
        "key": f"key{role}",
        "feature": FEATURES[role],
        "config": {"backbone": {"semantic": "dinov3", "motion": "r3d18"}[role]},
        "weights": "random:1",
        "grid": list(GRIDS[role]),
        "box": [0.0, 0.0, 1.0, 1.0],
        **changes,
    }
    steps, rows, columns = GRIDS[role]
    fields = {FIELDS[role]: ((steps, rows * columns, WIDTHS[role]), "float16")}
    if role == "semantic":
        fields["cls"] = ((steps, WIDTHS[role]), "float16")
    samples = list(zip(table["sample"], table["digest"], strict=True))
    with ShardWriter(directory / "shard-000", samples, fields, provenance) as writer:
        for row in table.itertuples():
            reason = (failed or {}).get(row.sample) or (None if row.status == "ok" else row.status)
            if reason:
                writer.fail(row.sample, reason)
                continue
            values = tokens(row.sample, row.label, role)
            arrays = {FIELDS[role]: values, "cls": values.mean(axis=1)}
            writer.put(row.sample, {name: arrays[name] for name in fields}, {"times": times})
        writer.commit()
        writer.finish()
    return directory


def make(
    root: Path, train: int = 20, validation: int = 8, compute: dict[str, Any] | None = None, **others: int
) -> Made:
    """Everything on disk, so many samples a class in each split."""
    table = frame({"train": train, "validation": validation, **others})
    write_manifest(table, root / "manifest.parquet")
    features = {role: write_store(root, role, table) for role in FEATURES}
    return Made(made_params(compute), root / "manifest.parquet", features)


def train_and_note(root: Path, run: Path, compute: dict[str, Any], changes: dict[str, Any]) -> None:
    """Trains, and leaves beside the run which rows each process learned from."""
    from pipeline.training import train
    from pipeline.training.classification import ClassificationStep

    features = {role: root / f"{FEATURES[role]}-key{role}" for role in FEATURES}
    made = Made(made_params(compute), root / "manifest.parquet", features)
    step = ClassificationStep.training_step

    def noted(self: ClassificationStep, batch: dict, number: int) -> Any:
        with Path(f"{run}.rows{self.global_rank}").open("a", encoding="utf-8") as rows:
            rows.write(json.dumps([self.current_epoch, number, batch["row"].tolist()]) + "\n")
        return step(self, batch, number)

    with patch.object(ClassificationStep, "training_step", noted):
        train(made.run(run, **changes))


# `python -m tests.training.learnable ROOT RUN COMPUTE CHANGES`: in a process of its own.
if __name__ == "__main__":
    train_and_note(*map(Path, sys.argv[1:3]), *map(json.loads, sys.argv[3:]))
