"""Each part of GASM-CAST against its definition, written as loops over single tokens, in float64."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.heads.gasm_cast.kernels import UNBOUNDED, frozen_graph, grid_offsets, tracked_offsets
from pipeline.heads.gasm_cast.layers import (
    AttentivePool,
    BCast,
    GraphAttention,
    Input,
    Layer,
    LearnedAttention,
    SelfAttention,
    VanillaCross,
    over_both,
    over_space,
    over_time,
)

from .loops import attention_by_loops, edges_by_loops, stir

pytestmark = pytest.mark.filterwarnings("error")


def tokens(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def graph_attention_by_loops(module, x, features, grid, radius, neighbours):
    """One graph: x (N, D), frozen features (N, ·) -> what is added to x."""
    q, k, v = module.query_key_value(module.norm(x)).chunk(3, dim=-1)
    edges, cosine = edges_by_loops(features, grid, 10**6 if radius == UNBOUNDED else radius, neighbours)
    rows = []
    for i in range(len(x)):

        def bias(head, j, i=i):
            down, right = i // grid[1] - j // grid[1], i % grid[1] - j % grid[1]
            relative = module.table[head, down + grid[0] - 1, right + grid[1] - 1]
            return relative + module.gamma[head] * cosine[i, j]

        own = [j for j in range(len(x)) if (i, j) in edges]
        rows.append(module.out(attention_by_loops(q[i], k, v, module.heads, bias, own)))
    return torch.stack(rows)


@pytest.mark.parametrize("radius", [0, 1, UNBOUNDED])
@torch.no_grad()
def test_spatial_graph_attention_is_its_definition(radius):
    grid = (3, 4)
    module = stir(GraphAttention(8, 12, 3, grid, radius))
    x, features = tokens(2, 2, 12, 8), tokens(2, 2, 12, 5)
    graph = frozen_graph(features.flatten(0, 1), grid_offsets(grid)[1], [radius], 2)
    got = over_space(module, x, graph)
    for b in range(2):
        for t in range(2):
            wanted = x[b, t] + graph_attention_by_loops(module, x[b, t], features[b, t], grid, radius, 2)
            assert torch.allclose(got[b, t], wanted, atol=1e-6)


@torch.no_grad()
def test_motion_time_attention_is_the_graph_over_the_steps_of_each_cell():
    steps, cells = 5, 3
    module = stir(GraphAttention(8, 4, 2, (steps, 1), 1))
    x, features = tokens(2, steps, cells, 8), tokens(2, steps, cells, 6)
    graph = frozen_graph(features.transpose(1, 2).flatten(0, 1), grid_offsets((steps, 1))[1], [1], 1)
    got = over_time(module, x, graph)
    for b in range(2):
        for cell in range(cells):
            own = x[b, :, cell]
            wanted = own + graph_attention_by_loops(module, own, features[b, :, cell], (steps, 1), 1, 1)
            assert torch.allclose(got[b, :, cell], wanted, atol=1e-6)


@torch.no_grad()
def test_a_tube_is_plain_attention_over_the_steps_of_each_patch():
    module = stir(SelfAttention(8, 4, 2))
    x = tokens(2, 5, 3, 8)
    got = over_time(module, x)
    for b in range(2):
        for patch in range(3):
            q, k, v = module.query_key_value(module.norm(x[b, :, patch])).chunk(3, dim=-1)
            for t in range(5):
                wanted = x[b, t, patch] + module.out(attention_by_loops(q[t], k, v, 2))
                assert torch.allclose(got[b, t, patch], wanted)


def plain_attention_by_loops(module, x):
    """One group (N, D) -> what is added to it, each token reading all."""
    q, k, v = module.query_key_value(module.norm(x)).chunk(3, dim=-1)
    return torch.stack([module.out(attention_by_loops(own, k, v, module.heads)) for own in q])


@torch.no_grad()
def test_a_dense_layer_reads_all_tokens_of_a_step_and_all_steps_of_a_cell():
    dims, steps, grids = (8, 12), 3, ((2, 2), (2, 1))
    layer = stir(Layer(dims, steps, grids, 4, 2, 1, ("semantic", "motion"), "dense", {}, None))
    x = {"semantic": tokens(2, steps, 4, 8), "motion": tokens(2, steps, 2, 12)}
    got = layer(x, {})
    for name, in_space, in_time in (("semantic", "spatial", "tube"), ("motion", "motion_space", "motion_time")):
        wanted = x[name].clone()
        for b in range(2):
            for t in range(steps):
                wanted[b, t] += plain_attention_by_loops(layer.get_submodule(in_space), wanted[b, t])
            for place in range(wanted.shape[2]):
                wanted[b, :, place] += plain_attention_by_loops(layer.get_submodule(in_time), wanted[b, :, place])
        assert torch.allclose(got[name], wanted + layer.get_submodule(f"ffn_{name}")(wanted))


@pytest.mark.parametrize("neighbours", [1, 3, 50])
@torch.no_grad()
def test_learned_attention_reads_the_tokens_with_the_largest_products_in_each_head(neighbours):
    heads, nodes = 2, 6
    module = stir(LearnedAttention(8, 4, heads, neighbours))
    x = tokens(2, 2, nodes, 8)
    got = over_space(module, x)
    for b in range(2):
        for t in range(2):
            q, k, v = module.query_key_value(module.norm(x[b, t])).chunk(3, dim=-1)
            for i in range(nodes):
                read = []
                for head in range(heads):
                    own = slice(2 * head, 2 * head + 2)
                    products = [float(q[i, own] @ k[j, own]) for j in range(nodes)]
                    edges = sorted(range(nodes), key=lambda j, of=products: -of[j])[:neighbours]
                    read.append(attention_by_loops(q[i, own], k[:, own], v[:, own], 1, edges=edges))
                assert torch.allclose(got[b, t, i], x[b, t, i] + module.out(torch.cat(read)))


def test_what_learned_attention_reads_with_is_learned():
    module = stir(LearnedAttention(8, 4, 2, 2))
    module(tokens(3, 6, 8)).square().sum().backward()
    query_key_value = module.query_key_value.weight.grad.split(4)
    assert all(part.abs().max() > 0 for part in query_key_value)


@pytest.mark.parametrize("radius", [0, 1, UNBOUNDED])
@torch.no_grad()
def test_edges_over_time_are_to_the_steps_before_and_after_by_distance_and_by_cosine(radius):
    steps, grid, neighbours = 4, (2, 3), 2
    places = grid[0] * grid[1]
    module = stir(GraphAttention(8, 4, 2, (steps, *grid), radius))
    x, features = tokens(2, steps, places, 8), tokens(2, steps, places, 5)
    distance, near = tracked_offsets(steps, grid)
    got = over_both(module, x, frozen_graph(features.flatten(1, 2), distance, [radius], neighbours, near))
    nodes = [(t, n // grid[1], n % grid[1]) for t in range(steps) for n in range(places)]
    for b in range(2):
        seen, own = features[b].flatten(0, 1), x[b].flatten(0, 1)
        cosine = [[float(torch.cosine_similarity(one, other, dim=0)) for other in seen] for one in seen]
        beside = {i: [j for j in range(len(nodes)) if abs(nodes[i][0] - nodes[j][0]) <= 1] for i in range(len(nodes))}
        similar = {}
        for i, of in beside.items():
            similar[i] = sorted((j for j in of if j != i), key=lambda j, i=i: -cosine[i][j])[:neighbours]
        q, k, v = module.query_key_value(module.norm(own)).chunk(3, dim=-1)
        for i, (t, row, column) in enumerate(nodes):
            edges = []
            for j in beside[i]:
                apart = max(abs(row - nodes[j][1]), abs(column - nodes[j][2]))
                if radius == UNBOUNDED or apart <= radius or j in similar[i] or i in similar[j]:
                    edges.append(j)

            def bias(head, j, i=i, t=t, row=row, column=column, cosine=cosine):
                later, down, right = t - nodes[j][0], row - nodes[j][1], column - nodes[j][2]
                relative = module.table[head, later + steps - 1, down + grid[0] - 1, right + grid[1] - 1]
                return relative + module.gamma[head] * cosine[i][j]

            wanted = own[i] + module.out(attention_by_loops(q[i], k, v, 2, bias, edges))
            assert torch.allclose(got[b].flatten(0, 1)[i], wanted, atol=1e-6)


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("window", ["cell", "full"])
@torch.no_grad()
def test_b_cast_is_its_definition(window, ratio):
    steps, (rows, columns) = 3, (2, 3)
    patches, cells = rows * columns * ratio**2, rows * columns
    module = stir(BCast((8, 12), steps, [(rows * ratio, columns * ratio), (rows, columns)], 4, 2, window))
    semantic, motion = tokens(2, steps, patches, 8), tokens(2, steps, cells, 12)
    seen, felt = module(semantic, motion)

    def narrow(x, b, t, n, which):
        return module.down[which](module.norm[which](x[b, t, n])) + module.time[which][t, 0] + module.space[which][n]

    def added(own, others, which):
        read = module.read[which]
        k, v = read.key_value(torch.stack(others)).chunk(2, dim=-1)
        return module.up[which](F.gelu(read.out(attention_by_loops(read.query(own), k, v, 2))))

    for b in range(2):
        patch = {(t, n): narrow(semantic, b, t, n, 0) for t in range(steps) for n in range(patches)}
        cell = {(t, n): narrow(motion, b, t, n, 1) for t in range(steps) for n in range(cells)}
        for (t, n), own in patch.items():
            row, column = n // (columns * ratio), n % (columns * ratio)
            home = row // ratio * columns + column // ratio
            others = [x for (_, m), x in cell.items() if window == "full" or m == home]
            assert torch.allclose(seen[b, t, n], semantic[b, t, n] + added(own, others, 0))
        for (t, n), own in cell.items():
            others = [x for (at, _), x in patch.items() if window == "full" or at == t]
            assert torch.allclose(felt[b, t, n], motion[b, t, n] + added(own, others, 1))


@torch.no_grad()
def test_vanilla_exchange_reads_the_whole_other_stream_at_full_width():
    module = stir(VanillaCross((8, 12), 2))
    semantic, motion = tokens(2, 2, 4, 8), tokens(2, 2, 3, 12)
    got = module(semantic, motion)
    for which, (own, other) in enumerate([(semantic, motion), (motion, semantic)]):
        read = module.read[which]
        for b in range(2):
            k, v = read.key_value(module.norm[1 - which](other[b].flatten(0, 1))).chunk(2, dim=-1)
            assert k.shape[1] == own.shape[-1]
            for t in range(2):
                for n in range(own.shape[2]):
                    query = read.query(module.norm[which](own[b, t, n]))
                    wanted = own[b, t, n] + read.out(attention_by_loops(query, k, v, 2))
                    assert torch.allclose(got[which][b, t, n], wanted)


@torch.no_grad()
def test_a_pool_is_one_learned_query_that_reads_all_tokens():
    module = stir(AttentivePool(8, 4, 2))
    x = tokens(3, 7, 8)
    got = module(x)
    assert got.shape == (3, 8)
    for b in range(3):
        both = module.key_value(module.norm(x[b]))
        assert torch.allclose(got[b], attention_by_loops(module.query_W, both[:, :4], both[:, 4:], 2))


@torch.no_grad()
def test_an_input_is_normalised_and_knows_when_and_where_at_scale_one():
    module = Input(8, (2, 3), token_dropout=0.0).double()
    assert module.time_scale == 1
    assert module.space_scale == 1
    x = tokens(1, 2, 6, 8) * 50
    got = module(x, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    frequencies = [100 ** -(k / 4) for k in range(4)], [100 ** -(k / 2) for k in range(2)]
    for t in range(2):
        for n in range(6):
            time = torch.tensor([t * f for f in frequencies[0]], dtype=torch.float64)
            row, column = (torch.tensor([at * f for f in frequencies[1]], dtype=torch.float64) for at in divmod(n, 3))
            place = torch.cat([row.sin(), row.cos(), column.sin(), column.cos()])
            wanted = F.layer_norm(x[0, t, n], (8,)) + torch.cat([time.sin(), time.cos()]) + place
            assert torch.allclose(got[0, t, n], wanted, atol=1e-6)


def test_token_dropout_blanks_that_share_of_the_tokens_in_training_only():
    module = Input(8, (10, 10), token_dropout=0.3)
    steps = torch.arange(8.0).expand(4, 8)
    position = module.eval()(torch.zeros(4, 8, 100, 8), steps)
    x = torch.randn(4, 8, 100, 8)
    shown = module(x, steps) - position
    left = module.train()(x, steps) - position
    blank = left.abs().amax(-1) < 1e-5
    assert 0.25 < blank.float().mean() < 0.35
    assert torch.allclose(left[~blank], shown[~blank])


def test_graph_attention_has_the_gradient_that_finite_differences_have():
    module = stir(GraphAttention(4, 4, 2, (2, 2), 0))
    graph = frozen_graph(tokens(2, 4, 3), grid_offsets((2, 2))[1], [0], 1)
    x = tokens(2, 4, 4).requires_grad_()

    def run(x, table, gamma):
        return torch.func.functional_call(module, {"table": table, "gamma": gamma}, (x, graph))

    inputs = x, module.table.detach().requires_grad_(), module.gamma.detach().requires_grad_()
    assert torch.autograd.gradcheck(run, inputs)
