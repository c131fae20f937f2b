"""Claims about compiled networks."""

import pytest
import torch

from pipeline.compiling import compiled
from pipeline.config import ParamsError


@pytest.fixture
def counting(monkeypatch):
    """A compiler that compiles nothing, and the shapes that it was asked for."""
    found = []

    def count(graph, inputs):
        found.append(tuple(inputs[-1].shape))
        return graph.forward

    monkeypatch.setattr("pipeline.compiling.COMPILER", count)
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield found
    torch._dynamo.reset()


def test_each_shape_is_compiled_for_itself_whatever_came_before(counting):
    network = torch.nn.Linear(3, 2)
    names = set(network.state_dict())
    compiled(network, torch.device("cpu"))
    assert torch._inductor.config.deterministic
    counting.clear()
    for rows in (4, 2, 4, 3, 2):
        network(torch.ones(rows, 3))
    assert counting == [(4, 3), (2, 3), (3, 3)] and set(network.state_dict()) == names


def test_more_shapes_than_are_compiled_for_are_an_error_and_not_another_arithmetic(counting, monkeypatch):
    monkeypatch.setattr("pipeline.compiling.SHAPES", 2)
    network = torch.nn.Linear(3, 2)
    compiled(network, torch.device("cpu"))
    network(torch.ones(1, 3))
    with pytest.raises(Exception, match="recompile_limit"):
        for rows in range(2, 6):
            network(torch.ones(rows, 3))


def test_where_torch_cannot_compile_it_is_said_at_once_with_what_is_missing(counting, monkeypatch):
    def missing(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nin a traceback of many lines")

    monkeypatch.setattr("pipeline.compiling.COMPILER", missing)
    with pytest.raises(ParamsError) as error:
        compiled(torch.nn.Linear(3, 2), torch.device("cpu"))
    assert "a C++ compiler and Python's headers" in str(error.value) and "\n" not in str(error.value)
    assert "No working C++ compiler found; on Debian `apt install g++ python3-dev`" in str(error.value)
