"""What a backbone's name, its weights and a few options make: the very feature that params would declare."""

import pytest

from pipeline.config import ParamsError, PixelFeature, feature_key, parse_params
from pipeline.config.backbones import BACKBONES
from pipeline.features_only import choose, offered
from pipeline.features_only.presets import PRESETS, SHIPPED


class Own:
    """Somebody else's backbone, as params may name it."""

    class Config(PixelFeature):
        backbone: str
        gain: float = 1.0

    def __init__(self, feature, device): ...
    def preprocessor(self): ...
    def token_times(self): ...
    def __call__(self): ...


def test_a_backbone_of_ones_own_is_named_by_its_place_and_says_itself_what_it_takes():
    place, size = f"{__name__}:Own", {"preprocess.resize": [16, 16]}
    choice = choose(place, frames=2, settings=size | {"gain": 2.0})
    assert (choice.name, choice.feature.gain, choice.feature.sampling.frames) == ("Own", 2.0, 2)
    with pytest.raises(ParamsError, match=r"features.Own.*weights: unknown key"):
        choose(place, "random:0", frames=2, settings=size)


def test_the_key_is_that_of_the_same_feature_in_params():
    declared = {
        "backbone": "dinov3",
        "weights": {"path": str(SHIPPED / "mini-dinov3")},
        "sampling": {"frames": 4},
        "preprocess": {"resize": [128, 128]},
        "pool": 2,
    }
    params = parse_params({"features": {"patches": declared}})
    choice = choose("dinov3", "mini", frames=4, settings={"pool": 2})
    chosen = params.model_copy(update={"features": {"mine": choice.feature}})
    assert feature_key(chosen, "mine") == feature_key(params, "patches")
    assert choice.name == "dinov3" and "shipped mini weights" in choice.warnings[0]


def test_a_model_of_a_library_brings_its_own_pixels_and_the_frames_of_its_clips(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "videomae", "num_frames": 16}', encoding="utf-8")
    feature = choose("hf", tmp_path).feature
    assert (feature.sampling.frames, feature.output, feature.preprocess) == (16, "tokens", None)
    rows = choose("timm", tmp_path, fps=5.0, settings={"output": "cls"}).feature
    assert rows.ragged and rows.sampling.fps == 5.0
    with pytest.raises(ParamsError, match="weights are random, so architecture must say of what"):
        choose("hf", "random:0")
    assert choose("hf", "random:0", settings={"architecture": {"model_type": "vit"}}).warnings


@pytest.mark.parametrize("backbone", [name for name, of in PRESETS.items() if of.mini])
def test_mini_weights_come_with_the_geometry_that_they_know(backbone):
    size = {"dinov3": 128, "clip": 128, "r3d18": 64, "i3d": 64}[backbone]
    assert choose(backbone, "mini").feature.preprocess.size == (size, size)


def test_more_frames_than_one_video_may_ever_have_at_once_are_refused_before_any_file():
    with pytest.raises(
        ParamsError, match=r"^--frames 1000000: .* of 128 x 128 are 45\.8 GiB, .* at most 8 GiB; lower it"
    ):
        choose("dinov3", "mini", frames=1_000_000)
    with pytest.raises(ParamsError, match=r"^--set sampling\.frames=1000000: "):
        choose("dinov3", "mini", settings={"sampling": {"frames": 1_000_000}})
    assert choose("dinov3", "mini", frames=1000).feature.sampling.frames == 1000


def test_weights_are_a_path_a_hub_or_random_and_each_says_so(tmp_path):
    hub = "facebook/dinov3-vitb16-pretrain-lvd1689m@5931719"
    assert choose("dinov3", hub).feature.weights.model_dump(exclude_none=True) == {
        "hub": "facebook/dinov3-vitb16-pretrain-lvd1689m", "revision": "5931719"
    }  # fmt: skip
    assert choose("dinov3", hub).feature.preprocess.size == (224, 224)
    assert choose("r3d18", tmp_path).feature.weights.path == str(tmp_path)
    random = choose("vjepa2", "random:7")
    assert random.feature.weights.random == 7 and "its features mean nothing" in random.warnings[0]
    assert choose("flow", settings={"method": "dis"}).feature.method == "dis"


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (
            "dinov3",
            {},
            r"dinov3 has no default weights: say --weights PATH, .*`hf auth login`.*--weights mini takes the",
        ),
        ("vjepa2", {"weights": "mini"}, "none are shipped for vjepa2, only for clip, dinov3, i3d, r3d18"),
        ("dinov3", {"weights": "absent/folder"}, "there is no such file or folder, and it is no OWNER/NAME@REVISION"),
        ("dinov4", {"weights": "random:0"}, "features.dinov4.backbone: expected one of 'dinov3'"),
        ("dinov3", {"weights": "random:0", "fps": 5.0}, "sampling must be {frames: ...}: its samples have one shape"),
        ("dinov3", {"weights": "random:0", "settings": {"pol": 2}}, "features.dinov3.*pol: unknown key"),
        ("clip_text", {"weights": "random:0", "settings": {"prompts": ["{}"]}}, "reads no video by itself"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(backbone, options, message):
    with pytest.raises(ParamsError, match=message):
        choose(backbone, **options)


def test_every_backbone_of_ours_that_reads_videos_is_offered_and_installed_ones_too(monkeypatch):
    assert PRESETS.keys() == BACKBONES.keys() - {"clip_text"}
    monkeypatch.setattr("pipeline.plugins._offered", lambda group: {"colours": "my_colours.module:Colours"})
    assert [name for name, *_ in offered()] == [*sorted(PRESETS), "colours"]
    assert "my_colours.module:Colours" in offered()[-1][1]
