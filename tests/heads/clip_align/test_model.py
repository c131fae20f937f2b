"""The whole of clip_align: its switches, its maps of every kind, 200 steps without a NaN, the leak, refusals."""

import pytest
import torch

from pipeline.heads.clip_align.encoders import ENCODERS
from pipeline.heads.clip_align.guidance import GATES, GUIDANCES, token_map
from pipeline.heads.clip_align.losses import LossSettings, align_loss
from pipeline.heads.clip_align.model import ClipAlign

from .literal import GRID, SMALL, batch, small

GUIDED = [name for name in GUIDANCES if name != "none"]
GATE_SHAPES = {"channel": (SMALL["width"],), "spatiotemporal": GRID, "summary_gate": (SMALL["feature_dim"],)}


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_every_guidance_works_with_every_encoder_and_only_guided_videos_know_their_map(encoder, guidance):
    model = small(encoder=encoder, guidance=guidance)
    tokens, maps = batch()
    output, other = model(tokens, maps), model(tokens, maps.flip(0))
    assert output.logits.shape == (5, 3) and output.video_tokens.shape == (5, *GRID, SMALL["width"])
    for embed in (output.video_embed, output.attn_embed):
        torch.testing.assert_close(embed.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert (output.gate is None) == (guidance in ("none", "weighted_pool", "predicted"))
    assert (output.log_map is None) == (output.step_map is None) == (guidance != "predicted")
    assert output.gate is None or output.gate.shape == (5, *GATE_SHAPES[guidance])
    torch.testing.assert_close(output.video_tokens, other.video_tokens)  # encoded before any map is seen
    # Row 2 keeps its map in the flipped batch.
    assert torch.allclose(output.video_feat[2], other.video_feat[2])
    assert torch.allclose(output.video_feat, other.video_feat) == (guidance == "none")
    torch.testing.assert_close(output.attn_feat, other.attn_feat.flip(0))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("guidance", [name for name in GUIDANCES if name != "predicted"])
def test_unguided_means_a_uniform_map_and_the_plain_pooling_of_no_guidance(encoder, guidance):
    model, plain = small(encoder=encoder, guidance=guidance), small(encoder=encoder, guidance="none")
    tokens, maps = batch()
    unguided = model.video(model.encode(tokens))
    torch.testing.assert_close(unguided.feat, model.video(model.encode(tokens), torch.full_like(maps, 0.4)).feat)
    torch.testing.assert_close(unguided.feat, plain(tokens, maps).video_feat)


@torch.no_grad()
def test_without_a_map_the_mean_map_stands_in_and_nothing_is_aligned():
    model = small(classifier_source="fusion")
    tokens, maps = batch()
    uniform = model(tokens)
    torch.testing.assert_close(uniform.logits, model(tokens, torch.zeros_like(maps)).logits)
    model.mean_map_CTHW.copy_(maps.mean(0))
    without = model(tokens)
    torch.testing.assert_close(without.logits, model(tokens, maps.mean(0).expand_as(maps)).logits)
    assert not without.has_map.any() and not torch.allclose(without.logits, uniform.logits)
    assert "mean_map_CTHW" in model.state_dict()


@torch.no_grad()
def test_rows_without_a_map_are_under_a_uniform_one_whatever_stands_there_and_leave_the_others_alone():
    model = small(classifier_source="fusion")
    tokens, maps = batch()
    has_map = torch.tensor([True, False, True, True, False])
    torn = torch.where(has_map[:, None, None, None, None], maps, torch.nan)
    mixed, whole, unguided = model(tokens, torn, has_map), model(tokens, maps), model(tokens, torch.zeros_like(maps))
    for name in ("logits", "video_feat", "attn_feat", "token_map"):
        torch.testing.assert_close(getattr(mixed, name)[has_map], getattr(whole, name)[has_map])
        torch.testing.assert_close(getattr(mixed, name)[~has_map], getattr(unguided, name)[~has_map])
    assert torch.equal(mixed.has_map, has_map)


@torch.no_grad()
def test_guidance_takes_the_mean_over_channels_and_the_map_encoder_reads_them_all():
    model = small()
    tokens, maps = batch()
    output, swapped = model(tokens, maps), model(tokens, maps.flip(1))
    torch.testing.assert_close(output.video_feat, swapped.video_feat)
    assert not torch.allclose(output.attn_feat, swapped.attn_feat)


@torch.no_grad()
@pytest.mark.parametrize("source", ["video", "attn", "fusion"])
def test_the_classifier_reads_what_its_source_names(source):
    model = small(classifier_source=source)
    tokens, maps = batch()
    output = model(tokens, maps)
    feature = {
        "video": output.video_feat,
        "attn": output.attn_feat,
        "fusion": (output.video_feat + output.attn_feat) / 2,
    }[source]
    torch.testing.assert_close(output.logits, model.classifier(feature))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_predicted_map_needs_none_and_no_other_stands_in_for_it(encoder):
    model = small(encoder=encoder, guidance="predicted")
    tokens, maps = batch()
    model.mean_map_CTHW.copy_(maps.mean(0))
    has_map = torch.tensor([True, False, True, True, False])
    without, own, mixed = model(tokens), model(tokens, maps), model(tokens, maps, has_map)
    torch.testing.assert_close(without.logits, model.classifier(model.video(model.encode(tokens)).feat))
    torch.testing.assert_close(mixed.logits[~has_map], without.logits[~has_map])
    torch.testing.assert_close(mixed.logits[has_map], own.logits[has_map])
    assert not without.step_map.any() and not without.has_map.any()
    torch.testing.assert_close(own.log_map, without.log_map)  # of the tokens alone
    # With a map both have half; pooling is linear in the weights.
    a = without.log_map.exp()[:, None].expand(5, *GRID)
    weights = (a + own.step_map) / 2
    torch.testing.assert_close(own.video_feat, model.readout(own.video_tokens, weights))


def test_in_training_a_share_of_the_videos_with_a_map_is_pooled_by_it_and_the_others_by_the_predicted_one():
    tokens, maps = batch(64)
    has_map = torch.arange(64) % 4 > 0
    for teach, fewest, most in ((0.0, 0, 0), (0.5, 12, 36), (1.0, 48, 48)):
        model = small(guidance="predicted", map_teach=teach, dropout=0.0).train()
        output = model(tokens, maps, has_map)
        a = output.log_map.exp()[:, None].expand(64, *GRID)
        by_own, by_a = (model.readout(output.video_tokens, weights) for weights in (output.step_map, a))
        near_own, near_a = ((output.video_feat - of).abs().amax(1) < 1e-9 for of in (by_own, by_a))
        assert (near_own ^ near_a)[has_map].all() and near_a[~has_map].all()
        assert fewest <= near_own[has_map].sum() <= most
    # What is pooled by the predicted map teaches it, even without the map term.
    model = small(guidance="predicted", map_teach=0.0).train()
    model(tokens, maps).logits.square().sum().backward()
    assert model.guidance.head.hidden.weight.grad.any()


SWITCHES = [{"guidance": name} for name in GUIDANCES] + [{"gate": "sigmoid"}, {"map_dropout": 0.5}]
SWITCHES += [{"classifier_source": "attn"}, {"classifier_source": "fusion"}, {"dropout": 0.5}]


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_a_switch_changes_no_other_part_at_the_start(switch):
    base, switched = small().state_dict(), small(**switch).state_dict()
    shared = [name for name in base if not name.startswith("guidance.")]
    assert shared == [name for name in switched if not name.startswith("guidance.")]
    assert all(torch.equal(base[name], switched[name]) for name in shared)


@torch.no_grad()
@pytest.mark.parametrize("source", ["video", "attn", "fusion"])
def test_map_dropout_guides_and_classifies_by_the_mean_map_but_keeps_the_own_one_to_align_with(source):
    tokens, maps = batch(64)
    sizes = {"classifier_source": source, "dropout": 0.0}
    model, whole = small(**sizes, map_dropout=0.5), small(**sizes)
    for each in (model, whole):
        each.mean_map_CTHW.copy_(maps.mean(0))
    own, mean = whole(tokens, maps), whole(tokens)
    torch.testing.assert_close(model(tokens, maps).logits, own.logits)  # not in evaluation
    output = model.train()(tokens, maps)
    near_own = (output.logits - own.logits).abs().amax(1) < 1e-9
    near_mean = (output.logits - mean.logits).abs().amax(1) < 1e-9
    assert (near_own ^ near_mean).all() and 16 < near_mean.sum() < 48
    for name in ("attn_embed", "attn_feat", "token_map", "video_tokens"):
        torch.testing.assert_close(getattr(output, name), getattr(own, name))
    torch.testing.assert_close(output.video_embed[near_mean], mean.video_embed[near_mean])
    assert output.has_map.all()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("guidance", [name for name in GUIDANCES if name != "predicted"])
def test_the_published_model_guides_its_3d_encoder_only(encoder, guidance):
    kind = small(encoder=encoder, guidance=guidance, compat="published").guidance.kind
    assert kind == (guidance if encoder == "3dcnn" or guidance == "none" else "summary_gate")


def kinds_of_map(kind, maps):
    """Maps of the kind, and which rows have one."""
    has_map = torch.ones(len(maps)).bool()
    if kind == "zero":
        maps = torch.zeros_like(maps)
    elif kind == "constant":
        maps = torch.full_like(maps, 0.7)
    elif kind == "one cell":
        maps = torch.zeros_like(maps)
        maps[:, 0, 0, 0, 0] = 1
    elif kind == "some missing":
        has_map[::2] = False
        maps[::2] = torch.nan
    elif kind == "all missing":
        has_map[:] = False
    return maps, has_map


KINDS = ["zero", "constant", "one cell", "some missing", "all missing", "many channels"]


def guided_by_any_map():
    """Each kind under the published default, and the learned maps; of the others each kind and each guidance for a
    quarter of the steps, and all pairs by `-m proof`.
    """
    yield from ((kind, "spatiotemporal", "sigmoid", 200) for kind in KINDS)
    yield "some missing", "predicted", "linear", 200
    for number, kind in enumerate(KINDS):
        for place, name in enumerate(GUIDED):
            if (kind, name) == ("some missing", "predicted"):
                continue
            some = place == number % len(GUIDED)
            steps, mark = (50, pytest.mark.slow) if some else (200, pytest.mark.proof)
            yield pytest.param(kind, name, "linear", steps, marks=mark)
            if some:
                yield pytest.param(kind, name, "linear", 200, marks=pytest.mark.proof)


@pytest.mark.parametrize(("kind", "guidance", "gate", "steps"), guided_by_any_map())
def test_two_hundred_steps_on_any_map_meet_no_nan(kind, guidance, gate, steps):
    sizes = {"guidance": guidance, "gate": gate, "channels": 3 if kind == "many channels" else 1, "grid": (2, 2, 2)}
    if guidance != "predicted":
        sizes |= {"map_dropout": 0.3, "classifier_source": "fusion"}
    model = ClipAlign(**SMALL | sizes).train()
    tokens, maps = (x.float() for x in batch(8, **sizes))
    maps, has_map = kinds_of_map(kind, maps)
    labels, ids, groups = torch.arange(8) % 3, torch.arange(8) % 4, torch.arange(8) // 2
    settings = LossSettings(clip_weight=1.0, lambda_token=1.0, label_smoothing=0.1, lambda_map=1.0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = align_loss(model(tokens, maps, has_map), labels, ids, groups, settings)["loss"]
        loss.backward()
        assert loss.isfinite()
        optimiser.step()
    # A gradient that is not finite stays in its parameter.
    assert all(value.isfinite().all() for value in model.state_dict().values())


def spots(videos, generator):
    """Maps of one bright spot each, anywhere: (B, 1, 4, 8, 8)."""
    places = torch.rand(videos, 2, 1, 1, generator=generator) * 8
    row, column = torch.arange(8.0)[:, None] + 0.5, torch.arange(8.0)[None] + 0.5
    distance = (row - places[:, 0]) ** 2 + (column - places[:, 1]) ** 2
    return torch.exp(-distance / 4)[:, None, None].repeat(1, 1, 4, 1, 1)


@torch.no_grad()
def recall_at_1(video_embed, attn_embed):
    return ((video_embed @ attn_embed.T).argmax(1) == torch.arange(len(video_embed))).float().mean().item()


def test_guided_videos_that_know_nothing_of_their_maps_retrieve_them_and_unguided_ones_do_not():
    """The leak: random tokens, independent of the maps; fresh videos and fresh maps to retrieve among."""
    generator = torch.Generator().manual_seed(5)
    grid, width, gallery = (4, 4, 4), 16, 128
    sizes = {"width_in": width, "grid": grid, "channels": 1, "width": 16, "embed_dim": 32, "feature_dim": 32}
    model = ClipAlign(**SMALL | sizes).train()

    def videos(number):
        return torch.randn(number, 4, 16, width, generator=generator), spots(number, generator)

    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    settings, everyone = LossSettings(1.0, 0.0, 0.0), torch.arange(64)
    for _ in range(200):
        optimiser.zero_grad()
        tokens, maps = videos(64)
        align_loss(model(tokens, maps), everyone % 3, everyone, everyone, settings)["clip"].backward()
        optimiser.step()
    model.eval()
    tokens, maps = videos(gallery)
    with torch.no_grad():
        encoded, (_, attn) = model.encode(tokens), model.attention(maps)
        guided = recall_at_1(model.video(encoded, maps).embed, attn)
        unguided = recall_at_1(model.video(encoded).embed, attn)
        shuffled = recall_at_1(model.video(encoded, maps.roll(1, 0)).embed, attn)
    print(f"R@1 guided {guided:.3f}, unguided {unguided:.3f}, shuffled {shuffled:.3f}, chance {1 / gallery:.3f}")
    assert guided > 10 / gallery and unguided < 4 / gallery and shuffled < 4 / gallery


def test_a_row_does_not_depend_on_the_rest_of_the_batch():
    model = small()
    tokens, maps = batch()
    torch.testing.assert_close(model(tokens, maps).logits[1:2], model(tokens[1:2], maps[1:2]).logits)


def test_stored_half_precision_is_welcome():
    model = small().float()
    tokens, maps = batch()
    output = model(tokens.half(), maps.half())
    torch.testing.assert_close(output.logits, model(tokens.half().float(), maps.half().float()).logits)
    assert torch.equal(output.token_map, token_map(maps.half().float(), 2))


REFUSED = [
    ({"encoder": "4dcnn"}, "encoder is '4dcnn', expected one of 3dcnn"),
    ({"guidance": "all"}, "guidance is 'all', expected one of none"),
    ({"gate": "soft"}, f"gate is 'soft', expected one of {', '.join(GATES)}"),
    ({"classifier_source": "map"}, "classifier_source is 'map'"),
    ({"compat": "old"}, "compat is 'old', expected one of None, published"),
    (
        {"guidance": "predicted", "classifier_source": "attn"},
        "classifier_source is 'attn', but guidance is 'predicted'",
    ),
    ({"guidance": "predicted", "map_dropout": 0.1}, "map_dropout is 0.1, but guidance is 'predicted'"),
    ({"guidance": "predicted", "gate": "sigmoid"}, "gate is 'sigmoid', but guidance is 'predicted'"),
    ({"guidance": "predicted", "compat": "published"}, "compat is 'published', but guidance is 'predicted'"),
    ({"width": 12}, "width is 12, expected a multiple of 8"),
    ({"map_width": 4}, "map_width is 4, expected a multiple of 8"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_arguments_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change)


def test_tokens_and_maps_of_another_shape_are_refused_with_both_shapes():
    model = small()
    tokens, maps = batch()
    with pytest.raises(ValueError, match=r"tokens have shape \(5, 2, 8, 6\), expected \(5, 3, 8, 6\)"):
        model(tokens[:, 1:], maps)
    for wrong in (maps[:, :1], maps[:, :, 1:], maps[..., ::2], maps[1:]):
        with pytest.raises(ValueError, match=r"maps have shape .* expected \(5, 2, 3, 4, 8\)"):
            model(tokens, wrong)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_under_autocast_every_term_and_gradient_is_finite_and_near(encoder):
    model = small(encoder=encoder, gate="sigmoid", classifier_source="fusion").float()
    tokens, maps = batch(6)
    maps[0] = 0
    settings, ids, labels = LossSettings(1.0, 1.0, 0.1), torch.arange(6), torch.arange(6) % 3
    with torch.autocast("cpu", torch.bfloat16):
        found = align_loss(model(tokens.half(), maps.half()), labels, ids, ids, settings)
    found["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    wanted = align_loss(model(tokens.half(), maps.half()), labels, ids, ids, settings)
    for name, value in wanted.items():
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.05), name
