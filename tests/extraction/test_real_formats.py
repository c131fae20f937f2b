"""The formats that real work brings: wild clips, and checkpoints as their publishers ship them, at full size."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.config import feature_dir, parse_params
from pipeline.datasets import build_manifest, write_manifest
from pipeline.extraction import extract
from pipeline.store import FeatureStore, verify
from tests.extraction.small import params_for
from tests.later import Later

torchvision = Later("torchvision")
transformers = Later("transformers")

CLIPS = Path(__file__).parents[3] / "shared/data/clips"


def ssv2_of(root: Path, clips: list[Path]) -> dict[str, str]:
    """Wraps files as a Something-Something-V2 set; returns the clip behind each id."""
    root.mkdir(parents=True)
    names = {}
    for number, clip in enumerate(clips, 1):
        names[str(number)] = f"{clip.parent.name}/{clip.name}"
        shutil.copy(clip, root / f"{number}.webm")
    template = "Doing [something]"
    (root / "labels.json").write_text(json.dumps({"Doing something": "0"}))
    entries = [{"id": n, "label": "doing it", "template": template, "placeholders": ["it"]} for n in names]
    (root / "train.json").write_text(json.dumps(entries))
    (root / "validation.json").write_text("[]")
    return names


def extracted(params, name: str, features: Path) -> FeatureStore:
    dataset = next(iter(params.datasets))
    write_manifest(build_manifest(params.datasets[dataset])[0], features / dataset / "manifest.parquet")
    extract(params, dataset, name, 0, features, lambda line: None)
    store = feature_dir(params, dataset, name, features)
    assert verify(store) == []
    return FeatureStore(store)


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason="the shared clips are not here")
def test_every_wild_clip_ends_ok_or_failed_with_a_reason_and_no_damaged_one_becomes_a_feature(tmp_path):
    clips = sorted(path for path in CLIPS.rglob("*") if path.suffix in (".mp4", ".webm", ".mkv", ".mov", ".avi"))
    names = ssv2_of(tmp_path / "set", clips)
    store = extracted(params_for(tmp_path / "set", max_failed=1.0), "dino", tmp_path / "features")
    assert sorted([*store.samples, *store.failed], key=int) == list(names)
    verdicts = {names[sample]: "ok" for sample in store.samples} | {names[s]: r for s, r in store.failed.items()}
    damaged = {clip for clip in verdicts if clip.startswith("corrupt/") and clip != "corrupt/one_frame.webm"}
    assert len(damaged) == 20
    assert [clip for clip in damaged if verdicts[clip] == "ok"] == []
    # The one clip outside corrupt/ that does not decode is the damaged one's twin.
    healthy = verdicts.keys() - damaged
    assert [clip for clip in sorted(healthy) if verdicts[clip] != "ok"] == ["clips/decord_corrupted.mp4"]


@pytest.mark.slow
def test_full_size_checkpoints_in_their_publishers_formats_extract_through_the_same_code(small_ssv2, tmp_path):
    root = tmp_path / "set"
    ssv2_of(root, [small_ssv2 / "1.webm"])
    torch.manual_seed(0)
    folder = tmp_path / "dinov3-vitb16"
    transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    ).save_pretrained(folder)
    transformers.DINOv3ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)
    torch.save(torchvision.models.video.r3d_18(weights=None).state_dict(), tmp_path / "r3d_18.pth")
    shared = {"decoder": "decord", "precision": "fp32", "batch": 1}
    params = parse_params(
        {
            "compute": {"device": "cpu", "decode_workers": 0},
            "datasets": {"one": {"layout": "ssv2", "root": str(root)}},
            "features": {
                "dino": shared
                | {"backbone": "dinov3", "weights": {"path": str(folder)}, "sampling": {"frames": 8}}
                | {"preprocess": {"resize": [224, 224]}},
                "r3d": shared
                | {"backbone": "r3d18", "weights": {"path": str(tmp_path / "r3d_18.pth")}, "sampling": {"frames": 32}}
                | {"preprocess": {"resize": [128, 171], "crop": [112, 112]}},
            },
        }
    )
    dino = extracted(params, "dino", tmp_path / "features")
    assert dict(dino.fields) == {"patch_tokens": ((8, 196, 768), "float16"), "cls": ((8, 768), "float16")}
    assert dict(extracted(params, "r3d", tmp_path / "features").fields) == {"clip_tokens": ((8, 49, 512), "float16")}
