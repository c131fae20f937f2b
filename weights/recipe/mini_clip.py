"""The mini CLIP: its architecture, pixels and files. Knows no training and no task.

The folder has the real checkpoints' format, so that the same code loads toy and real.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

# OpenAI CLIP's, as transformers' CLIPImageProcessor has them.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZE, PATCH, WIDTH = 128, 16, 128
CELLS = SIZE // PATCH
VISION = {
    "image_size": SIZE,
    "patch_size": PATCH,
    "hidden_size": WIDTH,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
}
TEXT = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
}
EMBEDDING = 128


def build_clip(vocabulary: int) -> CLIPModel:
    """The mini CLIP with random weights; the last two of its `vocabulary` tokens are start and end."""
    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    return CLIPModel(
        CLIPConfig(
            vision_config=VISION | {"projection_dim": EMBEDDING},
            text_config=TEXT | ends | {"vocab_size": vocabulary, "projection_dim": EMBEDDING},
            projection_dim=EMBEDDING,
        )
    )


@torch.no_grad()
def begin_locally(model: CLIPModel) -> None:
    """Lets the picture's tokens begin by attending to themselves and their neighbours, in place.

    Positions begin as sines and cosines, as large as the patches' embeddings; queries and keys as if they were one
    projection; values and outputs near minus identity. Without it a transformer must first find out what is next to
    what, which takes many pictures. Source: Trockman & Kolter, Mimetic Initialization, ICML 2023, sections 3 and 4.
    """
    vision = model.vision_model
    axis = torch.arange(CELLS) - (CELLS - 1) / 2
    waves = axis[:, None] / 20 ** torch.linspace(0, 1, WIDTH // 4)
    waves = torch.cat([waves.sin(), waves.cos()], dim=1)
    grid_ND = torch.cat([waves.repeat_interleave(CELLS, dim=0), waves.repeat(CELLS, 1)], dim=1)
    pixels = torch.randn(16, 3, PATCH, PATCH)
    vision.embeddings.position_embedding.weight[1:] = grid_ND * vision.embeddings.patch_embedding(pixels).std()
    for layer in vision.encoder.layers:
        attention = layer.self_attn
        across = WIDTH // attention.num_heads
        for head in torch.arange(WIDTH).split(across):
            left, size, right = torch.linalg.svd(0.7 * torch.randn(WIDTH, WIDTH) / WIDTH**0.5 + 0.7 * torch.eye(WIDTH))
            attention.q_proj.weight[head] = (left * size.sqrt()).T[:across]
            attention.k_proj.weight[head] = (size.sqrt()[:, None] * right)[:across]
        left, size, right = torch.linalg.svd(0.4 * torch.randn(WIDTH, WIDTH) / WIDTH**0.5 - 0.4 * torch.eye(WIDTH))
        attention.v_proj.weight.copy_((left * size.sqrt()).T)
        attention.out_proj.weight.copy_((size.sqrt()[:, None] * right).T)


def save_clip(model: CLIPModel, folder: Path) -> None:
    """Writes config.json, model.safetensors in float16 and preprocessor_config.json; loaded, it is float32 again."""
    half = CLIPModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part in (config, config["vision_config"], config["text_config"]):
        part["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    preprocessor = {
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(CLIP_STD),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": SIZE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")


def clip_pixels(pixels_BHWC: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> normalised (B, 3, H, W) float32, as the real preprocessor makes it at this size."""
    scaled = torch.from_numpy(pixels_BHWC).float() / 255
    return ((scaled - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 3, 1, 2).contiguous()
