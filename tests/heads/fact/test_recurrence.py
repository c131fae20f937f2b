"""The GRU of the segments against the library's, sequence by sequence."""

import pytest
import torch
from torch import nn

from pipeline.heads.fact.recurrence import bidirectional


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("counts", [[1], [6], [7, 1, 4], [3, 3]])
def test_each_sequence_and_every_gradient_are_the_librarys_for_it_alone(layers, counts):
    torch.manual_seed(0)
    gru = nn.GRU(6, 4, layers, bidirectional=True, batch_first=True).double()
    x = torch.randn(len(counts), max(counts), 6, dtype=torch.float64, requires_grad=True)
    got = bidirectional(gru, x, torch.tensor(counts))
    down = torch.randn_like(got)
    mine, theirs = 0.0, 0.0
    for b, count in enumerate(counts):
        wanted = gru(x[b, :count])[0]
        assert torch.allclose(got[b, :count], wanted)
        mine = mine + (got[b, :count] * down[b, :count]).sum()
        theirs = theirs + (wanted * down[b, :count]).sum()
    inputs = [x, *gru.parameters()]
    for a, b in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert torch.allclose(a, b)
    with torch.no_grad():
        assert torch.equal(bidirectional(gru, x, torch.tensor(counts)), got)
