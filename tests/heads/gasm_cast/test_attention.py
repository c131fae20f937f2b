"""Claims about looking: nothing changes by it, and each weight is found at the token that is read."""

import math

import pytest
import torch

from pipeline.heads.gasm_cast.attention import POOL, Look, look, received, weights
from pipeline.heads.gasm_cast.kernels import UNBOUNDED, attend, attention_weights
from pipeline.heads.gasm_cast.model import GasmCast

from .loops import SMALL, edges_by_loops, stir

VARIANTS = [{"fusion": fusion} for fusion in ("cast", "vanilla", "concat", "semantic", "motion", "probe")]
VARIANTS += [{"window": "full"}, {"graph": "none"}, *({"graph": of} for of in ("spatial", "dense", "learned", "time"))]


def names(variant):
    return ",".join(f"{key}={value}" for key, value in variant.items())


@pytest.fixture
def made():
    """A function: changes -> model and a batch of two videos."""

    def make(**changes):
        model = stir(GasmCast(**SMALL | changes))
        tokens = [torch.randn(2, *model.shapes[name], dtype=torch.float64) for name in ("semantic", "motion")]
        return model, (*tokens, torch.tensor([[0.5, 1.0, 2.0], [0.1, 0.2, 0.4]], dtype=torch.float64))

    return make


def weights_by_loops(query, key, heads, bias=None):
    """(G, H, Q, K), number by number."""
    groups, readers, width = query.shape
    out = torch.zeros(groups, heads, readers, key.shape[1], dtype=torch.float64)
    wide = width // heads
    for g, h, i in torch.cartesian_prod(*map(torch.arange, (groups, heads, readers))).tolist():
        own = slice(h * wide, (h + 1) * wide)
        logits = [float(query[g, i, own] @ k[own]) / math.sqrt(wide) for k in key[g]]
        if bias is not None:
            logits = [logit + float(bias[g, h, i, j]) for j, logit in enumerate(logits)]
        total = sum(map(math.exp, logits))
        for j, logit in enumerate(logits):
            out[g, h, i, j] = math.exp(logit) / total
    return out


@pytest.mark.parametrize("masked", [False, True])
def test_the_weights_are_their_definition_and_what_attention_mixes_values_by(masked):
    query, key, value = (torch.randn(2, n, 6, dtype=torch.float64) for n in (3, 4, 4))
    bias = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    if masked:
        bias[:, :, 1, 2:] = -math.inf
    got = attention_weights(query, key, 2, bias)
    assert torch.allclose(got, weights_by_loops(query, key, 2, bias))
    mixed = (got @ value.unflatten(-1, (2, 3)).transpose(1, 2)).transpose(1, 2).flatten(2)
    assert torch.allclose(mixed, attend(query, key, value, 2, bias))


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_logits_are_the_same_to_the_bit_with_and_without_looking_and_nothing_stays_behind(made, variant):
    model, inputs = made(**variant)
    plain = model(*inputs)
    assert torch.equal(look(model, *inputs)[0], plain)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(*inputs), plain)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_rows_of_every_attention_sum_to_one_and_looks_have_a_mean_of_one(made, variant):
    model, inputs = made(**variant)
    for name, found in weights(model, *inputs)[1].items():
        assert torch.allclose(found.sum(dim=-1), torch.ones_like(found[..., 0])), name
    looks = look(model, *inputs)[1]
    for at, found in looks.items():
        assert found.shape == (2, *model.shapes[at.stream][:2]), at
    whole = {at: of for at, of in looks.items() if model.streams == (at.stream,) or not hasattr(model, "probe")}
    for at, found in whole.items():
        assert torch.allclose(found.mean(dim=(1, 2)), torch.ones(2)), at


def test_a_fusion_has_the_looks_of_its_parts_and_no_other(made):
    def kinds(**changes):
        model, inputs = made(layers=1, **changes)
        return list(look(model, *inputs)[1])

    semantic = [Look(0, "graph", "semantic"), Look(0, "time", "semantic")]
    motion = [Look(0, "graph", "motion"), Look(0, "time", "motion")]
    cross = [Look(0, "cross", "motion"), Look(0, "cross", "semantic")]
    pools = [Look(POOL, "pool", "semantic"), Look(POOL, "pool", "motion")]
    assert kinds() == [*semantic, *motion, *cross, *pools] == kinds(fusion="vanilla")
    assert kinds(fusion="concat") == [*semantic, *motion, *pools]
    assert kinds(fusion="semantic") == [*semantic, pools[0]]
    assert kinds(fusion="motion") == [*motion, pools[1]]
    assert kinds(graph="dense") == kinds(graph="learned") == kinds(graph="time") == kinds()
    assert kinds(graph="none") == [semantic[1], *cross, *pools]
    both = [Look(number, "all", stream) for number in range(4) for stream in ("semantic", "motion")]
    assert kinds(fusion="probe") == [*both, *pools]


@torch.no_grad()
def test_a_look_is_the_mean_over_readers_of_each_token_by_loops(made):
    """Video by video, reader by reader: which token of which step it reads, and with what weight."""
    model, inputs = made(layers=1)
    raw, looks = weights(model, *inputs)[1], look(model, *inputs)[1]
    steps, patches, cells = 3, 24, 6

    def home(patch):
        return patch // 6 // 2 * 3 + patch % 6 // 2

    def mean(name, groups_and_columns, readers):
        """Of each (group, column): the mean weight times the number of columns."""
        found = raw[name]
        return [
            sum(float(found[g, h, q, k]) for h in range(found.shape[1]) for q in range(readers))
            * (found.shape[3] / found.shape[1] / readers)
            for g, k in groups_and_columns
        ]

    for b in range(2):
        for t in range(steps):
            for n in range(patches):
                expected = mean("layers.0.spatial", [(b * steps + t, n)], patches)
                expected += mean("layers.0.tube", [(b * patches + n, t)], steps)
                expected += mean("layers.0.exchange.read.1", [(b * steps + t, n)], cells)
                expected += mean("pools.semantic", [(b, t * patches + n)], 1)
                kinds = ("graph", "time", "cross", "pool")
                got = [looks[Look(POOL if k == "pool" else 0, k, "semantic")][b, t, n] for k in kinds]
                assert torch.allclose(torch.tensor(got), torch.tensor(expected))
            for m in range(cells):
                readers = sum(home(patch) == m for patch in range(patches)) * steps
                expected = mean("layers.0.motion_space", [(b * steps + t, m)], cells)
                expected += mean("layers.0.motion_time", [(b * cells + m, t)], steps)
                expected += mean("layers.0.exchange.read.0", [(b * cells + m, t)], readers)
                got = [looks[Look(0, k, "motion")][b, t, m] for k in ("graph", "time", "cross")]
                assert torch.allclose(torch.tensor(got), torch.tensor(expected))


@torch.no_grad()
def test_a_patch_looks_along_the_edges_of_its_graph_only(made):
    model, inputs = made(layers=2)
    found = weights(model, *inputs)[1]
    radii = dict(enumerate(model.radii))
    for number, radius in radii.items():
        edges, _ = edges_by_loops(inputs[0][0, 0], (4, 6), 10**6 if radius == UNBOUNDED else radius, 3)
        seen = {tuple(pair) for pair in found[f"layers.{number}.spatial"][0].mean(dim=0).nonzero().tolist()}
        assert seen == {(i, j) for i in range(24) for j in range(24) if (i, j) in edges}


def test_what_a_token_receives_is_one_where_all_are_looked_at_alike():
    assert torch.allclose(received(torch.full((2, 3, 4, 5), 0.2)), torch.ones(2, 5))
