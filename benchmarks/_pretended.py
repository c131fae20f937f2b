"""A pretended GPU, on the CPU: which tensors would be there, and when the host would wait for it.

Every storage has a place: "cuda" once something was copied or made there, "cpu" once a caller made it on the host, and
none as long as only an operation's own insides know of it. What code does on a GPU alone is done, by the CPU's kernels.
"""

import functools
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE, HERE = torch.device("cuda", 0), torch.device("cpu")
# What makes a tensor on the host unless it is told a device.
MADE = frozenset(
    {"tensor", "as_tensor", "from_numpy", "arange", "zeros", "ones", "empty", "full", "rand", "randn", "randint",
     "randperm", "eye", "linspace", "scalar_tensor", "tril_indices", "triu_indices"}
)  # fmt: skip
# Operations whose result's shape, or the host's next line, depends on values.
LOOKS = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
     "is_nonzero"}
)  # fmt: skip
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
# Those that take a tensor of the host beside the GPU's: copies, and lengths that are read there.
MIXING = frozenset({"copy_", "_to_copy", "set_", "_pack_padded_sequence", "_pack_padded_sequence_backward"})
# Those that take not even a number from the host; all others take one as they take a number of Python's.
STRICT = frozenset(
    {"cat", "stack", "mm", "bmm", "addmm", "gather", "scatter", "scatter_add", "embedding", "index_select"}
)
# Those of which a GPU has no way that repeats: torch raises where only such are wanted.
UNREPEATABLE = frozenset(
    {"adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
     "avg_pool3d_backward", "max_pool3d_with_indices_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward",
     "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward",
     "upsample_linear1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward", "nll_loss2d_forward",
     "nll_loss2d_backward", "_ctc_loss_backward", "histc", "kthvalue", "put_"}
)  # fmt: skip


# How gradients are clipped: device by device, as C++ has them.
GROUPED = "_group_tensors_by_device_and_dtype"


class Pretended(TorchFunctionMode):
    """Inside, `tensor.to("cuda")` puts a tensor on a pretended GPU, and its `device` says so.

    Attributes:
        waits: the calls for which the host would wait for the GPU, in order.

    Raises:
        RuntimeError: as a GPU does, of tensors here and there in one operation; and of an operation of which it has no
            way that repeats, where only such are wanted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._operations = _Operations(self.waits)
        self._patches = ExitStack()

    def __enter__(self) -> "Pretended":
        autocast, enabled, dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
        from_numpy = torch.from_numpy
        self._patches = ExitStack()
        for name, made in (
            ("from_numpy", lambda array: _put(from_numpy(array), HERE)),  # the only one that no mode sees
            ("autocast", _autocast(autocast)),
            ("is_autocast_enabled", lambda kind=None: enabled("cpu")),
            ("get_autocast_dtype", lambda kind: dtype("cpu")),
        ):
            self._patches.enter_context(patch.object(torch, name, made))
        self._patches.enter_context(patch.object(clip_grad, GROUPED, _grouped(getattr(clip_grad, GROUPED))))
        self._patches.enter_context(self._operations)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if func == Tensor.device.__get__:
            return device_of(args[0])
        if func in (Tensor.is_cuda.__get__, Tensor.is_cpu.__get__):
            return (device_of(args[0]) == THERE) == (func == Tensor.is_cuda.__get__)
        if name in ("numpy", "__array__") and _place(args[0]) == THERE:
            raise TypeError("can't convert cuda:0 device type tensor to numpy; Tensor.cpu() copies it to the host")
        if name in ("cpu", "cuda", "to", "type_as", "tolist"):
            return self._moved(func, name, args, kwargs)
        if name == "pin_memory":
            return args[0]
        kwargs.pop("pin_memory", None)  # there is nothing to pin for
        if name in ("device", "_parse_to"):  # words alone
            return func(*args, **kwargs)
        asked = next((of for of in tree_leaves((args, kwargs)) if _is_device(of)), None)
        out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        if asked is not None and torch.device(asked).type == "cuda":
            if name in ("tensor", "as_tensor"):  # it is copied there from memory that is not pinned
                self.waits.append(name)
            return tree_map(functools.partial(_put, place=THERE), out)
        # Of a result without a place: made here by its caller, whatever the operation's own insides are.
        if name in MADE and isinstance(out, Tensor) and _place(out) is None:
            _put(out, HERE)
        elif func == Tensor.grad.__get__ and isinstance(out, Tensor) and _place(out) is None:
            _put(out, _place(args[0]))
        return out

    def _moved(self, func: Callable, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A copy in memory of its own, if it goes from one to the other. From pageable memory the host waits for it."""
        tensor, *words = args
        before = device_of(tensor)
        if name == "tolist":
            if before == THERE:
                self.waits.append(name)
            return func(tensor)
        of = next((of for of in (*words, kwargs.get("other")) if isinstance(of, Tensor)), None)
        if name in ("cpu", "cuda") or of is not None:
            place, dtype = (HERE if name == "cpu" else THERE, None) if of is None else (device_of(of), of.dtype)
            quick, layout = kwargs.get("non_blocking", False), None
        else:
            told = {word: value for word, value in kwargs.items() if word != "copy"}
            place, dtype, quick, layout = torch._C._nn._parse_to(*words, **told)
        out = torch.Tensor.to(tensor, dtype=dtype or tensor.dtype, memory_format=layout or torch.preserve_format)
        if "meta" in (before.type, place and place.type):
            return func(*args, **kwargs)
        if place is None or place.type == before.type:
            return out.clone() if kwargs.get("copy") and out is tensor else out
        if not quick:
            self.waits.append(name)
        return _put(out.clone() if out is tensor else out, THERE if place.type == "cuda" else HERE)


class _Operations(TorchDispatchMode):
    """Sees every operation, those within others and those of the backward too."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if torch.is_inference_mode_enabled():  # where operations come whole that consist of others
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        given = [of for of in tree_leaves((args, kwargs)) if isinstance(of, Tensor)]
        places = [_place(of) for of in given]
        there = THERE in places
        if there:
            self._refuse(name, given, places)
            self._count(name, args, kwargs)
        out = func(*args, **kwargs)
        if name == "copy_":
            _put(args[0], _place(args[0]) or _place(args[1]))
            return out
        place = THERE if there else HERE if HERE in places else None
        for tensor in tree_leaves(out) if place else ():
            if isinstance(tensor, Tensor) and _place(tensor) is None:
                _put(tensor, place)
        return out

    def _refuse(self, name: str, given: list[Tensor], places: list[Any]) -> None:
        if name in UNREPEATABLE and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(f"{name} does not have a deterministic implementation on a GPU")
        strays = [of for of, place in zip(given, places, strict=True) if place == HERE]
        if name in MIXING or (name in INDEXING and places[0] == THERE):
            return
        if name in INDEXING or any(of.ndim or name in STRICT for of in strays):
            shapes = [tuple(of.shape) for of in strays]
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu: {name}, of "
                f"which {shapes} lie on the host"
            )

    def _count(self, name: str, args: tuple, kwargs: dict[str, Any]) -> None:
        waits = name in LOOKS or (name == "repeat_interleave" and not kwargs.get("output_size"))
        if name in INDEXING:
            told = [of for of in args[1] if isinstance(of, Tensor)]
            # A mask is counted; what lies on the host is copied there.
            waits = any(of.dtype in (torch.bool, torch.uint8) or _place(of) == HERE for of in told)
        if name == "copy_":
            across = {_place(args[0]), _place(args[1])} == {HERE, THERE} and args[1].ndim > 0
            waits = across and not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking")
        if waits:
            self.waits.append(name)


def device_of(tensor: Tensor) -> torch.device:
    """Where a tensor pretends to be."""
    return torch.device("meta") if tensor.is_meta else _place(tensor) or HERE


def _place(tensor: Tensor) -> torch.device | None:
    return None if tensor.is_meta else vars(tensor.untyped_storage()).get("place")


def _put(value: Any, place: torch.device | None) -> Any:
    if isinstance(value, Tensor) and place is not None and not value.is_meta:
        value.untyped_storage().place = place
    return value


def _is_device(value: Any) -> bool:
    """Whether it is the host or the GPU; what has shapes alone is neither."""
    return isinstance(value, torch.device | str) and str(value).partition(":")[0] in ("cpu", "cuda")


def _here(value: Any) -> Any:
    return HERE if _is_device(value) else value


def _autocast(real: Callable[..., Any]) -> Callable[..., Any]:
    """The CPU's, whatever device it is asked for."""

    def autocast(device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **others: Any) -> Any:
        dtype = dtype or (torch.bfloat16 if enabled else None)
        return real("cpu", dtype=dtype, enabled=enabled, **others)

    return autocast


def _grouped(real: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps apart what pretends to be apart."""

    def grouped(tensors: Any, *others: Any) -> Any:
        return {
            (device_of(lists[0][0]), dtype): (lists, *more)
            for (_, dtype), (lists, *more) in real(tensors, *others).items()
        }

    return grouped


def waits_of(prepare: Callable[[str], Callable[[], Any]], device: str) -> list[str]:
    """The calls for which the host waits for the device, in work that was done before: what is done once is done.

    On a GPU as its driver tells (`torch.cuda.set_sync_debug_mode`); on the CPU as a pretended GPU counts.

    Args:
        prepare: a device -> the work, with all that it needs on that device.
        device: "cuda" or "cpu".
    """
    if device != "cuda":
        with Pretended() as pretended:
            work = prepare("cuda")
            work()
            pretended.waits.clear()
            work()
            return list(pretended.waits)
    work = prepare(device)
    work()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [str(of.message) for of in said if "synchronizing CUDA operation" in str(of.message)]
