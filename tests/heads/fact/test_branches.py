"""Each part of FACT's blocks against its definition written as loops, and fused forms against plain ones; float64."""

import math

import pytest
import torch
from torch import nn

from pipeline.heads.fact.branches import (
    Attention,
    CrossAttention,
    DualDilated,
    FrameBranch,
    SegmentBranch,
    TokenBranch,
)
from pipeline.heads.fact.kernels import segments

from . import plain

pytestmark = pytest.mark.filterwarnings("error")
KINDS = [("m", False), ("m", True), ("m2", False), ("cnn", False), ("cnn", True)]


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def rows(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def padded(lengths, width, room=2):
    """Random rows, far larger where they are padding, and the mask."""
    mask = torch.arange(max(lengths) + room) < torch.tensor(lengths)[:, None]
    return torch.where(mask[..., None], rows(*mask.shape, width), 1e3 * rows(*mask.shape, width)), mask


@pytest.mark.parametrize("feature_dim", [None, 7])
@pytest.mark.parametrize(("kind", "norm"), KINDS)
@torch.no_grad()
def test_a_frame_branch_is_its_definition_for_each_video_whatever_the_padding(kind, norm, feature_dim):
    lengths = [1, 5, 12]
    branch = plain.stir(FrameBranch(kind, feature_dim, 6, 8, 4, 0.3, norm))
    x, mask = padded(lengths, feature_dim or 6)
    got = branch(x, mask)
    for b, length in enumerate(lengths):
        assert torch.allclose(got[b, :length], plain.frame_branch(branch, kind, x[b, :length]), atol=1e-9)
        assert torch.allclose(got[b, :length], branch(x[b : b + 1, :length], None)[0], atol=1e-9)


@pytest.mark.parametrize("dilations", [(4, 1), (2, 2), (64, 1)])
def test_five_taps_are_the_two_convolutions_and_the_mixing_and_so_are_their_gradients(dilations):
    layer = DualDilated(5, dilations, 0.0).double()
    x = rows(2, 20, 5).requires_grad_()
    inputs = [x, *layer.parameters()]
    fused, unfused = layer(x), x + layer.unfused(x).relu()  # 2 x 20 rows: more than twice the width
    down = rows(*fused.shape)
    assert torch.allclose(fused, unfused)
    for a, b in zip(torch.autograd.grad(fused, inputs, down), torch.autograd.grad(unfused, inputs, down), strict=True):
        assert torch.allclose(a, b)
    with torch.no_grad():
        assert torch.allclose(layer(x), unfused)
        assert torch.allclose(layer(x[:, :3]), x[:, :3] + layer.unfused(x[:, :3]).relu())


def test_kept_weights_follow_every_change_of_the_parameters():
    layer, x = DualDilated(4, (2, 1), 0.0).double().eval(), rows(1, 30, 4)

    def agrees():
        with torch.no_grad():
            return torch.allclose(layer(x), x + layer.unfused(x).relu())

    with torch.inference_mode():
        layer(x)
    assert agrees()
    with torch.no_grad():
        layer.mix.weight.mul_(2)
    assert agrees()
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})
    assert agrees()
    torch.optim.SGD(layer.parameters(), lr=0.5).zero_grad()
    layer(x).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.5).step()
    assert agrees()
    layer.first.weight_KDE.data = layer.first.weight_KDE.data * 3
    assert agrees()
    layer.train()
    layer.second.bias_E.data.add_(1)  # the one change that leaves no trace
    layer.eval()
    assert agrees()


def test_a_layer_of_m2_drops_in_training_with_gradients_or_without():
    layer = DualDilated(6, (2, 1), 0.9).train()
    x = torch.zeros(1, 50, 6)
    with torch.no_grad():
        layer.mix.bias.fill_(9.0)
        dropped = (layer(x) == 0).float().mean(), (layer.eval()(x) == 0).float().mean()
    assert dropped[0] > 0.7 and dropped[1] == 0 and (layer.train()(x) == 0).float().mean() > 0.7


def test_the_last_layer_of_m2_drops_nothing():
    branch = FrameBranch("m2", None, 4, 8, 3, 0.5, False)
    assert [layer.dropout.p for layer in branch.layers] == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(("queries", "keys"), [(3, 5), (3, 9)])  # the second is read row by row
@torch.no_grad()
def test_attention_is_the_librarys_and_its_mean_logits_those_of_loops(queries, keys):
    module, other = plain.stir(Attention(8, 6, 2, 0.0)), nn.MultiheadAttention(8, 2, kdim=6, vdim=6).double()
    other.q_proj_weight.copy_(module.query.weight)
    other.k_proj_weight.copy_(module.key.weight)
    other.v_proj_weight.copy_(module.value.weight)
    other.in_proj_bias.copy_(torch.cat([module.query.bias, module.key.bias, module.value.bias]))
    other.out_proj.load_state_dict(module.out.state_dict())
    query, key, value = rows(queries, 8), rows(keys, 6), rows(keys, 6)
    got = module(query[None], key[None], value[None], None)[0]
    assert torch.allclose(got, other(query, key, value)[0])
    assert torch.allclose(got, plain.attention(module, query, key, value))
    assert torch.allclose(module.mean_logits(query[None], key[None])[0], plain.mean_logits(module, query, key))


@pytest.mark.parametrize("videos", [1, 2])
def test_reading_rows_is_reading_their_projections_and_so_are_the_gradients(videos):
    module = plain.stir(Attention(8, 6, 2, 0.0))
    query, key, value = (rows(videos, n, width).requires_grad_() for n, width in ((3, 8), (9, 6), (9, 6)))
    mask = torch.arange(9) < torch.tensor([9, 4])[:videos, None]
    inputs = [query, key, value, *(p for name, p in module.named_parameters() if not name.startswith("out"))]
    got, wanted = (read(query, key, value, mask) for read in (module.reading_rows, module.reading_projections))
    assert torch.allclose(got, wanted)
    down = rows(*got.shape)
    for a, b in zip(torch.autograd.grad(got, inputs, down), torch.autograd.grad(wanted, inputs, down), strict=True):
        assert torch.allclose(a, b)


@torch.no_grad()
def test_reading_rows_drops_attention_and_not_the_values_bias_alone(monkeypatch):
    module = plain.stir(Attention(8, 6, 2, 0.5)).train()
    query, key = rows(1, 3, 8), rows(1, 9, 6)
    whole = module.eval().reading_rows(query, key, key, None)
    monkeypatch.setattr("pipeline.heads.fact.branches.dropout", lambda x, p, training: x * p if training else x)
    assert torch.allclose(module.train().reading_rows(query, key, key, None), whole * 0.5)


@pytest.mark.parametrize("memory", [None, 6])
@torch.no_grad()
def test_a_token_branch_is_its_definition_whatever_the_padding(memory):
    branch = plain.stir(TokenBranch(2, 8, memory, 10, 2, 12, 0.3))
    lengths, memory_lengths = [1, 4, 3], [9, 1, 5]
    x, mask = padded(lengths, 8)
    place = rows(x.shape[1], 8)
    kwargs = {}
    if memory:
        read, read_mask = padded(memory_lengths, 6)
        read_place = rows(read.shape[1], 6)
        kwargs = {"memory_BKE": read, "memory_position": read_place, "memory_mask_BK": read_mask, "logits": True}
    got, logits = branch(x, place, mask, **kwargs)
    for b, (length, long) in enumerate(zip(lengths, memory_lengths, strict=True)):
        own = (x[b, :length], place[:length])
        wanted, wanted_logits = plain.token_branch(
            branch, *own, *((read[b, :long], read_place[:long]) if memory else ())
        )
        assert torch.allclose(got[b, :length], wanted)
        if memory:
            assert torch.allclose(logits[b, :length, :long], wanted_logits)
            assert (logits[b, :, long:] == -math.inf).all()


class Halves(nn.Module):
    """A dropout that drops nothing and can be seen."""

    p = 0.5

    def forward(self, x):
        return x * 0.5


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize(("readers", "read"), [(3, 11), (11, 3), (4, 4)])
def test_attention_between_branches_is_its_definition_from_either_side(readers, read, dropping):
    module = plain.stir(CrossAttention(8, 5, 0.0)).train(dropping)
    if dropping:
        module.dropout = Halves()
    lengths = [read, read - 2]
    y, y_place, x_place = rows(2, readers, 8).requires_grad_(), rows(readers, 8), rows(read, 8)
    mask = torch.arange(read) < torch.tensor(lengths)[:, None]
    x = rows(2, read, 8).requires_grad_()
    inputs = [x, y, *module.parameters()]
    got, logits = module(y, x, y_place, x_place, mask)
    down = rows(*got.shape)
    mine, theirs = (got * down).sum() + logits[mask[:, None].expand_as(logits)].square().sum(), 0.0
    for b, length in enumerate(lengths):
        wanted, wanted_logits = plain.cross_attention(module, y[b], x[b, :length], y_place, x_place[:length])
        assert torch.allclose(got[b].detach(), wanted.detach())
        assert torch.allclose(logits[b, :, :length], wanted_logits)
        # The loops' softmax has left autograd: the gradient's reference is the textbook form.
        q, k, v = (
            module.query(y[b] + y_place),
            module.key(x[b, :length] + x_place[:length]),
            module.value(x[b, :length]),
        )
        scores = q @ k.T / math.sqrt(8)
        both = module.out(module.dropout(torch.cat([y[b], scores.softmax(1) @ v], dim=1)))
        assert torch.allclose(both, wanted)
        theirs = theirs + (both * down[b]).sum() + scores.square().sum()
    for a, b in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert torch.allclose(a, b)


@torch.no_grad()
def test_segments_are_read_as_if_each_video_were_alone():
    branch = plain.stir(SegmentBranch(6, 2))
    labels = [[0], [0, 0, 1, 2, 2, 0], [1, 0, 1]]
    x, mask = padded([len(row) for row in labels], 6)
    label_BT = torch.zeros(mask.shape, dtype=torch.int64)
    for row, own in zip(label_BT, labels, strict=True):
        row[: len(own)] = torch.tensor(own)
    got = branch(x, segments(label_BT, mask))
    for b, own in enumerate(labels):
        mean = torch.stack([x[b, list(span)].mean(0) for span in plain.runs(own)])
        wanted = branch.leave(branch.gru(mean)[0].relu())
        assert torch.allclose(got[b, : len(mean)], wanted)


# --- how everything starts --------------------------------------------------------------------------------------------

WIDTH, OTHER = 96, 160


def published():
    """Name -> (what ours starts as, what the published module starts as): nn.MultiheadAttention, whose q, k, v of one
    width are one packed matrix, convolutions and layers of the library."""
    pairs = {}
    for name, source in (("own", WIDTH), ("cross", OTHER)):
        ours, other = Attention(WIDTH, source, 4, 0.0), nn.MultiheadAttention(WIDTH, 4, kdim=source, vdim=source)
        packed = other.in_proj_weight
        three = (other.q_proj_weight, other.k_proj_weight, other.v_proj_weight) if packed is None else packed.chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), three, other.in_proj_bias.chunk(3), strict=True):
            pairs[f"{name} {part}"] = getattr(ours, part).weight, weight
            pairs[f"{name} {part} bias"] = getattr(ours, part).bias, bias
        pairs[f"{name} out"], pairs[f"{name} out bias"] = (
            (ours.out.weight, other.out_proj.weight),
            (ours.out.bias, other.out_proj.bias),
        )
    for kind, taps in (("m", ("taps",)), ("m2", ("first", "second")), ("cnn", ("taps",))):
        branch = FrameBranch(kind, OTHER, WIDTH, OTHER, 2, 0.0, False)
        for name in taps:
            mine, conv = getattr(branch.layers[0], name), nn.Conv1d(WIDTH, WIDTH, 3)
            pairs[f"{kind} {name}"], pairs[f"{kind} {name} bias"] = (
                (mine.weight_KDE, conv.weight),
                (mine.bias_E, conv.bias),
            )
        for name, own in (("enter", branch.enter), ("leave", branch.leave)):
            conv = nn.Conv1d(own.in_features, own.out_features, 1)
            pairs[f"{kind} {name}"], pairs[f"{kind} {name} bias"] = (own.weight, conv.weight), (own.bias, conv.bias)
    between = CrossAttention(WIDTH, OTHER, 0.0)
    pairs |= {f"between {n}": (getattr(between, n).weight, nn.Linear(WIDTH, WIDTH).weight) for n in ("query", "value")}
    pairs["between out"] = between.out.weight, nn.Linear(2 * WIDTH, OTHER).weight
    return pairs


@pytest.mark.parametrize("name", list(published()))
def test_weights_start_as_wide_as_those_of_the_published_modules(name):
    ours, theirs = published()[name]
    if not theirs.any():
        assert not ours.any()
        return
    assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.05)
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.2 if ours.ndim == 1 else 0.03)


def test_the_layers_of_a_token_branch_start_as_copies_of_one():
    """As published: a layer is made once and copied."""
    for memory in (None, 12):
        first, *others = TokenBranch(3, 8, memory, 12, 2, 16, 0.0).layers
        for other in others:
            for name, parameter in first.named_parameters():
                assert torch.equal(parameter, other.get_parameter(name)) and parameter is not other.get_parameter(name)
