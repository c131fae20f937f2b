"""R3D-18: torchvision's network, its a trous variant, what it loads and what it refuses."""

import json
import pickle
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import backbones
from pipeline.backbones import BackboneError
from pipeline.backbones.base import layout_3d, seeded
from pipeline.config import R3D18Feature
from pipeline.video import sampling_times
from tests.backbones.conftest import r3d_feature, with_lively_norms
from tests.later import Later

models_video = Later("torchvision.models.video")
r3d18 = Later("pipeline.backbones.r3d18")


def video(frames=16, height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def pixels(feature, *clips):
    return torch.from_numpy(np.stack([backbones.preprocessor(feature)(clip) for clip in clips]))


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(240, 427), (96, 80)])
def test_pixels_normalised_by_the_backbone_equal_torchvisions_preset_bit_for_bit_but_for_where_the_crop_starts(
    r3d_file, height, width
):
    """Of 171 pixels the preset cuts off 30 in front, half of 59 rounded to even; ours 29, as the other stream does."""
    feature = r3d_feature({"path": str(r3d_file)}, resize=(128, 171), crop=(112, 112))
    clip, backbone = video(16, height, width), backbones.load(feature)
    ours_TCHW = (pixels(feature, clip)[0].float() / 255 - backbone.mean_C11) / backbone.std_C11
    preset = models_video.R3D_18_Weights.KINETICS400_V1.transforms(crop_size=(128, 171))
    theirs_CTHW = preset(torch.from_numpy(clip).permute(0, 3, 1, 2))[..., 8:120, 29:141]
    assert torch.equal(ours_TCHW.transpose(0, 1), theirs_CTHW)


def test_pixels_are_uint8_and_the_preprocessor_pickles(r3d_file):
    prepare = pickle.loads(pickle.dumps(backbones.preprocessor(r3d_feature({"path": str(r3d_file)}))))
    out = prepare(video())
    assert out.shape == (16, 3, 32, 32) and out.dtype == np.uint8


# --- the network ------------------------------------------------------------------------------------------------------


def test_at_width_64_the_network_is_torchvisions_bit_for_bit():
    with seeded(0):
        theirs = with_lively_norms(models_video.r3d_18(weights=None)).eval()
    ours = r3d18._fill(theirs.state_dict(), "torchvision").eval()
    clips = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    kept = []
    theirs.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        theirs(clips)
        assert torch.equal(ours(clips), kept[0])


def test_the_random_initialisation_is_torchvisions_distribution():
    with seeded(0):
        ours, theirs = r3d18.build_r3d18().state_dict(), models_video.r3d_18(weights=None).state_dict()
    assert {name for name in theirs if not name.startswith("fc.")} == set(ours)
    for name, value in ours.items():
        assert value.shape == theirs[name].shape
        if value.ndim == 5:
            torch.testing.assert_close(value.std(), theirs[name].std(), rtol=0.05, atol=0)


def test_a_trous_equals_the_original_at_even_steps_and_adds_the_odd_ones():
    with seeded(1):
        plain = with_lively_norms(r3d18.build_r3d18(16)).eval()
    clips = torch.randn(2, 3, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        original = plain(clips)
        state = {name: value.clone() for name, value in plain.state_dict().items()}
        dense = r3d18.make_atrous(plain)(clips)
    assert original.shape[2] == 4 and dense.shape[2] == 8
    assert (dense[:, :, ::2] - original).norm() <= 5e-7 * original.norm()
    assert (dense[:, :, 1::2] - original).norm() > 0.01 * original.norm()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("atrous", "steps"), [(True, 4), (False, 2)])
def test_fields_and_grid_describe_what_comes_out(r3d_file, atrous, steps):
    feature = r3d_feature({"path": str(r3d_file)}, crop=(30, 33), atrous=atrous)
    backbone = backbones.load(feature)
    out = backbone(pixels(feature, video(), video()))
    assert backbone.grid == (steps, 2, 3)
    assert backbone.fields == {"clip_tokens": ((steps, 6, 64), "float16")}
    assert out["clip_tokens"].shape == (2, steps, 6, 64) and out["clip_tokens"].dtype == torch.float32


def test_tokens_are_ordered_by_step_then_row_then_column(r3d_file):
    feature = r3d_feature({"path": str(r3d_file)}, crop=(30, 33), atrous=False)
    backbone, clip = backbones.load(feature), video()
    batch = pixels(feature, clip)
    tokens = backbone(batch)["clip_tokens"]
    with torch.no_grad():
        maps_BCPHW = backbone.model(((batch.float() / 255 - backbone.mean_C11) / backbone.std_C11).transpose(1, 2))
    assert torch.equal(tokens[0, 1, 1 * 3 + 2], maps_BCPHW[0, :, 1, 1, 2])


def test_each_steps_time_is_the_mean_of_its_frames(r3d_file):
    times = list(np.linspace(0.05, 1.55, 16))
    assert backbones.load(r3d_feature({"path": str(r3d_file)})).token_times(times) == pytest.approx(
        [np.mean(times[step : step + 4]) for step in (0, 4, 8, 12)]
    )
    plain = backbones.load(r3d_feature({"path": str(r3d_file)}, atrous=False))
    assert plain.token_times(times) == pytest.approx([np.mean(times[:8]), np.mean(times[8:])])
    with pytest.raises(BackboneError, match="got 3 times, expected 16"):
        plain.token_times([1.0, 2.0, 3.0])


# --- options: each against torchvision's own network ------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    with seeded(0):
        return with_lively_norms(models_video.r3d_18(weights=None)).eval()


@pytest.fixture(scope="module")
def full_file(theirs, tmp_path_factory):
    file = tmp_path_factory.mktemp("full") / "r3d_18.pth"
    torch.save(theirs.state_dict(), file)
    return {"path": str(file)}


def outputs_of(theirs, module, batch_BTCHW):
    """What torchvision's network computes at one of its modules, from our pixels."""
    kept = []
    hook = getattr(theirs, module).register_forward_hook(lambda module, inputs, output: kept.append(output))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (r3d18.KINETICS_MEAN, r3d18.KINETICS_STD))
    with torch.no_grad():
        theirs(((batch_BTCHW.float() / 255 - mean) / std).transpose(1, 2))
    hook.remove()
    return kept[0]


WINDOWS = {"frames": 16, "fps": 15.0, "windows": 3}


def sampled(weights, sampling, **options):
    return R3D18Feature.model_validate_json(
        json.dumps(
            {
                "backbone": "r3d18",
                "weights": weights,
                "sampling": sampling,
                "preprocess": {"resize": [32, 43], "crop": [32, 32]},
                "atrous": False,
                **options,
            }
        )
    )


def test_pooled_is_what_torchvisions_classifier_sees_bit_for_bit(theirs, full_file):
    feature = sampled(full_file, {"frames": 16}, pooled=True)
    backbone, batch = backbones.load(feature), pixels(feature, video(), video(seed=1))
    assert backbone.grid is None and backbone.fields == {"clip_embed": ((512,), "float16")}
    assert torch.equal(backbone(batch)["clip_embed"], outputs_of(theirs, "avgpool", batch).flatten(1))
    times = list(np.linspace(0.05, 1.55, 16))
    assert backbone.token_times(times) == pytest.approx([np.mean(times)])


def test_layer_3_is_torchvisions_bit_for_bit_and_layer_4_is_not_even_kept(theirs, full_file):
    feature = sampled(full_file, {"frames": 16}, layer=3)
    backbone, batch = backbones.load(feature), pixels(feature, video(), video(seed=1))
    tokens = backbone(batch)["clip_tokens"]
    assert backbone.grid == (4, 4, 4) and backbone.fields == {"clip_tokens": ((4, 16, 256), "float16")}
    assert torch.equal(tokens, outputs_of(theirs, "layer3", batch).flatten(3).permute(0, 2, 3, 1))
    assert not list(backbone.model.layer4.parameters())
    times = list(np.linspace(0.05, 1.55, 16))
    assert backbone.token_times(times) == pytest.approx([np.mean(times[i : i + 4]) for i in (0, 4, 8, 12)])


def test_sixteen_plain_frames_are_torchvisions_layer_4_bit_for_bit(theirs, full_file):
    feature = sampled(full_file, {"frames": 16})
    backbone, batch = backbones.load(feature), pixels(feature, video(), video(seed=1))
    assert backbone.grid == (2, 2, 2)
    wanted = outputs_of(theirs, "layer4", batch).flatten(3).permute(0, 2, 3, 1)
    assert torch.equal(backbone(batch)["clip_tokens"], wanted)


@pytest.mark.parametrize(
    ("sampling", "options", "grid"),
    [
        ({"frames": 32}, {"atrous": True}, (8, 7, 7)),
        ({"frames": 16}, {}, (2, 7, 7)),
        ({"frames": 16}, {"layer": 3}, (4, 14, 14)),
        ({"frames": 16, "fps": 15.0, "windows": 4}, {}, (8, 7, 7)),
    ],
)
def test_grids_at_torchvisions_own_112_pixels(r3d_file, sampling, options, grid):
    preprocess = {"resize": [128, 171], "crop": [112, 112]}
    feature = sampled({"path": str(r3d_file)}, sampling, preprocess=preprocess, **options)
    assert backbones.load(feature).grid == grid


def test_each_window_goes_through_the_network_by_itself_and_steps_follow_each_other(theirs, full_file):
    feature = sampled(full_file, WINDOWS)
    backbone, batch = backbones.load(feature), pixels(feature, video(48), video(48, seed=1))
    tokens = backbone(batch)["clip_tokens"]
    assert backbone.grid == (6, 2, 2) and backbone.fields == {"clip_tokens": ((6, 4, 512), "float16")}
    for window in range(3):
        part = outputs_of(theirs, "layer4", batch[:, 16 * window : 16 * window + 16]).flatten(3).permute(0, 2, 3, 1)
        torch.testing.assert_close(tokens[:, 2 * window : 2 * window + 2], part, rtol=0, atol=1e-5)


def test_pooled_windows_are_one_vector_each(theirs, full_file):
    feature = sampled(full_file, WINDOWS, pooled=True)
    backbone, batch = backbones.load(feature), pixels(feature, video(48), video(48, seed=1))
    vectors = backbone(batch)["clip_embed"]
    assert backbone.grid is None and backbone.fields == {"clip_embed": ((3, 512), "float16")}
    for window in range(3):
        part = outputs_of(theirs, "avgpool", batch[:, 16 * window : 16 * window + 16]).flatten(1)
        torch.testing.assert_close(vectors[:, window], part, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("options", "span"), [({}, 8), ({"atrous": True}, 4), ({"pooled": True}, 16)])
def test_the_times_of_windows_are_those_of_their_own_frames(r3d_file, options, span):
    backbone = backbones.load(sampled({"path": str(r3d_file)}, WINDOWS, **options))
    times = sampling_times(SimpleNamespace(**WINDOWS), 4.0)
    found = backbone.token_times(times)
    assert found == pytest.approx([times[i : i + span].mean() for i in range(0, 48, span)])
    if backbone.grid:
        assert len(found) == backbone.grid[0]
    with pytest.raises(BackboneError, match="got 16 times, expected 48"):
        backbone.token_times(times[:16])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_pooled_windows_stay_close_in_half_precision(r3d_file, precision):
    exact, rough = (
        sampled({"path": str(r3d_file)}, WINDOWS, pooled=True, precision=name) for name in ("fp32", precision)
    )
    batch = pixels(exact, video(48))
    wanted, got = backbones.load(exact)(batch)["clip_embed"], backbones.load(rough)(batch)["clip_embed"]
    assert got.dtype == torch.float32 and (got - wanted).norm() / wanted.norm() < 0.05


def test_the_shorter_side_may_be_named_alone(r3d_file):
    feature = r3d_feature({"path": str(r3d_file)}, resize=40, crop=(32, 32))
    clip = video(16, 60, 90)
    wanted = models_video.R3D_18_Weights.KINETICS400_V1.transforms(resize_size=[40], crop_size=[32, 32])
    backbone = backbones.load(feature)
    ours = (pixels(feature, clip)[0].float() / 255 - backbone.mean_C11) / backbone.std_C11
    assert torch.equal(ours.transpose(0, 1), wanted(torch.from_numpy(clip).permute(0, 3, 1, 2)))


def test_it_is_frozen_and_repeats_itself(r3d_file):
    feature = r3d_feature({"path": str(r3d_file)})
    backbone, batch = backbones.load(feature), pixels(feature, video())
    state = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    first = backbone(batch)["clip_tokens"]
    assert first.is_inference() and torch.equal(first, backbone(batch)["clip_tokens"])
    assert not backbone.model.training and not any(weight.requires_grad for weight in backbone.model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in backbone.model.state_dict().items())


def test_bf16_stays_close_to_fp32_and_comes_back_as_float32(r3d_file):
    exact, rough = (r3d_feature({"path": str(r3d_file)}, precision=name) for name in ("fp32", "bf16"))
    batch = pixels(exact, video())
    wanted, got = backbones.load(exact)(batch)["clip_tokens"], backbones.load(rough)(batch)["clip_tokens"]
    assert got.dtype == torch.float32 and 0 < (got - wanted).norm() / wanted.norm() < 0.05


def test_pixels_of_another_geometry_are_refused(r3d_file):
    with pytest.raises(BackboneError, match=r"expected \(B, 16, 3, 32, 32\) torch.uint8"):
        backbones.load(r3d_feature({"path": str(r3d_file)}))(torch.zeros(1, 8, 3, 32, 32, dtype=torch.uint8))


def test_frames_that_do_not_fill_the_last_step_are_refused(r3d_file):
    with pytest.raises(BackboneError, match="make it a multiple of 8"):
        backbones.load(r3d_feature({"path": str(r3d_file)}, frames=12, atrous=False))


# --- weights ----------------------------------------------------------------------------------------------------------


def test_safetensors_and_torch_files_of_the_same_weights_agree_and_fc_is_dropped(r3d_file, tmp_path):
    state = load_file(r3d_file)
    torch.save({**state, "fc.weight": torch.zeros(400, 64), "fc.bias": torch.zeros(400)}, tmp_path / "model.pth")
    first, second = (backbones.load(r3d_feature({"path": str(file)})) for file in (r3d_file, tmp_path / "model.pth"))
    batch = pixels(r3d_feature({"path": str(r3d_file)}), video())
    assert torch.equal(first(batch)["clip_tokens"], second(batch)["clip_tokens"])


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone(monkeypatch):
    build = r3d18.build_r3d18
    monkeypatch.setattr(r3d18, "build_r3d18", lambda width=8: build(width))
    before = torch.get_rng_state()
    one, same, other = (backbones.load(r3d_feature({"random": seed})).model.stem[0].weight for seed in (7, 7, 8))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


class Payload:
    def __reduce__(self):
        return print, ("a pickle that runs code",)


def corrupted(name, content):
    def write(folder, state):
        file = folder / name
        content(file, state)
        return file

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder, state: folder / "absent.pth", "is not a file; give a .safetensors or .pth"),
        (lambda folder, state: folder, "is not a file"),
        (corrupted("a.pth", lambda file, state: torch.save({"x": Payload()}, file)), "cannot be read as a state dict"),
        (corrupted("a.pth", lambda file, state: torch.save([1, 2], file)), "holds list, expected a state dict"),
        (corrupted("a.pth", lambda file, state: file.write_bytes(b"")), "cannot be read as a state dict"),
        (corrupted("a.pth", lambda file, state: file.write_text("<html>")), "cannot be read as a state dict"),
        (corrupted("a.safetensors", lambda file, state: file.write_bytes(b"123")), "cannot be read as a state dict"),
        (corrupted("a.pth", lambda file, state: torch.save({"w": torch.zeros(1)}, file)), "not a state dict of R3D-18"),
        (
            corrupted("a.safetensors", lambda file, state: save_file({**state, "extra": torch.zeros(1)}, file)),
            "Unexpected key.*extra",
        ),
        (
            corrupted(
                "a.safetensors",
                lambda file, state: save_file({k: v for k, v in state.items() if k != "layer4.1.conv2.0.weight"}, file),
            ),
            "Missing key.*layer4.1.conv2.0.weight",
        ),
    ],
)
def test_what_is_not_a_whole_state_dict_is_refused_with_the_remedy(r3d_file, tmp_path, write, message):
    file = write(tmp_path, load_file(r3d_file))
    with pytest.raises(BackboneError, match=f"(?s){message}"):
        backbones.load(r3d_feature({"path": str(file)}))


def test_the_revision_is_the_hash_in_torchvisions_file_name():
    assert r3d18.KINETICS_HUB == "torchvision/R3D_18_Weights.KINETICS400_V1"
    assert r3d18.KINETICS_REVISION == "b3b3357e"
    with pytest.raises(BackboneError, match="revision b3b3357e"):
        backbones.load(r3d_feature({"hub": r3d18.KINETICS_HUB, "revision": "00000000"}))


def test_torchvisions_file_is_fetched_with_its_hash_checked(monkeypatch, r3d_file):
    asked = {}

    def fetch(url, **options):
        asked.update(options, url=url)
        return load_file(r3d_file)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    backbones.load(r3d_feature({"hub": r3d18.KINETICS_HUB, "revision": "b3b3357e"}))
    assert (
        asked["url"] == models_video.R3D_18_Weights.KINETICS400_V1.url and asked["check_hash"] and asked["weights_only"]
    )


def test_no_network_is_an_error_with_the_remedy(monkeypatch):
    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(BackboneError, match=r"no route to host.*give its path as weights.path"):
        backbones.load(r3d_feature({"hub": r3d18.KINETICS_HUB, "revision": "b3b3357e"}))


@pytest.mark.weights
def test_the_real_format_at_full_size_loads_and_runs_through_the_same_code(tmp_path):
    with seeded(4):
        torch.save(models_video.r3d_18(weights=None).state_dict(), tmp_path / "r3d_18-00000000.pth")
    feature = r3d_feature(
        {"path": str(tmp_path / "r3d_18-00000000.pth")}, frames=32, resize=(128, 171), crop=(112, 112)
    )
    backbone = backbones.load(feature)
    out = backbone(pixels(feature, video(32, 240, 320)))
    assert out["clip_tokens"].shape == (1, 8, 49, 512) and out["clip_tokens"].isfinite().all()


def test_clips_lie_as_their_stores_were_computed_and_in_either_order_give_the_same_tokens(monkeypatch):
    there = {name: torch.device(name) for name in ("cpu", "cuda", "meta")}
    last, plain = torch.channels_last_3d, torch.contiguous_format
    for precision in ("fp32", "bf16", "fp16"):
        assert layout_3d(there["cpu"], precision, last) is last and layout_3d(there["cpu"], precision, plain) is plain
        assert layout_3d(there["cuda"], precision, last) is (plain if precision == "fp32" else last)
        assert layout_3d(there["meta"], precision, last) is plain
    feature = r3d_feature({"random": 0})
    pixels = torch.randint(0, 256, (1, 16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = backbones.load(feature)(pixels)
    monkeypatch.setattr("pipeline.backbones.r3d18.layout_3d", lambda *_, on_cpu: last)
    backbone = backbones.load(feature)
    assert backbone.model.layer1[0].conv1[0].weight.is_contiguous(memory_format=last)
    torch.testing.assert_close(backbone(pixels), expected, rtol=1e-4, atol=1e-4)
