"""Any model of transformers and timm: pixels and outputs are those of the libraries themselves, token by token."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from benchmarks.backbones import END, START, TABLE
from benchmarks.backbones import row as line_of
from pipeline import backbones
from pipeline.backbones.base import BackboneError
from pipeline.config import parse_params
from pipeline.config.libraries import PLAIN
from tests.backbones.library_models import BY_KIND, MODELS, TIMM, save_timm
from tests.later import Later

transformers = Later("transformers")

timm = Later("timm")

ROOT = Path(__file__).parents[2]
# Height and width of native frames: odd sides, landscape, portrait, smaller than what the models see.
SIZES = [(53, 71), (97, 45), (24, 31)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint's folder, by model_type or timm's name, made when it is first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            at = tmp_path_factory.mktemp(name)
            made[name] = save_timm(name, at) if name in TIMM else BY_KIND[name].save(at)
        return made[name]

    return folder


def feature_of(folder, output, frames=2, backbone="hf", **fields):
    document = {"backbone": backbone, "weights": {"path": str(folder)}, "output": output} | fields
    document.setdefault("sampling", {"frames": frames})
    return parse_params({"features": {"any": document}}).features["any"]


def frames_of(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def kept(feature, pixels):
    return backbones.load(feature)(pixels)[feature.field]


# --- transformers -----------------------------------------------------------------------------------------------------


def their_pixels(model, folder, frames):
    """What the library's own preprocessor makes of pictures: (T, 3, h, w)."""
    pictures = [Image.fromarray(frame) for frame in frames]
    if "Video" in model.processor[0] and "Image" not in model.processor[0]:
        found = transformers.AutoVideoProcessor.from_pretrained(folder)(
            videos=[np.stack([np.asarray(of) for of in pictures])], return_tensors="pt", do_sample_frames=False
        )
    else:
        found = transformers.AutoImageProcessor.from_pretrained(folder)(pictures, return_tensors="pt")
    pixels = found["pixel_values" if "pixel_values" in found else "pixel_values_videos"]
    return pixels[0] if model.clips else pixels


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.kind)
def test_pixels_are_those_of_the_models_own_preprocessor_bit_for_bit(model, folders):
    folder = folders(model.kind)
    prepare = pickle.loads(pickle.dumps(backbones.preprocessor(feature_of(folder, "mean", frames=4))))
    for size in SIZES:
        frames = frames_of(4, size)
        ours = torch.from_numpy(prepare(frames))
        assert torch.equal(ours, their_pixels(model, folder, frames)), size
        shown = prepare.shown(frames)
        assert shown.dtype == np.uint8 and shown.shape == tuple(ours.shape)


def expected(model, folder, pixels, precision):
    """The library's own outputs, taken apart by hand: the table of models says what is before the patches."""
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    dtype, mixed = (torch.bfloat16, True) if precision == "bf16" else (torch.float32, False)
    options = {"output_hidden_states": True}
    if model.kind == "vit_mae":
        theirs.config.mask_ratio, options["noise"] = 0.0, torch.arange(16.0).expand(len(pixels), -1)
    if model.kind == "vjepa2":
        options["skip_predictor"] = True
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=mixed):
        tower = getattr(theirs, "vision_model", theirs)
        found = tower(pixels, **options)
        projected = theirs.get_image_features(pixels).pooler_output.float() if "projected" in model.has else None

    def patches(states):
        states = states.float()
        if states.ndim == 4:
            return states.flatten(2).mT
        tokens = states[:, model.prefix :]
        steps, rows, columns = model.grid
        if model.kind == "timesformer":  # (patch, step), as its own attention over time reads them
            tokens = tokens.view(len(tokens), rows * columns, steps, -1).transpose(1, 2).flatten(1, 2)
        return tokens

    last = found.last_hidden_state.float()
    pooled = found.get("pooler_output")
    return {
        "cls": last[:, 0],
        "mean": patches(last).mean(1),
        "pooler": None if pooled is None else pooled.float().flatten(1),
        "projected": projected if projected is None else torch.nn.functional.normalize(projected, dim=-1),
        "tokens": patches(last),
        "hidden:-2": patches(found.hidden_states[-2]),
    }


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.kind)
def test_outputs_are_those_of_the_library_in_fp32_and_bf16(model, folders):
    folder, frames = folders(model.kind), 4 if model.clips else 2
    prepare = backbones.preprocessor(feature_of(folder, "mean", frames))
    pixels = torch.stack([torch.from_numpy(prepare(frames_of(frames, SIZES[k], seed=k))) for k in (0, 1)])
    inputs = pixels if model.clips else pixels.flatten(0, 1)
    for precision in ("fp32", "bf16"):
        wanted = expected(model, folder, inputs, precision)
        for output in [*model.has.split(), "hidden:-2"] if precision == "fp32" else ["tokens"]:
            feature = feature_of(folder, output, frames, precision=precision)
            backbone = backbones.load(feature)
            ours = backbone(pixels)[feature.field]
            assert ours.dtype == torch.float32 and backbone.fields == {
                feature.field: (tuple(ours.shape[1:]), "float16")
            }
            assert_close(ours.reshape(wanted[output].shape), wanted[output], rtol=0, atol=1e-5)
            if output == "tokens":
                steps, rows, columns = model.grid
                assert backbone.grid == (steps * (1 if model.clips else frames), rows, columns)
    assert [*backbone.vectors, "tokens"] == model.has.split()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.kind)
def test_the_token_over_a_pixel_is_the_one_that_it_changes_most(model, folders):
    frames = 4 if model.clips else 1
    backbone = backbones.load(feature_of(folders(model.kind), "tokens", frames))
    steps, rows, columns = model.grid
    still = torch.randn(1, frames, 3, *backbone.size, generator=torch.Generator().manual_seed(0))
    before = backbone(still)["tokens"][0]
    for step, row, column in {(0, 0, 1), (steps - 1, rows - 1, 0), (steps // 2, rows // 2, columns - 1)}:
        moved, (height, width) = still.clone(), (backbone.size[0] // rows, backbone.size[1] // columns)
        span = frames // steps
        place = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
        moved[0, step * span : (step + 1) * span, :, place[0], place[1]] += 3
        change = (backbone(moved)["tokens"][0] - before).norm(dim=-1)
        assert divmod(int(change.argmax()), rows * columns) == (step, row * columns + column)


def test_windows_go_through_the_model_one_by_one(folders):
    folder = folders("videomae")
    windows = feature_of(folder, "tokens", sampling={"frames": 4, "fps": 4.0, "windows": 2})
    pixels = torch.from_numpy(backbones.preprocessor(windows)(frames_of(8, SIZES[0])))[None]
    backbone = backbones.load(windows)
    both = backbone(pixels)["tokens"]
    alone = feature_of(folder, "tokens", frames=4)
    assert_close(both[:, :2], kept(alone, pixels[:, :4]))
    assert_close(both[:, 2:], kept(alone, pixels[:, 4:]))
    assert backbone.grid == (4, 4, 4) and backbone.token_times(range(8)) == [0.5, 2.5, 4.5, 6.5]
    vectors = backbones.load(feature_of(folder, "mean", sampling={"frames": 4, "fps": 4.0, "windows": 2}))
    assert vectors.fields == {"mean": ((2, 32), "float16")} and vectors.token_times(range(8)) == [1.5, 5.5]


def test_another_size_is_what_the_library_makes_of_it_with_interpolated_positions(folders):
    folder, frames = folders("vit"), frames_of(1, (70, 90))
    feature = feature_of(folder, "tokens", 1, preprocess={"resize": [48, 40]})
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)(
        [Image.fromarray(frames[0])], size={"height": 48, "width": 40}, return_tensors="pt"
    )["pixel_values"]
    ours = torch.from_numpy(backbones.preprocessor(feature)(frames))
    assert torch.equal(ours, theirs)
    with torch.inference_mode():
        wanted = (
            transformers.AutoModel.from_pretrained(folder)
            .eval()(theirs, interpolate_pos_encoding=True)
            .last_hidden_state
        )
    backbone = backbones.load(feature)
    assert backbone.grid == (1, 6, 5)
    assert_close(backbone(ours[None])["tokens"], wanted[:, 1:][None], rtol=0, atol=1e-5)


# --- timm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMM)
def test_pixels_and_outputs_are_those_of_timm(name, folders):
    folder, (prefix, has_cls, grid) = folders(name), TIMM[name]
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=theirs), is_training=False)
    feature = feature_of(folder, "tokens", 1, "timm")
    prepare = pickle.loads(pickle.dumps(backbones.preprocessor(feature)))
    for size in SIZES:
        frames = frames_of(1, size)
        wanted = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
        assert torch.equal(torch.from_numpy(prepare(frames)), wanted), size
    with torch.inference_mode():
        states = theirs.forward_features(wanted)
        pooled = theirs.forward_head(states, pre_logits=True)
        hidden = theirs.forward_intermediates(wanted, intermediates_only=True)[-2].flatten(2).mT
    patches = states[:, prefix:] if states.ndim == 3 else states.flatten(2).mT
    outputs = {"tokens": patches, "mean": patches.mean(1), "pooler": pooled, "hidden:-2": hidden}
    if has_cls:
        outputs["cls"] = states[:, 0]
    for output, value in outputs.items():
        ours = kept(feature_of(folder, output, 1, "timm"), wanted[None])
        assert_close(ours.reshape(value.shape), value, rtol=0, atol=1e-5)
    assert backbones.load(feature).grid == (1, *grid)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        states = theirs.forward_features(wanted).float()
    mixed = kept(feature_of(folder, "tokens", 1, "timm", precision="bf16"), wanted[None])[0]
    assert_close(mixed, states[:, prefix:] if states.ndim == 3 else states.flatten(2).mT, rtol=0, atol=1e-5)
    if not has_cls:
        with pytest.raises(BackboneError, match=r"has no output cls; it has mean, pooler, tokens, hidden:1 to"):
            backbones.load(feature_of(folder, "cls", 1, "timm"))


def test_timm_at_another_size_resamples_its_positions_as_timm_does(folders):
    folder = folders("test_vit")
    feature = feature_of(folder, "tokens", 1, "timm", preprocess={"resize": 70, "crop": [64, 32]})
    pixels = torch.from_numpy(backbones.preprocessor(feature)(frames_of(1, SIZES[1])))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=(64, 32)).eval()
    with torch.inference_mode():
        wanted = theirs.forward_features(pixels)[:, 1:]
    backbone = backbones.load(feature)
    assert backbone.grid == (1, 4, 2)
    assert_close(backbone(pixels[None])["tokens"][0], wanted, rtol=0, atol=1e-5)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.kind)
def test_what_params_say_of_a_feature_is_what_its_network_gives(model, folders):
    for output in ("tokens", "mean") if model.kind in ("vit", "videomae") else ("tokens",):
        feature = feature_of(folders(model.kind), output, 4)
        said, backbone = feature.gives({}), backbones.load(feature, "meta")
        known = said is not None
        assert known == (model.kind in PLAIN)
        if known and output == "tokens":
            content = said["tokens"]
            assert backbone.grid == (content.steps, *content.grid) and backbone.fields["tokens"][0][2] == content.width
        elif known:
            steps, width = said["mean"].steps, said["mean"].width
            assert backbone.fields["mean"][0] == ((width,) if steps is None else (steps, width))
        if feature.geometry is not None:
            assert feature.geometry.size == backbone.size


def test_the_page_s_table_is_what_the_command_prints():
    page = (ROOT / "docs/backbones.md").read_text(encoding="utf-8")
    wanted = ("siglip2-base-patch16-224", "resnet50.a1_in1k")
    chosen = [model for model in TABLE if model.name.endswith(wanted)]
    assert len(chosen) == len(wanted)
    for model in chosen:
        assert line_of(model) in page.splitlines()
    assert len(page.split(START)[1].split(END)[0].splitlines()) == len(TABLE) + 2
