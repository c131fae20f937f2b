"""A small set of videos with a class a frame that can be learned, on disk: manifest, frame features, texts."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.config import Params, parse_params
from pipeline.datasets.manifest import write_manifest
from pipeline.store import ShardWriter
from tests.training.learnable import digest, frame

VERBS, PARTS = ("lift", "turn", "shake"), ("star", "ring", "cross")
CLASSES = ["background", *(f"{verb}_{part}" for verb in VERBS for part in PARTS)]
UNSEEN = ["lift_cross", "turn_star"]
WIDTH, FPS = 16, 12.0
FACT = {
    "blocks": "iuU",
    "Bi": {"hid_dim": 32, "a_dim": 16, "a_ffdim": 16, "a_layers": 1, "a_nhead": 2, "f": "m", "f_dim": 16}
    | {"f_layers": 3, "f_ln": False, "dropout": 0.0},
    "BU": {"s_layers": 1},
    "tokens": 12,
    "channel_dropout": 0.0,
}


class World(NamedTuple):
    """What training and evaluation take."""

    params: Params
    manifest: Path
    stores: dict[str, Path]

    def features(self, head: str) -> dict[str, Path]:
        """The stores that a head reads."""
        return {role: self.stores[role] for role in self.params.head(head).inputs}


def embedding(name: str) -> np.ndarray:
    """(6,) unit vector: a verb and a part, so that a combination is known from its parts."""
    vector = np.zeros(len(VERBS) + len(PARTS) + 1, np.float32)
    if name == "background":
        vector[-1] = 1
    else:
        verb, part = name.split("_")
        vector[[VERBS.index(verb), len(VERBS) + PARTS.index(part)]] = 1
    return vector / np.linalg.norm(vector)


def segments(rng: np.random.Generator, first: str) -> list[dict[str, Any]]:
    """Six segments; the first is given, so that every class occurs."""
    names = [first]
    while len(names) < 6:
        name = CLASSES[rng.integers(len(CLASSES))]
        if name != names[-1]:
            names.append(name)
    return [{"label": name, "frames": int(rng.integers(6, 12))} for name in names]


def table(videos: dict[str, int]) -> pd.DataFrame:
    """A manifest of so many videos a split."""
    rows = [(f"{split}-{number}", split, number) for split, count in videos.items() for number in range(count)]
    made = frame({"train": 1}).head(1)
    made = made.loc[made.index.repeat(len(rows))].reset_index(drop=True)
    made["sample"], made["split"] = [row[0] for row in rows], [row[1] for row in rows]
    made["digest"] = [digest(sample) for sample in made["sample"]]
    made["label"] = None
    made["segments"] = [segments(np.random.default_rng([5, *map(ord, row[0])]), CLASSES[row[2] % 10]) for row in rows]
    made.attrs = {"facts_version": "2", "classes": CLASSES, "class_lists": {"held_out": UNSEEN}}
    return made


def rows_of(sample: str, runs: list[dict[str, Any]]) -> np.ndarray:
    """(T, D): the verb and the part of each frame under noise."""
    random = np.random.default_rng([7, *map(ord, sample)])
    clean = np.concatenate([np.tile(embedding(run["label"]), (run["frames"], 1)) for run in runs])
    values = 0.3 * random.normal(size=(len(clean), WIDTH))
    values[:, : clean.shape[1]] += 2 * clean
    return values.astype(np.float16)


def write_rows(directory: Path, made: pd.DataFrame, rows: dict[str, np.ndarray] | None = None) -> Path:
    """A finished ragged store; `rows` replace those that would be made."""
    config = {"backbone": "i3d", "sampling": {"fps": FPS}}
    provenance = {"key": "keyrows", "feature": "i3d_frames", "config": config, "weights": "x"}
    samples = list(zip(made["sample"], made["digest"], strict=True))
    with ShardWriter(directory / "shard-000", samples, {"frames": ((None, WIDTH), "float16")}, provenance) as writer:
        for sample, runs in zip(made["sample"], made["segments"], strict=True):
            values = (rows or {}).get(sample)
            values = rows_of(sample, runs) if values is None else values
            writer.put(sample, {"frames": values}, {})
        writer.commit()
        writer.finish()
    return directory


def write_texts(directory: Path, names: list[str]) -> Path:
    """A finished store of class texts."""
    texts = [(name.replace("_", " "), digest(name)) for name in names]
    provenance = {"key": "keytexts", "feature": "clip_text", "config": {"backbone": "clip_text"}, "weights": "y"}
    fields = {"text_embed": ((len(embedding("background")),), "float32")}
    with ShardWriter(directory / "shard-000", texts, fields, provenance) as writer:
        for name, (text, _) in zip(names, texts, strict=True):
            writer.put(text, {"text_embed": embedding(name)}, {})
        writer.commit()
        writer.finish()
    return directory


def params(**changes: Any) -> Params:
    """Params of both heads; `changes` replace keys of each."""
    head = {
        "dataset": "made",
        "features": {"frames": "i3d_frames"},
        "seed": 0,
        "model": FACT,
        "mwt": 0.1,
        "lr": 5e-3,
        "batch_size": 4,
        "epochs": 40,
        "decay_epoch": 30,
        "patience": 40,
        "holdout": 0.2,
        "train_split": "train",
        "eval_split": "test",
        "bootstrap": 20,
        **changes,
    }
    alignment = {"target": "frame", "hidden": 32, "dropout": 0.0, "temperature": 0.07, "w_fact": 0.5, "w_con": 0.5}
    zero_shot = {
        "vocabulary": {"dataset": "texts", "feature": "clip_text"},
        "alignment": {**alignment, "scoring": "cosine"},
        "unseen": "held_out",
        "stand_ins": 0.2,
    }
    i3d = {"backbone": "i3d", "rgb": {"random": 0}, "sampling": {"fps": FPS}, "preprocess": {"resize": [32, 32]}}
    return parse_params(
        {
            "compute": {"device": "cpu", "threads": 1, "decode_workers": 0},
            "datasets": {
                "made": {
                    "layout": "mstcn",
                    "root": "made",
                    "background": ["background"],
                    "class_lists": {"held_out": "held_out.txt"},
                },
                "texts": {"layout": "texts", "root": "texts.txt"},
            },
            "features": {
                "i3d_frames": i3d,
                "clip_text": {"backbone": "clip_text", "weights": {"random": 0}, "prompts": ["{}"]},
            },
            "heads": {
                "fact": {"kind": "fact", **head, "result": "one"},
                "fact_clip": {"kind": "fact_clip", **head, **zero_shot, "result": "two"},
            },
        }
    )


def make(root: Path, **changes: Any) -> World:
    """Everything on disk."""
    made = table({"train": 20, "test": 8})
    write_manifest(made, root / "manifest.parquet")
    stores = {
        "frames": write_rows(root / "i3d_frames-keyrows", made),
        "text": write_texts(root / "clip_text-keytexts", CLASSES),
    }
    return World(params(**changes), root / "manifest.parquet", stores)
