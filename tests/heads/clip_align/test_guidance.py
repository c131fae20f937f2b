"""Every guidance against loops over cells, with any encoder's readout; what a constant map does."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.heads.clip_align.encoders import ENCODERS, Readout
from pipeline.heads.clip_align.guidance import BOTH, FLAT, GUIDANCES, Guidance, MapHead, pool, step_map, token_map

from . import literal
from .literal import GRID

WIDTH, FEATURE = 5, 7
KINDS = [(kind, "linear") for kind in GUIDANCES] + [("spatiotemporal", "sigmoid")]
GATED = [(kind, gate) for kind, gate in KINDS if kind != "predicted"]


def problem(kind, gate="linear", videos=4):
    tokens = torch.randn(videos, *GRID, WIDTH, dtype=torch.float64)
    maps = torch.rand(videos, 2, GRID[0], 2 * GRID[1], 2 * GRID[2], dtype=torch.float64)
    maps[-1, :, 1] = 0  # a step without any weight
    maps[-1, :, 0, 0] = 1
    guidance = Guidance(kind, gate, WIDTH, FEATURE).double()
    with torch.no_grad():
        for parameter in guidance.parameters():
            parameter.add_(torch.randn_like(parameter))
    return tokens, maps, guidance


def by_loops(guidance, tokens_THWD, m):
    """Cell -> gated token, and cell -> weight; m is of `taken`."""
    gated = {cell: tokens_THWD[cell].clone() for cell in m}
    ones = dict.fromkeys(m, 1.0)
    if guidance.kind == "channel":
        average = sum(m.values()) / len(m)
        logits = guidance.mlp(torch.tensor([average], dtype=torch.float64)).tolist()
        for vector in gated.values():
            for d, logit in enumerate(logits):
                vector[d] *= literal.sigmoid(logit)
        return gated, ones
    if guidance.kind == "weighted_pool":
        return gated, m
    if guidance.kind == "spatiotemporal":
        gate = m
        if guidance.conv is not None:
            gate = literal.softened(m, guidance.conv.weight[0, 0], float(guidance.conv.bias))
        alpha = float(F.softplus(guidance.strength))
        return {cell: vector * (1 + alpha * gate[cell]) for cell, vector in gated.items()}, gate
    if guidance.kind == "predicted":
        a = literal.predicted(guidance.head, tokens_THWD)
        marked = {t: any(share for cell, share in m.items() if cell[0] == t) for t, _, _ in m}
        weights = {c: BOTH * m[c] + (1 - BOTH) * a[c[1:]] if marked[c[0]] else a[c[1:]] for c in m}
        return gated, weights
    return gated, ones


def taken(guidance, map_CTHW):
    """What a guidance takes of a map, by loops."""
    return (literal.step_map if guidance.kind == "predicted" else literal.token_map)(map_CTHW, 2)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_token_map_is_the_mean_over_channels_and_cells_normalised_by_sample(scale):
    maps = torch.rand(3, 2, 2, 2 * scale, 3 * scale, dtype=torch.float64)
    found = token_map(maps, scale)
    for b in range(3):
        for cell, value in literal.token_map(maps[b], scale).items():
            assert found[b][cell].item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("scale", [1, 2])
def test_each_step_of_a_step_map_sums_to_one_or_says_nothing(scale):
    maps = torch.rand(4, 2, 3, 2 * scale, 3 * scale, dtype=torch.float64)
    maps[1, :, 1], maps[2], maps[3] = 0.0, 0.7, 0.0
    found = step_map(maps, scale)
    for b in range(4):
        for cell, value in literal.step_map(maps[b], scale).items():
            assert found[b][cell].item() == pytest.approx(value, abs=1e-12)
    assert found.sum((2, 3)).round(decimals=9).tolist() == [[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_predicted_map_is_what_loops_over_cells_and_steps_give(steps):
    head = MapHead(WIDTH).double()
    tokens = torch.randn(3, steps, 2, 4, WIDTH, dtype=torch.float64)
    found = head(tokens).exp()
    assert found.shape == (3, 2, 4)
    for b in range(3):
        for cell, value in literal.predicted(head, tokens[b].detach()).items():
            assert found[b][cell].item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(3, dtype=torch.float64))


def test_the_predicted_map_has_the_gradient_that_finite_differences_have():
    head, tokens = MapHead(3).double(), torch.randn(2, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: head(x), (tokens, *head.parameters()))


def test_a_share_says_how_much_of_the_pooling_is_the_clinicians_and_an_unmarked_step_has_the_predicted_map():
    tokens, maps, guidance = problem("predicted")
    maps[0] = 0.0
    m_BTHW = guidance.read(maps, 2)
    a_BTHW = guidance.head(tokens).exp()[:, None].expand_as(m_BTHW)
    found = guidance(tokens, m_BTHW, torch.tensor([1.0, 1.0, 0.0, 1.0])).weight_BTHW
    torch.testing.assert_close(found[0], a_BTHW[0])  # there is no map
    torch.testing.assert_close(found[1], m_BTHW[1])
    torch.testing.assert_close(found[2], a_BTHW[2])
    torch.testing.assert_close(found[3, 1], a_BTHW[3, 1])  # nothing is marked in this step
    torch.testing.assert_close(found[3, 2], m_BTHW[3, 2])


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_under_a_constant_map_a_predicted_one_pools_as_without_any(level):
    tokens, maps, guidance = problem("predicted")
    with_it, without = (
        guidance(tokens, m) for m in (guidance.read(torch.full_like(maps, level), 2), torch.zeros(4, *GRID).double())
    )
    torch.testing.assert_close(with_it.weight_BTHW, without.weight_BTHW)


@pytest.mark.parametrize("level", [0.0, 1.0, 0.3])
def test_a_map_that_is_constant_up_to_half_precision_says_nothing(level):
    maps = torch.full((1, 2, *GRID), level) * (1 + FLAT / 4 * torch.rand(1, 2, *GRID))
    assert not token_map(maps.half().float(), 1).any()


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("kind", "gate"), KINDS)
def test_guidance_and_pooling_are_what_loops_over_cells_give(kind, gate, encoder):
    tokens, maps, guidance = problem(kind, gate)
    readout = Readout(encoder, WIDTH, FEATURE).double()
    m_BTHW = guidance.read(maps, 2)
    guided = guidance(tokens, m_BTHW)
    found, _ = guidance.scale(readout(guided.tokens_BTHWD, guided.weight_BTHW), m_BTHW)
    for b in range(len(tokens)):
        m = taken(guidance, maps[b])
        gated, weights = by_loops(guidance, tokens[b], m)
        if encoder == "3dcnn":
            pooled = literal.weighted(gated, weights)
        else:
            steps = [literal.weighted({c: v for c, v in gated.items() if c[0] == t}, weights) for t in range(GRID[0])]
            if encoder == "2dcnn":
                pooled = literal.mean(steps)
            else:
                state = None
                for step in steps:
                    _, state = readout.lstm(step[None, None], state)
                pooled = state[0][0, 0]
        wanted = readout.linear(pooled)
        if kind == "summary_gate":
            average = torch.tensor([sum(m.values()) / len(m)], dtype=torch.float64)
            wanted = wanted * wanted.new_tensor([literal.sigmoid(x) for x in guidance.mlp(average).tolist()])
        torch.testing.assert_close(found[b], wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("kind", "gate"), GATED)
def test_under_a_constant_map_every_guidance_is_plain_pooling(kind, gate, encoder):
    tokens, maps, guidance = problem(kind, gate)
    readout = Readout(encoder, WIDTH, FEATURE).double()
    maps[:2], maps[2:] = 0.0, 0.7
    tokens.requires_grad_()
    m_BTHW = token_map(maps, 2)
    guided = guidance(tokens, m_BTHW)
    found, _ = guidance.scale(readout(guided.tokens_BTHWD, guided.weight_BTHW), m_BTHW)
    torch.testing.assert_close(found, readout(tokens, torch.ones_like(m_BTHW)))
    found.square().sum().backward()
    assert tokens.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in guidance.parameters())


def test_the_strength_of_the_gate_starts_at_one_and_the_soft_gate_follows_the_map():
    guidance = Guidance("spatiotemporal", "sigmoid", WIDTH, FEATURE)
    assert F.softplus(guidance.strength).item() == pytest.approx(1)
    m = torch.rand(2, *GRID)
    m[:, 0, 0, 0] = 1
    torch.testing.assert_close(guidance(torch.randn(2, *GRID, WIDTH), m).gate, torch.sigmoid(4 * m - 2))


@pytest.mark.parametrize("over_time", [True, False])
def test_pooling_has_the_gradient_that_finite_differences_have(over_time):
    tokens = torch.randn(2, *GRID, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, *GRID, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: pool(x, w, over_time), (tokens, weight))


@pytest.mark.parametrize("gate", ["linear", "sigmoid"])
def test_the_gate_has_the_gradient_that_finite_differences_have(gate):
    tokens, maps, guidance = problem("spatiotemporal", gate, videos=1)
    m_BTHW = token_map(maps, 2)
    parameters = tuple(guidance.parameters())
    names = [name for name, _ in guidance.named_parameters()]

    def pooled(x, *values):
        guided = torch.func.functional_call(guidance, dict(zip(names, values, strict=True)), (x, m_BTHW))
        return pool(guided.tokens_BTHWD, guided.weight_BTHW, True)

    assert torch.autograd.gradcheck(pooled, (tokens.requires_grad_(), *parameters))
