"""What evaluations of every kind of head share: the run's samples and weights, and what a result rests on."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.accelerator import arithmetic, made_by
from pipeline.config import Params, canonical_json, code_digest, evaluation_key
from pipeline.digests import Damaged, file_digest, read_json
from pipeline.store import apart, by_feature
from pipeline.tables import read_frame
from pipeline.tasks import TASKS
from pipeline.training.dataset import SHOWN, Samples, content_digest
from pipeline.training.probed import remember
from pipeline.training.registry import build
from pipeline.training.run_folder import PREDICTIONS, RESULT, WEIGHTS, RunError, read_run
from pipeline.training.trainer import head_samples

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Evaluated(NamedTuple):
    """What one kind of head came to: figures for the result, a table of predictions, a line for the log.

    `files` lie beside the result, name -> content; `read` lie in the run's folder, name -> sha256.
    """

    scores: dict[str, Any]
    predictions: pd.DataFrame
    said: str
    timings: dict[str, float]
    files: Mapping[str, bytes] = MappingProxyType({})
    read: Mapping[str, str] = MappingProxyType({})


def opened(
    params: Params, head: str, manifest: Path, features: Mapping[str, Path], run: Path
) -> tuple[Samples, dict[str, Any]]:
    """The head's samples and the record of its run, which belong together; {} where nothing is trained.

    Sets the number of threads.

    Raises:
        RunError: the run is not complete, or learned from other data.
        DataError: manifest and stores do not belong together, or nothing can be evaluated.
    """
    torch.set_num_threads(params.compute.threads)
    if not params.head(head).trains:
        return TASKS[params.head(head).task].code("samples")(params, head, manifest, features), {}
    samples, record = head_samples(params, head, manifest, features), read_run(run)
    if record["data_digest"] != samples.digest:
        raise RunError(
            f"{run} learned from other samples than {manifest} and the stores hold now; train the head again"
        )
    return samples, record


def finished(params: Params, head: str, run: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """What the head's evaluation left below the run: the result and its predictions, of what the run holds now.

    Raises:
        RunError: there is none.
        Damaged: a file is not the one that was written, or that was evaluated.
    """
    place = run / evaluation_key(params.head(head))
    made = f"`snakemake results/{params.head(head).result}.json`"
    for path in (place / RESULT, place / PREDICTIONS):
        if not path.exists():
            raise RunError(f"{path} is not there: {head} has no finished run of these params; make it first: {made}")
    again = f"delete {place} and evaluate again: {made}, or `python -m pipeline evaluate {head}`"
    result = read_json(place / RESULT, again)
    for name, digest in result["provenance"]["read"].items():
        if not (run / name).exists() or file_digest(run / name) != digest:
            raise Damaged(f"{run / name} is not the file that {place / RESULT} was evaluated with; {again}")
    return result, read_frame(place / PREDICTIONS, again, digest=result["provenance"]["files"][PREDICTIONS])


def trained(params: Params, head: str, samples: Samples, run: Path, device: torch.device) -> nn.Module:
    """The head with the run's weights, or with all that a head without weights remembers, ready to predict."""
    config = params.head(head)
    model = build(head, config, samples)
    if config.trains:
        model.load_state_dict(load_file(run / WEIGHTS))
    else:
        remember(model, samples, params.compute.cache_memory_gb * 1e9, device)
    return model.to(device).eval()


@contextlib.contextmanager
def inference(precision: str, device: torch.device) -> Iterator[None]:
    """No gradients, and the precision that the head was trained in."""
    dtype = AUTOCAST.get(arithmetic(precision, device.type))
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        yield


def counted(samples: Samples) -> dict[str, Any]:
    """Every row of the manifest counted once, and the first failures with their reasons."""
    failures = [{"sample": sample, "reason": reason} for sample, reason in list(samples.failed.items())[:SHOWN]]
    return {**samples.counts, "failures": failures}


def evaluated_digest(predictions: pd.DataFrame) -> str:
    """sha256 of the evaluated samples and their labels, whatever was predicted: equal where figures can be compared."""
    told = [name for name in ("set", "part", "sample", "label", "truth") if name in predictions]
    return content_digest(predictions[told].to_dict("split")["data"])


def provenance(config: Any, samples: Samples, device: torch.device) -> dict[str, Any]:
    """What the numbers rest on; nothing here depends on the moment."""
    features = {}
    for role, stream in samples.streams.items():
        made = stream.store.provenance
        features[role] = {
            "name": made["feature"],
            "key": stream.store.key,
            "backbone": made["config"]["backbone"],
            "weights": made["weights"],
            "dataset": config.inputs[role].dataset,
            "failed": len(stream.store.failed),
        }
    # Anywhere in the chain: a feature may be made from others.
    guessed = any('"random:' in canonical_json(stream.store.provenance) for stream in samples.streams.values())
    environments = by_feature(stream.store.provenance for stream in samples.streams.values())
    return {
        "params": config.learned | config.evaluated,
        "features": features,
        "environments": environments,
        "mixed": {name: apart(of) for name, of in environments.items() if len(of) > 1},
        "weights": "random" if guessed else "trained",
        "code": code_digest("."),
        "seed": config.seed,
        **made_by(device),
        **({"precision": arithmetic(config.precision, device.type)} if hasattr(config, "precision") else {}),
    }


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Only operations that repeat to the bit; the caller's choice comes back afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
