"""From a finished run to one file that other machines run, which answers as the run did. Knows no format by name."""

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from pipeline.accelerator import deterministic
from pipeline.deployment.formats import FORMATS, Call, FormatError
from pipeline.deployment.graphs import Graph
from pipeline.digests import file_digest
from pipeline.files import whole
from pipeline.runs import WEIGHTS, Run

PROVED = 100  # samples by which a file is proved
CLOSE = (
    1e-5  # and how close it must come: of a probability, or of a number in its own unit, or its share of one above 1
)
BATCHES = (1, 2, 7)  # of these many samples, in turn: an axis that is fixed shows
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


class DeploymentError(ValueError):
    """A head that cannot be written, or a file that does not answer as the run; the message gives the remedy."""


class Deployed(NamedTuple):
    """A file, of how many samples its answers were compared, and the largest difference: from the head here in float32,
    and from the run's predictions."""

    path: Path
    samples: int
    from_head: float
    from_predictions: float


def export_head(run: Run, form: str, out: Path, progress: Callable[[str], None] = lambda line: None) -> Deployed:
    """Writes the head of a finished run as one file, once its answers are proved to be the run's.

    The file takes a batch of any size of the head's features as float32, and gives logits, or numbers. It carries a
    record: classes, inputs, preprocessing of each feature, keys and digests of weights.

    Args:
        run: a finished one.
        form: one of FORMATS.
        out: the file to write; replaced where it is there.
        progress: called with a line now and then.

    Raises:
        DeploymentError: an unknown format, a library or compiler that is not there, a head of a task that has no such
            graph, or whose graph depends on its data; a file whose answers differ by more than 1e-5, which is not left.
        RunError, Damaged, DataError: no finished run; with the remedy.
    """
    if form not in FORMATS:
        raise DeploymentError(f"--format {form} is none of {', '.join(FORMATS)}")
    chosen = FORMATS[form]
    if absent := [name for name in LIBRARIES.get(form, ()) if find_spec(name) is None]:
        raise DeploymentError(
            f"--format {form} needs {', '.join(absent)}; install the package with its extra: "
            f"pip install 'permafrost[{chosen.needs}]'"
        )
    if run.task.graph is None:
        raise DeploymentError(f"{run.head}: a head of {run.task.title} is not exported; ask it with `predict`")
    predictions = run.predictions  # before anything is computed: it says how the run is finished
    run.refuse_other_samples()
    torch.set_num_threads(run.params.compute.threads)
    graph: Graph = run.task.code("graph")(run)
    progress(f"{run.head}: writing {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as scratch, deterministic():
        # Its runtime may tell a format by the name.
        named = scratch.with_name(f"{scratch.name}{chosen.suffix}")
        try:
            chosen.write(graph, named, record(run, graph, form))
            call, _ = chosen.load(named)
            found = proved(run, graph, call, predictions.head(PROVED))
            named.replace(scratch)
        except FormatError as error:
            raise DeploymentError(f"{run.head}: {error}") from None
        finally:
            named.unlink(missing_ok=True)
    return Deployed(out, *found)


def proved(run: Run, graph: Graph, call: Call, predictions: pd.DataFrame) -> tuple[int, float, float]:
    """How many samples a file was asked about, and the largest differences.

    Raises:
        DeploymentError: one is too large.
    """
    head, file = [], []
    for rows in _batches(len(predictions)):
        inputs = graph.rows(rows)
        with torch.inference_mode():
            head.append(graph.module(*inputs).numpy())
        file.append(np.asarray(call([of.numpy() for of in inputs])))
    answers_NC = graph.answers(np.concatenate(file))
    from_head = _difference(answers_NC, graph.answers(np.concatenate(head)))
    from_predictions = _difference(answers_NC, graph.told(predictions))
    # Another device, or half precision, has answered otherwise than any file in float32 can.
    made = run.result["provenance"]
    alike = made["device"] == "cpu" and made.get("precision", "32-true") == "32-true"
    for what, found, binds in (("the head", from_head, True), ("the run's predictions", from_predictions, alike)):
        if binds and not found <= CLOSE:  # NaN is not close
            raise DeploymentError(
                f"{run.head}: the exported file's answers differ by {found:.2g} from {what}, of which {CLOSE:g} is "
                "allowed; use another --format, and report this"
            )
    return len(predictions), from_head, from_predictions


def _difference(found_NC: np.ndarray, told_NC: np.ndarray) -> float:
    """The largest of figures that are told, of those above 1 as a share."""
    known = ~np.isnan(told_NC)
    found, told = found_NC[known], told_NC[known]
    return float(np.max(np.abs(found - told) / np.maximum(1.0, np.abs(told))))


def _batches(samples: int) -> Iterator[Sequence[int]]:
    start, turn = 0, 0
    while start < samples:
        end = min(start + BATCHES[turn % len(BATCHES)], samples)
        yield range(start, end)
        start, turn = end, turn + 1


def record(run: Run, graph: Graph, form: str) -> dict[str, Any]:
    """What a file carries of where it comes from and how it is used."""
    config, streams = run.config, run.samples.streams
    example = dict(zip(graph.names, graph.rows([0]), strict=True))
    return {
        "format": form,
        "head": run.head,
        "kind": config.implementation,
        "task": run.task.name,
        "classes": list(run.samples.classes),
        "gives": graph.gives,
        "inputs": {
            name: {
                "dtype": str(of.dtype).removeprefix("torch."),
                "shape": [graph.free[name].get(axis, size) for axis, size in enumerate(of.shape)],
            }
            for name, of in example.items()
        },
        "features": {
            role: {
                "name": of.store.provenance["feature"],
                "key": of.store.key,
                "field": of.name,
                "made_by": of.store.provenance["config"],
                "weights": of.store.provenance["weights"],
            }
            for role, of in streams.items()
        },
        "run": run.key,
        "evaluation": run.evaluation,
        "params": config.learned,
        "weights": {WEIGHTS: file_digest(run.folder / WEIGHTS)} if config.trains else {},
        "versions": {name: version(name) for name in ("permafrost", "torch")},
    }
