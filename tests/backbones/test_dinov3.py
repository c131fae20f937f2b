"""DINOv3: what it keeps, what it loads, what it refuses."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from pipeline import backbones
from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded
from tests.backbones.conftest import SMALL_VIT, vit_feature
from tests.later import Later

checkpoints = Later("pipeline.backbones.checkpoints")
r3d18 = Later("pipeline.backbones.r3d18")
towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")


def video(frames=2, height=90, width=120, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def pixels(feature, *clips):
    return torch.from_numpy(np.stack([backbones.preprocessor(feature)(clip) for clip in clips]))


@pytest.fixture
def broken_folder(vit_folder, tmp_path):
    return shutil.copytree(vit_folder, tmp_path / "vit")


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [224, 64])
def test_pixels_normalised_by_the_backbone_equal_the_image_processors_bit_for_bit(vit_folder, side):
    clip = video(3)
    feature = vit_feature({"path": str(vit_folder)}, resize=(side, side))
    backbone = backbones.load(feature)
    ours = (pixels(feature, clip)[0] - backbone.mean_C11) / backbone.std_C11
    processor = transformers.DINOv3ViTImageProcessor.from_pretrained(vit_folder, size={"height": side, "width": side})
    theirs = processor(list(clip), return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("height", "width"), [(48, 67), (67, 48), (48, 65), (96, 134), (48, 48)], ids=lambda side: str(side)
)
def test_the_crop_starts_where_transformers_does_for_odd_and_even_differences(vit_folder, height, width):
    """Of 67 - 32 pixels half is 17.5, of 65 - 32 it is 16.5: rounded to even, the former would start a pixel later."""
    clip, feature = video(2, height, width), vit_feature({"path": str(vit_folder)}, resize=48, crop=(32, 32))
    asked = dict(size={"shortest_edge": 48}, do_center_crop=True, crop_size={"height": 32, "width": 32})
    processor = transformers.DINOv3ViTImageProcessor.from_pretrained(vit_folder, **asked)
    backbone = backbones.load(feature)
    ours = (pixels(feature, clip)[0] - backbone.mean_C11) / backbone.std_C11
    assert torch.equal(ours, processor(list(clip), return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("crop", [(32, 32), (32, 33), (45, 32)])
@pytest.mark.parametrize("size", [(48, 67), (67, 48), (48, 65)])
def test_both_streams_of_one_geometry_see_the_same_pixels(size, crop):
    clip = video(2, *size)
    np.testing.assert_allclose(
        towers.Pixels(size, crop, fractions=True)(clip) * 255, r3d18.R3D18Pixels(size, crop)(clip), atol=1e-3
    )


def test_pixels_are_float32_in_0_1_and_the_preprocessor_pickles(vit_folder):
    prepare = pickle.loads(pickle.dumps(backbones.preprocessor(vit_feature({"path": str(vit_folder)}))))
    out = prepare(video())
    assert out.shape == (2, 3, 64, 64) and out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1


def test_the_centre_crop_is_the_middle_of_the_resized_frame():
    whole = towers.Pixels((48, 64), fractions=True)(video())
    np.testing.assert_array_equal(towers.Pixels((48, 64), (32, 32), fractions=True)(video()), whole[:, :, 8:40, 16:48])


def test_one_number_resizes_the_shorter_side_and_keeps_the_frames_shape():
    np.testing.assert_array_equal(
        towers.Pixels(48, fractions=True)(video()), towers.Pixels((48, 64), fractions=True)(video())
    )


# --- features ---------------------------------------------------------------------------------------------------------


def test_tokens_are_the_models_own_after_cls_and_registers(vit_folder):
    feature = vit_feature({"path": str(vit_folder)})
    backbone = backbones.load(feature)
    batch = pixels(feature, video(seed=1), video(seed=2), video(seed=3))
    out = backbone(batch)

    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    with torch.no_grad():
        states = (
            transformers.DINOv3ViTModel.from_pretrained(vit_folder)
            .eval()((batch.flatten(0, 1) - mean) / std)
            .last_hidden_state
        )
    assert torch.equal(out["patch_tokens"].flatten(0, 1), states[:, 5:])
    assert torch.equal(out["cls"].flatten(0, 1), states[:, 0])


@pytest.mark.parametrize(("pool", "grid"), [(1, (2, 4, 4)), (2, (2, 2, 2))])
def test_fields_and_grid_describe_what_comes_out(vit_folder, pool, grid):
    feature = vit_feature({"path": str(vit_folder)}, pool=pool)
    backbone = backbones.load(feature)
    out = backbone(pixels(feature, video(), video()))
    assert backbone.grid == grid
    assert backbone.fields == {
        "patch_tokens": ((2, grid[1] * grid[2], 64), "float16"),
        "cls": ((2, 64), "float16"),
    }
    assert {name: tuple(value.shape[1:]) for name, value in out.items()} == {
        name: shape for name, (shape, _) in backbone.fields.items()
    }
    assert {value.dtype for value in out.values()} == {torch.float32}
    assert backbone.token_times([0.5, 1.5]) == [0.5, 1.5]


def test_pool_averages_two_by_two_neighbours(vit_folder):
    clip = video()
    plain, pooled = (vit_feature({"path": str(vit_folder)}, pool=pool) for pool in (1, 2))
    fine = backbones.load(plain)(pixels(plain, clip))["patch_tokens"][0].view(2, 4, 4, 64)
    coarse = backbones.load(pooled)(pixels(pooled, clip))["patch_tokens"][0].view(2, 2, 2, 64)
    torch.testing.assert_close(coarse[:, 1, 0], fine[:, 2:4, 0:2].mean(dim=(1, 2)))


def test_it_is_frozen_and_repeats_itself(vit_folder):
    feature = vit_feature({"path": str(vit_folder)})
    backbone, again, batch = backbones.load(feature), backbones.load(feature), pixels(feature, video())
    first = backbone(batch)["patch_tokens"]
    assert not backbone.model.training and not any(weight.requires_grad for weight in backbone.model.parameters())
    assert first.is_inference() and torch.equal(first, backbone(batch)["patch_tokens"])
    assert torch.equal(first, again(batch)["patch_tokens"])


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.005)])
def test_half_precision_stays_close_to_fp32_and_comes_back_as_float32(vit_folder, precision, tolerance):
    exact, rough = (vit_feature({"path": str(vit_folder)}, precision=name) for name in ("fp32", precision))
    batch = pixels(exact, video())
    wanted, got = backbones.load(exact)(batch)["patch_tokens"], backbones.load(rough)(batch)["patch_tokens"]
    assert got.dtype == torch.float32 and not torch.equal(got, wanted)
    assert (got - wanted).norm() / wanted.norm() < tolerance


def test_pixels_of_another_geometry_are_refused(vit_folder):
    backbone = backbones.load(vit_feature({"path": str(vit_folder)}))
    with pytest.raises(BackboneError, match=r"expected \(B, 2, 3, 64, 64\) torch.float32"):
        backbone(torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8))


def test_a_size_that_patches_cannot_tile_is_refused(vit_folder):
    with pytest.raises(BackboneError, match="multiples of 32"):
        backbones.load(vit_feature({"path": str(vit_folder)}, resize=(48, 64), pool=2))


# --- weights ----------------------------------------------------------------------------------------------------------


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone(monkeypatch):
    monkeypatch.setattr(towers, "DINOV3_VIT_B16", {**towers.DINOV3_VIT_B16, **SMALL_VIT})
    before = torch.get_rng_state()
    one, same, other = (backbones.load(vit_feature({"random": seed})).model.embeddings.cls_token for seed in (7, 7, 8))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_the_hubs_published_key_names_load(broken_folder):
    """The hub's files say `layer.0...`; newer transformers call the same weights `model.layer.0...` in memory."""
    state = load_file(broken_folder / "model.safetensors")
    renamed = {name.replace("model.layer.", "layer."): value for name, value in state.items()}
    assert "layer.0.attention.q_proj.weight" in renamed
    save_file(renamed, broken_folder / "model.safetensors", metadata={"format": "pt"})
    model = backbones.load(vit_feature({"path": str(broken_folder)})).model
    assert torch.equal(model.model.layer[0].attention.q_proj.weight, renamed["layer.0.attention.q_proj.weight"])


def test_an_absent_folder_is_refused_with_what_to_give():
    with pytest.raises(BackboneError, match=r"nowhere are not a folder; give the folder that holds config.json"):
        backbones.load(vit_feature({"path": "nowhere"}))


def test_another_architecture_is_refused(broken_folder):
    config = json.loads((broken_folder / "config.json").read_text())
    (broken_folder / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(BackboneError, match="model_type 'vit', expected 'dinov3_vit'"):
        backbones.load(vit_feature({"path": str(broken_folder)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.weight"), "1 missing keys, such as norm.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 unexpected keys, such as extra"),
        (lambda state: state.update({"norm.weight": torch.zeros(3)}), "1 mismatched keys, such as .*norm.weight"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_are_refused_by_name(broken_folder, change, message):
    state = load_file(broken_folder / "model.safetensors")
    change(state)
    save_file(state, broken_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=message):
        backbones.load(vit_feature({"path": str(broken_folder)}))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:1000]), "no readable DINOv3 weights"),
        ("model.safetensors", lambda file: file.unlink(), "no readable DINOv3 weights"),
        ("preprocessor_config.json", lambda file: file.unlink(), "preprocessor_config.json does not exist"),
        ("config.json", lambda file: file.write_text("{"), "not valid JSON"),
        (
            "preprocessor_config.json",
            lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "resample": 3})),
            "resample 3, expected 2",
        ),
        (
            "preprocessor_config.json",
            lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": None})),
            "image_mean None",
        ),
    ],
)
def test_damaged_or_unexpected_files_are_refused(broken_folder, name, damage, message):
    damage(broken_folder / name)
    with pytest.raises(BackboneError, match=message):
        backbones.load(vit_feature({"path": str(broken_folder)}))


class Answer:
    headers, status_code, request = {}, 403, None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("gated", response=Answer()), "accept its licence on https://huggingface.co/some/where"),
        (LocalEntryNotFoundError("offline"), "go online once"),
    ],
)
def test_a_hub_that_gives_nothing_is_an_error_with_the_remedy(monkeypatch, error, message):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints, "snapshot_download", refuse)
    with pytest.raises(BackboneError, match=message):
        backbones.load(vit_feature({"hub": "some/where", "revision": "abc"}))


def test_a_hub_checkpoint_is_read_from_the_folder_that_the_hub_hands_over(monkeypatch, vit_folder):
    monkeypatch.setattr(checkpoints, "snapshot_download", lambda repository, revision, allow_patterns: str(vit_folder))
    backbone = backbones.load(vit_feature({"hub": "some/where", "revision": "abc"}))
    assert backbone.fields["cls"] == ((2, 64), "float16")


@pytest.mark.weights
def test_the_real_format_at_full_size_loads_and_runs_through_the_same_code(tmp_path):
    with seeded(3):
        towers.build_dinov3().save_pretrained(tmp_path)
    transformers.DINOv3ViTImageProcessor().save_pretrained(tmp_path)
    feature = vit_feature({"path": str(tmp_path)}, frames=8, resize=(224, 224))
    backbone = backbones.load(feature)
    out = backbone(pixels(feature, video(8, 240, 320)))
    assert sum(weight.numel() for weight in backbone.model.parameters()) == 85_660_416
    assert out["patch_tokens"].shape == (1, 8, 196, 768) and out["cls"].shape == (1, 8, 768)
    assert out["patch_tokens"].isfinite().all() and out["patch_tokens"].std() > 0.1


def test_a_compiled_backbone_gives_what_an_eager_one_gives(vit_folder, monkeypatch):
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("pipeline.compiling.COMPILER", counted)
    feature = vit_feature({"path": str(vit_folder)})
    clips = pixels(feature, video(), video(seed=1))
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        found = backbones.load(feature.model_copy(update={"compile": True}))(clips)
    torch._dynamo.reset()
    assert len(graphs) > 1  # beside what is tried first
    torch.testing.assert_close(found, backbones.load(feature)(clips))


@pytest.mark.proof
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inductor_gives_what_an_eager_backbone_gives(vit_folder, precision):
    feature = vit_feature({"path": str(vit_folder)}).model_copy(update={"precision": precision})
    clips = pixels(feature, video(), video(seed=1))
    found = backbones.load(feature.model_copy(update={"compile": True}))(clips)
    again = backbones.load(feature.model_copy(update={"compile": True}))(clips)
    tolerance = {"fp32": 1e-5, "bf16": 0.1}[precision]
    for name, expected in backbones.load(feature)(clips).items():
        torch.testing.assert_close(found[name], expected, rtol=tolerance, atol=tolerance)
        assert torch.equal(found[name], again[name])
