"""The gradients of a batch, computed in parts: those of the whole batch, to rounding. Knows no head and no loss.

A loss that is a mean over samples is the weighted mean of its parts' losses. Any other is computed of the whole batch's
outputs, which are made twice: first without gradients, then part by part, each given the loss's gradient of its own
outputs. Whatever is drawn at random is drawn for the whole batch, and a part takes its rows.

Source of the second: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from pipeline.training.registry import HeadError

Outputs = tuple[Any, ...]  # tensors by row, and what is no row's: parameters, None


class Part(NamedTuple):
    """Rows `start` to `stop` - 1 of a batch of `size`."""

    start: int
    stop: int
    size: int

    @property
    def rows(self) -> int:
        """How many it has."""
        return self.stop - self.start

    @property
    def share(self) -> float:
        """Of the batch."""
        return self.rows / self.size


def parts(size: int, count: int) -> list[Part]:
    """A batch's parts, as even as can be, the largest first; no more than it has rows.

    >>> [part[:2] for part in parts(5, 2)]
    [(0, 3), (3, 5)]
    """
    count = min(count, size)
    edges = [-(-size * number // count) for number in range(count + 1)]
    return [Part(start, stop, size) for start, stop in pairwise(edges)]


class Given(NamedTuple):
    """A loss, and each parameter's gradient of it; None where it has none."""

    loss: Tensor
    gradients: list[Tensor | None]

    def as_loss(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The loss as if all of it had been computed at once: its backward hands out the gradients."""
        return _Handed.apply(self.loss, self.gradients, *parameters)


class _Handed(torch.autograd.Function):
    """Through each parameter's own node, once, as several devices and the precision's scaler expect it."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        handed = [None if of is None else of * grad for of in ctx.gradients]
        ctx.gradients = None
        return None, None, *handed


def of_means(
    divided: Sequence[Part],
    loss: Callable[[Part], Tensor],
    parameters: Sequence[nn.Parameter],
    scale: float = 1.0,
) -> Given:
    """Of a loss that is a mean over samples.

    Args:
        divided: the parts of a batch.
        loss: of one part, the mean over its samples; called under the precision of the forward.
        parameters: whose gradients are wanted.
        scale: what the loss is multiplied by while gradients are computed, so that none vanishes in 16 bits.
    """
    total, sums = None, [None] * len(parameters)
    for part in divided:
        mean = loss(part) * part.share
        found = _gradients([mean * scale], parameters)
        sums = [_sum(one, other) for one, other in zip(sums, found, strict=True)]
        total = _sum(total, mean.detach())
        torch.clear_autocast_cache()  # it holds casts whose graph is gone
    return Given(total, [None if of is None else of / scale for of in sums])


def of_outputs(
    divided: Sequence[Part],
    outputs: Callable[[Part], Outputs],
    loss: Callable[[Outputs], Tensor],
    parameters: Sequence[nn.Parameter],
    scale: float = 1.0,
) -> Given:
    """Of any loss of a batch's outputs.

    Args:
        divided: the parts of a batch.
        outputs: of one part, called twice with the same draws.
        loss: of the whole batch's.
        parameters, scale: as of `of_means`.
    """
    with torch.no_grad():
        found = []
        for part in divided:
            found.append(outputs(part))
            torch.clear_autocast_cache()  # casts without gradients
    joined = [_joined(of) for of in zip(*found, strict=True)]
    taught = [place for place, of in enumerate(joined) if _is_by_row(of) and of.is_floating_point()]
    for place in taught:
        joined[place].requires_grad_()
    total = loss(tuple(joined))
    wanted = _gradients([total * scale], [*(joined[place] for place in taught), *parameters])
    of_rows, sums = dict(zip(taught, wanted, strict=False)), wanted[len(taught) :]
    torch.clear_autocast_cache()
    for part in divided:
        again = outputs(part)
        pairs = [
            (again[place], grad[part.start : part.stop])
            for place, grad in of_rows.items()
            if grad is not None and again[place].requires_grad
        ]
        own = _gradients([of for of, _ in pairs], parameters, [grad for _, grad in pairs])
        sums = [_sum(one, other) for one, other in zip(sums, own, strict=True)]
        torch.clear_autocast_cache()
    return Given(total.detach(), [None if of is None else of / scale for of in sums])


def _is_by_row(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim > 0


def _joined(of: Sequence[Any]) -> Any:
    """Of the parts' one output; what is no row's, as a parameter, is the same of each."""
    return torch.cat(list(of)) if _is_by_row(of[0]) else of[0]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor] | None = None
) -> list[Tensor | None]:
    """As `torch.autograd.grad`, in the precision of the forward: autocast would cast what it left in full precision."""
    if not outputs:
        return [None] * len(inputs)
    with torch.autocast(outputs[0].device.type, enabled=False):
        return list(torch.autograd.grad(outputs, inputs, grads, allow_unused=True))


# --- what is drawn ----------------------------------------------------------------------------------------------------


class Draws(TorchDispatchMode):
    """Inside, what torch draws at random for a part of a batch are the part's rows of what the whole batch would draw.

    A part's draws have its rows, or several of each row, on their first axis, as activations have.

    Raises:
        HeadError: something else is drawn.
    """

    now: ClassVar["Draws | None"] = None

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            return self._dropout(*args)
        if name in FACTORIES:
            return self._made(func, FACTORIES[name], args, kwargs)
        if name.endswith("_like"):
            full = func(self._whole(args[0]), *args[1:], **kwargs)
            return self._own(full, args[0].shape)
        if name in IN_PLACE:
            full = func(self._whole(args[0]), *args[1:], **kwargs)
            return args[0].copy_(self._own(full, args[0].shape))
        if "scaled_dot_product" in name and not kwargs.get("dropout_p", _dropout_of(func, args)):
            return func(*args, **kwargs)
        raise HeadError(f"accumulate: {name} draws at random in a way that has no rows; leave accumulate at 1")

    def __enter__(self) -> "Draws":
        self._before, Draws.now = Draws.now, self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Draws.now = self._before
        super().__exit__(*error)

    def _made(self, func: Any, place: int, args: tuple, kwargs: Any) -> Tensor:
        size = tuple(args[place])
        full = func(*args[:place], self._size(size), *args[place + 1 :], **kwargs)
        return self._own(full, size)

    def _dropout(self, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        _, kept = torch.ops.aten.native_dropout(self._whole(x).fill_(1), p, train)
        kept = self._own(kept, x.shape)
        return x * kept * (1 / (1 - p)), kept

    def _size(self, size: Sequence[int]) -> tuple[int, ...]:
        rows = self.part.rows
        if not size or size[0] % rows:
            raise HeadError(
                f"accumulate: draws of the shape {tuple(size)} are not by sample, of which a part has {rows}; leave "
                "accumulate at 1"
            )
        return (size[0] // rows * self.part.size, *size[1:])

    def _whole(self, like: Tensor) -> Tensor:
        return like.new_empty(self._size(like.shape))

    def _own(self, full: Tensor, shape: Sequence[int]) -> Tensor:
        each = shape[0] // self.part.rows
        return full[self.part.start * each : self.part.stop * each]


# Where a factory's arguments have the size.
FACTORIES = {"rand": 0, "randn": 0, "randint": 1}
IN_PLACE = frozenset({"bernoulli_", "uniform_", "normal_", "random_", "exponential_"})


def _dropout_of(func: Any, args: tuple) -> float:
    names = [argument.name for argument in func._schema.arguments]
    place = names.index("dropout_p") if "dropout_p" in names else len(args)
    return args[place] if place < len(args) else 0.0


# --- what is computed again -------------------------------------------------------------------------------------------


def checkpointed(model: nn.Module, lists: Sequence[str]) -> int:
    """Has every block of a model's lists keep its inputs alone, and compute the rest again for the gradients.

    Args:
        model: changed in place; its state keeps its names.
        lists: names of the lists of blocks.

    Returns:
        How many blocks there are.
    """
    named = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in lists
    ]
    blocks = [block for module in named for block in _blocks(module)]
    for block in blocks:
        block.forward = partial(_again, block.forward)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module:
        if isinstance(child, nn.ModuleList):
            yield from _blocks(child)
        else:
            yield child


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=_contexts, **kwargs)


def _contexts() -> tuple[Any, Any]:
    """Of a block's forward, and of its second: whose draws are of the same part."""
    return nullcontext(), Draws(Draws.now.part) if Draws.now else nullcontext()
