"""What a device, real or pretended, is tried with: every backbone, CLIP's maps, every head; and how often the host may
wait for it there."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._harness import ROOT
from benchmarks._training import CLASSES, TOY, run_of, with_compute
from benchmarks.train import trained_heads
from pipeline import backbones
from pipeline.backbones.base import seeded
from pipeline.config import Params, Weights, load_params, parse_params
from pipeline.heads.probe.config import ProbeHead
from pipeline.runs import Run
from tests.backbones.library_models import BY_KIND, save_timm
from tests.later import Later

clip_cam_blocks = Later("pipeline.backbones.clip_cam_blocks")
extraction_cams = Later("pipeline.extraction.cams")
optical_flow = Later("torchvision.models.optical_flow")
towers = Later("pipeline.backbones.towers")
transformers = Later("transformers")

# Waits of the host a step, and MB that a sample keeps for the backward: what was measured, and a little more of the MB.
# Who needs more says why. GASM-CAST reads how many tokens a step drops; FACT waits for the costs of
# its matching.
HEADS = {
    "gasm_cast": (1, 5.3),
    "fact": (1, 7.0),
    "fact_clip": (1, 7.8),
    "clip_align": (0, 0.23),
    "linear": (0, 0.0006),
    "attentive": (0, 1.4),
}
FEW = 4  # samples of a step


def heads() -> Params:
    """Params of the trained heads of params.yaml, and of the probes that train."""
    params = with_compute(load_params(ROOT / "params.yaml"), threads=1)
    same = {"kind": "probe", "dataset": "toy-ssv2", "features": "dinov3_patches", "result": "none"}
    same |= {"eval_split": "validation"}
    probes = {
        "linear": ProbeHead.model_validate({**same, "probe": "linear"}),
        "attentive": ProbeHead.model_validate({**same, "probe": "attentive", "blocks": 2}),
    }
    return params.model_copy(update={"heads": {**params.heads, **probes}})


def head_runs(device: str, folder: Path) -> dict[str, Run]:
    """Head -> a run over FEW samples of random values."""
    params = with_compute(heads(), device=device)
    return {
        head: run_of(params, head, TOY, CLASSES.get(head, CLASSES["gasm_cast"]), FEW, folder)
        for head in trained_heads(params)
    }


# --- backbones --------------------------------------------------------------------------------------------------------

SMALL = {"batch": 2, "preprocess": {"resize": [64, 64]}}
CLIP = {"weights": {"path": str(ROOT / "weights/mini-clip")}, "preprocess": {"resize": [128, 128]}, "batch": 2}
R3D = {"backbone": "r3d18", "weights": {"path": str(ROOT / "weights/mini-r3d18.safetensors")}, **SMALL}
I3D = {"backbone": "i3d", "sampling": {"fps": 8}, "preprocess": {"resize": 64, "crop": [64, 64]}, "batch": 4}
VJEPA = {"backbone": "vjepa2", "weights": {"path": "vjepa2"}, "preprocess": {"resize": 36, "crop": [32, 32]}}
# Waits of the host a batch that is there already, or a piece of rows, which comes from the host and goes back: I3D
# copies a batch of windows. Of RAFT's, 14 are torchvision's grids; of VideoMAE's one is transformers' positions. Texts
# of one length are copied at once.
BACKBONES: dict[str, tuple[int, dict[str, Any]]] = {
    "dinov3": (0, {"backbone": "dinov3", "weights": {"path": str(ROOT / "weights/mini-dinov3")}, "pool": 2, **SMALL}),
    "r3d18": (0, {**R3D, "sampling": {"frames": 16}}),
    "r3d18 pooled": (0, {**R3D, "sampling": {"frames": 16}, "pooled": True, "atrous": False}),
    "r3d18 windows": (0, {**R3D, "sampling": {"frames": 16, "fps": 8, "windows": 2}, "layer": 3, "atrous": False}),
    "clip": (0, {"backbone": "clip", "output": "image_embed", **CLIP}),
    "clip cam_tokens": (0, {"backbone": "clip", "output": "cam_tokens", **CLIP}),
    "clip_text": (5, {"backbone": "clip_text", "weights": CLIP["weights"], "prompts": ["a photo of a {}", "a {}"]}),
    "i3d": (2, {**I3D, "window": 8, "rgb": {"path": str(ROOT / "weights/mini-i3d-rgb.safetensors")}}),
    "raft": (17, {"backbone": "flow", "method": "raft", "weights": {"path": "raft"}, "sampling": {"fps": 8}}),
    "vjepa2": (0, VJEPA),
    "hf vit": (0, {"backbone": "hf", "weights": {"path": "vit"}, "output": "tokens", "batch": 2}),
    "hf convnext": (0, {"backbone": "hf", "weights": {"path": "convnext"}, "output": "mean", "batch": 2}),
    "hf videomae": (1, {"backbone": "hf", "weights": {"path": "videomae"}, "output": "tokens", "batch": 2}),
    "timm": (0, {"backbone": "timm", "weights": {"path": "test_vit"}, "output": "cls", "batch": 2}),
}
FRAMES = {"clip": 1, "clip cam_tokens": 1, "vjepa2": 8, "hf videomae": 4}
TEXTS = ["red ball", "a very blue thing", "cat"]


def models(folder: Path) -> Path:
    """Small checkpoints of those of which none is shipped."""
    small = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2, "crop_size": 32}
    small |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    with seeded(1):
        towers.build_vjepa2(frames_per_clip=8, **small).save_pretrained(folder / "vjepa2")
        torch.save(optical_flow.raft_small().state_dict(), folder / "raft")
    transformers.VJEPA2VideoProcessor(crop_size=32).save_pretrained(folder / "vjepa2")
    for kind in ("vit", "convnext", "videomae"):
        BY_KIND[kind].save(folder / kind)
    save_timm("test_vit", folder / "test_vit")
    return folder


def feature_of(name: str, folder: Path, precision: str) -> Any:
    """A feature of BACKBONES; `folder` is of `models`."""
    document = {**BACKBONES[name][1]}
    weights = document.get("weights", {})
    if weights and not Path(weights["path"]).is_absolute():
        document["weights"] = {"path": str(folder / weights["path"])}
    if name == "raft":
        document |= {"preprocess": {"resize": [128, 128]}, "batch": 2}
    else:
        document["precision"] = precision
    if "prompts" not in document:
        document.setdefault("sampling", {"frames": FRAMES.get(name, 2)})
    return parse_params({"features": {"any": document}}).features["any"]


def backbone_on(name: str, folder: Path, precision: str = "fp32") -> Callable[[str], Callable[[], dict[str, Tensor]]]:
    """A device -> a batch through the backbone there, the same on each."""
    feature = feature_of(name, folder, precision)

    def prepared(device: str) -> Callable[[], dict[str, Tensor]]:
        backbone, random = backbones.load(feature, device), np.random.default_rng(0)
        if not hasattr(feature, "preprocess"):
            return partial(backbone, TEXTS)
        make = backbones.preprocessor(feature)
        if feature.ragged:
            count = 2 + sum(backbone.context)
            frames = make(random.integers(0, 256, (count, 128, 128, 3), dtype=np.uint8))
            # Of rows the lane takes the copy to the host.
            return lambda: {of: rows.cpu() for of, rows in backbone.rows({"rgb": torch.from_numpy(frames)}).items()}
        count = feature.sampling.frames * (feature.sampling.windows or 1)
        clips = [make(random.integers(0, 256, (count, 80, 96, 3), dtype=np.uint8)) for _ in range(3)]
        return partial(backbone, torch.from_numpy(np.stack(clips)).to(device))

    return prepared


# --- maps -------------------------------------------------------------------------------------------------------------

# Waits of the host; the block that the tokens enter, the blocks of the maps, their site, and whether probabilities are
# explained. Deeper maps need gradients. Whether tokens are finite is not asked: those of a store are.
CAMS = {
    "last": (0, -1, (-1,), "layer_norm1", False),
    "last, of probabilities": (0, -1, (-1,), "block_input", True),
    "two blocks": (0, -2, (-2, -1), "layer_norm1", True),
    "a deeper block": (0, -2, (-2,), "block_input", False),
}


def cams_on(name: str) -> Callable[[str], Callable[[], dict[str, Tensor]]]:
    """A device -> maps of four pictures there."""
    _, first, blocks, site, of_probabilities = CAMS[name]

    def prepared(device: str) -> Callable[[], dict[str, Tensor]]:
        there, generator = torch.device(device), torch.Generator().manual_seed(0)
        cams = extraction_cams.Cams.__new__(extraction_cams.Cams)  # its store of texts apart
        cams.blocks = clip_cam_blocks.LastBlocks(Weights(path=CLIP["weights"]["path"]), first, there, finite=True)
        texts = torch.randn(5, cams.blocks.last.embed_dim, generator=generator)
        cams.classes_CE = torch.nn.functional.normalize(texts, dim=-1).to(there)
        target = "softmax" if of_probabilities else "logit"
        chosen = {"cam_blocks": blocks, "site": site, "target": target, "post_norm": True, "patches": "output"}
        cams.chosen = SimpleNamespace(**chosen)
        tokens = torch.randn(4, *cams.blocks.last.shape, generator=generator).half().to(there)
        return lambda: dict(zip(("map", "patch_embed"), cams.of(tokens), strict=True))

    return prepared
