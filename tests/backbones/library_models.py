"""Tiny models of transformers and timm in their own formats, with random weights and their own preprocessors."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.backbones.base import seeded
from tests.later import Later

transformers = Later("transformers")

timm = Later("timm")

VIT = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
CONV = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
WINDOWED = {
    "image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1, 1], "num_heads": [2, 2, 2], "window_size": 4
}  # fmt: skip
SQUARE = {"size": {"height": 32, "width": 32}}
SHORTER = {"size": {"shortest_edge": 64}}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}


@dataclass(frozen=True)
class Tiny:
    """A model of transformers.

    Attributes:
        kind: its model_type.
        config: fields of its config.
        processor: the class of its preprocessor, and its arguments.
        has: its outputs, apart from hidden:N.
        prefix: tokens before the patches.
        grid: steps, rows and columns of tokens, of a picture or a clip of 4 frames.
    """

    kind: str
    processor: tuple[str, dict[str, Any]]
    config: dict[str, Any] = field(default_factory=lambda: VIT)
    has: str = "cls mean pooler tokens"
    prefix: int = 1
    grid: tuple[int, int, int] = (1, 4, 4)
    clips: bool = False

    def save(self, folder: Path) -> Path:
        config = transformers.AutoConfig.for_model(self.kind, **self.config)
        with seeded(3):
            lively(transformers.AutoModel.from_config(config)).save_pretrained(folder)
        name, options = self.processor
        getattr(transformers, name)(**options).save_pretrained(folder)
        return folder


MODELS = [
    Tiny("vit", ("ViTImageProcessor", SQUARE)),
    Tiny("deit", ("DeiTImageProcessor", CROPPED | {"size": {"height": 36, "width": 36}}), prefix=2),
    Tiny("beit", ("BeitImageProcessor", SQUARE)),
    Tiny("dinov2", ("BitImageProcessor", CROPPED)),
    Tiny("dinov2_with_registers", ("BitImageProcessor", CROPPED), VIT | {"num_register_tokens": 3}, prefix=4),
    Tiny("dinov3_vit", ("DINOv3ViTImageProcessor", SQUARE), VIT | {"num_register_tokens": 4}, prefix=5),
    Tiny("dinov3_convnext", ("DINOv3ViTImageProcessor", {"size": {"height": 96, "width": 96}}), CONV, grid=(1, 3, 3)),
    Tiny("ijepa", ("ViTImageProcessor", SQUARE), has="mean tokens", prefix=0),
    Tiny("vit_mae", ("ViTImageProcessor", SQUARE), has="cls mean tokens"),
    Tiny(
        "clip", ("CLIPImageProcessor", CROPPED), {"vision_config": VIT, "text_config": TEXT, "projection_dim": 20},
        "cls mean pooler projected tokens",
    ),
    Tiny(
        "siglip", ("SiglipImageProcessor", SQUARE), {"vision_config": VIT, "text_config": TEXT | {"hidden_size": 32}},
        "mean pooler projected tokens", 0,
    ),
    Tiny("swin", ("ViTImageProcessor", {"size": {"height": 64, "width": 64}}), WINDOWED, "mean pooler tokens", 0),
    Tiny("convnext", ("ConvNextImageProcessor", SHORTER), CONV, "mean pooler tokens", 0, (1, 2, 2)),
    Tiny(
        "resnet", ("ConvNextImageProcessor", SHORTER), CONV | {"embedding_size": 8}, "mean pooler tokens", 0, (1, 2, 2)
    ),
    Tiny("videomae", ("VideoMAEImageProcessor", CROPPED), VIT | {"num_frames": 4}, "mean tokens", 0, (2, 4, 4), True),
    Tiny(
        "vivit", ("VivitImageProcessor", CROPPED), VIT | {"num_frames": 4, "tubelet_size": [2, 8, 8]},
        grid=(2, 4, 4), clips=True,
    ),
    Tiny(
        "timesformer", ("TimesformerVideoProcessor", CROPPED), VIT | {"num_frames": 4}, "cls mean tokens",
        grid=(4, 4, 4), clips=True,
    ),
    Tiny(
        "vjepa2", ("VJEPA2VideoProcessor", {"crop_size": 32}),
        {
            "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8, "crop_size": 32,
            "frames_per_clip": 4, "tubelet_size": 2, "pred_hidden_size": 24, "pred_num_hidden_layers": 1,
            "pred_num_attention_heads": 2,
        },
        "mean tokens", 0, (2, 4, 4), True,
    ),
]  # fmt: skip
BY_KIND = {model.kind: model for model in MODELS}

# timm's models for tests -> tokens before the patches, whether there is a CLS token, rows and columns of 160 pixels.
TIMM = {
    "test_vit": (1, True, (10, 10)),
    "test_vit2": (1, False, (10, 10)),
    "test_resnet": (0, False, (5, 5)),
}


def save_timm(name: str, folder: Path) -> Path:
    with seeded(4):
        timm.models.save_for_hf(lively(timm.create_model(name)), folder, safe_serialization=True)
    return folder


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics as of a trained network: zeros and ones would hide mistakes."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        if parameter.ndim < 2 or not parameter.any():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model
