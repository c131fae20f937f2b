"""A small finished project: `features/ucf` with stores of tokens, of vectors, and of ragged rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets import write_manifest
from pipeline.store import ShardWriter
from tests.datasets.made_up import made_up_manifest

CLASSES = ("archery", "bowling", "diving")
IDS = [f"v_{number:03d}" for number in range(20)]
FAILED, UNLABELLED = "v_018", "v_019"
SHARD = 8
KEYS = {"dinov3_patches": "0a1b2c3d4e", "clip_image": "1111111111", "i3d_frames": "2222222222"}
FIELDS = {
    "dinov3_patches": {"patch_tokens": ((2, 4, 8), "float16"), "cls": ((2, 8), "float16")},
    "clip_image": {"image_embed": ((8,), "float16")},
    "i3d_frames": {"frames": ((None, 6), "float16")},
}


def value(feature: str, field: str, sample: str) -> np.ndarray:
    """What a store holds of a sample: noise that follows from all names, around the mean of the sample's class."""
    number = int(sample[2:])
    shape = tuple(3 + number % 5 if side is None else side for side in FIELDS[feature][field][0])
    rng = np.random.default_rng(list(f"{feature} {field} {sample}".encode()))
    means = np.random.default_rng(0).normal(size=(len(CLASSES), shape[-1]))
    return (means[number % 3] + rng.normal(0, 0.2, shape)).astype(np.float16)


def write_store(root: Path, frame: pd.DataFrame, feature: str, key: str | None = None, **config: object) -> Path:
    """The store of a feature of every sample of a manifest."""
    key = key or KEYS[feature]
    folder = root / f"{feature}-{key}"
    made = {"feature": feature, "key": key, "config": {"backbone": "dinov3", "batch": 4} | config, "reads": {}}
    made |= {"weights": {"weights": "0" * 64}, "grid": [2, 2, 2], "box": [0.0, 0.0, 1.0, 1.0]}
    for shard, rows in frame.groupby("shard"):
        samples = list(zip(rows["sample"], rows["digest"], strict=True))
        with ShardWriter(folder / f"shard-{shard:03d}", samples, FIELDS[feature], made) as writer:
            for sample in writer.pending:
                if sample == FAILED:
                    writer.fail(sample, "short: 3 of 30 frames")
                    continue
                meta = {"fps": 12.0} if feature == "i3d_frames" else {"times": [0.25, 0.75]}
                writer.put(sample, {field: value(feature, field, sample) for field in FIELDS[feature]}, meta)
            writer.finish()
    return folder


def write_ucf(folder: Path) -> Path:
    """features/ucf: 20 samples of 3 classes in three shards, one that failed and one without a label."""
    columns = {
        "sample": IDS,
        "path": [f"{id}.avi" for id in IDS],
        "label": [None if id == UNLABELLED else CLASSES[number % 3] for number, id in enumerate(IDS)],
        "template": [None] * len(IDS),
        "split": ["train" if number < 12 else "test" for number in range(len(IDS))],
    }
    frame = made_up_manifest(pd.DataFrame(columns, dtype=object), SHARD)
    write_manifest(frame, folder / "manifest.parquet")
    for feature in FIELDS:
        write_store(folder, frame, feature)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with features/ucf; only to be read."""
    project = tmp_path_factory.mktemp("project")
    write_ucf(project / "features" / "ucf")
    return project


@pytest.fixture
def project(finished, monkeypatch) -> Path:
    """`finished` as the current folder."""
    monkeypatch.chdir(finished)
    return finished


@pytest.fixture(name="flip")
def _flip():
    from tests.store.conftest import flip

    return flip
