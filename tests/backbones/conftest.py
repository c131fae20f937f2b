"""Small checkpoints in the real formats, made on the fly."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline.backbones.base import seeded
from pipeline.config import DinoV3Feature, R3D18Feature
from tests.later import Later

r3d18 = Later("pipeline.backbones.r3d18")
towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")

SMALL_VIT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    with seeded(1):
        towers.build_dinov3(**SMALL_VIT).save_pretrained(folder)
    transformers.DINOv3ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def r3d_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("r3d") / "model.safetensors"
    with seeded(2):
        save_file(with_lively_norms(r3d18.build_r3d18(8)).state_dict(), file)
    return file


def with_lively_norms(model):
    """Batch-norm statistics as a trained network's: a test on the identity would see no mistake in them."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model


def vit_feature(weights, *, frames=2, resize=(64, 64), crop=None, **fields):
    return DinoV3Feature(
        backbone="dinov3",
        weights=weights,
        sampling={"frames": frames},
        preprocess={"resize": resize, "crop": crop},
        **fields,
    )


def r3d_feature(weights, *, frames=16, resize=(32, 43), crop=(32, 32), **fields):
    return R3D18Feature(
        backbone="r3d18",
        weights=weights,
        sampling={"frames": frames},
        preprocess={"resize": resize, "crop": crop},
        **fields,
    )
