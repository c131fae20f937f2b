"""A small made-up clinic: manifest, tokens and maps as stage 1 would leave them, and a clip_align of random weights."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from pipeline.config import Params, override, parse_params
from pipeline.datasets.manifest import NO_MAP, map_digest_of, write_manifest
from pipeline.runs import WEIGHTS, Run
from pipeline.store import ShardWriter
from pipeline.training.clips import Clips
from pipeline.training.registry import build
from tests.training.learnable import frame

GRID, WIDTH, SCALE = (3, 2, 4), 6, 2
DIAGNOSES = ("drift", "jerk", "tremor")
HEAD: dict[str, Any] = {
    "dataset": "clinic",
    "features": {"tokens": "clips", "maps": "attention"},
    "result": "clinic",
    "seed": 3,
    "model": {
        "encoder": "3dcnn",
        "map_guided": True,
        "map_guided_type": "spatiotemporal",
        "sigmoid_gate": False,
        "classifier_source": "fusion",
        "map_dropout": 0.0,
        "width": 8,
        "feature_dim": 16,
        "embed_dim": 12,
        "map_width": 8,
        "dropout": 0.1,
    },
    "loss": {"clip_weight": 1.0, "lambda_token": 0.0},
    "lr": 0.01,
    "batch_size": 8,
    "epochs": 2,
    "warmup_epochs": 1,
    "weight_decay": 0.05,
    "clip_norm": 1.0,
    "ema_decay": 0.0,
    "label_smoothing": 0.1,
    "precision": "32-true",
    "patience": 50,
    "train_split": "train",
    "holdout_split": "val",
    "eval_split": "test",
    "bootstrap": 100,
}


@dataclass(frozen=True)
class Clinic:
    """Its run, and what that reads."""

    run: Run

    @property
    def params(self) -> Params:
        return self.run.params

    @property
    def samples(self) -> Clips:
        return self.run.samples


def clinic(root: Path, without: tuple[int, ...] = (4, 11), same: bool = False, **changes: Any) -> Clinic:
    """Three patients a diagnosis and split, with two clips each, and a head of random weights.

    Args:
        root: everything lies below.
        without: which clips of each split, by number, have no map.
        same: every map is the same.
        changes: of the head's dotted params, "__" for ".".
    """
    table = _manifest(without, same)
    write_manifest(table, root / "manifest.parquet")
    random = np.random.default_rng(0)
    tokens = {sample: random.normal(size=(GRID[0], GRID[1] * GRID[2], WIDTH)) for sample in table["sample"]}
    digests = list(zip(table["sample"], table["digest"], strict=True))
    origin = {"weights": "random:1", "grid": list(GRID), "box": [0.0, 0.0, 1.0, 1.0]}
    with ShardWriter(
        root / "clips-keyclips" / "shard-000",
        digests,
        {"clip_tokens": (tokens["test-0"].shape, "float16")},
        {"key": "keyclips", "feature": "clips", "config": {"backbone": "r3d18"}, **origin},
    ) as writer:
        for sample, values in tokens.items():
            writer.put(sample, {"clip_tokens": values.astype(np.float16)}, {"times": [0.5, 1.5, 2.5]})
        writer.commit()
        writer.finish()
    shape = (1, GRID[0], GRID[1] * SCALE, GRID[2] * SCALE)
    drawn = [(row.sample, map_digest_of(row)) for row in table.itertuples()]
    config = {"backbone": "maps", "scale": SCALE}
    reads = {"clips": {"key": "keyclips"}}
    with ShardWriter(
        root / "attention-keymaps" / "shard-000",
        drawn,
        {"maps": (shape, "float16")},
        {"key": "keymaps", "feature": "attention", "config": config, "reads": reads, **origin},
    ) as writer:
        for row in table.itertuples():
            if row.map is None:
                writer.fail(row.sample, NO_MAP)
                continue
            values = np.random.default_rng(int(row.map_digest[:8], 16)).random(shape).astype(np.float16)
            writer.put(row.sample, {"maps": values}, {"times": [0.5, 1.5, 2.5]})
        writer.commit()
        writer.finish()
    params = _params({key.replace("__", "."): value for key, value in changes.items()})
    features = {"tokens": root / "clips-keyclips", "maps": root / "attention-keymaps"}
    run = Run(params, "clip_align", root / "manifest.parquet", features, root / "run")
    torch.manual_seed(0)
    (root / "run").mkdir()
    save_file(build(run.head, run.config, run.samples).state_dict(), run.folder / WEIGHTS)
    return Clinic(run)


def _manifest(without: tuple[int, ...], same: bool) -> pd.DataFrame:
    rows = [
        {
            "sample": f"{split}-{number}",
            "label": DIAGNOSES[number // 6],
            "split": split,
            "patient": f"{split}-patient-{number // 2}",
            "clinician": None if number == 7 else ("ann", "bob", "cat")[number % 3],
            "map": None if number in without else f"{split}-{number}.npz",
        }
        for split in ("train", "val", "test")
        for number in range(18)
    ]
    for row in rows:
        # Clips 0 and 6 of a split, of two patients, share their map.
        content = "same" if same else (row["map"] or "").replace("-6.npz", "-0.npz")
        row["map_digest"] = hashlib.sha256(content.encode()).hexdigest() if row["map"] else None
    given = pd.DataFrame(rows, dtype=object)
    facts = frame({"train": 1}).iloc[[0] * len(given)].reset_index(drop=True)
    table = pd.concat([facts.drop(columns=given.columns, errors="ignore"), given], axis=1)
    table["template"], table["path"] = table["label"], table["sample"] + ".webm"
    table["digest"] = [hashlib.sha256(sample.encode()).hexdigest() for sample in table["sample"]]
    return table


def _params(changes: dict[str, Any]) -> Params:
    sampling = {"sampling": {"frames": 4 * GRID[0]}}
    features = {
        "clips": {
            "backbone": "r3d18",
            "weights": {"random": 1},
            "preprocess": {"resize": [32, 64]},
            **sampling,
        },
        "attention": {"backbone": "maps", "source": "clips", "scale": SCALE},
    }
    params = parse_params(
        {
            "compute": {"device": "cpu", "threads": 1, "decode_workers": 0},
            "datasets": {"clinic": {"layout": "clinic", "root": "nowhere", "csv": "clinic.csv"}},
            "features": features,
            "heads": {"clip_align": {"kind": "clip_align", **HEAD}},
        }
    )
    head = override(params.head("clip_align"), changes)
    return params.replacing("clip_align", head)
