"""The file formats of a head's graph: each writes one file with a record in it, and opens it by its own runtime.

Sources: PyTorch's torch.export and AOTInductor; ONNX by PyTorch's exporter of exported programs, run by ONNX Runtime.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.overrides import TorchFunctionMode

from pipeline.deployment.graphs import ROWS, Graph
from pipeline.memory import first_line

RECORD = "permafrost.json"
MOST = 65_536  # of an axis that may have any length

Call = Callable[[Sequence[np.ndarray]], np.ndarray]


class FormatError(ValueError):
    """A graph that a format cannot hold, or a library that writes it and is not there; the message gives the remedy."""


class Format(NamedTuple):
    """How a graph becomes a file.

    Attributes:
        suffix: of the file's name.
        write: (graph, path, record).
        load: (path) -> the function of the inputs, and the record.
        needs: the package's extra with its libraries; None where torch is enough.
        runs: what runs it elsewhere, for people.
    """

    suffix: str
    write: Callable[[Graph, Path, Mapping[str, Any]], None]
    load: Callable[[Path], tuple[Call, dict[str, Any]]]
    needs: str | None
    runs: str


class _PlainAttention(TorchFunctionMode):
    """Attention by its formula: of the fused kernel the strides are not those that ONNX's exporter computes."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            return attention(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v, of arguments as `torch.nn.functional.scaled_dot_product_attention` takes them.

    Raises:
        FormatError: dropout, a causal mask or grouped queries, which no head uses in prediction.
    """
    if dropout_p or is_causal or enable_gqa:
        raise FormatError("attention with dropout, a causal mask or grouped queries is not written; use --format torch")
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, float("-inf")) if masked else scores + attn_mask
    return scores.softmax(dim=-1) @ value


def traced(graph: Graph) -> ExportedProgram:
    """The graph by torch.export, its free axes free."""
    example = graph.rows(ROWS)
    sizes = {name: Dim(name, min=1, max=MOST) for axes in graph.free.values() for name in axes.values()}
    shapes = tuple({axis: sizes[name] for axis, name in graph.free[of].items()} for of in graph.names)
    try:
        with torch.no_grad():
            return torch.export.export(graph.module, example, dynamic_shapes={"tensors": shapes}, strict=False)
    except (TorchDynamoException, GuardOnDataDependentSymNode) as error:
        raise FormatError(
            f"its forward depends on the batch at hand ({first_line(error)}); in it take a size as tensor.shape[0], "
            "not len(tensor), and branch on no value of a tensor while torch.compiler.is_exporting()"
        ) from None


# --- torch ------------------------------------------------------------------------------------------------------------


def _write_torch(graph: Graph, path: Path, record: Mapping[str, Any]) -> None:
    torch.export.save(traced(graph), path, extra_files={RECORD: json.dumps(record)})


def _load_torch(path: Path) -> tuple[Call, dict[str, Any]]:
    extra = {RECORD: ""}
    module = torch.export.load(path, extra_files=extra).module()

    def call(inputs: Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs)).numpy()

    return call, json.loads(extra[RECORD])


# --- ONNX -------------------------------------------------------------------------------------------------------------


def _write_onnx(graph: Graph, path: Path, record: Mapping[str, Any]) -> None:
    with _PlainAttention():
        program = traced(graph)
    try:
        with _quiet("torch.onnx", "onnxscript"):
            made = torch.onnx.export(
                program, (), dynamo=True, verbose=False, input_names=list(graph.names), output_names=[graph.gives]
            )
    except torch.onnx.OnnxExporterError as error:
        said = first_line(error)
        raise FormatError(f"ONNX has no operator for what it does ({said}); use --format torch or aoti") from None
    made.model.metadata_props[RECORD] = json.dumps(record)
    made.save(str(path), external_data=False)


def _load_onnx(path: Path) -> tuple[Call, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [of.name for of in session.get_inputs()]
    record = session.get_modelmeta().custom_metadata_map[RECORD]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0], json.loads(record)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Says nothing below an error: what the exporter tells of its steps concerns who writes exporters."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


# --- AOTInductor ------------------------------------------------------------------------------------------------------


def _write_aoti(graph: Graph, path: Path, record: Mapping[str, Any]) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import InductorError, InvalidCxxCompiler

    try:
        aoti_compile_and_package(
            traced(graph),
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": {RECORD: json.dumps(record)}},
        )
    except (InvalidCxxCompiler, InductorError) as error:
        if "CxxCompiler" not in f"{type(error).__name__} {error}":
            raise
        raise FormatError(
            "--format aoti compiles the head, and no C++ compiler is here; install g++, name one in CXX, or use "
            "--format torch"
        ) from None


def _load_aoti(path: Path) -> tuple[Call, dict[str, Any]]:
    from torch._inductor import aoti_load_package

    package = aoti_load_package(str(path))

    def call(inputs: Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return package(*map(torch.from_numpy, inputs)).numpy()

    return call, json.loads(package.loader.get_metadata()[RECORD])


FORMATS = {
    "torch": Format(".pt2", _write_torch, _load_torch, None, "torch.export.load"),
    "onnx": Format(".onnx", _write_onnx, _load_onnx, "export", "any ONNX runtime"),
    "aoti": Format(".aoti.pt2", _write_aoti, _load_aoti, None, "torch._inductor.aoti_load_package, or C++"),
}
