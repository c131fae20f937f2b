"""What smaller stores cost: bytes, error of the tokens, and accuracy of GASM-CAST on the toy world, by storage profile.

    python -m benchmarks.profiles [--full] [--json FILE]

Runs the ablation `gasm_cast_storage` of studies/gasm_cast.yaml, then compares the stores that it made with the fp16
one: with --full here, as the study has it (about an hour on two cores when nothing is cached, seconds when everything
is); else over a twentieth of the toy world, for one seed and two epochs: bytes and errors are real, accuracies are not.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import main, project, table, workflow
from pipeline.config import feature_dir, load_params
from pipeline.store import FeatureStore, describe

ABLATION = "gasm_cast_storage"
COMPARED = 64  # samples whose tokens are compared


def small(document: dict[str, Any]) -> None:
    """Sizes that end in two minutes."""
    document["toyworld"]["ssv2"] |= {"train": 2, "validation": 1, "test": 1}
    document["datasets"]["toy-ssv2"] |= {"features": [], "shard_size": 96}
    document["heads"]["gasm_cast"] |= {"epochs": 2, "warmup_epochs": 1}
    document["ablations"][ABLATION]["seeds"] = [0]


def run(cores: int, full: bool) -> dict:
    """Makes the ablation's table and sets bytes, errors and accuracies side by side."""
    with project(full, small):
        return profiles(cores)


def profiles(cores: int) -> dict:
    """Of the project here."""
    target = f"results/ablations/{ABLATION}.json"
    workflow(target, cores=cores)
    params, result = load_params("params.yaml"), json.loads(Path(target).read_text(encoding="utf-8"))
    variants = {name: changes["features.semantic"] for name, changes in params.ablations[ABLATION].variants.items()}
    dataset = params.head(params.ablations[ABLATION].head).dataset
    folders = {name: feature_dir(params, dataset, feature) for name, feature in variants.items()}
    reference = FeatureStore(folders["fp16"])
    ids = reference.samples[:COMPARED]
    grid = reference.provenance["grid"]
    whole = reference.read(ids, "patch_tokens").astype(np.float32)
    rows = {}
    for name, folder in folders.items():
        tokens = FeatureStore(folder).read(ids, "patch_tokens").astype(np.float32)
        facts, scores = describe(folder), result["variants"][name]
        rows[name] = {
            "bytes_a_sample": facts["bytes"] // facts["counts"]["ok"],
            "relative_error": _relative_error(whole, tokens, grid),
            "top1": scores["mean"]["top1"],
            "top1_sd": scores["sd"]["top1"],
        }
    for row in rows.values():
        row["bytes_to_fp16"] = row["bytes_a_sample"] / rows["fp16"]["bytes_a_sample"]
    table("Storage profiles on the toy world", [{"profile": name, **row} for name, row in rows.items()])
    return {"profiles": rows, "seeds": result["seeds"], "samples_compared": len(ids)}


def _relative_error(whole_BTND: np.ndarray, tokens_BTMD: np.ndarray, grid: list[int]) -> float:
    """Root of the share of the tokens' energy that is lost; a pooled token stands for those that it is the mean of."""
    _, rows, columns = grid
    pooled = round((whole_BTND.shape[2] / tokens_BTMD.shape[2]) ** 0.5)
    videos, steps, _, width = tokens_BTMD.shape
    tokens = tokens_BTMD.reshape(videos, steps, rows // pooled, columns // pooled, width)
    back = tokens.repeat(pooled, axis=2).repeat(pooled, axis=3).reshape(whole_BTND.shape)
    return float(np.sqrt(np.square(back - whole_BTND).sum() / np.square(whole_BTND).sum()))


if __name__ == "__main__":
    main(run, {}, cores=2)
