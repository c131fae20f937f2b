"""What a backbone is given where a person says its name and its weights alone. Loads no network.

A preset is no default of the code: what it chooses stands in the store's provenance, and in its key.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline import plugins, projects
from pipeline.config import AnyFeature, ParamsError, PixelFeature, TextFeature, Weights, parse_params
from pipeline.config.backbones import BACKBONES, GROUP
from pipeline.config.contents import architecture, size
from pipeline.config.documents import merged
from pipeline.limits import MOST_DECODED

MINI = "mini"
SHIPPED = projects.ROOT / "weights"
_HUB = "gated: accept its licence on the model's page at the hub, then `hf auth login`: "


@dataclass(frozen=True)
class Preset:
    """How one of our backbones is commonly used.

    Attributes:
        gives: what a sample is, for the list.
        settings: fields of its feature.
        get: how real weights are got; empty where it needs none.
        weights: the field that takes them.
        mini: the shipped ones, in weights/, and the settings that these need.
        side: keys of a checkpoint's config.json that lead to the side of its square pixels.
        frames: keys that may say how many frames a clip has, for models that read clips.
    """

    gives: str
    settings: Mapping[str, Any]
    get: str = ""
    weights: str = "weights"
    mini: str = ""
    mini_settings: Mapping[str, Any] = field(default_factory=dict)
    side: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()


PRESETS = {
    "clip": Preset(
        "the projected embedding, a unit vector (of each frame, where there are several)",
        {"output": "image_embed", "sampling": {"frames": 1}, "preprocess": {"resize": 224, "crop": [224, 224]}},
        "openai/clip-vit-base-patch16@57c216476eefef5ab752ec549e440a49ae4ae5f3",
        mini="mini-clip",
        side=("vision_config", "image_size"),
    ),
    "dinov3": Preset(
        "patch tokens of each frame, CLS tokens beside them",
        {"sampling": {"frames": 8}, "preprocess": {"resize": [224, 224]}},
        f"{_HUB}facebook/dinov3-vitb16-pretrain-lvd1689m@5931719e67bbdb9737e363e781fb0c67687896bc",
        mini="mini-dinov3",
        side=("image_size",),
    ),
    "flow": Preset(
        "a field of optical flow a frame, uint8, TV-L1",
        {"method": "tvl1", "sampling": {"fps": 25}, "preprocess": {"resize": 256, "crop": [224, 224]}},
    ),
    "hf": Preset(
        "tokens of any vision model of transformers, pixels as its own processor makes them",
        {"output": "tokens", "sampling": {"frames": 8}},
        "a folder with config.json, weights and preprocessor_config.json, such as "
        "facebook/dinov2-base@<commit>; --set output=cls, mean, pooler, projected or hidden:-2",
        frames=("num_frames", "frames_per_clip"),
    ),
    "i3d": Preset(
        "a row a frame, of the rgb stream",
        {"window": 16, "sampling": {"fps": 25}, "preprocess": {"resize": 256, "crop": [224, 224]}},
        "the public rgb_imagenet.pt",
        weights="rgb",
        mini="mini-i3d-rgb.safetensors",
        mini_settings={"sampling": {"fps": 12}, "preprocess": {"resize": [64, 64], "crop": None}},
    ),
    "r3d18": Preset(
        "the token grid of layer 4, a trous",
        {"sampling": {"frames": 32}, "preprocess": {"resize": [112, 112]}},
        "torchvision/R3D_18_Weights.KINETICS400_V1@b3b3357e, or the file r3d_18-b3b3357e.pth",
        mini="mini-r3d18.safetensors",
        mini_settings={"preprocess": {"resize": [64, 64]}},
    ),
    "timm": Preset(
        "tokens of any model of timm, pixels as its own data_config says",
        {"output": "tokens", "sampling": {"frames": 8}},
        "a folder in timm's format, such as timm/vit_small_patch14_dinov2.lvd142m@<commit>; --set output=cls, mean, "
        "pooler or hidden:-2",
    ),
    "vjepa2": Preset(
        "a token grid",
        {"sampling": {"frames": 16}, "preprocess": {"resize": [256, 256]}},
        "a checkpoint in transformers' format, such as facebook/vjepa2-vitl-fpc64-256@<commit>",
        side=("crop_size",),
    ),
}


@dataclass(frozen=True)
class Choice:
    """What shall be extracted.

    Attributes:
        name: of the feature: its backbone's, as a folder may be called.
        feature: in full.
        document: what params say of it: what differs from the defaults of its backbone.
        warnings: what everybody should know who uses the features.
    """

    name: str
    feature: AnyFeature
    document: Mapping[str, Any]
    warnings: tuple[str, ...]


def choose(
    backbone: str,
    weights: str | os.PathLike | Mapping[str, Any] | None = None,
    frames: int | None = None,
    fps: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Choice:
    """The feature that a backbone gives with a person's choices.

    Args:
        backbone: one of `offered()`, or `my_package.module:MyBackbone`.
        weights: a file or folder; OWNER/NAME@REVISION of a hub; random:SEED; "mini", the shipped ones; or the mapping
            that params have.
        frames: of each video; None leaves the preset's.
        fps: rows a second, of backbones that give a row a frame.
        settings: any fields of the feature, by dotted names: {"pool": 2, "preprocess.resize": [256, 256]}.

    Raises:
        ParamsError: weights that are missing or not there, settings that do not fit; names the option and the remedy.
    """
    preset = PRESETS.get(backbone)
    asked = _nested(settings or {})
    found, warnings = _weights(backbone, preset, weights, asked)
    document: dict[str, Any] = {"backbone": backbone}
    if preset is not None:
        document = merged(document, preset.settings)
        if weights == MINI:
            document = merged(document, preset.mini_settings)
        if side := found and preset.side and size(architecture(Weights(**found)), *preset.side):
            geometry = document["preprocess"]
            document["preprocess"] = {
                name: side if isinstance(of, int) else [side, side] for name, of in geometry.items()
            }
        clip = (size(architecture(Weights(**found)), key) for key in preset.frames) if found else ()
        if (count := next(filter(None, clip), None)) is not None:
            document["sampling"] = {"frames": count}
    if found is not None:
        document[preset.weights if preset else "weights"] = found
    if frames is not None or fps is not None:
        document["sampling"] = {name: of for name, of in (("frames", frames), ("fps", fps)) if of is not None}
    name = backbone.rpartition(":")[2].replace("-", "_").replace(".", "_")
    document = merged(document, asked)
    whole = {"max_failed": 1.0} | document  # every file is asked for by name: one that fails stops no other
    feature = parse_params({"features": {name: whole}}, "what was asked for").features[name]
    _expect_pixels_that_fit(feature, "--frames " if frames is not None else "--set sampling.frames=")
    if isinstance(feature, TextFeature) or feature.reads:
        raise ParamsError(f"--backbone {backbone} reads no video by itself; declare its feature in a params file")
    return Choice(name, feature, document, warnings)


def _expect_pixels_that_fit(feature: AnyFeature, option: str) -> None:
    """Raises ParamsError where no video's frames could be decoded: each would fail, one after the other."""
    count = feature.sampling.count if isinstance(feature, PixelFeature) else None
    # Where a processor of a library's own decides, each file is held to the same limit when it is decoded.
    height, width = feature.geometry.size if count and feature.geometry else (0, 0)
    if (asked := (count or 0) * height * width * 3) > MOST_DECODED:
        raise ParamsError(
            f"{option}{count}: the pixels of one video, {count} frames of {height} x {width} are {asked / 2**30:.1f} "
            f"GiB, and of a sample at most {MOST_DECODED >> 30} GiB; lower it"
        )


def offered() -> list[tuple[str, str, str]]:
    """(name, what a sample is, weights) of each backbone that can be asked for, ours and installed packages'."""
    rows = []
    for name, preset in sorted(PRESETS.items()):
        mini = f"; {MINI}: shipped, for trying" if preset.mini else ""
        rows.append((name, f"{preset.gives}; {_told(preset.settings)}", f"{preset.get or 'needs none'}{mini}"))
    others = {name: place for name, place in plugins.offered(GROUP).items() if name not in BACKBONES}
    return rows + [
        (name, f"of an installed package: {place}", "as that says") for name, place in sorted(others.items())
    ]


def _told(settings: Mapping[str, Any]) -> str:
    (sampled,) = settings["sampling"].items()
    if "preprocess" not in settings:
        return f"{sampled[0]} {sampled[1]}, its own preprocessing"
    resize, crop = settings["preprocess"]["resize"], settings["preprocess"].get("crop")
    return f"{sampled[0]} {sampled[1]}, resize {resize}{f', crop {crop}' if crop else ''}"


def _weights(
    backbone: str, preset: Preset | None, said: Any, asked: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The weights as params have them, and what to warn of."""
    if said is None:
        if preset is not None and preset.get and preset.weights not in asked:
            mini = f"; --weights {MINI} takes the shipped ones, which are for trying things only" if preset.mini else ""
            raise ParamsError(
                f"{backbone} has no default weights: say --weights PATH, or a hub's --weights "
                f"OWNER/NAME@REVISION ({preset.get}){mini}"
            )
        return None, ()
    if isinstance(said, Mapping):
        return dict(said), ()
    text = os.fspath(said)
    if text == MINI:
        return _mini(backbone, preset)
    if text.startswith("random:") and text.removeprefix("random:").isdecimal():
        return {"random": int(text.removeprefix("random:"))}, (
            f"{backbone} has random weights: its features mean nothing",
        )
    path = os.path.expanduser(text)
    if os.path.exists(path):
        return {"path": path}, ()
    hub, at, revision = text.rpartition("@")
    if at and hub and revision:
        return {"hub": hub, "revision": revision}, ()
    raise ParamsError(
        f"--weights {text}: there is no such file or folder, and it is no OWNER/NAME@REVISION of a hub (the revision "
        f"is part of it, so that the weights cannot change), no random:SEED and not {MINI!r}"
    )


def _mini(backbone: str, preset: Preset | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    path = SHIPPED / preset.mini if preset and preset.mini else None
    if path is None:
        known = ", ".join(name for name, of in PRESETS.items() if of.mini)
        raise ParamsError(
            f"--weights {MINI}: none are shipped for {backbone}, only for {known}; give a path or a hub's id"
        )
    if not path.exists():
        raise ParamsError(f"--weights {MINI}: {path} is not there; they are in the repository's folder weights/")
    return {"path": str(path)}, (
        f"{backbone} has the shipped mini weights, which know the rendered toy world and nothing else: use its "
        "features to try things, never as results on real videos",
    )


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"preprocess.resize": 256} -> {"preprocess": {"resize": 256}}."""
    found: dict[str, Any] = {}
    for dotted, value in settings.items():
        for part in reversed(dotted.split(".")):
            value = {part: value}
        found = merged(found, value)
    return found
