"""Maps of CLIP's last block: the closed form against automatic differentiation, and what it refuses."""

from pathlib import Path

import pytest
import torch

from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded, unit
from pipeline.config import Weights
from tests.backbones.small_clip import SIDE, TEXT, VISION, image_feature, save_clip
from tests.later import Later

clip_cam = Later("pipeline.backbones.clip_cam")
clip_cam_blocks = Later("pipeline.backbones.clip_cam_blocks")
towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")

CPU = torch.device("cpu")
MINI_CLIP = Path(__file__).parents[2] / "weights" / "mini-clip"
SITES = ["layer_norm1", "block_input"]
# Heads, depth, width, picture side (patches of 8), activation.
SIZES = [
    (1, 1, 32, 16, "quick_gelu"),
    (4, 3, 64, 32, "quick_gelu"),
    (6, 2, 48, 56, "gelu"),
    (12, 4, 96, 64, "gelu"),
]
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5}
E, IMAGES = 40, 3

sizes = pytest.mark.parametrize("size", SIZES, ids="{0[0]} heads, {0[1]} deep, {0[2]} wide, {0[3]} px, {0[4]}".format)
sites = pytest.mark.parametrize("site", SITES)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def small_clip(size=SIZES[1], dtype=torch.float64, seed=0):
    """Random weights with lively biases and norms: at 0 and 1 no test would see them left out."""
    heads, depth, width, side, activation = size
    vision = {"num_attention_heads": heads, "num_hidden_layers": depth, "hidden_size": width, "image_size": side}
    vision |= {"intermediate_size": 3 * width, "patch_size": 8, "hidden_act": activation}
    with seeded(seed):
        model = towers.build_clip(vision=vision, text=TEXT | {"num_hidden_layers": 1}, projection_dim=E).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model.to(dtype).requires_grad_(False)


def small_case(size=SIZES[1], dtype=torch.float64, seed=0):
    """(model, pictures, a unit target each, the tokens that enter the last block)."""
    model = small_clip(size, dtype, seed)
    with seeded(seed + 1):
        pixels = torch.randn(IMAGES, 3, size[3], size[3], dtype=dtype)
        targets = unit(torch.randn(IMAGES, E, dtype=dtype))
    return model, pixels, targets, tokens_of(model, pixels)


def tokens_of(model, pixels):
    return model.vision_model(pixels, output_hidden_states=True).hidden_states[-2]


def embed_of(model, tokens):
    """The literal end of the tower."""
    out = model.vision_model.encoder.layers[-1](tokens, None)[:, 0]
    return model.visual_projection(model.vision_model.post_layernorm(out))


def relative(got, wanted):
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


def literal_map(model, tokens, score, site):
    """Grad-CAM of one image as it is defined, patch by patch; `score` maps an embedding (E,) to a number.

    The last block is written out, with transformers' attention, so that either site is a variable of its own.
    """
    block = model.vision_model.encoder.layers[-1]
    x = tokens[None].clone().requires_grad_()
    u = block.layer_norm1(x)
    y = x + block.self_attn(u, None)[0]
    z = y + block.mlp(block.layer_norm2(y))
    embed = model.visual_projection(model.vision_model.post_layernorm(z[:, 0]))[0]
    looked_at = u if site == "layer_norm1" else x
    (slope,) = torch.autograd.grad(score(embed), looked_at)
    patches = range(1, tokens.shape[0])
    weight = sum(slope[0, patch] for patch in patches) / len(patches)
    return torch.stack([weight @ looked_at[0, patch] for patch in patches]).detach()


def cosine_with(target):
    return lambda embed: embed / embed.norm() @ target


# --- the closed form --------------------------------------------------------------------------------------------------


@sizes
@sites
@dtypes
@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_grad_cam(size, site, dtype, seed):
    model, _, targets, tokens = small_case(size, dtype, seed)
    assert model.config._attn_implementation == "sdpa"  # the eager one has its softmax in float32
    wanted = [literal_map(model, x, cosine_with(t), site) for x, t in zip(tokens, targets, strict=True)]
    got = clip_cam.LastBlock(model, dtype=dtype).cam(tokens, targets, site)
    assert relative(got, torch.stack(wanted)) <= EXACT[dtype]
    assert (got.abs().amax(dim=1) > 1e-5).all() and (got > 0).any()


@sizes
@sites
@dtypes
def test_the_softmax_target_gives_grad_cam_of_the_probability(size, site, dtype):
    model, _, _, tokens = small_case(size, dtype)
    with seeded(5):
        classes = unit(torch.randn(7, E, dtype=dtype))
    picked = torch.tensor([0, 6, 2])

    def probability(number):
        return lambda embed: (10 * classes @ (embed / embed.norm())).softmax(dim=0)[number]

    wanted = [literal_map(model, x, probability(c), site) for x, c in zip(tokens, picked, strict=True)]
    block = clip_cam.LastBlock(model, dtype=dtype)
    target = block.softmax_target(block.embed(tokens), classes, picked, scale=10.0)
    assert relative(block.cam(tokens, target, site), torch.stack(wanted)) <= EXACT[dtype]


@sizes
@sites
@dtypes
def test_one_linear_map_an_image_gives_the_maps_of_all_targets(size, site, dtype):
    model, _, targets, tokens = small_case(size, dtype)
    block = clip_cam.LastBlock(model, dtype=dtype)
    maps = block.cams(tokens, site)
    assert maps.shape == (IMAGES, (size[3] // 8) ** 2, E)
    for target in (targets, -2.5 * targets, targets.flip(0)):
        assert relative((maps @ target[..., None])[..., 0], block.cam(tokens, target, site)) <= EXACT[dtype]


@sizes
@sites
def test_the_autograd_path_equals_the_closed_form_on_the_last_block(size, site):
    model, pixels, targets, tokens = small_case(size)
    closed = clip_cam.LastBlock(model, dtype=torch.float64).cam(tokens, targets, site)
    assert relative(clip_cam_blocks.autograd_cams(model, pixels, targets, [-1], site), closed) <= 1e-12
    assert relative(clip_cam_blocks.autograd_cams(model, pixels, targets, [size[1] - 1], site), closed) <= 1e-12


def test_the_usual_hook_on_the_last_blocks_output_gives_a_map_of_zeros():
    """Grad-CAM on the output of the last block is what the libraries do for convolutions, and what fails here.

    After the last block no token reads another: the embedding is the projection of CLS alone. So the logit's gradient
    with respect to every patch is exactly 0, hence the channel weights and the map too, hence each patch is background
    whatever the percentile. Before the block's attention, patches still reach CLS, through its keys and values.
    """
    model, pixels, targets, tokens = small_case()
    found = []
    layer = model.vision_model.encoder.layers[-1]
    hook = layer.register_forward_hook(lambda module, inputs, output: found.append(output.requires_grad_()) or output)
    embed = model.visual_projection(model.vision_model(pixels).pooler_output)
    hook.remove()
    (slope,) = torch.autograd.grad((unit(embed) * targets).sum(), found)
    assert (slope[:, 0] != 0).all() and (slope[:, 1:] == 0).all()
    usual = (found[0][:, 1:] * slope[:, 1:].mean(dim=1, keepdim=True)).sum(dim=2)
    assert (usual == 0).all()

    for site in SITES:
        ours = clip_cam.LastBlock(model, dtype=torch.float64).cam(tokens, targets, site)
        assert (ours != 0).all() and (ours.amax(dim=1) > 1e-4).all() and (ours.amin(dim=1) < ours.amax(dim=1)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@sites
def test_it_holds_on_the_mini_clip_too(site, dtype):
    model = (
        transformers.CLIPModel.from_pretrained(MINI_CLIP, attn_implementation="sdpa")
        .eval()
        .to(dtype)
        .requires_grad_(False)
    )
    with seeded(0):
        # Smooth pictures: noise is nothing that it was trained on.
        pixels = torch.nn.functional.interpolate(torch.randn(4, 3, 8, 8), size=(128, 128), mode="bicubic").to(dtype)
        targets = unit(torch.randn(4, 128, dtype=dtype))
    tokens = tokens_of(model, pixels)
    block = clip_cam.LastBlock(Weights(path=str(MINI_CLIP)), dtype=dtype)
    got = block.cam(tokens, targets, site)
    wanted = [literal_map(model, x, cosine_with(t), site) for x, t in zip(tokens, targets, strict=True)]
    assert block.grid == (8, 8) and (got.abs().amax(dim=1) > 1e-4).all()
    assert relative(got, torch.stack(wanted)) <= EXACT[dtype]
    assert relative(clip_cam_blocks.autograd_cams(model, pixels, targets, [-1], site), got) <= EXACT[dtype]


# --- embeddings -------------------------------------------------------------------------------------------------------


@sizes
@dtypes
def test_the_embedding_is_the_models(size, dtype):
    model, pixels, _, tokens = small_case(size, dtype)
    wanted = model.get_image_features(pixels).pooler_output
    assert relative(clip_cam.LastBlock(model, dtype=dtype).embed(tokens), wanted) <= EXACT[dtype]


@sizes
@pytest.mark.parametrize("post_norm", [False, True])
def test_patch_embeddings_are_projections_of_each_patch(size, post_norm):
    model, _, _, tokens = small_case(size)
    got = clip_cam.LastBlock(model, dtype=torch.float64).patch_embed(tokens, post_norm=post_norm)
    for image, x in enumerate(tokens):
        out = literal_block(model, x)
        for patch in range(1, len(x)):
            row = model.vision_model.post_layernorm(out[patch]) if post_norm else out[patch]
            wanted = torch.stack([weights @ row for weights in model.visual_projection.weight])
            torch.testing.assert_close(got[image, patch - 1], wanted, rtol=1e-11, atol=1e-12)
    assert got.shape == (IMAGES, tokens.shape[1] - 1, E)


@sizes
def test_value_embeddings_are_each_patch_s_own_value_without_attention(size):
    model, _, _, tokens = small_case(size)
    got = clip_cam.LastBlock(model, dtype=torch.float64).value_embed(tokens)
    block = model.vision_model.encoder.layers[-1]
    alone = torch.eye(tokens.shape[1], dtype=torch.float64)
    for image, x in enumerate(tokens):
        # The attention itself, made to look at each token alone.
        attention, u = block.self_attn, block.layer_norm1(x)
        value = torch.cat([alone @ part for part in attention.v_proj(u).split(attention.head_dim, dim=-1)], dim=-1)
        for patch in range(1, len(x)):
            row = model.vision_model.post_layernorm(attention.out_proj(value[patch]))
            wanted = torch.stack([weights @ row for weights in model.visual_projection.weight])
            torch.testing.assert_close(got[image, patch - 1], wanted, rtol=1e-11, atol=1e-12)


def literal_block(model, x):
    """The last block on one image, head by head and token by token."""
    block = model.vision_model.encoder.layers[-1]
    attention = block.self_attn
    u, width = block.layer_norm1(x), attention.head_dim
    query, key, value = (linear(u) for linear in (attention.q_proj, attention.k_proj, attention.v_proj))
    read = torch.empty_like(x)
    for head in range(attention.num_heads):
        span = slice(head * width, (head + 1) * width)
        for token in range(len(x)):
            weights = (key[:, span] @ query[token, span] / width**0.5).softmax(dim=0)
            read[token, span] = weights @ value[:, span]
    y = x + attention.out_proj(read)
    return y + block.mlp(block.layer_norm2(y))


# --- batches, dtypes, sources -----------------------------------------------------------------------------------------


@sites
def test_a_batch_is_its_images_one_by_one(site):
    model, _, targets, tokens = small_case()
    block = clip_cam.LastBlock(model, dtype=torch.float64)
    calls = {
        "embed": lambda x, t: block.embed(x),
        "cam": lambda x, t: block.cam(x, t, site),
        "cams": lambda x, t: block.cams(x, site),
        "patch_embed": lambda x, t: block.patch_embed(x, post_norm=True),
        "value_embed": lambda x, t: block.value_embed(x),
    }
    for call in calls.values():
        alone = [call(tokens[i : i + 1], targets[i : i + 1]) for i in range(IMAGES)]
        torch.testing.assert_close(call(tokens, targets), torch.cat(alone), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("source", ["mini", "small"])
@sites
def test_tokens_stored_as_float16_give_nearly_the_same(source, site):
    """fp16 keeps 11 bits, 5e-4 of a value at most: maps move by less than 0.5 %, embeddings by less than 0.1 %."""
    if source == "mini":
        model = transformers.CLIPModel.from_pretrained(MINI_CLIP).eval().requires_grad_(False)
        with seeded(0):
            pixels = torch.nn.functional.interpolate(torch.randn(8, 3, 8, 8), size=(128, 128), mode="bicubic")
            targets = unit(torch.randn(8, 128))
        tokens = tokens_of(model, pixels)
    else:
        model, _, targets, tokens = small_case(dtype=torch.float32)
    block, half = clip_cam.LastBlock(model), tokens.half()
    assert half.dtype == torch.float16 and not torch.equal(half.float(), tokens)
    assert relative(block.cam(half, targets, site), block.cam(tokens, targets, site)) < 5e-3
    assert (unit(block.embed(half)) - unit(block.embed(tokens))).norm(dim=1).max() < 1e-3
    assert relative(block.patch_embed(half, post_norm=False), block.patch_embed(tokens, post_norm=False)) < 1e-3
    # And it computes in its own dtype: stored tokens, widened by hand, give the same to the bit.
    assert torch.equal(block.cam(half, targets, site), block.cam(half.float(), targets, site))


def test_it_goes_on_where_clip_stops(tmp_path):
    weights = {"path": str(save_clip(tmp_path))}
    with seeded(3):
        pixels = torch.randint(0, 256, (4, 1, 3, SIDE, SIDE), dtype=torch.uint8)
    tokens = towers.Clip(image_feature(weights, "cam_tokens"), CPU)(pixels)["cam_tokens"]
    block = clip_cam.LastBlock(Weights(**weights))
    embeds = towers.Clip(image_feature(weights), CPU)(pixels)["image_embed"]
    torch.testing.assert_close(unit(block.embed(tokens)), embeds, rtol=0, atol=1e-6)
    assert block.shape == tokens.shape[1:] and block.grid == (4, 4) and block.embed_dim == 40


def test_a_picture_tower_alone_gives_the_same(tmp_path):
    whole = transformers.CLIPModel.from_pretrained(save_clip(tmp_path / "whole"))
    alone = transformers.CLIPVisionModelWithProjection(whole.config.vision_config)
    alone.vision_model.load_state_dict(whole.vision_model.state_dict())
    alone.visual_projection.load_state_dict(whole.visual_projection.state_dict())
    alone.save_pretrained(tmp_path / "alone")
    with seeded(0):
        tokens, targets = torch.randn(2, 17, 64), torch.randn(2, 40)
    got, wanted = (
        clip_cam.LastBlock(Weights(path=str(tmp_path / name))).cam(tokens, targets) for name in ("alone", "whole")
    )
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


def test_random_weights_are_those_that_clip_draws(monkeypatch):
    monkeypatch.setattr(
        "pipeline.backbones.towers.CLIP_VIT_B16", {"vision": VISION, "text": TEXT, "projection_dim": 40}
    )
    theirs = towers.Clip(image_feature({"random": 7}), CPU)
    ours = clip_cam.LastBlock(Weights(random=7))
    wanted = theirs.tower.encoder.layers[-1].state_dict()
    assert all(torch.equal(ours.block.state_dict()[name], weight) for name, weight in wanted.items())
    assert torch.equal(ours.projection.weight, theirs.projection.weight)


def test_a_models_own_dtype_and_gradients_stay_as_they_are():
    model = small_clip(dtype=torch.float32).requires_grad_(True)
    block = clip_cam.LastBlock(model, dtype=torch.float64)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    parameters = [*block.block.parameters(), *block.post_norm.parameters(), *block.projection.parameters()]
    assert all(p.dtype == torch.float64 and not p.requires_grad for p in parameters)


# --- the generic path -------------------------------------------------------------------------------------------------


@sites
@pytest.mark.parametrize("block", [0, 1, 2])
def test_any_block_has_a_map_that_follows_the_definition(block, site):
    model, pixels, targets, _ = small_case()
    got = clip_cam_blocks.autograd_cams(model, pixels, targets, [block], site)
    inputs = model.vision_model(pixels, output_hidden_states=True).hidden_states[block]
    for image, (tokens, target) in enumerate(zip(inputs, targets, strict=True)):
        wanted = nudged_map(model, tokens, cosine_with(target), block, site)
        assert relative(got[image], wanted) < 1e-6


def nudged_map(model, tokens, score, block, site):
    """Grad-CAM by central differences along each patch's token, since the map is the sum over patches of slopes:
    map_i = u_i . mean_j dS/du_j = the slope of S as every patch's u_j moves along u_i, by a 1 / N of it."""
    layers, step = model.vision_model.encoder.layers[block:], 1e-5
    norm = layers[0].layer_norm1
    looked_at = norm(tokens) if site == "layer_norm1" else tokens

    def moved(by):
        moved_tokens = looked_at.clone()
        moved_tokens[1:] += by
        x = tokens if site == "layer_norm1" else moved_tokens
        y = x[None] + layers[0].self_attn(moved_tokens[None] if site == "layer_norm1" else norm(x)[None], None)[0]
        x = y + layers[0].mlp(layers[0].layer_norm2(y))
        for layer in layers[1:]:
            x = layer(x, None)
        return score(model.visual_projection(model.vision_model.post_layernorm(x[:, 0]))[0])

    patches = range(1, len(tokens))
    return torch.stack(
        [(moved(step * looked_at[i]) - moved(-step * looked_at[i])) / (2 * step * len(patches)) for i in patches]
    )


@sites
def test_several_blocks_give_the_mean_of_their_scaled_maps(site):
    model, pixels, targets, _ = small_case()
    together = clip_cam_blocks.autograd_cams(model, pixels, targets, [0, -1, 1], site)
    alone = [
        clip_cam_blocks.minmax(clip_cam_blocks.autograd_cams(model, pixels, targets, [block], site))
        for block in (0, 1, 2)
    ]
    torch.testing.assert_close(together, sum(alone) / 3, rtol=1e-10, atol=1e-12)


@sites
def test_maps_from_the_tokens_that_enter_a_block_are_those_from_the_pixels(site):
    model, pixels, targets, _ = small_case()
    tokens = model.vision_model(pixels, output_hidden_states=True).hidden_states[-3]
    for blocks in ([-2], [-1, -2]):
        from_tokens = clip_cam_blocks.autograd_cams(model, tokens, targets, blocks, site, first=-2)
        torch.testing.assert_close(from_tokens, clip_cam_blocks.autograd_cams(model, pixels, targets, blocks, site))
    with pytest.raises(BackboneError, match=r"blocks \[-3\] of tokens that enter block -2; take those from there on"):
        clip_cam_blocks.autograd_cams(model, tokens, targets, [-3], site, first=-2)


@sites
def test_the_last_blocks_give_the_closed_form_where_it_is_enough_and_autograd_elsewhere(site):
    weights = Weights(path=str(MINI_CLIP))
    model = transformers.CLIPModel.from_pretrained(MINI_CLIP).eval()
    pixels, targets = torch.randn(2, 3, 128, 128), unit(torch.randn(2, model.config.projection_dim))
    states = model.vision_model(pixels, output_hidden_states=True).hidden_states
    blocks = clip_cam_blocks.LastBlocks(weights, -3)
    torch.testing.assert_close(blocks.before_last(states[-4]), states[-2])
    closed = clip_cam.LastBlock(model).cam(states[-2], targets, site)
    assert relative(blocks.cam(states[-4], targets, (-1,), site), closed) < 1e-4
    deeper = blocks.cam(states[-4], targets, (-3, -1), site)
    assert relative(deeper, clip_cam_blocks.autograd_cams(model, pixels, targets, (-3, -1), site)) < 1e-4
    with pytest.raises(BackboneError, match=r"block -99 of a tower of \d+; choose a later block"):
        clip_cam_blocks.LastBlocks(weights, -99)


@pytest.mark.parametrize("trainable", [False, True])
def test_the_autograd_path_leaves_the_model_alone_and_works_in_inference_mode(trainable):
    model, pixels, targets, tokens = small_case()
    model.requires_grad_(trainable)

    def hooks():  # transformers keeps some of its own
        modules = model.vision_model.modules()
        return [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules]

    before = hooks()
    with torch.inference_mode():
        got = clip_cam_blocks.autograd_cams(model, pixels + 0, targets + 0, [-1])
    with pytest.raises(ValueError, match="size"):
        clip_cam_blocks.autograd_cams(model, pixels[..., :-8], targets, [0, 1])
    assert hooks() == before
    assert relative(got, clip_cam.LastBlock(model, dtype=torch.float64).cam(tokens, targets)) <= 1e-12
    assert not got.requires_grad and all(parameter.grad is None for parameter in model.parameters())


def test_minmax_scales_each_image_and_calls_a_constant_map_zero():
    scaled = clip_cam_blocks.minmax(torch.tensor([[-3.0, 1.0, -1.0], [2.0, 2.0, 2.0]]))
    assert scaled.tolist() == [[0, 1, 0.5], [0, 0, 0]]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 17, 63), (2, 16, 64), (17, 64), (1, 2, 17, 64)])
def test_tokens_of_another_shape_are_refused(shape):
    block = clip_cam.LastBlock(small_clip())
    for call in (block.embed, block.cams, lambda x: block.patch_embed(x, post_norm=False)):
        with pytest.raises(BackboneError, match=r"expected \(B, 17, 64\), CLS and a 4 x 4 grid .* the same weights"):
            call(torch.zeros(shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_tokens_that_are_not_finite_are_refused_with_their_rows(bad):
    tokens = torch.zeros(3, 17, 64)
    tokens[1, 4, 5] = bad
    with pytest.raises(BackboneError, match=r"rows \[1\] of the batch \(1 in all\) are not finite; extract those"):
        clip_cam.LastBlock(small_clip()).embed(tokens)


@pytest.mark.parametrize("shape", [(2, E), (3, E + 1), (E,), (3, 1, E)])
def test_targets_of_another_shape_are_refused(shape):
    with pytest.raises(BackboneError, match=r"got targets .*, expected \(3, 40\): a vector an image"):
        clip_cam.LastBlock(small_clip()).cam(torch.randn(3, 17, 64), torch.zeros(shape))


def test_another_site_is_refused():
    model, pixels, targets, tokens = small_case()
    with pytest.raises(BackboneError, match=r"'block_output', expected 'layer_norm1' or 'block_input'; .* gradient 0"):
        clip_cam.LastBlock(model).cam(tokens, targets, "block_output")
    with pytest.raises(BackboneError, match="'block_output', expected"):
        clip_cam_blocks.autograd_cams(model, pixels, targets, [-1], "block_output")


@pytest.mark.parametrize("blocks", [[], [3], [-4], [0, 9]])
def test_a_block_that_the_tower_lacks_is_refused(blocks):
    model, pixels, targets, _ = small_case()
    with pytest.raises(BackboneError, match=r"expected one or more of the tower's, 0 to 2"):
        clip_cam_blocks.autograd_cams(model, pixels, targets, blocks)


def test_an_activation_without_a_known_slope_is_refused():
    with pytest.raises(BackboneError, match=r"'relu', expected 'quick_gelu' or 'gelu'; use autograd_cams"):
        clip_cam.LastBlock(small_clip((4, 1, 64, 32, "relu")))


@pytest.mark.parametrize("name", ["gelu", "quick_gelu"])
def test_slopes_are_the_derivatives_of_transformers_own_activations(name):
    assert set(clip_cam._SLOPES) == {"gelu", "quick_gelu"}
    activation = small_clip((1, 1, 32, 16, name)).vision_model.encoder.layers[0].mlp.activation_fn
    at = torch.linspace(-9, 9, 1001, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(activation(at).sum(), at)
    torch.testing.assert_close(clip_cam._SLOPES[name](at.detach()), wanted, rtol=1e-12, atol=1e-15)
