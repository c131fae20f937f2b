"""CLIP's picture tower: the literal model's embeddings and tokens, its processor's pixels, and what it refuses."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded, unit
from tests.backbones.small_clip import MEAN, STD, TEXT, VISION, image_feature, save_clip
from tests.later import Later

image_processing_pil_clip = Later("transformers.models.clip.image_processing_pil_clip")
towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")

CPU = torch.device("cpu")
# Portrait, landscape, square, smaller than the crop, one side equal to it, odd and even differences to the crop.
SHAPES = [(240, 427), (427, 240), (225, 225), (17, 23), (3, 2), (5, 99), (224, 401), (224, 224), (719, 481), (223, 229)]
GREY_LEVELS = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_last"}


def frames(count=1, height=40, width=57, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def pixels(feature, *clips):
    prepare = towers.Clip.preprocessor(feature)
    return torch.from_numpy(np.stack([prepare(clip) for clip in clips]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def weights(folder):
    return {"path": str(folder)}


@pytest.fixture
def broken_folder(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "clip")


def literally(folder, images):
    """transformers' own processor and model, as its documentation uses them."""
    inputs = transformers.CLIPImageProcessor.from_pretrained(folder)(list(images), return_tensors="pt")
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model, inputs["pixel_values"]


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
def test_pixels_equal_the_image_processors_bit_for_bit(shape):
    clip = frames(2, *shape)
    theirs = transformers.CLIPImageProcessor()(list(clip), **GREY_LEVELS, return_tensors="pt")["pixel_values"]
    assert theirs.dtype == torch.uint8
    np.testing.assert_array_equal(towers.Pixels(224, (224, 224), towers.BICUBIC)(clip), theirs)


def test_pixels_normalised_by_the_backbone_equal_the_image_processors_bit_for_bit(folder, weights):
    clip, feature = frames(2), image_feature(weights, frames=2)
    backbone = towers.Clip(feature, CPU)
    ours = (pixels(feature, clip)[0].float() - backbone.mean_C11) / backbone.std_C11
    assert torch.equal(
        ours, transformers.CLIPImageProcessor.from_pretrained(folder)(list(clip), return_tensors="pt")["pixel_values"]
    )


@pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
def test_pixels_are_within_two_grey_levels_of_pillows_on_smooth_pictures(shape):
    steps = np.random.default_rng(1).normal(0, 4, (1, *shape, 3)).cumsum(1).cumsum(2) / np.prod(shape) ** 0.25
    clip = np.clip(steps + 128, 0, 255).astype(np.uint8)
    theirs = image_processing_pil_clip.CLIPImageProcessorPil()(list(clip), **GREY_LEVELS, return_tensors="np")
    difference = np.abs(
        towers.Pixels(224, (224, 224), towers.BICUBIC)(clip).astype(int) - np.stack(theirs["pixel_values"]).astype(int)
    )
    assert difference.max() <= 2 and (difference > 0).mean() < 0.01


def test_a_resize_to_both_sides_is_taken_too():
    clip = frames(1, 50, 70)
    theirs = transformers.CLIPImageProcessor(size={"height": 48, "width": 60}, do_center_crop=False, do_rescale=False)
    theirs = theirs(list(clip), do_normalize=False, return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(towers.Pixels((48, 60), resample=towers.BICUBIC)(clip), theirs)
    np.testing.assert_array_equal(towers.Pixels((48, 60), (33, 33), towers.BICUBIC)(clip), theirs[:, :, 7:40, 13:46])


def test_the_preprocessor_pickles_and_gives_contiguous_uint8():
    out = pickle.loads(pickle.dumps(towers.Pixels(32, (32, 32), towers.BICUBIC)))(frames(3))
    assert out.shape == (3, 3, 32, 32) and out.dtype == np.uint8 and out.flags.c_contiguous


# --- features ---------------------------------------------------------------------------------------------------------


def test_image_embed_is_get_image_features_as_unit_vectors(folder, weights):
    images, feature = [frames(seed=seed) for seed in range(3)], image_feature(weights)
    ours = towers.Clip(feature, CPU)(pixels(feature, *images))["image_embed"]
    model, pixel_values = literally(folder, np.concatenate(images))
    with torch.inference_mode():
        theirs = model.get_image_features(pixel_values).pooler_output
    assert ours.shape == (3, 40) and torch.equal(ours, theirs / theirs.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("block", [-1, -2])
def test_cam_tokens_are_what_their_block_reads(folder, weights, block):
    images, feature = [frames(seed=seed) for seed in range(2)], image_feature(weights, output="cam_tokens", block=block)
    ours = towers.Clip(feature, CPU)(pixels(feature, *images))["cam_tokens"]
    model, pixel_values = literally(folder, np.concatenate(images))
    with torch.inference_mode():
        states = model.vision_model(pixel_values, output_hidden_states=True).hidden_states
    assert torch.equal(ours, states[block - 1])


def test_cam_tokens_of_a_block_that_there_is_none_of_are_refused(weights):
    with pytest.raises(BackboneError, match=r"block -99 of a CLIP of \d+ blocks; choose a later one"):
        towers.Clip(image_feature(weights, output="cam_tokens", block=-99), CPU)
    with pytest.raises(ValueError, match="image_embed comes out of the last block; drop block"):
        image_feature(weights, output="image_embed", block=-2)


def test_cam_tokens_are_hidden_states_minus_2_bit_for_bit(folder, weights):
    images, feature = [frames(seed=seed) for seed in range(3)], image_feature(weights, "cam_tokens")
    ours = towers.Clip(feature, CPU)(pixels(feature, *images))["cam_tokens"]
    model, pixel_values = literally(folder, np.concatenate(images))
    with torch.inference_mode():
        states = model.vision_model(pixel_values, output_hidden_states=True)
        rest = model.vision_model.encoder.layers[-1](ours, None)
    assert torch.equal(ours, states.hidden_states[-2]) and torch.equal(rest, states.last_hidden_state)


def test_cam_tokens_never_run_the_last_block(weights):
    backbone = towers.Clip(image_feature(weights, "cam_tokens"), CPU)
    assert len(backbone.tower.encoder.layers) == VISION["num_hidden_layers"] - 1


@pytest.mark.parametrize(
    ("output", "count", "shape", "grid"),
    [
        ("image_embed", 1, (40,), None),
        ("image_embed", 3, (3, 40), None),
        ("cam_tokens", 1, (17, 64), (1, 4, 4)),
        ("cam_tokens", 3, (3, 17, 64), (3, 4, 4)),
    ],
)
def test_fields_and_grid_describe_what_comes_out(weights, output, count, shape, grid):
    feature = image_feature(weights, output, frames=count)
    backbone = towers.Clip(feature, CPU)
    out = backbone(pixels(feature, frames(count), frames(count)))
    assert backbone.fields == {output: (shape, "float16")} and backbone.grid == grid
    assert out.keys() == {output} and out[output].shape == (2, *shape) and out[output].dtype == torch.float32
    assert backbone.token_times([0.5] * count) == [0.5] * count


def test_each_frame_of_a_video_is_embedded_as_a_picture_of_its_own(weights):
    clip, single, several = frames(3), image_feature(weights), image_feature(weights, frames=3)
    alone = towers.Clip(single, CPU)(pixels(single, clip[:1], clip[1:2], clip[2:]))["image_embed"]
    assert torch.equal(towers.Clip(several, CPU)(pixels(several, clip))["image_embed"][0], alone)


def test_unit_vectors_are_unit_vectors_after_rounding_to_float16(weights):
    feature = image_feature(weights)
    embeds = towers.Clip(feature, CPU)(pixels(feature, *(frames(seed=seed) for seed in range(64))))["image_embed"]
    assert (embeds.norm(dim=-1) - 1).abs().max() < 1e-6
    assert (embeds.half().double().norm(dim=-1) - 1).abs().max() < 1e-3


def test_a_vector_of_norm_zero_is_not_hidden():
    assert unit(torch.zeros(1, 4)).isnan().all()


def test_it_is_frozen_and_repeats_itself(weights):
    feature = image_feature(weights, "cam_tokens")
    backbone, again, batch = towers.Clip(feature, CPU), towers.Clip(feature, CPU), pixels(feature, frames())
    first = backbone(batch)["cam_tokens"]
    parameters = [*backbone.tower.parameters(), *backbone.projection.parameters()]
    assert not backbone.tower.training and not any(weight.requires_grad for weight in parameters)
    assert first.is_inference() and torch.equal(first, backbone(batch)["cam_tokens"])
    assert torch.equal(first, again(batch)["cam_tokens"])


@pytest.mark.parametrize("output", ["image_embed", "cam_tokens"])
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.002)])
def test_half_precision_stays_close_to_fp32_and_comes_back_as_float32(weights, output, precision, tolerance):
    exact, rough = (image_feature(weights, output, precision=name) for name in ("fp32", precision))
    batch = pixels(exact, frames())
    wanted, got = towers.Clip(exact, CPU)(batch)[output], towers.Clip(rough, CPU)(batch)[output]
    assert got.dtype == torch.float32 and not torch.equal(got, wanted)
    assert (got - wanted).norm() / wanted.norm() < tolerance
    if output == "image_embed":
        assert (got.norm(dim=-1) - 1).abs().max() < 1e-6


def test_pixels_of_another_geometry_are_refused(weights):
    with pytest.raises(BackboneError, match=r"expected \(B, 1, 3, 32, 32\) torch.uint8"):
        towers.Clip(image_feature(weights), CPU)(torch.zeros(1, 1, 3, 32, 32))


def test_a_size_that_the_checkpoint_was_not_trained_at_is_refused_with_its_own(weights):
    with pytest.raises(BackboneError, match=r"sees 32 x 32 pixels, got \[64, 64\]: make preprocess.crop .* \[32, 32\]"):
        towers.Clip(image_feature(weights, resize=64, crop=(64, 64)), CPU)


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_the_picture_tower_alone_gives_the_same(folder, weights, tmp_path):
    whole = transformers.CLIPModel.from_pretrained(folder)
    alone = transformers.CLIPVisionModelWithProjection(whole.config.vision_config)
    alone.vision_model.load_state_dict(whole.vision_model.state_dict())
    alone.visual_projection.load_state_dict(whole.visual_projection.state_dict())
    alone.save_pretrained(tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)

    feature = image_feature(weights)
    batch = pixels(feature, frames())
    got = towers.Clip(image_feature({"path": str(tmp_path)}), CPU)(batch)["image_embed"]
    # Not bit for bit: BLAS sums in an order that depends on where in its file a weight begins.
    torch.testing.assert_close(got, towers.Clip(feature, CPU)(batch)["image_embed"], rtol=0, atol=1e-6)


def test_mean_and_deviation_are_the_checkpoints_own(weights):
    backbone = towers.Clip(image_feature(weights), CPU)
    torch.testing.assert_close(backbone.mean_C11.flatten(), torch.tensor(MEAN) * 255)
    torch.testing.assert_close(backbone.std_C11.flatten(), torch.tensor(STD) * 255)


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone(monkeypatch):
    monkeypatch.setattr(towers, "CLIP_VIT_B16", {"vision": VISION, "text": TEXT, "projection_dim": 40})
    before = torch.get_rng_state()
    one, same, other = (towers.Clip(image_feature({"random": seed}), CPU).projection.weight for seed in (7, 7, 8))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_another_architecture_is_refused(broken_folder):
    config = json.loads((broken_folder / "config.json").read_text())
    (broken_folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(BackboneError, match="model_type 'siglip', expected 'clip' or 'clip_vision_model'; name the"):
        towers.Clip(image_feature({"path": str(broken_folder)}), CPU)


def test_a_checkpoint_without_its_preprocessor_file_is_refused(broken_folder):
    (broken_folder / "preprocessor_config.json").unlink()
    with pytest.raises(BackboneError, match=r"preprocessor_config.json does not exist; download or save the whole"):
        towers.Clip(image_feature({"path": str(broken_folder)}), CPU)


def test_a_preprocessor_that_asks_for_other_arithmetic_is_refused(broken_folder):
    file = broken_folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "resample": 2}))
    with pytest.raises(BackboneError, match="resample 2, expected 3"):
        towers.Clip(image_feature({"path": str(broken_folder)}), CPU)


@pytest.mark.weights
def test_vit_b16_in_the_real_format_loads_and_runs_through_the_same_code(tmp_path):
    with seeded(3):
        towers.build_clip().save_pretrained(tmp_path)
    transformers.CLIPImageProcessor().save_pretrained(tmp_path)
    sizes = {"resize": 224, "crop": (224, 224)}
    image = frames(1, 240, 427)
    made = {}
    for output, shape in {"image_embed": (512,), "cam_tokens": (197, 768)}.items():
        feature = image_feature({"path": str(tmp_path)}, output, **sizes)
        backbone = towers.Clip(feature, CPU)
        assert backbone.fields == {output: (shape, "float16")}
        made[output] = backbone(pixels(feature, image))[output]
    model, pixel_values = literally(tmp_path, image)
    assert sum(weight.numel() for weight in model.parameters()) == 149_620_737
    with torch.inference_mode():
        states = model.vision_model(pixel_values, output_hidden_states=True)
        embeds = model.visual_projection(states.pooler_output)
    assert torch.equal(made["cam_tokens"], states.hidden_states[-2])
    assert torch.equal(made["image_embed"], embeds / embeds.norm(dim=-1, keepdim=True))
    assert (made["image_embed"].half().double().norm(dim=-1) - 1).abs().max() < 1e-3
