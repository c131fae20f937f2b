"""What published models of transformers and timm give: tokens, vectors and bytes a sample, from their configs alone.

    python -m benchmarks.backbones [--write]

Prints the table of docs/backbones.md, or writes it there. Networks are made on the `meta` device: no weight is drawn or
read, so that models of billions of parameters take a second.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from benchmarks._harness import page_table
from pipeline import backbones
from pipeline.config import parse_params

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
START, END = "<!-- python -m benchmarks.backbones --write -->\n", "<!-- end -->\n"
FRAMES = 8  # of a video, of which a picture model sees one at a time


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        name: at the hub.
        architecture: the fields of its config that are not transformers' defaults, or timm's name.
        frames: of a sample.
        preprocess: where it is not the default of its preprocessor.
    """

    name: str
    architecture: dict[str, Any] | str
    frames: int = FRAMES
    preprocess: dict[str, Any] = field(default_factory=dict)

    def feature(self, output: str) -> Any:
        document = {
            "backbone": "timm" if isinstance(self.architecture, str) else "hf",
            "weights": {"random": 0},
            "architecture": self.architecture,
            "output": output,
            "sampling": {"frames": self.frames},
        }
        document |= {"preprocess": self.preprocess} if self.preprocess else {}
        return parse_params({"features": {"any": document}}).features["any"]


def vit(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    """The sizes of a ViT, whose feed-forward is four times as wide unless `more` says otherwise."""
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return sizes | {"intermediate_size": 4 * width} | more


SMALL, BASE, LARGE = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
DINOV2 = {"model_type": "dinov2", "patch_size": 14, "image_size": 518}
DINOV3 = {"model_type": "dinov3_vit", "patch_size": 16, "num_register_tokens": 4}
SIGLIP = {"model_type": "siglip_vision_model"}
CONVNEXT = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}


def clip(width: int, layers: int, heads: int, patch: int, shared: int) -> dict[str, Any]:
    return {
        "model_type": "clip",
        "vision_config": vit(width, layers, heads, patch_size=patch),
        "projection_dim": shared,
    }


TABLE = [
    Published("facebook/dinov2-small", DINOV2 | vit(*SMALL)),
    Published("facebook/dinov2-base", DINOV2 | vit(*BASE)),
    Published("facebook/dinov2-large", DINOV2 | vit(*LARGE)),
    Published("facebook/dinov2-giant", DINOV2 | vit(1536, 40, 24, use_swiglu_ffn=True)),
    Published(
        "facebook/dinov2-with-registers-base",
        DINOV2 | {"model_type": "dinov2_with_registers", "num_register_tokens": 4} | vit(*BASE),
    ),
    Published("facebook/dinov3-vitb16-pretrain-lvd1689m", DINOV3 | vit(*BASE)),
    Published("facebook/dinov3-vitl16-pretrain-lvd1689m", DINOV3 | vit(*LARGE)),
    Published(
        "facebook/dinov3-vit7b16-pretrain-lvd1689m",
        DINOV3 | vit(4096, 40, 32, intermediate_size=8192, use_gated_mlp=True, query_bias=False, value_bias=False),
    ),
    Published("facebook/dinov3-convnext-tiny-pretrain-lvd1689m", {"model_type": "dinov3_convnext"} | CONVNEXT),
    Published("google/siglip2-base-patch16-224", SIGLIP | vit(*BASE, image_size=224, patch_size=16)),
    Published(
        "google/siglip2-large-patch16-256",
        SIGLIP | vit(*LARGE, image_size=256, patch_size=16),
        preprocess={"resize": [256, 256]},
    ),
    Published(
        "google/siglip2-so400m-patch14-384",
        SIGLIP | vit(1152, 27, 16, intermediate_size=4304, image_size=384, patch_size=14),
        preprocess={"resize": [384, 384]},
    ),
    Published("openai/clip-vit-base-patch16", clip(*BASE, 16, 512)),
    Published("openai/clip-vit-large-patch14", clip(*LARGE, 14, 768)),
    Published("google/vit-base-patch16-224-in21k", {"model_type": "vit"} | vit(*BASE)),
    Published("facebook/vit-mae-base", {"model_type": "vit_mae"} | vit(*BASE)),
    Published(
        "microsoft/swin-tiny-patch4-window7-224",
        {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    ),
    Published("MCG-NJU/videomae-base", {"model_type": "videomae", "num_frames": 16} | vit(*BASE), 16),
    Published(
        "google/vivit-b-16x2-kinetics400", {"model_type": "vivit", "num_frames": 32, "tubelet_size": [2, 16, 16]}, 32
    ),
    Published("facebook/timesformer-base-finetuned-k400", {"model_type": "timesformer", "num_frames": 8}, 8),
    Published(
        "facebook/vjepa2-vitl-fpc64-256",
        {"model_type": "vjepa2", "crop_size": 256, "hidden_size": 1024, "num_hidden_layers": 24}
        | {"num_attention_heads": 16, "frames_per_clip": 64},
        64,
        {"resize": 292, "crop": [256, 256]},
    ),
    Published("timm/vit_small_patch14_reg4_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2.lvd142m"),
    Published("timm/vit_base_patch16_siglip_224.v2_webli", "vit_base_patch16_siglip_224.v2_webli"),
    Published("timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k"),
    Published("timm/convnextv2_base.fcmae_ft_in22k_in1k", "convnextv2_base.fcmae_ft_in22k_in1k"),
    Published("timm/swin_base_patch4_window7_224.ms_in22k", "swin_base_patch4_window7_224.ms_in22k"),
    Published("timm/resnet50.a1_in1k", "resnet50.a1_in1k"),
]  # fmt: skip


def row(model: Published) -> str:
    """A line of the table."""
    tokens = backbones.load(model.feature("tokens"), "meta")
    ((shape, _),) = tokens.fields.values()
    bytes_each = 2 * prod(shape)
    vectors = ", ".join(f"{name} {width}" for name, width in tokens.vectors.items())
    kind = "timm" if isinstance(model.architecture, str) else "hf"
    return (
        f"| `{model.name}` | {kind} | {_count(tokens.parameters)} | {model.frames} x {tokens.size[0]} x "
        f"{tokens.size[1]} | {shape} | {_megabytes(bytes_each)} | {vectors} |"
    )


def lines() -> Iterator[str]:
    """The table, line by line."""
    yield "| checkpoint | backbone | parameters | frames and pixels | `tokens` | a sample | vectors and their widths |"
    yield "|---|---|---|---|---|---|---|"
    yield from map(row, TABLE)


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size < 1e7 else f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    page_table(PAGE, START, END, lines())
