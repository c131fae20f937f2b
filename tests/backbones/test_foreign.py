"""A backbone of another package: named in params, extracted by the real loop, keyed by its code, or refused."""

import importlib
import json
import re
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import backbones, cli, plugins
from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded
from pipeline.config import ParamsError, backbone_class, feature_dir, feature_key, load_params, parse_params
from pipeline.config.backbones import BACKBONES
from pipeline.extraction import derive
from pipeline.store import FeatureStore, describe, verify
from pipeline.training.dataset import token_stream
from pipeline.video import read_frames, segment_centres
from tests.conftest import ROOT, write_ssv2
from tests.extraction.small import DINO, contents, params_of, run, with_workers
from tests.later import Later

towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")

# A whole package: what somebody writes who adds a backbone.
COLOURS = '''"""The mean colours of the quarters of a frame."""
from torch.nn.functional import adaptive_avg_pool2d
from pipeline.backbones.towers import Pixels
from pipeline.config import PixelFeature
from my_colours.scale import scaled

class Colours:
    class Config(PixelFeature):
        gain: float = 1.0

    def __init__(self, feature, device):
        self.gain, self.grid = feature.gain, (feature.sampling.count, 2, 2)
        self.fields = {"colours": ((self.grid[0], 4, 3), "float16")}

    @staticmethod
    def preprocessor(feature):
        return Pixels(feature.preprocess.resize, feature.preprocess.crop)

    def token_times(self, times):
        return list(times)

    def __call__(self, pixels_BTCHW):
        means = adaptive_avg_pool2d(scaled(pixels_BTCHW).flatten(0, 1), 2).flatten(2).mT
        return {"colours": self.gain * means.unflatten(0, (-1, self.grid[0]))}
'''
SCALE = "def scaled(pixels):\n    return pixels.float() / 255\n"
ROWS = '''
from pipeline.backbones.towers import Pixels
from pipeline.config import RowsFeature

class Motion:
    """How much each frame differs from the one before."""
    class Config(RowsFeature):
        pass

    context = (1, 0)

    def __init__(self, feature, device):
        self.fields = {"motion": ((None, 3), "float16")}
        self.stream_sizes = {"rgb": (3, *feature.preprocess.size)}

    @staticmethod
    def preprocessor(feature):
        return Pixels(feature.preprocess.resize, feature.preprocess.crop)

    def rows(self, streams):
        frames = streams["rgb"].float() / 255
        return {"motion": (frames[1:] - frames[:-1]).abs().mean(dim=(2, 3))}
'''
TEXTS = """
import torch
from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded
from pipeline.config import TextFeature

class Letters:
    class Config(TextFeature):
        pass

    def __init__(self, feature, device):
        self.fields = {"letters": ((2,), "float32")}

    def __call__(self, texts):
        if wrong := [text for text in texts if "z" in text]:
            raise BackboneError(f"{wrong[0]!r} has a z; remove it")
        return {"letters": torch.tensor([[len(text), text.count("a")] for text in texts]).float()}
"""
TOWER = """
from transformers import ViTConfig, ViTModel
from pipeline.backbones.towers import Kind, Tower
from pipeline.config import BackboneFeature

class Vit(Tower):
    class Config(BackboneFeature):
        pass

    kind = Kind("ViT", {"vit": ViTModel}, lambda: ViTModel(ViTConfig()))

    def keep(self, model, feature):
        side = model.config.image_size
        self.kind.refuse_another_side(self.size, side, f"preprocess.crop [{side}, {side}]")
        self.model = model.to(self.device)
        return {"cls": ((self.frames, model.config.hidden_size), "float16")}, None

    def run(self, pixels_BTCHW):
        tokens = self.model(pixels_BTCHW.flatten(0, 1)).last_hidden_state.float()
        return {"cls": tokens[:, 0].unflatten(0, (-1, self.frames))}
"""
FEATURE = {
    "backbone": "my_colours.module:Colours",
    "sampling": {"frames": 4},
    "preprocess": {"resize": [32, 32]},
    "batch": 4,
}
SHAPE = '((self.grid[0], 4, 3), "float16")'


class Package:
    """my_colours, a package on the path of this process."""

    def __init__(self, folder):
        self.folder = folder / "my_colours"
        self.folder.mkdir()
        self._lines = count(1)
        self.write("__init__", "")
        self.write("scale", SCALE)
        self.write("module", COLOURS)

    def write(self, module, text):
        (self.folder / f"{module}.py").write_text(text, encoding="utf-8")
        self.forget()

    def change(self, module, old, new):
        """Edits a module, which is then imported anew."""
        text = (self.folder / f"{module}.py").read_text(encoding="utf-8")
        assert old in text
        # An edit within a tick of the clock would be one of a file that looks as it did.
        self.write(module, text.replace(old, new) + "\n" * next(self._lines))

    def forget(self):
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_colours"]:
            del sys.modules[name]
        importlib.invalidate_caches()


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "somewhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "somewhere")
    package = Package(tmp_path / "somewhere")
    yield package
    package.forget()


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return write_ssv2(tmp_path_factory.mktemp("few") / "ssv2", {"train": 4, "validation": 1, "test": 1})


def of(**fields):
    return parse_params({"features": {"colours": FEATURE | fields}})


def key(**fields):
    return feature_key(of(**fields), "colours")


# --- it is a backbone like ours ---------------------------------------------------------------------------------------


def test_it_extracts_through_the_real_loop_into_a_store(package, few, tmp_path):
    params = params_of(few, {"colours": FEATURE | {"gain": 0.5}})
    manifest = run(params, tmp_path, names="colours")
    assert manifest["counts"] == {"ok": 6, "failed": 0}
    store = FeatureStore(feature_dir(params, "small", "colours", tmp_path))
    assert verify(store.directory) == [] and store.provenance["grid"] == [4, 2, 2]
    times = segment_centres(4, 3.0)
    pixels = torch.from_numpy(towers.Pixels((32, 32))(read_frames(few / "3.webm", times))).float() / 255
    wanted = [pixels[0, :, :16, 16:].mean(dim=(1, 2)), pixels[3, :, 16:, :16].mean(dim=(1, 2))]
    (found,) = store.read(["3"], "colours")
    np.testing.assert_allclose(found[[0, 3], [1, 2]], 0.5 * torch.stack(wanted).numpy(), atol=1e-3)
    assert store.meta("3")["times"] == pytest.approx(times)


def test_a_decode_process_and_one_decode_with_ours_change_no_byte(package, few, tmp_path):
    params = params_of(few, {"colours": FEATURE, "dino": DINO | {"sampling": {"frames": 3}}})
    run(params, tmp_path / "alone", names="colours")
    run(with_workers(params, 1), tmp_path / "fused", names=["colours", "dino"])
    folder = feature_dir(params, "small", "colours", tmp_path / "alone")
    assert contents(folder) == contents(tmp_path / "fused" / folder.relative_to(tmp_path / "alone"))


def test_info_says_what_it_is_and_what_code_made_it(package, few, tmp_path):
    params = params_of(few, {"colours": FEATURE})
    run(params, tmp_path, names="colours")
    found = describe(feature_dir(params, "small", "colours", tmp_path))
    assert found["key"] == feature_key(params, "colours") and found["counts"]["ok"] == 6
    assert found["provenance"]["config"]["gain"] == 1.0
    assert found["provenance"]["code"]["class"] == FEATURE["backbone"]
    assert found["fields"]["colours"]["shape"] == [4, 4, 3]


def test_a_head_reads_its_tokens(package, few, tmp_path):
    params = params_of(few, {"colours": FEATURE})
    run(params, tmp_path, names="colours")
    stream = token_stream("motion", FeatureStore(feature_dir(params, "small", "colours", tmp_path)))
    assert (stream.name, stream.grid, stream.width) == ("colours", (4, 2, 2), 3)


def test_a_feature_is_derived_from_its_tokens(package, few, tmp_path):
    pooled = {"backbone": "derived", "source": "colours", "pool": 2}
    laid = {"backbone": "maps", "source": "colours"}
    params = params_of(few, {"colours": FEATURE, "pooled": pooled, "laid": laid})
    run(params, tmp_path, names="colours")
    assert derive(params, "small", "pooled", 0, tmp_path, print)["counts"] == {"ok": 6, "failed": 0}
    whole, found = (FeatureStore(feature_dir(params, "small", name, tmp_path)) for name in ("colours", "pooled"))
    wanted = whole.read(["3"], "colours")[0].astype(np.float32).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found.read(["3"], "colours")[0], wanted, atol=1e-3)


def test_one_of_rows_extracts_videos_of_any_length(package, few, tmp_path):
    package.write("module", ROWS)
    rows = FEATURE | {"backbone": "my_colours.module:Motion", "sampling": {"fps": 6}}
    params = params_of(few, {"motion": rows})
    run(params, tmp_path, names="motion")
    store = FeatureStore(feature_dir(params, "small", "motion", tmp_path))
    assert store.lengths("motion")["1"] == 18
    assert (store.read_rows("1", "motion", 0, 1) == 0).all(), "the first frame is compared with itself"
    assert (store.read_rows("1", "motion", 1, 18) > 0).all()


def test_one_of_texts_embeds_texts_and_refuses_some_by_name(package, tmp_path):
    package.write("module", TEXTS)
    (tmp_path / "words.txt").write_text("banana\nzebra\ncat\n", encoding="utf-8")
    letters = {"backbone": "my_colours.module:Letters", "weights": {"random": 0}, "max_failed": 0.5}
    params = params_of(tmp_path / "words.txt", {"letters": letters}, layout="texts")
    run(params, tmp_path, names="letters")
    store = FeatureStore(feature_dir(params, "small", "letters", tmp_path))
    assert store.read(["cat", "banana"], "letters").tolist() == [[3, 1], [6, 3]]
    assert store.failed == {"zebra": "'zebra' has a z; remove it"}


def test_a_vision_tower_of_transformers_is_a_kind_and_two_methods(package, tmp_path):
    package.write("module", TOWER)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    with seeded(1):
        transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    feature = of(backbone="my_colours.module:Vit", weights={"path": str(tmp_path)}).features["colours"]
    clip = np.random.default_rng(0).integers(0, 256, (4, 40, 60, 3), dtype=np.uint8)
    ours = backbones.load(feature)(torch.from_numpy(backbones.preprocessor(feature)(clip))[None])["cls"][0]
    pixels = transformers.ViTImageProcessor.from_pretrained(tmp_path)(list(clip), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        wanted = transformers.ViTModel.from_pretrained(tmp_path).eval()(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="holds no readable ViT weights"):
        backbones.load(feature)


# --- its key ----------------------------------------------------------------------------------------------------------


def test_its_key_moves_with_its_code_and_the_code_that_this_imports(package):
    before = key()
    package.change("module", "self.gain * means", "self.gain + means")
    changed = key()
    package.change("scale", "255", "256")
    assert len({before, changed, key()}) == 3


def test_a_comment_a_docstring_or_a_module_that_is_not_imported_moves_no_key(package):
    before = key()
    package.change("module", "mean colours of the quarters", "average colours of four parts")
    package.change("scale", "    return", "    # grey levels\n    return")
    package.write("other", "UNUSED = 1\n")
    assert key() == before


def test_its_own_options_are_in_its_key_and_tolerance_is_not(package):
    assert key(gain=2.0) != key() and key(batch=8) != key()
    assert key(max_failed=0.5) == key()


def test_where_its_weights_lie_is_not_in_its_key_and_what_they_are_is(package, tmp_path):
    package.change("module", "PixelFeature", "BackboneFeature")
    for name, content in {"one": b"a", "two": b"a", "three": b"b"}.items():
        (tmp_path / name).write_bytes(content)
    one, two, three = (key(weights={"path": str(tmp_path / name)}) for name in ("one", "two", "three"))
    assert one == two != three


def test_it_moves_no_other_key(package, monkeypatch):
    monkeypatch.chdir(ROOT)
    ours = load_params("params.yaml")
    document = json.loads(ours.model_dump_json())
    document["features"]["colours"] = FEATURE
    both = parse_params(document)
    assert {name: feature_key(both, name) for name in ours.features} == {
        name: feature_key(ours, name) for name in ours.features
    }


def test_a_part_of_params_that_a_job_is_given_has_the_same_key(package):
    params = of(gain=3.0)
    part = parse_params(json.loads(params.part(features=("colours",))))
    assert part.features == params.features and feature_key(part, "colours") == feature_key(params, "colours")


# --- how it is named --------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(package):
    """my_colours as an installed package that offers `colours`."""
    folder = package.folder.parent / "my_colours-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my_colours\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(
        "[permafrost.backbones]\ncolours = my_colours.module:Colours\n", encoding="utf-8"
    )
    plugins._offered.cache_clear()
    yield
    plugins._offered.cache_clear()


def test_an_installed_packages_entry_point_is_a_name_of_the_same_key(installed):
    assert key(backbone="colours") == key()
    assert type(backbones.load(of(backbone="colours").features["colours"])).__name__ == "Colours"


def test_a_module_of_its_own_needs_no_package(package, monkeypatch):
    alone = package.folder.parent / "my_colours_alone.py"
    alone.write_text(COLOURS.replace("from my_colours.scale import scaled", SCALE), encoding="utf-8")
    before = key(backbone="my_colours_alone:Colours")
    assert before != key()
    alone.write_text(alone.read_text(encoding="utf-8").replace("/ 255", "/ 256.0"), encoding="utf-8")
    assert key(backbone="my_colours_alone:Colours") != before
    monkeypatch.delitem(sys.modules, "my_colours_alone")


def test_a_line_in_our_table_names_one_of_ours_whose_model_lies_beside_it(package, monkeypatch):
    monkeypatch.setitem(BACKBONES, "colours", "my_colours.module:Colours")
    assert key(backbone="colours") == key()


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_ours_offer_what_is_asked_of_others(name):
    found = backbone_class(name)
    methods = {"clip_text": ["__call__"], "flow": ["rows", "preprocessor"], "i3d": ["rows", "preprocessor"]}
    for method in methods.get(name, ["__call__", "preprocessor", "token_times"]):
        assert callable(getattr(found, method))


def test_a_package_beside_params_is_found_by_the_installed_command_too(package, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(package.folder.parent))])
    monkeypatch.chdir(package.folder.parent)
    Path("params.yaml").write_text(json.dumps({"features": {"colours": FEATURE}}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["permafrost", "info"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, capsys.readouterr().err


# --- what is refused when params are read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Config(PixelFeature)", "class Options(PixelFeature)", r"module:Colours has no Config: give the class"),
        ("class Config(PixelFeature)", "class Config", r"has no Config: .* a subclass of pipeline.config's"),
        ("def token_times", "def times", r"module:Colours lacks token_times; docs/adding-a-backbone.md says"),
        ("def __call__", "def forward", r"lacks __call__;"),
        ("def preprocessor", "def prepare", r"lacks preprocessor;"),
        ("feature, device)", "feature)", r"cannot be made from \(feature, device\): too many positional arguments;"),
        ("class Colours", "class Colors", r"my_colours.module has no Colours; correct the name"),
        ("import scaled", "import scale", r"cannot be imported: ImportError: cannot import name 'scale'"),
        ("my_colours.scale", "my_scale", r"cannot be imported: No module named 'my_scale'; install the package"),
        ("class Colours:", "class Colours", r"cannot be imported: SyntaxError: expected ':'"),
    ],
)
def test_what_a_class_lacks_is_said_when_params_are_read(package, old, new, message):
    package.change("module", old, new)
    with pytest.raises(ParamsError) as told:
        of()
    assert re.fullmatch(rf".*cannot be used:\n  features\.colours: backbone [^\n]*{message}[^\n]*", str(told.value))


def test_a_package_that_is_not_there_is_said_when_params_are_read():
    with pytest.raises(ParamsError, match=r"features\.colours: backbone nowhere\.module:Colours cannot be imported: "):
        of(backbone="nowhere.module:Colours")


@pytest.mark.parametrize("name", [":", "a:", ":b", "a b:c", "../a:b", "my_colours:"])
def test_what_is_no_place_of_a_class_is_refused(package, name):
    with pytest.raises(ParamsError, match=r"features\.colours: backbone .*; write my_package.module:Name"):
        of(backbone=name)


def test_an_unknown_name_lists_ours_and_how_others_are_named():
    with pytest.raises(ParamsError, match=r"features\.colours\.backbone: expected one of .*, or a class of yours, my_"):
        of(backbone="colors")


def test_an_unknown_option_or_a_wrong_value_is_refused_by_its_dotted_name(package):
    with pytest.raises(ParamsError, match=r"features\.colours\.gian: unknown key"):
        of(gian=1.0)
    with pytest.raises(ParamsError, match=r"features\.colours\.gain: .*valid number, got 'much'"):
        of(gain="much")
    with pytest.raises(ParamsError, match=r"features\.colours: sampling must be \{frames: \.\.\.\}"):
        of(sampling={"fps": 2})


def test_code_without_a_source_has_no_key_and_says_so(package):
    package.folder.joinpath("__init__.py").unlink()
    package.forget()
    with pytest.raises(ParamsError, match=r"features\.colours: backbone my_.*source cannot be read.*an __init__.py"):
        key()


# --- what is refused before a sample is decoded -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("self.fields =", "self.shapes =", r"Colours has no fields; set them in its __init__"),
        (SHAPE, "(4, 4, 3)", r"fields\['colours'\] is \(4, 4, 3\), expected a shape and a dtype such as"),
        (SHAPE, '((4, 4, 3), "float61")', r"fields\['colours'\] is .*float61'\), expected"),
        (".mT\n", "\n", r"returned {'colours': \(2, 4, 3, 4\)} for 2 samples, and its fields .*\(2, 4, 4, 3\)}"),
        ('return {"colours"', 'return {"colors"', r"returned {'colors': .*make the two agree"),
        ("list(times)", "list(times[1:])", r"token_times gave 3 times, and its grid has 4 steps; give one a step"),
        ("return Pixels(f", "return lambda frames: Pixels(f", r"preprocessor cannot be sent to a decode process"),
    ],
)
def test_what_does_not_fit_is_said_before_a_sample_is_decoded(package, old, new, message):
    package.change("module", old, new)
    feature = of().features["colours"]
    with pytest.raises(BackboneError, match=message):
        backbones.load(feature)


def test_a_preprocessor_of_other_pixels_is_refused(package):
    package.change("module", "return Pixels(feature.preprocess.resize, feature.preprocess.crop)", "return abs")
    with pytest.raises(BackboneError, match=r"made \(4, 96, 128, 3\) of 4 frames, expected a numpy array \(4, 3, h"):
        backbones.load(of().features["colours"])


def test_a_preprocessor_that_fails_is_told_in_a_line(package):
    package.change("module", "return Pixels(feature.preprocess.resize, feature.preprocess.crop)", "return len.__name__")
    with pytest.raises(BackboneError, match=r"its preprocessor fails on frames of noise \(TypeError: 'str' object is"):
        backbones.load(of().features["colours"])


def test_a_stream_that_is_not_rgb_is_refused(package):
    package.write("module", ROWS.replace('{"rgb": (3,', '{"flow": (2,'))
    with pytest.raises(BackboneError, match=r"stream_sizes has \['flow'\], expected rgb alone"):
        backbones.load(of(backbone="my_colours.module:Motion", sampling={"fps": 6}).features["colours"])


def test_a_batch_that_comes_back_short_ends_the_job_in_one_line(package, few, tmp_path):
    package.change("module", "scaled(pixels_BTCHW)", "scaled(pixels_BTCHW[:3])")
    with pytest.raises(BackboneError, match=r"returned {'colours': \(3, 4, 4, 3\)} for 4 samples, and its fields"):
        run(params_of(few, {"colours": FEATURE}), tmp_path, names="colours")
