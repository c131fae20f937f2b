"""Claims about what features say before extraction: it is what their backbones then give, field by field."""

from pathlib import Path

import pytest

from pipeline import backbones
from pipeline.config import parse_params
from pipeline.config.contents import Flow, Hidden, Rows, Texts, Tokens, Vectors

ROOT = Path(__file__).parents[2]
EVEN = {"sampling": {"frames": 8}, "preprocess": {"resize": [128, 128]}}
WINDOWS = {"sampling": {"frames": 8, "fps": 12.0, "windows": 3}, "preprocess": {"resize": [64, 80]}}
CLIP = {"backbone": "clip", "weights": {"path": "weights/mini-clip"}, "preprocess": {"resize": [128, 128]}}
R3D18 = {"backbone": "r3d18", "weights": {"path": "weights/mini-r3d18.safetensors"}}
FEATURES = {
    "patches": {"backbone": "dinov3", "weights": {"path": "weights/mini-dinov3"}, **EVEN, "pool": 2},
    "layer_4": R3D18 | WINDOWS,
    "layer_4_strided": R3D18 | WINDOWS | {"atrous": False},
    "layer_3": R3D18 | WINDOWS | {"layer": 3, "atrous": False},
    "pooled": R3D18 | EVEN | {"pooled": True, "atrous": False},
    "pooled_windows": R3D18 | WINDOWS | {"pooled": True, "atrous": False},
    "image": CLIP | {"output": "image_embed", "sampling": {"frames": 1}},
    "images": CLIP | {"output": "image_embed", "sampling": {"frames": 3}},
    "hidden": CLIP | {"output": "cam_tokens", "sampling": {"frames": 1}},
    "hiddens": CLIP | {"output": "cam_tokens", "sampling": {"frames": 3}},
    "text": {"backbone": "clip_text", "weights": {"path": "weights/mini-clip"}, "prompts": ["{}"]},
    "flow": {"backbone": "flow", "method": "dis", "sampling": {"fps": 12.0}, "preprocess": {"resize": [64, 64]}},
    "rows": {
        "backbone": "i3d", "rgb": {"path": "weights/mini-i3d-rgb.safetensors"}, "sampling": {"fps": 12.0},
        "preprocess": {"resize": [64, 64]},
    },
}  # fmt: skip


def shape(content) -> tuple:
    """The shape of a sample that a content says; None of an axis that it does not know."""
    cells = None if getattr(content, "grid", None) is None else content.grid[0] * content.grid[1]
    match content:
        case Tokens():
            return content.steps, cells, content.width
        case Vectors():
            return (content.width,) if content.steps is None else (content.steps, content.width)
        case Rows():
            return None, content.width
        case Texts():
            return (content.width,)
        case Hidden():
            rest = (cells and cells + 1, content.width)
            return rest if content.steps == 1 else (content.steps, *rest)
        case Flow():
            return None, 2, None, None


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_says_what_its_backbone_gives(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    params = parse_params({"features": {name: FEATURES[name]}})
    backbone, said = backbones.load(params.features[name]), params.gives(name)
    assert said.keys() == backbone.fields.keys()
    for field, (made, _) in backbone.fields.items():
        told = shape(said[field])
        assert len(told) == len(made)
        assert all(one in (None, other) for one, other in zip(told, made, strict=True)), (told, made)
    grids = [content.grid for content in said.values() if isinstance(content, Tokens | Hidden)]
    assert all(grid == tuple(backbone.grid[1:]) for grid in grids)


def test_what_params_and_local_checkpoints_tell_is_known(monkeypatch):
    monkeypatch.chdir(ROOT)
    known = {name for name, of in FEATURES.items() if "r3d18" not in str(of) and of["backbone"] not in ("i3d", "flow")}
    params = parse_params({"features": {name: FEATURES[name] for name in known}})
    for name in known:
        assert all(None not in shape(content) for content in params.gives(name).values()), name
