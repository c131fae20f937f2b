"""Trained heads of given sizes over stores of random values, and what a step of one costs: bytes, waits of the host."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.accelerator import arithmetic
from pipeline.config import Params
from pipeline.evaluation.provenance import AUTOCAST
from pipeline.runs import Run
from pipeline.store import FeatureStore, ShardWriter
from pipeline.training.accumulation import checkpointed
from pipeline.training.clips import Clips, MapStream
from pipeline.training.dataset import Samples, Stream
from pipeline.training.frames import FrameStream, Videos, transcript
from pipeline.training.probed import ProbedSamples, probed_stream
from pipeline.training.registry import build

if TYPE_CHECKING:
    from pipeline.training.step import Step

# Feature -> the field of its store and the shape of a sample, as params.yaml's backbones give them.
TOY: Mapping[str, tuple[str, tuple[int | None, ...]]] = {
    "dinov3_patches": ("patch_tokens", (8, 16, 128)),
    "r3d18_clips": ("clip_tokens", (8, 16, 96)),
    "i3d_frames": ("frames", (None, 256)),
    "clip_text": ("text_embed", (128,)),
    "attention_maps": ("maps", (1, 8, 8, 8)),
}
CLASSES = {"gasm_cast": 16, "fact": 37, "fact_clip": 37, "clip_align": 4}  # of the toy world
SEGMENTS, ROWS = (8, 15), (18, 37)  # of a video, and of a segment: fewest, and one more than the most


# --- a head with something to learn from ------------------------------------------------------------------------------


def run_of(
    params: Params,
    head: str,
    shapes: Mapping[str, tuple[str, tuple[int | None, ...]]],
    classes: int,
    count: int,
    folder: Path,
) -> Run:
    """A run of a head over `count` samples of random values, in stores below `folder`."""
    config, rng = params.head(head), np.random.default_rng(0)
    ids = [f"{number}" for number in range(count)]
    lengths = [rng.integers(*ROWS, rng.integers(*SEGMENTS)) for _ in ids]
    stores = {}
    for role, of in config.inputs.items():
        name, shape = shapes[of.feature]
        rows = {sample: int(length.sum()) for sample, length in zip(ids, lengths, strict=True)}
        stores[role] = _store(folder / head / role, name, shape, rows, rng)
    parts = {"train": ids, "holdout": ids[: max(count // 8, 1)], "evaluated": ids}
    given = {
        "classes": [f"class {number}" for number in range(classes)],
        "parts": parts,
        "labels": {sample: number % classes for number, sample in enumerate(ids)},
        "failed": {},
        "unlabelled": 0,
        "skipped": 0,
        "digest": "made up",
    }
    run = Run(params, head, folder / "manifest.parquet", {}, folder / head / "run")
    vars(run)["samples"] = _SAMPLES[config.kind](given, stores, shapes, config, lengths, rng)
    return run


def _store(
    folder: Path, name: str, shape: tuple[int | None, ...], rows: Mapping[str, int], rng: np.random.Generator
) -> FeatureStore:
    samples = [(sample, sample) for sample in rows]
    with ShardWriter(folder / "shard-000", samples, {name: (shape, "float16")}, {"key": "made up"}) as writer:
        for sample, length in rows.items():
            size = tuple(length if of is None else of for of in shape)
            values = np.abs(rng.standard_normal(size, np.float32)).astype(np.float16)
            writer.put(sample, {name: values}, {"times": list(map(float, range(size[0])))})
        writer.commit()
        writer.finish()
    return FeatureStore(folder)


def _stream(store: FeatureStore) -> Stream:
    ((name, (shape, _)),) = store.fields.items()
    side = round(shape[1] ** 0.5)
    return Stream(store, name, (shape[0], side, side), shape[2])


def _tokens(given: Any, stores: Any, shapes: Any, config: Any, lengths: Any, rng: Any) -> Samples:
    return Samples(**given, streams={role: _stream(store) for role, store in stores.items()})


def _videos(given: Any, stores: Any, shapes: Any, config: Any, lengths: Any, rng: Any) -> Videos:
    count, text = len(given["classes"]), None
    labels = {
        sample: np.repeat(rng.integers(0, count, len(of)), of)
        for sample, of in zip(given["parts"]["train"], lengths, strict=True)
    }
    seen = np.ones(count, bool)
    ((name, (shape, _)),) = stores["frames"].fields.items()
    if "text" in stores:
        seen[1::6] = False
        text = np.linalg.qr(rng.standard_normal((shapes["clip_text"][1][0], count)))[0].T.astype(np.float32)
    shown = {sample: np.where(seen[of], of, -1) for sample, of in labels.items()}
    return Videos(
        **{**given, "labels": shown},
        streams={"frames": FrameStream(stores["frames"], name, shape[1], 12.0, True)},
        truth=labels,
        seen=seen,
        background=(0,),
        text=text,
        given={sample: transcript(of) for sample, of in shown.items()},
    )


def _clips(given: Any, stores: Any, shapes: Any, config: Any, lengths: Any, rng: Any) -> Clips:
    ids, maps = given["parts"]["train"], stores["maps"]
    ((name, (shape, _)),) = maps.fields.items()
    tokens = _stream(stores["tokens"])
    return Clips(
        **given,
        streams={"tokens": tokens, "maps": MapStream(maps, name, shape[0], shape[2] // tokens.grid[1])},
        maps={sample: None if number % 8 == 7 else sample for number, sample in enumerate(ids)},
        patients={sample: f"{number // 2}" for number, sample in enumerate(ids)},
    )


def _probed(given: Any, stores: Any, shapes: Any, config: Any, lengths: Any, rng: Any) -> ProbedSamples:
    is_pooled = config.probe != "attentive"
    return ProbedSamples(
        **given,
        streams={role: probed_stream(role, store, is_pooled) for role, store in stores.items()},
        targets=given["labels"],
        is_pooled=is_pooled,
    )


_SAMPLES = {"probe": _probed, "gasm_cast": _tokens, "fact": _videos, "fact_clip": _videos, "clip_align": _clips}


def step_of(run: Run, device: str) -> Step:
    """A run's head in training, as the trainer makes it, without a trainer."""
    torch.manual_seed(run.config.seed)
    model = build(run.head, run.config, run.samples)
    if run.config.gradient_checkpointing:
        checkpointed(model, run.config.blocks_in)
    steps = max(len(run.samples.parts["train"]) // run.config.batch_size, 1)
    step = run.task.code("step")(run.head, model, run.config, run.samples, steps).train()
    if device != "cpu":  # what has shapes only cannot be moved
        step = step.to(device)
    step.log = lambda *args, **kwargs: None
    step.divide(run.config.accumulate)
    return step


class Learning(NamedTuple):
    """A step and its optimiser."""

    step: Step
    optimizer: torch.optim.Optimizer
    clip_norm: float
    device: str

    @classmethod
    def of(cls, run: Run, device: str) -> Learning:
        step = step_of(run, device)
        return cls(step, step.configure_optimizers()["optimizer"], run.config.clip_norm, device)

    def gradients(self, batch: Mapping[str, Tensor], number: int = 0) -> Tensor:
        """Forward and backward. Returns the loss."""
        dtype = AUTOCAST.get(arithmetic(self.step.config.precision, self.device))
        self.step.on_train_batch_start(batch, number)
        with torch.autocast(self.device, dtype=dtype, enabled=dtype is not None):
            loss = self.step.training_step(batch, number)
        self.optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    def __call__(self, batch: Mapping[str, Tensor], number: int = 0) -> None:
        """A whole step: gradients, clipping, update."""
        self.gradients(batch, number)
        torch.nn.utils.clip_grad_norm_(self.step.parameters(), self.clip_norm)
        self.optimizer.step()


# --- bytes ------------------------------------------------------------------------------------------------------------


def saved_bytes(learning: Learning, batch: Mapping[str, Tensor]) -> int:
    """Bytes that a forward keeps for its backward, each storage once, parameters left out: what
    `torch.autograd.graph.saved_tensors_hooks` sees."""
    kept: dict[int, Tensor] = {}
    own = {of.untyped_storage()._cdata for of in learning.step.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage()._cdata) not in own:
            kept.setdefault(place, tensor)
        return tensor

    dtype = AUTOCAST.get(arithmetic(learning.step.config.precision, learning.device))
    learning.step.on_train_batch_start(batch, 0)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(learning.device, dtype=dtype, enabled=dtype is not None),
        fused_attention(learning.device),
    ):
        learning.step.training_step(batch, 0)
    return sum(of.untyped_storage().nbytes() for of in kept.values())


class Live(TorchDispatchMode):
    """Bytes of the storages that operations make, as long as they live: `peak` is the most at once."""

    paused: ClassVar[bool] = False

    def __init__(self, there: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {of.untyped_storage()._cdata for of in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not Live.paused:
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor):
                    self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_bytes(learning: Learning, batch: Mapping[str, Tensor]) -> int:
    """The most bytes at once that a forward and its backward make beside the batch: kept, computed again, gradients."""
    learning.optimizer.zero_grad()
    there = [*learning.step.parameters(), *learning.step.buffers(), *batch.values()]
    with fused_attention(learning.device), Live(there) as live:
        learning.gradients(batch)
    return live.peak


class _Fused(torch.autograd.Function):
    """Attention that keeps what the fused kernels of a GPU keep: its inputs, its output, a number a reading token."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        with _unseen():
            found = F_ATTENTION(query, key, value, attn_mask=bias)
        found = found.clone()
        ctx.save_for_backward(query, key, value, bias, found, query.new_zeros(query.shape[:-1], dtype=torch.float32))
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, _, _ = ctx.saved_tensors
        with _unseen(), torch.enable_grad():
            again = [None if of is None else of.detach().requires_grad_() for of in inputs]
            F_ATTENTION(*again[:3], attn_mask=again[3]).backward(grad)
            grads = [None if of is None else of.grad for of in again]
        return tuple(None if of is None else of.clone() for of in grads)


F_ATTENTION = F.scaled_dot_product_attention


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    Live.paused = True
    try:
        yield
    finally:
        Live.paused = False


@contextlib.contextmanager
def fused_attention(device: str) -> Iterator[None]:
    """On the CPU, whose attention under a learned bias keeps every weight, one that keeps what a GPU's keeps."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **others: Any) -> Tensor:
        if others.get("dropout_p"):
            return F_ATTENTION(query, key, value, attn_mask=attn_mask, **others)
        if attn_mask is not None and torch.is_autocast_enabled("cpu"):
            attn_mask = attn_mask.to(query.dtype) if attn_mask.is_floating_point() else attn_mask
        if attn_mask is not None and not attn_mask.is_floating_point():
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        return _Fused.apply(query, key, value, attn_mask)

    if device == "cpu":
        F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = F_ATTENTION


class _Assured(TorchFunctionMode):
    """What is asked of a value has the answer no: of shapes alone nothing is wrong."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return False if func is torch.Tensor.__bool__ else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def shapes_only() -> Iterator[Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
    """Inside, tensors have shapes, types and storages, and nothing is computed; gives what makes such of a batch."""
    with FakeTensorMode() as fake, _Assured():
        yield lambda batch: {name: fake.from_tensor(of) for name, of in batch.items()}


def with_compute(params: Params, **compute: Any) -> Params:
    """The same params on another device, or with other memory."""
    return params.model_copy(update={"compute": params.compute.model_copy(update=compute)})


def steps_of(run: Run, size: int) -> Callable[[str], Callable[[], None]]:
    """A device -> a training step there, of the first samples of a run."""

    def prepared(device: str) -> Callable[[], None]:
        return partial(Learning.of(run, device), batch_of(run, size, device))

    return prepared


def batch_of(run: Run, size: int, device: str) -> dict[str, Tensor]:
    """The first samples of a run."""
    table = run.table(run.samples.parts["train"][:size])
    return {name: of.to(device) for name, of in table[list(range(size))].items()}


def changed(run: Run, **changes: Any) -> Run:
    """The same run with other values of its head's fields, unchecked."""
    config = run.config.model_copy(update=changes)
    other = replace(run, params=run.params.replacing(run.head, config))
    vars(other)["samples"] = run.samples
    return other
