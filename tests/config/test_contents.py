"""Claims about what features give and heads read: what cannot fit is refused when params are read."""

# ruff: noqa: E501  (messages, a line each)

import copy
import os
import shutil
from pathlib import Path

import pytest

from pipeline.config import NpyFeature, ParamsError, load_params, parse_params
from pipeline.config.contents import Cams, Maps, Rows, Tokens, Vectors, architecture, may_be_same
from pipeline.config.features import BaseFeature, Weights
from tests.config.shipped import shipped

ROOT = Path(__file__).parents[2]
EVEN = {"sampling": {"frames": 8}, "preprocess": {"resize": [128, 128]}}
MINI = {"path": "weights/mini-dinov3"}
CLIP = {"weights": {"path": "weights/mini-clip"}, "sampling": {"frames": 1}}
CLIP |= {"preprocess": {"resize": 128, "crop": [128, 128]}}
# Features beside those of params.yaml, each a misfit somewhere.
MORE = {
    "rows": {"backbone": "npy", "root": "data", "orientation": "TD", "width": 64, "fps": 12.0},
    "four_steps": {"backbone": "dinov3", "weights": MINI, **EVEN, "sampling": {"frames": 4}},
    "cropped": {"backbone": "dinov3", "weights": MINI, **EVEN, "preprocess": {"resize": 160, "crop": [128, 128]}},
    "wider_cropped": {"backbone": "dinov3", "weights": MINI, **EVEN, "preprocess": {"resize": 140, "crop": [128, 128]}},
    "coarse": {"backbone": "dinov3", "weights": MINI, **EVEN, "preprocess": {"resize": [96, 96]}},
    "pooled": {"backbone": "r3d18", "weights": {"random": 0}, "pooled": True, "atrous": False, **EVEN},
    "other_clips": {
        "backbone": "r3d18", "weights": {"path": "weights/mini-r3d18.safetensors"}, "layer": 3, "atrous": False,
        "sampling": {"frames": 32}, "preprocess": {"resize": [64, 64]},
    },
    "same_clips": {
        "backbone": "r3d18", "weights": {"random": 1}, "sampling": {"frames": 32},
        "preprocess": {"resize": [64, 64]},
    },
    "maps_of_patches": {"backbone": "maps", "source": "dinov3_patches"},
    "fine_masks": {"backbone": "maps", "source": "clip_cam", "scale": 2},
    "coloured_masks": {"backbone": "maps", "source": "clip_cam", "scale": 1, "channels": 3},
    "clip_frames": {"backbone": "clip", "output": "image_embed", **CLIP, "sampling": {"frames": 2}},
    "other_image": {"backbone": "clip", "output": "image_embed", **CLIP, "weights": {"random": 0}},
    "other_text": {"backbone": "clip_text", "weights": {"random": 0}, "prompts": ["{}"]},
    "other_tokens": {"backbone": "clip", "output": "cam_tokens", **CLIP, "weights": {"random": 0}},
    "other_cam": {
        "backbone": "clip_cam", "source": "other_tokens",
        "texts": {"dataset": "toy-waterbirds-classes", "feature": "other_text"},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def document(**features) -> dict:
    """params.yaml with the features above and others, and no study."""
    found = copy.deepcopy(shipped()) | {"ablations": {}, "claims": {}}
    found["features"] |= {**MORE, **features}
    return found


def put(node: dict, dotted: str, value) -> None:
    *path, last = dotted.split(".")
    for part in path:
        node = node[part]
    node[last] = value


# Changes of a head, then what both sides are, and what to do.
MISFITS = [
    (
        "gasm_cast", {"features.semantic": "rows"},
        r"features\.semantic names 'rows', which gives rows of frames \(64 wide\); expected a grid of tokens: name "
        r"another feature \(dinov3_patches, dinov3_full, ",
    ),
    ("gasm_cast", {"features.motion": "pooled"}, r"features\.motion names 'pooled', which gives vectors; expected a grid"),
    ("gasm_cast", {"features.semantic": "clip_text"}, r"gives embeddings of texts \(128 wide\); expected a grid of tokens"),
    ("gasm_cast", {"features.motion": "i3d_flow"}, r"gives optical flow; expected a grid of tokens"),
    ("gasm_cast", {"features.motion": "clip_cam_tokens"}, r"gives the input of a block \(1 steps, 8 x 8, 128 wide\)"),
    ("gasm_cast", {"features.semantic": "attention_maps"}, r"gives maps on r3d18_clips \(8 steps, 8 x 8\); expected"),
    (
        "gasm_cast", {"features.semantic": "four_steps"},
        r"features\.semantic \(four_steps\) has the steps 4 and \S*features\.motion \(r3d18_clips\) the steps 8; they are "
        "read step by step: choose their sampling so that both have the same steps",
    ),
    (
        "gasm_cast", {"features.semantic": "cropped"},
        r"\(cropped\) has the height, width in shorter sides 0\.8, 0\.8 and \S* \(r3d18_clips\) the top, left, bottom, right "
        "of the frame 0, 0, 1, 1; cells and patches must lie on each other: give both the same crop",
    ),
    (
        "gasm_cast", {"features.semantic": "coarse"},
        r"\(coarse\) has a grid of 6 x 6 and \S* \(r3d18_clips\) one of 4 x 4, expected the first to be a whole multiple",
    ),
    (
        "gasm_cast", {"model.fusion": "vanilla", "model.attention_heads": 3, "model.width": 48, "model.bottleneck": 48},
        r"\(dinov3_patches\) is 128 wide, expected a multiple of 4, .* and of 3 attention_heads",
    ),
    ("gasm_cast", {"dataset": "toy-assembly"}, r"dataset names 'toy-assembly', whose layout mstcn labels frames, and this"),
    ("gasm_cast", {"dataset": "toy-assembly-texts"}, r"names 'dinov3_patches', but toy-assembly-texts holds texts; name"),
    ("fact", {"features.frames": "r3d18_clips"}, r"gives tokens \(8 steps, 4 x 4\); expected a row a frame: .* \(i3d_frames"),
    ("fact", {"features.frames": "i3d_flow"}, r"gives optical flow; expected a row a frame"),
    ("fact", {"dataset": "toy-ssv2"}, r"dataset names 'toy-ssv2', whose layout ssv2 labels samples, and this head learns"),
    (
        "fact_clip", {"vocabulary.feature": "clip_image"},
        r"vocabulary\.feature names 'clip_image', which gives vectors \(128 wide\); expected embeddings of texts: name",
    ),
    ("fact_clip", {"vocabulary.dataset": "toy-ssv2"}, r"vocabulary\.feature names 'clip_text', but toy-ssv2 holds videos"),
    ("fact_clip", {"unseen": "held"}, r"unseen names the list 'held'; the class_lists of toy-assembly are \['held_out', 'held_out_half'\]"),
    ("clip_align", {"features.tokens": "i3d_frames"}, r"features\.tokens names 'i3d_frames', which gives rows of frames"),
    ("clip_align", {"features.maps": "r3d18_clips"}, r"gives tokens \(8 steps, 4 x 4\); expected maps \(backbone: maps\)"),
    (
        "clip_align", {"features.maps": "maps_of_patches"},
        r"features\.maps \(maps_of_patches\) lies on the grid of dinov3_patches, but \S*features\.tokens \(r3d18_clips\) is "
        "read; let the source of the maps be what the head reads as tokens",
    ),
    ("clip_align", {"features.tokens": "other_clips"}, r"lies on the grid of r3d18_clips, but \S* \(other_clips\) is read"),
    ("clip_align", {"dataset": "toy-ssv2"}, r"'attention_maps', but toy-ssv2 has no maps: its layout ssv2 lists none"),
    ("negalign", {"features.image": "dinov3_patches"}, r"features\.image names 'dinov3_patches', .*\); expected a vector a sample"),
    ("negalign", {"features.image": "clip_frames"}, r"\(clip_frames\) gives vectors \(2 steps, 128 wide\), expected one"),
    ("negalign", {"features.image": "r3d18_clips"}, r"gives tokens \(8 steps, 4 x 4\); expected a vector a sample"),
    ("negalign", {"features.cam": "clip_cam_tokens"}, r"gives the input of a block .*; expected class-activation maps"),
    ("negalign", {"features.cam": "object_masks"}, r"gives maps on clip_cam \(1 steps, 8 x 8\); expected class-activation"),
    (
        "negalign", {"features.image": "other_image"},
        r"features\.image \(other_image\) has the checkpoint random 0 and \S*features\.cam \(clip_cam\) the checkpoint "
        "weights/mini-clip; pictures and texts are compared: embed them with one checkpoint",
    ),
    ("negalign", {"features.cam": "other_cam"}, r"\(clip_image\) has the checkpoint weights/mini-clip and \S* \(other_cam\)"),
    ("negalign", {"classes.feature": "other_text"}, r"and \S*classes\.feature \(other_text\) the checkpoint random 0"),
    ("negalign", {"words.feature": "clip_image"}, r"words\.feature names 'clip_image', which gives vectors"),
    ("negalign", {"words.roles.plain": "other_text"}, r"and \S*words\.roles\.plain \(other_text\) the checkpoint random"),
    ("negalign", {"words.dataset": "toy-waterbirds"}, r"names 'clip_text_negatives', but toy-waterbirds holds pictures"),
    ("negalign", {"features.masks": "fine_masks"}, r"\(clip_cam\) has the grid 8 x 8 and \S* \(fine_masks\) the grid 16 x 16"),
    ("negalign", {"features.masks": "coloured_masks"}, r"\(coloured_masks\) has 3 channels, expected 1"),
    ("negalign", {"features.masks": "attention_maps"}, r"\(clip_cam\) has the height, width in shorter sides 1, 1 and"),
    ("negalign", {"ood": {"far": "toy-waterbirds-classes"}}, r"'clip_image', but toy-waterbirds-classes holds texts"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "changes", "message"), MISFITS, ids=[f"{h}-{c}" for h, c, _ in MISFITS])
def test_what_does_not_fit_is_refused_when_params_are_read_with_both_sides_and_the_remedy(head, changes, message):
    written = document()
    for dotted, value in changes.items():
        put(written["heads"][head], dotted, value)
    with pytest.raises(ParamsError, match=message) as error:
        parse_params(written)
    assert f"heads.{head}." in str(error.value) and len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(("head", "changes", "message"), MISFITS[:8], ids=str)
def test_an_ablations_variant_is_refused_alike_and_named(head, changes, message):
    written = document()
    written["ablations"] = {"a": {"head": head, "seeds": [0], "variants": {"worse": changes}}}
    with pytest.raises(ParamsError, match=f"ablations.a.variants.worse: .*{message}"):
        parse_params(written)


def test_all_that_is_shipped_fits(monkeypatch):
    for path in [ROOT / "params.yaml", *sorted(ROOT.glob("configs/*.yaml"))]:
        load_params(path)
    parse_params(document())


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (
            {"backbone": "r3d18", "weights": {"random": 0}, **EVEN, "sampling": {"frames": 6}},
            r"features\.made\.sampling\.frames is 6, and a step is of 4 frames; make it a multiple of 4",
        ),
        (
            {"backbone": "dinov3", "weights": MINI, **EVEN, "preprocess": {"resize": [100, 128]}},
            r"features\.made\.preprocess gives 100 x 128 pixels, no whole number of tokens of 16 pixels",
        ),
        (
            {"backbone": "clip", "output": "image_embed", **CLIP, "preprocess": {"resize": [64, 64]}},
            r"features\.made\.preprocess gives 64 x 64 pixels, and the checkpoint sees 128 x 128; make crop \(or resize\)",
        ),
        ({"backbone": "derived", "source": "pooled", "pool": 2}, r"features\.made\.source names 'pooled', which has no token"),
        ({"backbone": "maps", "source": "clip_image"}, r"features\.made\.source names 'clip_image', which has no token grid"),
        ({"backbone": "derived", "source": "odd", "pool": 2}, r"features\.made\.pool is 2, which does not divide the 7 x 7"),
        (
            {
                "backbone": "clip_cam", "source": "clip_cam_tokens",
                "texts": {"dataset": "toy-waterbirds-classes", "feature": "other_text"},
            },
            r"features\.made \(made\) has the checkpoint weights/mini-clip and features\.made\.texts \(other_text\)",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_feature_that_cannot_be_made_is_refused_when_params_are_read(feature, message):
    odd = {"backbone": "dinov3", "weights": MINI, **EVEN, "preprocess": {"resize": [112, 112]}}
    with pytest.raises(ParamsError, match=message):
        parse_params(document(odd=odd, made=feature))


def test_imported_rows_of_no_rate_are_refused_where_labels_have_one():
    place = {"backbone": "imported", "form": "hdf5", "root": "rows.h5", "content": "rows", "width": 64}
    written = document(bag=place, timed=place | {"fps": 12.0})
    put(written["heads"]["fact"], "features.frames", "bag")
    with pytest.raises(
        ParamsError, match=r"'bag', whose fps is not set, and toy-assembly has 12 labels a second; set fps"
    ):
        parse_params(written)
    put(written["heads"]["fact"], "features.frames", "timed")
    assert parse_params(written).gives("timed") == {"rows": Rows(64, 12.0)}


def test_what_cannot_be_known_before_extraction_is_not_refused():
    hub = {"hub": "facebook/dinov3-vitb16-pretrain-lvd1689m", "revision": "0" * 40}
    unknown = {"backbone": "dinov3", "weights": hub, **EVEN, "preprocess": {"resize": [96, 96]}}
    written = document(unknown=unknown)
    put(written["heads"]["gasm_cast"], "features.semantic", "unknown")
    put(written["heads"]["clip_align"], "features.tokens", "same_clips")
    params = parse_params(written)
    assert params.gives("unknown")["patch_tokens"] == Tokens(
        8, None, None, params.gives("dinov3_full")["patch_tokens"].part
    )


def test_a_feature_that_does_not_say_what_it_gives_is_read_by_anybody(monkeypatch):
    monkeypatch.setattr(NpyFeature, "gives", BaseFeature.gives)
    written = document()
    put(written["heads"]["gasm_cast"], "features.motion", "rows")
    assert parse_params(written).gives("rows") is None


def test_features_made_from_others_give_what_these_give():
    params = parse_params(document())
    tokens = {name: params.gives(name)["patch_tokens"] for name in ("dinov3_full", "dinov3_int8", "dinov3_pool_int8")}
    assert [of.grid for of in tokens.values()] == [(8, 8), (8, 8), (4, 4)] and {of.steps for of in tokens.values()} == {
        8
    }
    maps = params.gives("attention_maps")["maps"]
    assert (maps.source, maps.steps, maps.grid, maps.channels) == ("r3d18_clips", 8, (8, 8), 1)
    assert isinstance(params.gives("clip_cam")["map"], Cams) and isinstance(maps, Maps)
    assert params.gives("rows")["frames"] == Rows(64, 12.0)
    assert params.gives("clip_frames")["image_embed"] == Vectors(128, 2, params.features["clip_frames"].weights)


def test_a_checkpoint_is_one_wherever_it_lies(tmp_path):
    shutil.copytree("weights/mini-clip", tmp_path / "copy")
    here, there = Weights(path="weights/mini-clip"), Weights(path=str(tmp_path / "copy"))
    assert may_be_same(here, there) and not may_be_same(here, Weights(path="weights/mini-dinov3"))
    hub = Weights(hub="openai/clip-vit-base-patch16", revision="1")
    assert may_be_same(here, hub) and may_be_same(here, Weights(path="not/here"))
    assert not may_be_same(hub, Weights(hub="openai/clip-vit-base-patch32", revision="1"))
    assert not may_be_same(Weights(random=0), Weights(random=1)) and not may_be_same(here, Weights(random=0))


def test_an_architecture_is_read_again_where_it_is_replaced_and_is_unknown_where_it_is_none(tmp_path):
    weights = Weights(path=str(tmp_path))
    assert architecture(weights) == {}
    (tmp_path / "config.json").write_text("[", encoding="utf-8")
    assert architecture(weights) == {}
    (tmp_path / "config.json").write_text('{"hidden_size": 8}', encoding="utf-8")
    os.utime(tmp_path / "config.json", ns=(1, 1))
    assert architecture(weights) == {"hidden_size": 8}
    assert architecture(Weights(path="weights/mini-r3d18.safetensors")) == architecture(Weights(random=0)) == {}


def test_every_kind_of_feature_says_what_it_gives():
    kinds = {type(of) for of in parse_params(document()).features.values()}
    assert [kind.__name__ for kind in kinds if kind.gives is BaseFeature.gives] == []
