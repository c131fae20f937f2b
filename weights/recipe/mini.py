"""The mini backbones: their architectures, pixels and files. Knows no training and no task.

The files have the real checkpoints' formats: a Hugging Face folder for DINOv3, a safetensors state dict of
torchvision's names for R3D-18, so that the same code loads toy and real.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from pipeline.backbones.r3d18 import KINETICS_MEAN, KINETICS_STD
from pipeline.files import whole

DINOV3 = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_register_tokens": 4,
    "patch_size": 16,
    "image_size": 128,
    "pos_embed_rescale": None,
}
DINOV3_SIZE, DINOV3_CELLS = 128, 8
R3D18_WIDTH, R3D18_FRAMES, R3D18_SIZE, R3D18_STEPS, R3D18_CELLS = 12, 32, 64, 8, 4


def dinov3_pixels(frames_BHWC: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> normalised (B, 3, H, W) float32, as the real preprocessor makes it at this size."""
    return _normalise(torch.from_numpy(frames_BHWC), IMAGENET_MEAN, IMAGENET_STD).permute(0, 3, 1, 2).contiguous()


def r3d18_pixels(frames_BTHWC: np.ndarray) -> Tensor:
    """(B, T, H, W, 3) uint8 -> normalised (B, 3, T, H, W) float32, as the real preprocessor makes it at this size."""
    return _normalise(torch.from_numpy(frames_BTHWC), KINETICS_MEAN, KINETICS_STD).permute(0, 4, 1, 2, 3).contiguous()


def _normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (pixels.float() / 255 - torch.tensor(mean)) / torch.tensor(std)


def save_dinov3(model: nn.Module, folder: Path) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json."""
    model.save_pretrained(folder)
    preprocessor = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "image_std": list(IMAGENET_STD),
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": DINOV3_SIZE, "width": DINOV3_SIZE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")


def save_r3d18(model: nn.Module, file: Path) -> None:
    """Writes the state dict under torchvision's names, by rename."""
    with whole(file) as scratch:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, scratch)
