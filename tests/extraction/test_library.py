"""From files to results: models of transformers and timm through an extraction, a probe and a FACT; and bad input."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import backbones
from pipeline.backbones.base import BackboneError
from pipeline.config import ParamsError, feature_dir, parse_params
from pipeline.datasets import read_manifest
from pipeline.evaluation import evaluate
from pipeline.extraction import ExtractionFailed, extract
from pipeline.runs import Run
from pipeline.store import FeatureStore
from pipeline.video import read_frames
from tests.backbones.library_models import BY_KIND, save_timm
from tests.conftest import write_clip, write_ssv2
from tests.evaluations import evaluation_of
from tests.extraction.small import make_manifest
from tests.later import Later, train
from tests.training.procedures import FACT

transformers = Later("transformers")

QUIET = {"progress": lambda line: None}
COMPUTE = {"device": "cpu", "threads": 1, "decode_workers": 0, "extract_threads": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints in the formats of DINOv2, SigLIP 2 (whose fixed-size ones are of SigLIP's), VideoMAE, and timm."""
    root = tmp_path_factory.mktemp("folders")
    kinds = {name: BY_KIND[name].save(root / name) for name in ("dinov2", "siglip", "videomae")}
    return kinds | {"test_vit": save_timm("test_vit", root / "test_vit")}


def hf(folder, output, frames=1, **fields):
    return {
        "backbone": "hf", "weights": {"path": str(folder)}, "output": output, "batch": 8,
        "sampling": {"frames": frames}, **fields,
    }  # fmt: skip


def document_of(root, features, heads=None, **dataset):
    chosen = {"layout": "ssv2", "root": str(root), "shard_size": 64} | dataset
    return {"compute": COMPUTE, "datasets": {"small": chosen}, "features": features, "heads": heads or {}}


def extracted(document, features_root):
    params = parse_params(document)
    make_manifest(params, features_root)
    for name in params.features:
        extract(params, "small", name, 0, features_root, lambda line: None)
    return params


def probe(**roles):
    return {
        "kind": "probe", "dataset": "small", "features": roles, "result": "probe", "train_split": "train",
        "eval_split": "validation", "holdout": 0.2, "bootstrap": 20, "epochs": 2, "batch_size": 8, "warmup_epochs": 0,
    }  # fmt: skip


def test_folders_of_dinov2_siglip_and_videomae_become_features_and_a_probe(small_ssv2, folders, tmp_path):
    features = {
        "patches": hf(folders["dinov2"], "tokens", 2),
        "embedding": hf(folders["siglip"], "projected", 2, storage="float32"),
        "clip": hf(folders["videomae"], "tokens", 4, storage="int8", precision="bf16"),
        "timm": hf(folders["test_vit"], "cls") | {"backbone": "timm", "preprocess": {"resize": [64, 64]}},
    }
    heads = {
        "probe": probe(patches="patches", embedding="embedding", clip="clip", timm="timm") | {"probe": "attentive"}
    }
    heads["probe"]["attention_heads"] = 4
    params = extracted(document_of(small_ssv2, features, heads), tmp_path)
    places = {name: feature_dir(params, "small", name, tmp_path) for name in features}
    stores = {name: FeatureStore(place, verify=True) for name, place in places.items()}
    assert {name: store.fields for name, store in stores.items()} == {
        "patches": {"tokens": ((2, 16, 32), np.dtype("float16"))},
        "embedding": {"projected": ((2, 32), np.dtype("float32"))},
        "clip": {"tokens": ((2, 16, 32), np.dtype("float16"))},
        "timm": {"cls": ((64,), np.dtype("float16"))},
    }
    # What the checkpoint's file says of the geometry stands in the store, with the part of the frame that was seen.
    assert stores["clip"].provenance["config"]["preprocess"] == {"resize": 36, "crop": [32, 32]}
    assert stores["patches"].provenance["grid"] == [2, 4, 4] and stores["clip"].provenance["grid"] == [2, 4, 4]
    assert "timm" in stores["timm"].provenance["environments"][0]["versions"]
    assert "timm" not in stores["patches"].provenance["environments"][0]["versions"]
    run = Run(params, "probe", tmp_path / "small/manifest.parquet", places, tmp_path / "run")
    train(run, **QUIET)
    result = evaluate(run, **QUIET)
    assert result["samples"]["evaluated"] == 9 and set(result["provenance"]["features"]) == set(features)


# --- frame features ---------------------------------------------------------------------------------------------------

ACTIONS = ["background", "pour", "stir"]


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """Five videos of 3 s at 12 fps in MS-TCN's layout, a label a frame."""
    root = tmp_path_factory.mktemp("assembly")
    (root / "groundTruth").mkdir()
    (root / "splits").mkdir()
    (root / "mapping.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(ACTIONS)))
    for number in range(5):
        write_clip(root / f"v{number}.webm", number)
        labels = [ACTIONS[(frame // 9 + number) % 3] for frame in range(36)]
        (root / "groundTruth" / f"v{number}.txt").write_text("\n".join(labels) + "\n")
    (root / "splits/train.split1.bundle").write_text("v0.txt\nv1.txt\nv2.txt\n")
    (root / "splits/test.split1.bundle").write_text("v3.txt\nv4.txt\n")
    return root


def fact(fps, label_fps, output="cls"):
    head = {
        "kind": "fact", "dataset": "small", "features": {"frames": "rows"}, "result": "segments", "seed": 0,
        "model": FACT, "mwt": 0.1, "lr": 5e-3, "batch_size": 2, "epochs": 1, "decay_epoch": 1, "holdout": 0.4,
        "train_split": "train", "eval_split": "test", "bootstrap": 5,
    }  # fmt: skip
    fields = {"layout": "mstcn", "extension": ".webm", "background": ["background"], "label_fps": label_fps}
    return {"sampling": {"fps": fps}, "output": output}, {"fact": head}, fields


@pytest.mark.parametrize("name, fps, rows", [("dinov2", 12.0, 36), ("test_vit", 6.0, 18)])
def test_frame_features_of_a_picture_model_are_segmented_at_the_rate_of_the_labels(
    assembly, folders, tmp_path, name, fps, rows
):
    fields, heads, dataset = fact(fps, 12.0)
    declared = hf(folders[name], "cls") | fields
    if name == "test_vit":
        declared |= {"backbone": "timm", "preprocess": {"resize": [64, 64]}}
    params = extracted(document_of(assembly, {"rows": declared}, heads, **dataset), tmp_path)
    place = feature_dir(params, "small", "rows", tmp_path)
    store = FeatureStore(place, verify=True)
    assert store.fields["cls"][0][0] is None and set(store.lengths("cls").values()) == {rows}
    # Each row is what its picture alone gives.
    still = hf(folders[name], "cls", 1) | {key: declared[key] for key in ("backbone", "preprocess") if key in declared}
    alone = parse_params(document_of(assembly, {"still": still}, **dataset)).features["still"]
    film = read_frames(assembly / "v0.webm", (np.arange(rows) + 0.5) / fps)
    pixels = torch.from_numpy(backbones.preprocessor(alone)(film))[:, None]
    wanted = backbones.load(alone)(pixels)["cls"].half().numpy()
    assert np.allclose(store.read_ragged(["v0"], "cls")[0], wanted, rtol=0, atol=2e-3)
    run = Run(params, "fact", tmp_path / "small/manifest.parquet", {"frames": place}, tmp_path / "run")
    train(run, **QUIET)
    result = evaluate(run, **QUIET)
    table = pd.read_parquet(evaluation_of(tmp_path / "run") / "predictions.parquet")
    assert result["samples"]["evaluated"] == 2 and [len(labels) for labels in table["prediction"]] == [36, 36]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Five clips."""
    return write_ssv2(tmp_path_factory.mktemp("few") / "ssv2", {"train": 3, "validation": 2})


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(few, folder, tmp_path, error, said, output="tokens", frames=1, **fields):
    params = parse_params(document_of(few, {"any": hf(folder, output, frames, **fields)}))
    make_manifest(params, tmp_path)
    with pytest.raises(error, match=said) as told:
        extract(params, "small", "any", 0, tmp_path, lambda line: None)
    assert "Traceback" not in str(told.value)
    return str(told.value)


@pytest.fixture
def copied(folders, tmp_path):
    """Copies of checkpoints, to be damaged."""
    return lambda name: shutil.copytree(folders[name], tmp_path / "checkpoint")


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_model_without_a_vision_tower_is_refused(few, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=32, **sizes)).save_pretrained(tmp_path / "bert")
    transformers.BitImageProcessor().save_pretrained(tmp_path / "bert")
    said = r"bert has no vision tower: BertModel reads input_ids; name a checkpoint of a picture or video model"
    refused(few, tmp_path / "bert", tmp_path, BackboneError, said)


def test_absent_weights_and_an_absent_preprocessor_are_told_with_the_remedy(few, copied, tmp_path):
    folder = copied("dinov2")
    (folder / "model.safetensors").unlink()
    said = r"checkpoint holds no readable dinov2 weights .*model.safetensors.*; download or save the checkpoint again"
    refused(few, folder, tmp_path, BackboneError, said)
    (folder / "preprocessor_config.json").unlink()
    refused(few, folder, tmp_path, BackboneError, "no preprocessor_config.json, so how its pixels are made is")
    with pytest.raises(ParamsError, match=r"features.any: weights .*nowhere do not exist"):
        feature_dir(parse_params(document_of(few, {"any": hf(tmp_path / "nowhere", "cls")})), "small", "any")


class Harmful:
    """What an unsafe pickle would run."""

    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize("name, backbone", [("dinov2", "hf"), ("test_vit", "timm")])
def test_weights_that_only_an_unsafe_pickle_has_are_never_run(few, copied, tmp_path, capsys, name, backbone):
    folder = copied(name)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state | {"more": Harmful()}, folder / "pytorch_model.bin", pickle_module=pickle)
    said = r"checkpoint has its weights only as a pickle with code in it, which is never run; .* again as safetensors"
    refused(few, folder, tmp_path, BackboneError, said, backbone=backbone)
    assert "never be printed" not in capsys.readouterr().out


def test_a_config_that_needs_code_of_its_own_is_refused(few, copied, tmp_path):
    folder = copied("dinov2")
    edit(folder, model_type="somebodys", auto_map={"AutoModel": "modeling_somebodys.Model"})
    (folder / "modeling_somebodys.py").write_text("raise SystemExit('this code was run')\n")
    said = r"checkpoint needs code that comes with it \(auto_map in its config.json\), which is never run; name a"
    refused(few, folder, tmp_path, BackboneError, said)
    edit(folder, model_type="somebodys", auto_map=None)
    (folder / "config.json").write_text('{"model_type": "somebodys"}')
    refused(few, folder, tmp_path, BackboneError, r"is of model_type 'somebodys', which transformers .* not have")


def test_pixels_that_are_no_numbers_are_refused(few, copied, tmp_path):
    folder = copied("dinov2")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_std": [0.0, 0.0, 0.0]}))
    said = r"gives pixels that are no numbers, as where image_std is 0; correct the preprocessor's file"
    refused(few, folder, tmp_path, BackboneError, said)


def test_a_model_of_pictures_of_one_channel_is_refused(few, copied, tmp_path):
    folder = copied("test_vit")
    grey = json.loads((folder / "config.json").read_text())["pretrained_cfg"] | {"input_size": [1, 64, 64]}
    edit(folder, pretrained_cfg=grey)
    said = r"checkpoint has input_size \[1, 64, 64\]: it reads pictures of 1 channels, .*; name a checkpoint that"
    refused(few, folder, tmp_path, BackboneError, said, backbone="timm")


def test_sizes_of_which_no_network_can_be_made_are_refused(few, tmp_path):
    sizes = {"model_type": "dinov2", **BY_KIND["dinov2"].config, "patch_size": 0}
    said = r"architecture dinov2: transformers cannot make a Dinov2Model of its config \(integer .*zero\); correct it"
    refused(few, "unused", tmp_path, BackboneError, said, weights={"random": 0}, architecture=sizes)


def test_tokens_that_are_no_grid_and_pixels_that_the_model_cannot_take_are_refused(few, folders, tmp_path):
    # YOLOS has tokens for what it detects behind its patches: 1 + 4 x 4 + 7.
    yolos = {"model_type": "yolos", "num_detection_tokens": 7, **BY_KIND["vit"].config, "image_size": [32, 32]}
    said = (
        r"yolos: its states \(1, 24, 32\), 1 of them before the patches are no grid of 32 x 32 pixels; take output cls"
    )
    changes = {"weights": {"random": 0}, "architecture": yolos, "preprocess": {"resize": [32, 32]}}
    refused(few, "unused", tmp_path, BackboneError, said, **changes)
    said = r"videomae cannot take clips of 4 frames of 48 x 48 pixels \(.*\); set preprocess .* made for"
    refused(few, folders["videomae"], tmp_path, BackboneError, said, "tokens", 4, preprocess={"resize": [48, 48]})


def test_a_clip_of_another_number_of_frames_and_a_layer_that_is_not_there_are_refused(few, folders, tmp_path):
    with pytest.raises(ParamsError, match=r"sampling.frames is 8, and this videomae reads clips of 4; set frames: 4"):
        parse_params(document_of(few, {"any": hf(folders["videomae"], "tokens", 8)})).gives("any")
    said = r"no output hidden:7; it has cls, mean, pooler, tokens, hidden:0 to hidden:3 \(from the end hidden:-1 to hid"
    refused(few, folders["dinov2"], tmp_path, BackboneError, said, "hidden:7")
    refused(few, folders["siglip"], tmp_path, BackboneError, r"has no output cls; it has mean, pooler, proj", "cls")


def test_a_pooler_that_the_files_lack_is_not_drawn_at_random(few, tmp_path):
    folder = BY_KIND["vit"].save(tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    # As a classifier's checkpoint has it: a prefix, a head, and no pooler.
    renamed = {f"vit.{key}": value for key, value in state.items() if not key.startswith("pooler")}
    save_file(renamed | {"classifier.weight": torch.zeros(3, 32)}, folder / "model.safetensors", {"format": "pt"})
    refused(few, folder, tmp_path, BackboneError, r"no output pooler: its files have no pooler.dense", "pooler")
    params = parse_params(document_of(few, {"any": hf(folder, "cls")}))
    extract(params, "small", "any", 0, tmp_path, lambda line: None)
    lacking = {key: value for key, value in renamed.items() if "layer.1." not in key}
    save_file(lacking, folder / "model.safetensors", {"format": "pt"})
    said = r"vit does not fit its own config.json \(\d+ missing keys, such as .*1.*\); download or save"
    refused(few, folder, tmp_path, BackboneError, said, "cls")


def test_values_beyond_float16_fail_their_sample_with_the_remedy_which_helps(few, copied, tmp_path):
    folder = copied("dinov2")
    state = load_file(folder / "model.safetensors")
    state["layernorm.weight"] *= 1e6
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    said = r"(?s)does not fit float16; set storage: float32 of the feature"
    refused(few, folder, tmp_path, ExtractionFailed, said, "cls")
    params = extracted(document_of(few, {"wide": hf(folder, "cls", storage="float32")}), tmp_path)
    store = FeatureStore(feature_dir(params, "small", "wide", tmp_path))
    assert not store.failed and store.read(store.samples[:1], "cls").max() > 65504
    fields, heads, dataset = fact(12.0, 12.0)
    del heads, dataset
    rows = document_of(few, {"rows": hf(folder, "cls") | fields})
    with pytest.raises(ExtractionFailed, match=said):
        extracted(rows, tmp_path)


def test_what_cannot_fit_is_refused_when_params_are_read(few, folders):
    def parsed(**fields):
        return parse_params(document_of(few, {"any": hf(folders["dinov2"], "cls") | fields}))

    for fields, said in {
        "tokens": ({"output": "tokens", "sampling": {"fps": 2.0}}, r"output tokens is a grid .* sampling \{fps: ...\}"),
        "int8": ({"storage": "int8"}, "output cls is one vector, kept as float16 or float32"),
        "nothing": ({"output": "logits"}, r"features.any\S*output"),
        "random": ({"weights": {"random": 0}}, "weights are random, so architecture must say of what"),
        "both": ({"architecture": {"model_type": "vit"}}, "architecture is for random weights"),
        "kind": ({"weights": {"random": 0}, "architecture": {"hidden_size": 8}}, "architecture has no model_type"),
    }.values():
        with pytest.raises(ParamsError, match=said):
            parsed(**fields)
    with pytest.raises(ParamsError, match="videomae reads clips of several frames"):
        parsed(weights={"path": str(folders["videomae"])}, output="mean", sampling={"fps": 2.0}).gives("any")


def test_random_weights_follow_from_their_seed_and_say_that_they_are(few, tmp_path):
    tiny = BY_KIND["dinov2"].config | {"model_type": "dinov2"}
    declared = hf("unused", "cls", preprocess={"resize": 36, "crop": [32, 32]}) | {"architecture": tiny}
    features = {name: declared | {"weights": {"random": seed}} for name, seed in (("one", 1), ("other", 2))}
    params = extracted(document_of(few, features), tmp_path)
    sample = read_manifest(tmp_path / "small/manifest.parquet")["sample"][0]
    stores = [FeatureStore(feature_dir(params, "small", name, tmp_path)) for name in features]
    one, other = (store.read([sample], "cls")[0] for store in stores)
    assert not np.allclose(one, other) and stores[0].provenance["weights"] == {"weights": "random:1"}
