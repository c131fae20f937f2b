"""Inception I3D: the published table, SAME padding, the public key names, and a row a frame."""

import pickle
from math import ceil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded
from pipeline.config import I3DFeature, I3DFlow, Weights
from tests.backbones.conftest import with_lively_norms
from tests.later import Later

i3d = Later("pipeline.backbones.i3d")
pixelwise = Later("torchvision.transforms.functional")

# End point, its (channels, frames, rows, columns) for 16 x 224 x 224, and its parameters: the network of figure 3 with
# the channels of GoogLeNet's table, each convolution's inputs x outputs x kernel, and two numbers a channel of norms.
PUBLISHED = [
    ("Conv3d_1a_7x7", (64, 8, 112, 112), 3 * 64 * 343 + 2 * 64),
    ("MaxPool3d_2a_3x3", (64, 8, 56, 56), 0),
    ("Conv3d_2b_1x1", (64, 8, 56, 56), 64 * 64 + 2 * 64),
    ("Conv3d_2c_3x3", (192, 8, 56, 56), 64 * 192 * 27 + 2 * 192),
    ("MaxPool3d_3a_3x3", (192, 8, 28, 28), 0),
    ("Mixed_3b", (256, 8, 28, 28), 386_272),
    ("Mixed_3c", (480, 8, 28, 28), 837_888),
    ("MaxPool3d_4a_3x3", (480, 4, 14, 14), 0),
    ("Mixed_4b", (512, 4, 14, 14), 737_760),
    ("Mixed_4c", (512, 4, 14, 14), 904_464),
    ("Mixed_4d", (512, 4, 14, 14), 1_103_664),
    ("Mixed_4e", (528, 4, 14, 14), 1_356_672),
    ("Mixed_4f", (832, 4, 14, 14), 1_799_168),
    ("MaxPool3d_5a_2x2", (832, 2, 7, 7), 0),
    ("Mixed_5b", (832, 2, 7, 7), 1_974_272),
    ("Mixed_5c", (1024, 2, 7, 7), 2_784_736),
]


# --- a literal reading of the network, on a state dict of public names ------------------------------------------------


def literal_i3d(state, x, stop=None):
    """Inception I3D written out, SAME padding and all."""

    def padded(x, kernel, stride):
        for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
            size = x.shape[axis]
            missing = max((ceil(size / s) - 1) * s + k - size, 0)
            for where, width in (("before", missing // 2), ("after", missing - missing // 2)):
                shape = [*x.shape]
                shape[axis] = width
                x = torch.cat([x.new_zeros(shape), x] if where == "before" else [x, x.new_zeros(shape)], dim=axis)
        return x

    def unit(name, x, stride=1):
        weight, (mean, var, gamma, beta) = (
            state[f"{name}.conv3d.weight"],
            (
                state[f"{name}.bn.{part}"].view(-1, 1, 1, 1)
                for part in ("running_mean", "running_var", "weight", "bias")
            ),
        )
        y = F.conv3d(padded(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        return ((y - mean) / (var + 0.001).sqrt() * gamma + beta).clamp(min=0)

    def pool(x, kernel, stride):
        return F.max_pool3d(padded(x, kernel, stride), kernel, stride)

    def mixed(name, x):
        zero = unit(f"{name}.b0", x)
        one = unit(f"{name}.b1b", unit(f"{name}.b1a", x))
        two = unit(f"{name}.b2b", unit(f"{name}.b2a", x))
        three = unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([zero, one, two, three], dim=1)

    x = unit("Conv3d_1a_7x7", x, 2)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x))
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = mixed("Mixed_3c", mixed("Mixed_3b", x))
    x = pool(x, (3, 3, 3), (2, 2, 2))
    for name in ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"):
        x = mixed(name, x)
    x = pool(x, (2, 2, 2), (2, 2, 2))
    return mixed("Mixed_5c", mixed("Mixed_5b", x))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small public state dicts, logits included, without the counters that old files lack."""
    folder, made = tmp_path_factory.mktemp("i3d"), {}
    for stream, channels in (("rgb", 3), ("flow", 2)):
        with seeded(channels):
            model = with_lively_norms(i3d.I3D(channels, 8))
        state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
        state |= {"logits.conv3d.weight": torch.zeros(400, 128, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}
        made[stream] = folder / f"{stream}_imagenet.pt"
        torch.save(state, made[stream])
    return made


def i3d_feature(rgb=None, flow=None, size=(32, 40), **fields):
    return I3DFeature(
        backbone="i3d",
        rgb=rgb and Weights(path=str(rgb)),
        flow=flow and I3DFlow(feature="flow", weights=Weights(path=str(flow))),
        sampling={"fps": 25.0},
        preprocess={"resize": size},
        **fields,
    )


def backbone(**fields):
    return i3d.I3DFrames(i3d_feature(**fields), torch.device("cpu"))


def stream(channels, frames, size=(32, 40), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, channels, *size), dtype=torch.uint8, generator=generator)


# --- the network ------------------------------------------------------------------------------------------------------


def test_every_end_point_has_the_published_name_shape_and_parameters():
    with torch.device("meta"):
        model, x = i3d.I3D(), torch.zeros(1, 3, 16, 224, 224)
        got = []
        for name, layer in model.named_children():
            x = layer(x)
            got.append((name, tuple(x.shape[1:]), sum(weight.numel() for weight in layer.parameters())))
    assert got == PUBLISHED


def test_it_has_the_published_12_29_million_parameters_without_logits():
    with torch.device("meta"):
        assert sum(weight.numel() for weight in i3d.I3D().parameters()) == 12_287_264
        assert sum(weight.numel() for weight in i3d.I3D(2).parameters()) == 12_287_264 - 64 * 343


@pytest.mark.parametrize("name", [name for name, _, _ in PUBLISHED if name.startswith("Mixed")])
def test_an_inception_modules_parameters_are_its_convolutions_and_norms(name):
    with torch.device("meta"):
        module = i3d.I3D().get_submodule(name)
    inputs = module.b0.conv3d.in_channels
    one, wide_in, wide, narrow_in, narrow, last = (
        unit.conv3d.out_channels for unit in (module.b0, module.b1a, module.b1b, module.b2a, module.b2b, module.b3b)
    )
    convolutions = inputs * (one + wide_in + narrow_in + last) + 27 * (wide_in * wide + narrow_in * narrow)
    norms = 2 * (one + wide_in + wide + narrow_in + narrow + last)
    assert {n: p for n, _, p in PUBLISHED}[name] == convolutions + norms


def test_the_network_equals_a_literal_reading_of_the_paper(files):
    state = torch.load(files["rgb"])
    model = i3d.fill(state, "rgb", "here").eval()
    for shape in ((16, 64, 64), (21, 50, 39)):
        x = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            torch.testing.assert_close(model(x), literal_i3d(state, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", range(1, 18))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_same_padding_gives_tensorflows_positions(size, kernel, stride):
    before, after = i3d.same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    assert (before + size + after - kernel) // stride + 1 == ceil(size / stride)
    # No wider than need be: one zero less, and a position would be lost.
    assert before + after == 0 or (before + size + after - 1 - kernel) // stride + 1 < ceil(size / stride)


def test_a_unit_and_a_pool_equal_loops_over_positions():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(1, 2, 5, 4, 6, generator=generator)
    with seeded(3):
        unit = with_lively_norms(i3d.Unit(2, 1, 3, 2)).eval()
    pool = i3d.SamePool((3, 3, 3), (2, 2, 2))
    with torch.inference_mode():
        summed, largest = unit(x)[0, 0], pool(x)[0, 0]
    kernel, norm = unit.conv3d.weight.detach()[0], unit.bn
    for t, h, w in np.ndindex(3, 2, 3):
        # TensorFlow: 5 -> 3 pads 1 and 1; 4 -> 2 pads 0 and 1; 6 -> 3 pads 0 and 1.
        ts, hs, ws = ([i for i in range(start, start + 3)] for start in (2 * t - 1, 2 * h, 2 * w))
        total, best = 0.0, 0.0
        for (i, a), (j, b), (k, c) in ((p, q, r) for p in enumerate(ts) for q in enumerate(hs) for r in enumerate(ws)):
            if 0 <= a < 5 and 0 <= b < 4 and 0 <= c < 6:
                total += float((kernel[:, i, j, k] * x[0, :, a, b, c]).sum())
                best = max(best, float(x[0, 0, a, b, c]))
        scale = norm.weight.item() / (norm.running_var.item() + 1e-3) ** 0.5
        wanted = max(0.0, (total - norm.running_mean.item()) * scale + norm.bias.item())
        assert summed[t, h, w].item() == pytest.approx(wanted, abs=1e-5)
        assert largest[t, h, w].item() == best


# --- rows -------------------------------------------------------------------------------------------------------------


def test_each_row_is_the_mean_of_mixed_5c_over_its_own_window(files):
    rgb, flow = stream(3, 5 + 15), stream(2, 5 + 15, seed=1)
    both = backbone(rgb=files["rgb"], flow=files["flow"], batch=2)
    rows = both.rows({"rgb": rgb, "flow": flow})["frames"]
    assert both.context == (8, 7) and both.stream_sizes == {"rgb": (3, 32, 40), "flow": (2, 32, 40)}
    assert both.fields == {"frames": ((None, 256), "float16")} and both.grid is None
    assert rows.shape == (5, 256) and rows.dtype == torch.float32
    with torch.inference_mode():
        for t in range(5):
            for part, name, pixels in (
                (slice(128), "rgb", rgb[t : t + 16] / 127.5 - 1),
                (slice(128, 256), "flow", (flow[t : t + 16] - 128.0) / 127),
            ):
                maps = literal_i3d(torch.load(files[name]), pixels.transpose(0, 1)[None])
                torch.testing.assert_close(rows[t, part], maps.mean(dim=(0, 2, 3, 4)), rtol=1e-3, atol=1e-5)


def test_either_stream_may_be_absent_and_gives_its_half(files):
    streams = {"rgb": stream(3, 17), "flow": stream(2, 17, seed=1)}
    both = backbone(rgb=files["rgb"], flow=files["flow"]).rows(streams)["frames"]
    for name, half in (("rgb", both[:, :128]), ("flow", both[:, 128:])):
        alone = backbone(**{name: files[name]})
        assert list(alone.stream_sizes) == [name] and alone.fields["frames"][0] == (None, 128)
        assert torch.equal(alone.rows({name: streams[name]})["frames"], half)


@pytest.mark.parametrize(("window", "context"), [(16, (8, 7)), (21, (10, 10)), (64, (32, 31))])
def test_a_window_is_centred_on_its_row(files, window, context):
    one = backbone(rgb=files["rgb"], window=window, size=(32, 32))
    assert one.context == context
    assert one.rows({"rgb": stream(3, window + 1, (32, 32))})["frames"].shape == (2, 128)


def test_rows_do_not_depend_on_how_windows_are_batched(files):
    rgb = stream(3, 22)
    rows = [backbone(rgb=files["rgb"], batch=batch).rows({"rgb": rgb})["frames"] for batch in (1, 3, 16)]
    for other in rows[1:]:
        torch.testing.assert_close(rows[0], other, rtol=1e-4, atol=1e-5)


def test_rgb_and_flow_are_scaled_to_one_and_128_is_exactly_no_motion():
    values = torch.arange(256, dtype=torch.uint8)
    rgb, flow = i3d.scaled_rgb(values), i3d.dequantised_flow(values)
    assert rgb[0] == -1 and rgb[255] == 1 and torch.allclose(rgb, values / 127.5 - 1, atol=1e-6)
    assert flow[128] == 0 and flow[1] == -1 and flow[255] == 1
    assert torch.equal(flow[129:], -flow[1:128].flip(0))


def test_it_is_frozen_and_repeats_itself(files):
    one = backbone(rgb=files["rgb"])
    state = {name: value.clone() for name, value in one.models["rgb"].state_dict().items()}
    rgb = stream(3, 18)
    first = one.rows({"rgb": rgb})["frames"]
    assert not first.requires_grad and torch.equal(first, one.rows({"rgb": rgb})["frames"])
    assert all(torch.equal(value, state[name]) for name, value in one.models["rgb"].state_dict().items())
    assert not any(weight.requires_grad for weight in one.models["rgb"].parameters())


def test_bf16_stays_close_to_fp32_and_comes_back_as_float32(files):
    rgb = {"rgb": stream(3, 18)}
    exact, rough = (backbone(rgb=files["rgb"], precision=name).rows(rgb)["frames"] for name in ("fp32", "bf16"))
    assert rough.dtype == torch.float32 and 0 < (rough - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(
    "streams",
    [
        {},
        {"flow": stream(2, 20)},
        {"rgb": stream(3, 20), "flow": stream(2, 20)},
        {"rgb": stream(3, 15)},
        {"rgb": stream(3, 20, (32, 32))},
        {"rgb": stream(2, 20)},
        {"rgb": stream(3, 20).float()},
    ],
)
def test_other_streams_are_refused(files, streams):
    with pytest.raises(BackboneError, match=r"expected \{name.*\{'rgb': \(3, 32, 40\)\} and one T of at least.*16"):
        backbone(rgb=files["rgb"]).rows(streams)


def test_streams_of_different_lengths_are_refused(files):
    with pytest.raises(BackboneError, match="one T"):
        backbone(**files).rows({"rgb": stream(3, 20), "flow": stream(2, 19)})


@pytest.mark.parametrize("shape", [(2, 7, 7), (3, 7, 7), (8, 7, 7), (2, 8, 9), (3, 8, 8)])
def test_published_pooling_is_the_mean_over_every_place_of_a_2_7_7_window(shape):
    x = torch.rand(2, 3, *shape)
    places = [range(side - reach + 1) for side, reach in zip(shape, (2, 7, 7), strict=True)]
    windows = [
        x[:, :, t : t + 2, h : h + 7, y : y + 7].sum(dim=(2, 3, 4)) / 98
        for t in places[0]
        for h in places[1]
        for y in places[2]
    ]
    torch.testing.assert_close(i3d.pooled(x, "published"), sum(windows) / len(windows))
    if shape == (2, 7, 7):
        torch.testing.assert_close(i3d.pooled(x, "published"), i3d.pooled(x, "mean"))


def test_rows_of_other_windows_are_pooled_as_the_feature_says(files):
    frames = {"rgb": torch.randint(0, 256, (20, 3, 224, 224), dtype=torch.uint8)}
    state = torch.load(files["rgb"])
    mixed = literal_i3d(state, frames["rgb"].movedim(0, 1)[None] / 127.5 - 1)
    assert mixed.shape[2:] == (3, 7, 7)
    rows = {
        pooling: backbone(rgb=files["rgb"], size=(224, 224), window=20, pooling=pooling).rows(frames)["frames"]
        for pooling in ("mean", "published")
    }
    first, middle, last = mixed.mean(dim=(3, 4)).unbind(dim=2)
    torch.testing.assert_close(rows["mean"], (first + middle + last) / 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows["published"], (first + 2 * middle + last) / 4, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("misfit", [{"window": 8, "size": (224, 224)}, {"window": 16, "size": (224, 192)}])
def test_a_window_or_a_crop_too_small_for_the_published_pool_is_refused(files, misfit):
    with pytest.raises(ValueError, match=r"pooling: published is over 2 x 7 x 7, which a window of .* pooling: mean"):
        i3d_feature(files["rgb"], pooling="published", **misfit)


# --- pixels -----------------------------------------------------------------------------------------------------------


def video(frames=3, height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (24, 32)])
def test_the_short_side_is_resized_as_torchvision_does_it_and_the_centre_cut(height, width):
    clip = video(3, height, width)
    ours = i3d.I3DPixels(32, (28, 30))(clip)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).contiguous()
    theirs = pixelwise.center_crop(pixelwise.resize(frames, [32], antialias=True), [28, 30])
    assert ours.shape == (3, 3, 28, 30) and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs.numpy().astype(int)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(60, 80), (24, 32)])
def test_pixels_are_pillows_within_a_grey_level(height, width):
    clip = video(2, height, width)
    ours = i3d.I3DPixels((32, 43))(clip).transpose(0, 2, 3, 1)
    for mine, frame in zip(ours, clip, strict=True):
        pillow = np.asarray(Image.fromarray(frame).resize((43, 32), Image.Resampling.BILINEAR))
        assert np.abs(mine.astype(int) - pillow.astype(int)).max() <= 1


def test_the_preprocessor_pickles():
    prepare = i3d.I3DPixels(32, (32, 32))
    assert np.array_equal(pickle.loads(pickle.dumps(prepare))(video()), prepare(video()))


# --- weights ----------------------------------------------------------------------------------------------------------


def test_public_names_load_and_the_logits_are_dropped(files):
    state = torch.load(files["rgb"])
    assert {"Conv3d_1a_7x7.conv3d.weight", "Mixed_3b.b0.conv3d.weight", "Mixed_5c.b3b.bn.running_var"} <= set(state)
    assert state["logits.conv3d.weight"].shape[0] == 400
    model = i3d.fill(state, "rgb", "here")
    kept = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    assert kept.keys() == {name for name in state if not name.startswith("logits.")}
    assert all(torch.equal(value, state[name]) for name, value in kept.items())


def test_old_torch_files_new_ones_and_safetensors_agree(files, tmp_path):
    state, rgb = torch.load(files["rgb"]), {"rgb": stream(3, 16)}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "new.safetensors")
    wanted = backbone(rgb=files["rgb"]).rows(rgb)["frames"]
    for file in ("old.pt", "new.safetensors"):
        assert torch.equal(backbone(rgb=tmp_path / file).rows(rgb)["frames"], wanted)


def test_random_weights_are_of_full_width_and_follow_the_seed():
    def stem(seed):
        feature = I3DFeature(
            backbone="i3d", rgb={"random": seed}, sampling={"fps": 25.0}, preprocess={"resize": (32, 32)}
        )
        return i3d.I3DFrames(feature, torch.device("cpu")).models["rgb"].Conv3d_1a_7x7.conv3d.weight

    before = torch.get_rng_state()
    one, same, other = stem(7), stem(7), stem(8)
    assert one.shape == (64, 3, 7, 7, 7) and torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"w": torch.zeros(1)}, r"not a state dict of I3D.*such as \['w'\]; give Inception I3D with the"),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, "save model.module.state_dict"),
        (lambda state: {**state, "extra": torch.zeros(1)}, "does not fit I3D of width 8.*Unexpected key.*extra"),
        (
            lambda state: {name: value for name, value in state.items() if name != "Mixed_4d.b2b.bn.running_var"},
            "Missing key.*Mixed_4d.b2b.bn.running_var",
        ),
        (lambda state: {**state, "Mixed_3b.b0.conv3d.weight": torch.zeros(7, 24, 1, 1, 1)}, "size mismatch"),
        (lambda state: {**state, "Conv3d_1a_7x7.conv3d.weight": torch.zeros(9, 3, 7, 7, 7)}, "multiple of 8"),
    ],
)
def test_what_is_not_a_whole_state_dict_is_refused_with_the_remedy(files, tmp_path, change, message):
    save_file(change(torch.load(files["rgb"])), tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=f"(?s)a.safetensors.*{message}"):
        backbone(rgb=tmp_path / "a.safetensors")


def test_exchanged_streams_are_refused_with_the_remedy(files):
    with pytest.raises(BackboneError, match=r"reads 2 channels, expected 3 for rgb; perhaps.*exchanged"):
        backbone(rgb=files["flow"])


class Payload:
    def __reduce__(self):
        return print, ("a pickle that runs code",)


def test_files_that_hold_anything_but_tensors_are_refused(tmp_path):
    for name, write, message in (
        ("absent.pt", lambda file: None, "is not a file; give a .safetensors or .pth state dict: Inception I3D"),
        ("code.pt", lambda file: torch.save({"x": Payload()}, file), "cannot be read as a state dict"),
        ("list.pt", lambda file: torch.save([1], file), "holds list, expected a state dict"),
        ("page.pt", lambda file: file.write_text("<html>"), "cannot be read as a state dict"),
    ):
        write(tmp_path / name)
        with pytest.raises(BackboneError, match=message):
            backbone(rgb=tmp_path / name)


def test_a_hub_is_refused_with_the_remedy():
    feature = I3DFeature(
        backbone="i3d",
        rgb={"hub": "someone/i3d", "revision": "abc"},
        sampling={"fps": 25.0},
        preprocess={"resize": (32, 32)},
    )
    with pytest.raises(BackboneError, match=r"no hub is known to hold them; download the public rgb_imagenet\.pt"):
        i3d.I3DFrames(feature, torch.device("cpu"))


@pytest.mark.weights
def test_the_real_format_at_full_size_loads_and_runs_through_the_same_code(tmp_path):
    for channels in (3, 2):
        with seeded(channels):
            torch.save(i3d.I3D(channels).state_dict(), tmp_path / f"{channels}.pt")
    real = backbone(rgb=tmp_path / "3.pt", flow=tmp_path / "2.pt", size=(224, 224), batch=2)
    rows = real.rows({"rgb": stream(3, 17, (224, 224)), "flow": stream(2, 17, (224, 224))})["frames"]
    assert rows.shape == (2, 2048) and rows.isfinite().all()
