"""The pure kernels of GASM-CAST against loops."""

import math

import pytest
import torch

from pipeline.heads.gasm_cast.kernels import (
    UNBOUNDED,
    attend,
    from_cells,
    frozen_graph,
    grid_offsets,
    relative_steps,
    sincos,
    sincos_grid,
    to_cells,
)

from .loops import edges_by_loops


@pytest.mark.parametrize("width", [16, 112, 512, 768])
def test_steps_and_places_have_codes_of_unit_scale_that_are_well_apart(width):
    for code in (sincos(torch.arange(8.0), width), sincos_grid((14, 14), width)):
        assert code.shape[-1] == width
        assert torch.allclose(code.square().sum(-1), torch.tensor(width / 2))
        distance = torch.cdist(code, code) + torch.eye(len(code)) * 1e9
        assert distance.min() > 0.2 * math.sqrt(width / 2)


def test_a_slow_and_a_quick_video_have_the_same_steps():
    quick = (torch.arange(8, dtype=torch.float64) + 0.5) / 8 * 1.5
    steps = relative_steps(torch.stack([quick, quick * 40, quick + 7]))
    assert torch.allclose(steps, torch.arange(8, dtype=torch.float64).expand(3, 8))


def test_a_single_step_is_step_zero():
    assert relative_steps(torch.tensor([[4.2]])).tolist() == [[0.0]]


def test_times_that_do_not_increase_are_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"times of video 1 .* must increase .* got \[2.0, 1.0\]; .*permute its tokens"
    ):
        relative_steps(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))


@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (5, 2), (6, 1)])
def test_offsets_and_distances_are_those_of_a_loop(grid):
    index, distance = grid_offsets(grid)
    table = torch.arange((2 * grid[0] - 1) * (2 * grid[1] - 1)).view(2 * grid[0] - 1, 2 * grid[1] - 1)
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            assert index[i, j] == table[row - other_row + grid[0] - 1, column - other_column + grid[1] - 1]
            assert distance[i, j] == max(abs(row - other_row), abs(column - other_column))


@pytest.mark.parametrize("grid", [(3, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("neighbours", [0, 1, 3, 99])
def test_edges_are_those_of_a_loop(grid, radius, neighbours):
    features = torch.randn(2, grid[0] * grid[1], 5, dtype=torch.float64)
    graph = frozen_graph(features, grid_offsets(grid)[1], [radius, UNBOUNDED], neighbours)
    mask = graph.masks[radius].expand(2, -1, -1, -1)
    for g in range(2):
        edges, cosine = edges_by_loops(features[g], grid, radius, neighbours)
        assert {tuple(edge) for edge in (mask[g, 0] == 0).nonzero().tolist()} == edges
        assert bool(((mask == 0) | (mask == -math.inf)).all())
        assert torch.allclose(graph.cosine_GNN[g].float(), cosine)
    assert graph.masks[UNBOUNDED] is None


def test_graphs_take_no_gradient_and_are_the_same_under_autocast():
    features = torch.randn(4, 12, 32, requires_grad=True)
    plain = frozen_graph(features, grid_offsets((3, 4))[1], [1], 2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = frozen_graph(features, grid_offsets((3, 4))[1], [1], 2)
    assert not plain.cosine_GNN.requires_grad
    assert mixed.cosine_GNN.dtype == torch.float32
    assert torch.equal(plain.cosine_GNN, mixed.cosine_GNN)
    assert torch.equal(plain.masks[1], mixed.masks[1])


def test_a_token_of_zeros_makes_no_nan():
    graph = frozen_graph(torch.zeros(1, 4, 8), grid_offsets((2, 2))[1], [0], 1)
    assert torch.equal(graph.cosine_GNN, torch.zeros(1, 4, 4))


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_cells_hold_their_own_patches_of_every_step_and_give_them_back(ratio):
    rows, columns, steps, videos = 2, 3, 4, 2
    x = torch.randn(videos, steps, rows * columns * ratio**2, 5)
    cells = to_cells(x, (rows, columns), ratio)
    for b in range(videos):
        for cell in range(rows * columns):
            own = [
                x[b, t, (cell // columns * ratio + i) * columns * ratio + cell % columns * ratio + j]
                for t in range(steps)
                for i in range(ratio)
                for j in range(ratio)
            ]
            assert torch.equal(cells[b * rows * columns + cell], torch.stack(own))
    assert torch.equal(from_cells(cells, (rows, columns), steps, ratio), x)


def test_attention_has_the_gradient_that_finite_differences_have():
    def tensor(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    query, key, value, bias = tensor(2, 3, 4), tensor(2, 5, 4), tensor(2, 5, 8), tensor(2, 2, 3, 5)
    assert torch.autograd.gradcheck(lambda q, k, v, b: attend(q, k, v, 2, b), (query, key, value, bias))
