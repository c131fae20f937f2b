"""A network compiled by torch.compile, the same for each shape whatever came before it."""

import torch
from torch import nn

from pipeline.config import ParamsError

COMPILER = "inductor"  # of torch.compile
SHAPES = 64  # that one network is compiled for, at most


def compiled(network: nn.Module, there: torch.device) -> None:
    """Has torch compile a network, in place, when it is first called with a shape; its state keeps its names.

    Each shape has code of its own: what a batch gives depends on its size, never on the batches before it. Of more than
    SHAPES torch raises an error, where it would go on without compiling.

    Args:
        network: is called, and not by its other methods.
        there: where it will be.

    Raises:
        ParamsError: torch cannot compile here.
    """
    import torch._dynamo as dynamo  # seconds, which only who compiles pays
    import torch._inductor.config as inductor

    try:
        torch.compile(torch.square, backend=COMPILER)(torch.ones(2, device=there))
    except Exception as error:
        needs = "Triton and a C compiler (gcc)" if there.type == "cuda" else "a C++ compiler and Python's headers"
        reason = getattr(error, "inner_exception", error)  # what the compiler said, without torch's own words
        raise ParamsError(
            f"compile is true, but torch cannot compile for {there.type} here, which needs {needs}: "
            f"{(str(reason).strip().splitlines() or [type(reason).__name__])[0]}; on Debian `apt install g++ "
            "python3-dev`, or let CXX name a compiler, or leave compile: false, which is another key"
        ) from error
    inductor.deterministic = True  # no kernel is chosen by how long it took; a compilation sets it to torch's own flag
    dynamo.config.recompile_limit, dynamo.config.fail_on_recompile_limit_hit = SHAPES, True
    network.compile(backend=COMPILER, dynamic=False)
