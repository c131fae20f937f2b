"""The whole of GASM-CAST: size, order, switches, gradients, precision, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.heads.gasm_cast.config import GasmCastModel
from pipeline.heads.gasm_cast.model import GasmCast, parameter_table

from .loops import SMALL, stir

REAL = {
    "semantic_dim": 768,
    "motion_dim": 512,
    "steps": 8,
    "semantic_grid": (14, 14),
    "motion_grid": (7, 7),
    "n_classes": 174,
    "fusion": "cast",
    "layers": 3,
    "attention_heads": 8,
    "width": 256,
    "bottleneck": 256,
    "window": "cell",
    "graph": "full",
    "radii": (1, 2, -1),
    "semantic_neighbours": 8,
    "motion_neighbours": 2,
    "dropout": 0.3,
    "token_dropout": 0.3,
}
TABLE = [
    ("input norms and scales", 2_564),
    ("spatial graph", 2_386_032),
    ("tube", 2_368_512),
    ("motion space", 1_583_856),
    ("motion time", 1_580_160),
    ("exchange", 3_753_984),
    ("FFN semantic", 3_548_160),
    ("FFN motion", 1_579_008),
    ("pools", 987_648),
    ("head", 180_398),
]
# What a model does not see changes its float64 logits by 1e-14 at most.
NOTICED = 1e-6
VARIANTS = [{"fusion": fusion} for fusion in ("cast", "vanilla", "concat", "semantic", "motion", "probe")]
VARIANTS += [{"graph": graph} for graph in ("spatial", "time", "learned", "dense", "none")]
VARIANTS += [{"window": "full"}, {"semantic_grid": (2, 3)}, {"layers": 1}]


def names(variant):
    return ",".join(f"{key}={value}" for key, value in variant.items())


def batch(videos=3, dtype=torch.float64, **changes):
    sizes = SMALL | changes
    grids = math.prod(sizes["semantic_grid"]), math.prod(sizes["motion_grid"])
    semantic = torch.randn(videos, sizes["steps"], grids[0], sizes["semantic_dim"], dtype=dtype)
    motion = torch.randn(videos, sizes["steps"], grids[1], sizes["motion_dim"], dtype=dtype)
    times = (torch.arange(sizes["steps"], dtype=torch.float64) + 0.5).repeat(videos, 1)
    return semantic, motion, times


def sizes_of(model):
    return dict(parameter_table(model))


# --- size -------------------------------------------------------------------------------------------------------------


def on_meta(**changes):
    with torch.device("meta"):
        return GasmCast(**REAL | changes)


def test_the_real_model_has_the_parameters_of_the_table_under_20_million():
    table = parameter_table(on_meta())
    print("\n".join(f"{part:24}{count:>12,}" for part, count in table))
    assert table == TABLE
    assert sum(count for _, count in table) == 17_970_322 < 20_000_000


@pytest.mark.parametrize("fusion", ["cast", "vanilla", "concat", "semantic", "motion", "probe"])
def test_the_table_leaves_no_parameter_out(fusion):
    model = on_meta(fusion=fusion)
    assert sum(count for _, count in parameter_table(model)) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"layers": 1}, {"semantic_dim": 112, "motion_dim": 128, "attention_heads": 4}])
def test_the_probe_is_as_large_as_the_model_within_three_per_cent(changes):
    own, probe = (sum(p.numel() for p in on_meta(fusion=f, **changes).parameters()) for f in ("cast", "probe"))
    assert probe == pytest.approx(own, rel=0.03)


def macs(model, *inputs):
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(("grid", "wanted"), [((14, 14), 20.5e9), ((7, 7), 7.0e9)])
def test_a_video_forward_costs_what_the_design_says(grid, wanted):
    changes = {"semantic_grid": grid}
    semantic, motion, times = batch(1, torch.float32, **REAL | changes)
    assert macs(GasmCast(**REAL | changes).eval(), semantic, motion, times) == pytest.approx(wanted, rel=0.005)


@pytest.mark.parametrize(
    ("exchange", "share"),
    [({"window": "full"}, 0.36), ({"window": "cell"}, 0.25), ({"window": "full", "bottleneck": 384}, 0.61)],
)
def test_b_cast_costs_its_share_of_vanilla_cross_attention(exchange, share):
    tensors = batch(1, torch.float32, **REAL)
    small = {"layers": 1, "graph": "none"}
    none, vanilla, cast = (
        macs(GasmCast(**REAL | small | changes).eval(), *tensors)
        for changes in ({"fusion": "concat"}, {"fusion": "vanilla"}, exchange)
    )
    assert (cast - none) / (vanilla - none) == pytest.approx(share, abs=0.006)


# --- what it computes -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_at_the_start_the_model_is_its_inputs_pooled_and_classified():
    model = GasmCast(**SMALL).double().eval()
    semantic, motion, times = batch()
    steps = torch.arange(3.0, dtype=torch.float64).expand(3, 3)
    pooled = [
        model.pools[name](model.inputs[name](x, steps).flatten(1, 2))
        for name, x in (("semantic", semantic), ("motion", motion))
    ]
    assert torch.allclose(model(semantic, motion, times), model.head(torch.cat(pooled, dim=-1)))


@pytest.mark.parametrize("variant", VARIANTS, ids=names)
@torch.no_grad()
def test_the_order_of_frames_matters(variant):
    model = stir(GasmCast(**SMALL | variant))
    semantic, motion, times = batch(**variant)
    forward = model(semantic, motion, times)
    assert forward.shape == (3, 5)
    assert torch.isfinite(forward).all()
    assert (forward - model(semantic.flip(1), motion.flip(1), times)).abs().max() > NOTICED


@torch.no_grad()
def test_without_positions_in_time_the_probe_would_be_blind_to_order():
    model = stir(GasmCast(**SMALL | {"fusion": "probe"}))
    for embed in model.inputs.values():
        embed.time_scale.zero_()
    semantic, motion, times = batch()
    assert torch.allclose(model(semantic, motion, times), model(semantic.flip(1), motion.flip(1), times), atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS, ids=names)
@torch.no_grad()
def test_the_place_of_tokens_matters(variant):
    model = stir(GasmCast(**SMALL | variant))
    semantic, motion, times = batch(**variant)
    moved = model(semantic.flip(2), motion.flip(2), times)
    assert (model(semantic, motion, times) - moved).abs().max() > NOTICED


@pytest.mark.parametrize("variant", VARIANTS, ids=names)
@torch.no_grad()
def test_a_video_gets_the_same_logits_in_any_company(variant):
    model = stir(GasmCast(**SMALL | variant))
    tensors = batch(4, **variant)
    together = model(*tensors)
    alone = torch.cat([model(*(x[i : i + 1] for x in tensors)) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-9)


@torch.no_grad()
def test_a_video_played_slowly_or_later_gets_the_same_logits():
    model = stir(GasmCast(**SMALL))
    semantic, motion, times = batch()
    assert torch.allclose(model(semantic, motion, times), model(semantic, motion, times * 9 + 3))


@pytest.mark.parametrize(("fusion", "blind"), [("semantic", 1), ("motion", 0)])
@torch.no_grad()
def test_one_stream_never_sees_the_other(fusion, blind):
    model = stir(GasmCast(**SMALL | {"fusion": fusion}))
    tensors = list(batch())
    before = model(*tensors)
    tensors[blind] = torch.randn_like(tensors[blind])
    assert torch.equal(model(*tensors), before)


@torch.no_grad()
def test_concatenation_lets_the_streams_meet_in_the_classifier_only():
    model = stir(GasmCast(**SMALL | {"fusion": "concat"}))
    pooled = []
    model.head[0].register_forward_hook(lambda module, args, output: pooled.append(args[0]))
    semantic, motion, times = batch()
    model(semantic, motion, times)
    model(semantic, torch.randn_like(motion), times)
    assert torch.allclose(pooled[0][:, :16], pooled[1][:, :16])
    assert not torch.allclose(pooled[0][:, 16:], pooled[1][:, 16:])


# --- switches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ({"fusion": "vanilla"}, {"exchange"}),
        ({"fusion": "concat"}, {"exchange"}),
        ({"graph": "none"}, {"spatial graph", "motion space", "motion time"}),
        ({"graph": "spatial"}, set()),
        ({"graph": "dense"}, {"spatial graph", "motion space", "motion time"}),
        ({"graph": "learned"}, {"spatial graph", "motion space", "motion time"}),
        ({"graph": "time"}, {"spatial graph"}),
        ({"window": "full"}, set()),
        ({"radii": (0, 0)}, set()),
        ({"semantic_neighbours": 0, "motion_neighbours": 0}, set()),
        ({"bottleneck": 16}, {"exchange"}),
        ({"n_classes": 7}, {"head"}),
    ],
    ids=lambda value: names(value) if isinstance(value, dict) else "",
)
def test_a_switch_changes_only_the_parts_that_it_names(variant, parts):
    plain, changed = sizes_of(GasmCast(**SMALL)), sizes_of(GasmCast(**SMALL | variant))
    assert {part for part in plain if changed.get(part) != plain[part]} == parts


@torch.no_grad()
def test_the_switches_of_equal_size_change_the_function_and_accept_each_others_weights():
    model = stir(GasmCast(**SMALL))
    tensors = batch()
    plain = model(*tensors)
    for variant in ({"graph": "spatial"}, {"window": "full"}, {"radii": (0, 1)}, {"semantic_neighbours": 9}):
        other = GasmCast(**SMALL | variant).double().eval()
        other.load_state_dict(model.state_dict())
        assert (other(*tensors) - plain).abs().max() > 1e-4, variant


@torch.no_grad()
def test_spatial_edges_only_is_full_without_cosine_neighbours():
    model = stir(GasmCast(**SMALL | {"graph": "spatial"}))
    other = GasmCast(**SMALL | {"semantic_neighbours": 0, "motion_neighbours": 0}).double().eval()
    other.load_state_dict(model.state_dict())
    tensors = batch()
    assert torch.equal(model(*tensors), other(*tensors))


@torch.no_grad()
def test_a_dense_graph_has_the_layers_of_a_full_one_but_for_what_tells_places_and_likeness_apart():
    full, dense = (GasmCast(**SMALL | {"graph": graph, "radii": (-1, -1)}) for graph in ("full", "dense"))
    more = {name for name, _ in full.named_parameters()} - {name for name, _ in dense.named_parameters()}
    assert {name.rsplit(".", 1)[1] for name in more} == {"table", "gamma"} and len(more) == 2 * 3 * 2
    # With both at zero, as they begin, a full graph whose radii join all reads as a dense one.
    stir(full)
    for name, parameter in full.named_parameters():
        if name in more:
            parameter.zero_()
    dense.double().eval().load_state_dict({n: v for n, v in full.state_dict().items() if n in dense.state_dict()})
    tensors = batch()
    torch.testing.assert_close(dense(*tensors), full(*tensors))


def test_radii_past_the_layers_wait():
    assert GasmCast(**SMALL | {"layers": 1}).radii == (1,)


def test_the_constructor_takes_every_field_of_the_params():
    fields = set(GasmCastModel.model_fields)
    assert fields <= set(SMALL)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_after_one_step_every_parameter_has_a_gradient(variant):
    model = GasmCast(**SMALL | variant | {"token_dropout": 0.0}).double()
    tensors, labels = batch(8, **variant), torch.arange(8) % 5
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(*tensors), labels).backward()
        optimiser.step()
    still = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not still


def test_it_learns_a_task_whose_classes_differ_in_order_only():
    frames = torch.randn(SMALL["steps"], 24 * 16 + 6 * 12)
    orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1]])
    labels = torch.arange(40) % 5
    x = frames[orders[labels]] + 0.3 * torch.randn(40, 3, frames.shape[1])
    semantic, motion = x[..., :384].reshape(40, 3, 24, 16), x[..., 384:].reshape(40, 3, 6, 12)
    times = torch.arange(3.0).expand(40, 3)
    model = GasmCast(**SMALL | {"token_dropout": 0.0, "dropout": 0.0})
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(model(semantic, motion, times), labels).backward()
        optimiser.step()
    assert (model.eval()(semantic, motion, times).argmax(-1) == labels).float().mean() > 0.95


def test_dropout_of_tokens_happens_in_training_only():
    model = stir(GasmCast(**SMALL | {"dropout": 0.0}))
    tensors = batch()
    with torch.no_grad():
        assert torch.equal(model(*tensors), model(*tensors))
        model.train()
        assert not torch.allclose(model(*tensors), model(*tensors))


@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_bf16_autocast_is_near_fp32(variant):
    model = stir(GasmCast(**SMALL | variant), scale=0.2).float()
    tensors = batch(dtype=torch.float32, **variant)
    plain = model(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(*tensors)
        mixed.float().square().sum().backward()
    assert torch.allclose(plain, mixed.float(), atol=0.05 * plain.detach().abs().max().item())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_half_precision_features_from_a_store_are_welcome():
    model = stir(GasmCast(**SMALL)).float()
    semantic, motion, times = batch(dtype=torch.float16)
    assert torch.equal(model(semantic, motion, times), model(semantic.float(), motion.float(), times))


def test_a_models_state_holds_parameters_only():
    model = GasmCast(**SMALL)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "sum"}, r"fusion is 'sum', expected one of cast, vanilla"),
        ({"window": "row"}, r"window is 'row', expected one of cell, full"),
        ({"graph": "some"}, r"graph is 'some', expected one of full, spatial, time, learned, dense, none"),
        ({"graph": "learned", "motion_neighbours": 0}, r"must be above 0 with graph learned"),
        ({"semantic_dim": 18}, r"semantic_dim is 18, expected a multiple of 4"),
        ({"attention_heads": 3}, r"width is 8, which 3 attention_heads do not divide; expected a multiple of 3"),
        ({"bottleneck": 9}, r"bottleneck is 9, which 2 attention_heads do not divide"),
        ({"fusion": "vanilla", "attention_heads": 8}, r"motion_dim is 12, which 8 attention_heads do not divide"),
        ({"layers": 3}, r"radii are \[1, -1\], expected at least one for each of 3 layers"),
        ({"radii": (1, -2)}, r"radii are \[1, -2\], expected .* >= 0, or -1"),
        ({"semantic_grid": (4, 3)}, r"semantic grid is 4 x 3 and motion grid 2 x 3, expected .* whole multiple"),
        ({"semantic_grid": (1, 1)}, r"semantic grid is 1 x 1 and motion grid 2 x 3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GasmCast(**SMALL | changes)


def test_tensors_of_the_wrong_shape_are_refused_with_both_sides():
    model = GasmCast(**SMALL)
    semantic, motion, times = batch(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"semantic tokens have shape \(3, 3, 23, 16\), expected \(3, 3, 24, 16\)"):
        model(semantic[:, :, 1:], motion, times)
    with pytest.raises(ValueError, match=r"motion tokens have shape \(2, 3, 6, 12\), expected \(3, 3, 6, 12\)"):
        model(semantic, motion[:2], times)
    with pytest.raises(ValueError, match=r"times have shape \(3, 2\), expected \(3, 3\)"):
        model(semantic, motion, times[:, :2])
    with pytest.raises(ValueError, match=r"times of video 0 of the batch must increase"):
        model(semantic, motion, times.flip(1))
