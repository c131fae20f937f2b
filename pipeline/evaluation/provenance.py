"""What evaluations of every kind of head share: how a run is asked, and what its result rests on."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from pipeline.accelerator import accelerator, arithmetic, device, made_by
from pipeline.config import Compute, canonical_json, code_digest
from pipeline.evaluation.draws import Draws
from pipeline.runs import Run
from pipeline.store import apart, by_feature
from pipeline.training.batches import OrderedBatches
from pipeline.training.dataset import SHOWN, Samples, content_digest
from pipeline.training.table import Batch, Readers, Table
from pipeline.transfers import uploaded

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Evaluated(NamedTuple):
    """What one kind of head came to: figures for the result, a table of predictions, a line for the log.

    `files` lie beside the result, name -> content; `read` lie in the run's folder, name -> sha256. `draws` are of those
    figures that claims may compare over samples.
    """

    scores: dict[str, Any]
    predictions: pd.DataFrame
    said: str
    timings: dict[str, float]
    files: Mapping[str, bytes] = MappingProxyType({})
    read: Mapping[str, str] = MappingProxyType({})
    draws: Draws | None = None


def opened(run: Run) -> None:
    """Sets the number of threads, and refuses a run whose weights and samples do not belong together.

    Raises:
        RunError: the run is not complete, or learned from other data.
        DataError: manifest and stores do not belong together, or nothing can be evaluated.
    """
    torch.set_num_threads(run.params.compute.threads)
    run.refuse_other_samples()


def batches(run: Run, table: Table, beside: Sequence[np.ndarray] = ()) -> Iterator[Batch]:
    """All rows of a table in order, on the run's device, all but `row`; on their way before they are asked for.

    Args:
        run, table: whose.
        beside: orders of the rows, (N,) each: after each batch come, for each of these, the rows in the batch's places.
    """
    return uploaded(read(run, table, beside), device(run.params.compute))


def read(run: Run, table: Table, beside: Sequence[np.ndarray] = ()) -> Iterable[Batch]:
    """`batches` on the host, read ahead by as many processes, and of as many bytes, as `compute` allows.

    Raises:
        DataError: not one batch fits into these bytes.
    """
    compute = run.params.compute
    return read_ahead(compute, table, OrderedBatches(range(len(table)), run.config.part).batches, beside)


def read_ahead(
    compute: Compute, table: Table, lists: Sequence[list[int]], beside: Sequence[np.ndarray] = ()
) -> Iterable[Batch]:
    """As `read`, of lists of rows."""
    chosen = [rows for own in lists for rows in (own, *(order[own].tolist() for order in beside))]
    # Nobody reads ahead of the only batch.
    readers = Readers(compute.decode_workers if len(chosen) > 1 else 0, compute.readahead_gb * 1e9)
    return table.loader(chosen, max(map(len, chosen)), readers, pin=accelerator(compute) == "cuda")


@contextlib.contextmanager
def inference(run: Run) -> Iterator[None]:
    """No gradients, and the precision that the head was trained in."""
    kind = accelerator(run.params.compute)
    dtype = AUTOCAST.get(arithmetic(run.config.precision, kind))
    with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
        yield


def counted(samples: Samples) -> dict[str, Any]:
    """Every row of the manifest counted once, and the first failures with their reasons."""
    failures = [{"sample": sample, "reason": reason} for sample, reason in list(samples.failed.items())[:SHOWN]]
    return {**samples.counts, "failures": failures}


def evaluated_digest(predictions: pd.DataFrame) -> str:
    """sha256 of the evaluated samples and their labels, whatever was predicted: equal where figures can be compared."""
    told = [name for name in ("set", "part", "sample", "label", "truth") if name in predictions]
    return content_digest(predictions[told].to_dict("split")["data"])


def provenance(run: Run) -> dict[str, Any]:
    """What the numbers rest on; nothing here depends on the moment."""
    config, streams, there = run.config, run.samples.streams, device(run.params.compute)
    features = {}
    for role, stream in streams.items():
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
    guessed = any('"random:' in canonical_json(stream.store.provenance) for stream in streams.values())
    environments = by_feature(stream.store.provenance for stream in streams.values())
    return {
        "params": config.learned | config.evaluated,
        "features": features,
        "environments": environments,
        "mixed": {name: apart(of) for name, of in environments.items() if len(of) > 1},
        "weights": "random" if guessed else "trained",
        "code": code_digest("."),
        "seed": config.seed,
        **made_by(run.params.compute),
        **({"precision": arithmetic(config.precision, there.type)} if hasattr(config, "precision") else {}),
        **{name: run.record[name] for name in ("accumulate",) if name in run.record},
    }
