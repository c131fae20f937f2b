"""V-JEPA 2: pixels and tokens as transformers makes them, on small checkpoints in the real format."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import backbones
from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded
from pipeline.config import VJepa2Feature
from tests.later import Later

towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "crop_size": 32,
    "frames_per_clip": 8,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vjepa2")
    with seeded(1):
        towers.build_vjepa2(**SMALL).save_pretrained(folder)
    transformers.VJEPA2VideoProcessor(
        crop_size=32, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]
    ).save_pretrained(folder)
    return folder


def feature_of(folder=None, *, weights=None, sampling=None, resize=36, crop=(32, 32), **fields):
    document = {
        "backbone": "vjepa2",
        "weights": weights or {"path": str(folder)},
        "sampling": sampling or {"frames": 8},
        "preprocess": {"resize": resize, "crop": crop},
        **fields,
    }
    return VJepa2Feature.model_validate_json(json.dumps(document))


def video(frames=8, height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def batch_of(feature, *clips):
    return torch.from_numpy(np.stack([backbones.preprocessor(feature)(clip) for clip in clips]))


def transformers_tokens(folder, *clips):
    """(B, tokens, D) as transformers' own processor and model make them."""
    processor = transformers.VJEPA2VideoProcessor.from_pretrained(folder)
    model = transformers.VJEPA2Model.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = torch.cat([processor(list(clip), return_tensors="pt")["pixel_values_videos"] for clip in clips])
    with torch.no_grad():
        return model(pixel_values_videos=pixels).last_hidden_state


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "resize"), [(32, 36), (256, 292), (384, 438)])
@pytest.mark.parametrize(("height", "width"), [(240, 427), (331, 240), (50, 50), (100, 333)])
def test_pixels_normalised_by_the_backbone_equal_transformers_bit_for_bit(folder, crop, resize, height, width):
    clip, backbone = video(2, height, width), backbones.load(feature_of(folder))
    processor = transformers.VJEPA2VideoProcessor(
        crop_size=crop, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]
    )
    assert processor.size["shortest_edge"] == resize
    wanted_TCHW = processor(list(clip), return_tensors="pt")["pixel_values_videos"][0]
    pixels_TCHW = torch.from_numpy(towers.Pixels(resize, (crop, crop))(clip))
    assert pixels_TCHW.dtype == torch.uint8
    assert torch.equal((pixels_TCHW.float() - backbone.mean_C11) / backbone.std_C11, wanted_TCHW)


def test_the_preprocessor_pickles_and_takes_both_sides(folder):
    prepared = pickle.loads(pickle.dumps(towers.Pixels((36, 48), (32, 32))))(video())
    assert prepared.shape == (8, 3, 32, 32) and prepared.dtype == np.uint8 and prepared.flags.c_contiguous


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_transformers_last_hidden_state_on_the_grid(folder):
    feature = feature_of(folder)
    backbone, clips = backbones.load(feature), (video(), video(seed=1))
    tokens_BPND = backbone(batch_of(feature, *clips))["clip_tokens"]
    wanted = transformers_tokens(folder, *clips)
    assert backbone.grid == (4, 2, 2) and backbone.fields == {"clip_tokens": ((4, 4, 48), "float16")}
    assert tokens_BPND.shape == (2, 4, 4, 48) and tokens_BPND.dtype == torch.float32
    torch.testing.assert_close(tokens_BPND.flatten(1, 2), wanted, rtol=0, atol=1e-6)


def test_tokens_are_ordered_by_step_then_row_then_column(folder):
    """Each token of the first layer comes from its own two frames and its own 16 x 16 pixels."""
    backbone = backbones.load(feature_of(folder))
    clips = torch.zeros(1, 8, 3, 32, 32)
    clips[:, 4:6, :, 0:16, 16:32] = 1.0
    with torch.no_grad():
        embedded = backbone.encoder.embeddings(clips).unflatten(1, backbone.grid)[0]
    touched = (embedded - embedded[0, 0, 0]).abs().sum(-1) > 1e-6
    assert touched.nonzero().tolist() == [[2, 0, 1]]


def test_what_it_gives_is_known_before_extraction(folder):
    feature = feature_of(folder, sampling={"frames": 8, "fps": 10.0, "windows": 2})
    (said,), model = feature.gives({}).values(), backbones.load(feature)
    assert (said.steps, *said.grid) == model.grid and said.width == SMALL["hidden_size"]
    with pytest.raises(ValueError, match="preprocess gives 36 x 36 pixels, and the checkpoint sees 32 x 32"):
        feature_of(folder, crop=(36, 36)).gives({})
    with pytest.raises(ValueError, match=r"sampling\.frames is 7, and a step is of 2 frames"):
        feature_of(folder, sampling={"frames": 7}).gives({})


def test_the_predictor_is_not_kept(folder):
    backbone = backbones.load(feature_of(folder))
    kept = sum(weight.numel() for weight in backbone.encoder.parameters())
    whole = sum(weight.numel() for weight in towers.build_vjepa2(**SMALL).parameters())
    assert kept < whole and not hasattr(backbone, "model")


def test_each_steps_time_is_the_mean_of_its_tubelet(folder):
    backbone = backbones.load(feature_of(folder))
    assert backbone.token_times([0, 1, 2, 3, 4, 5, 6, 7.5]) == [0.5, 2.5, 4.5, 6.75]
    with pytest.raises(BackboneError, match="got 3 times, expected 8"):
        backbone.token_times([1.0, 2.0, 3.0])


def test_windows_go_through_by_themselves_and_steps_follow_each_other(folder):
    feature = feature_of(folder, sampling={"frames": 4, "fps": 8.0, "windows": 3})
    backbone, clips = backbones.load(feature), (video(12), video(12, seed=1))
    tokens = backbone(batch_of(feature, *clips))["clip_tokens"]
    assert backbone.grid == (6, 2, 2) and tokens.shape == (2, 6, 4, 48)
    for window in range(3):
        part = transformers_tokens(folder, *(clip[4 * window : 4 * window + 4] for clip in clips))
        torch.testing.assert_close(tokens[:, 2 * window : 2 * window + 2].flatten(1, 2), part, rtol=0, atol=1e-6)
    assert len(backbone.token_times(list(range(12)))) == 6


def test_it_is_frozen_and_repeats_itself(folder):
    feature = feature_of(folder)
    backbone, batch = backbones.load(feature), batch_of(feature, video())
    first = backbone(batch)["clip_tokens"]
    assert first.is_inference() and torch.equal(first, backbone(batch)["clip_tokens"])
    assert not backbone.encoder.training and not any(weight.requires_grad for weight in backbone.encoder.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_close_and_comes_back_as_float32(folder, precision):
    exact, rough = (feature_of(folder, precision=name) for name in ("fp32", precision))
    batch = batch_of(exact, video())
    wanted, got = backbones.load(exact)(batch)["clip_tokens"], backbones.load(rough)(batch)["clip_tokens"]
    assert got.dtype == torch.float32 and 0 < (got - wanted).norm() / wanted.norm() < 0.02


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_another_size_than_the_checkpoints_is_refused_since_its_positions_would_be_wrong(folder):
    with pytest.raises(BackboneError, match=r"sees 32 x 32 pixels, got \[48, 48\].*preprocess.resize 36"):
        backbones.load(feature_of(folder, resize=54, crop=(48, 48)))
    with pytest.raises(BackboneError, match=r"sees 32 x 32 pixels, got \[32, 48\]"):
        backbones.load(feature_of(folder, resize=48, crop=(32, 48)))


def test_frames_that_do_not_fill_the_last_tubelet_are_refused(folder):
    with pytest.raises(BackboneError, match=r"one step of 2 frames, got sampling.frames 7; make it a multiple of 2"):
        backbones.load(feature_of(folder, sampling={"frames": 7}))


def test_pixels_of_another_geometry_are_refused(folder):
    with pytest.raises(BackboneError, match=r"expected \(B, 8, 3, 32, 32\) torch.uint8"):
        backbones.load(feature_of(folder))(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8))


# --- weights ----------------------------------------------------------------------------------------------------------


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone(monkeypatch):
    monkeypatch.setattr(towers, "VJEPA2_VIT_L", {**towers.VJEPA2_VIT_L, **SMALL})
    before = torch.get_rng_state()
    one, same, other = (
        backbones.load(feature_of(weights={"random": seed})).encoder.embeddings.patch_embeddings.proj.weight
        for seed in (7, 7, 8)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_random_weights_have_the_published_size():
    with torch.device("meta"):
        model = towers.build_vjepa2()
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.crop_size) == (1024, 24, 256)
    assert sum(weight.numel() for weight in model.encoder.parameters()) == 303_885_312


def test_a_hub_checkpoint_is_read_through_the_same_code(folder, monkeypatch):
    from pipeline.backbones import checkpoints

    asked = []
    monkeypatch.setattr(
        checkpoints, "snapshot_download", lambda name, revision, **_: asked.append((name, revision)) or str(folder)
    )
    feature = feature_of(weights={"hub": "facebook/vjepa2-vitl-fpc64-256", "revision": "abc123"})
    batch = batch_of(feature, video())
    wanted = backbones.load(feature_of(folder))(batch)["clip_tokens"]
    assert torch.equal(backbones.load(feature)(batch)["clip_tokens"], wanted)
    assert asked == [("facebook/vjepa2-vitl-fpc64-256", "abc123")]


def copied(folder, tmp_path, skip=()):
    for file in folder.iterdir():
        if file.name not in skip:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_the_preprocessor_file_may_have_its_older_name(folder, tmp_path):
    copied(folder, tmp_path)
    (tmp_path / "video_preprocessor_config.json").rename(tmp_path / "preprocessor_config.json")
    assert backbones.load(feature_of(tmp_path)).mean_C11.flatten().tolist() == pytest.approx(
        [0.4 * 255, 0.5 * 255, 0.6 * 255]
    )


def test_a_checkpoint_without_its_preprocessor_file_is_refused(folder, tmp_path):
    copied(folder, tmp_path, skip=["video_preprocessor_config.json"])
    with pytest.raises(BackboneError, match=r"video_preprocessor_config.json does not exist; download or save"):
        backbones.load(feature_of(tmp_path))


@pytest.mark.parametrize(("key", "value"), [("resample", 3), ("do_normalize", False), ("rescale_factor", 1 / 127.5)])
def test_a_preprocessor_that_asks_for_other_arithmetic_is_refused(folder, tmp_path, key, value):
    file = copied(folder, tmp_path) / "video_preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(BackboneError, match=f"has {key} .*expected"):
        backbones.load(feature_of(tmp_path))


def test_missing_and_foreign_weights_are_named(folder, tmp_path):
    file = copied(folder, tmp_path) / "model.safetensors"
    state = load_file(file)
    save_file({name: value for name, value in state.items() if "layer.1.norm2" not in name}, file)
    with pytest.raises(BackboneError, match=r"does not fit its own config.json.*missing keys.*norm2"):
        backbones.load(feature_of(tmp_path))


def test_a_classifier_is_refused_by_the_names_that_the_encoder_does_not_have(folder, tmp_path):
    copied(folder, tmp_path)
    with seeded(3):
        transformers.VJEPA2ForVideoClassification(
            transformers.VJEPA2Model.from_pretrained(folder).config
        ).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=r"does not fit its own config.json.*unexpected keys"):
        backbones.load(feature_of(tmp_path))


def test_a_folder_of_another_architecture_is_refused(folder, tmp_path):
    file = copied(folder, tmp_path) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "dinov3_vit"}))
    with pytest.raises(BackboneError, match=r"model_type 'dinov3_vit', expected 'vjepa2'"):
        backbones.load(feature_of(tmp_path))


@pytest.mark.weights
def test_the_published_size_runs_through_the_same_code():
    feature = feature_of(weights={"random": 0}, sampling={"frames": 4}, resize=292, crop=(256, 256))
    backbone = backbones.load(feature)
    tokens = backbone(batch_of(feature, video(4, 240, 426)))["clip_tokens"]
    assert backbone.grid == (2, 16, 16)
    assert tokens.shape == (1, 2, 256, 1024) and tokens.isfinite().all()
