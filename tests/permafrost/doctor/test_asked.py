"""Claims about `permafrost doctor` of what params ask for: weights, data sets and disk that will not do are named."""

import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from permafrost.doctor import asked, examine
from pipeline.config import load_params
from pipeline.plan import Plan
from tests.permafrost.doctor.made_up import ROOT, found, loaded, params


def probed(chosen):
    return asked.datasets(chosen, asked.tables(Plan(chosen)))


def imported(chosen):
    plan = Plan(chosen)
    return asked.imports(plan, asked.tables(plan))


def copied(place: Path) -> Path:
    folder = place / "mini"
    shutil.copytree(ROOT / "weights/mini-dinov3", folder)
    return folder


def test_a_torn_download_is_named_by_its_file(place, videos):
    folder = copied(place)
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    one = found(asked.weights(loaded(videos, {"path": str(folder)})), "weights")
    assert one.state == "bad" and str(file) in one.said and one.remedy == "download it again"


def test_a_checkpoint_without_weights_a_shard_that_is_not_there_and_a_pickle_are_named(place, videos):
    folder = copied(place)
    config = loaded(videos, {"path": str(folder)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert "model-2.safetensors does not exist" in found(asked.weights(config), "weights").said
    (folder / "model.safetensors.index.json").unlink()
    next(folder.glob("*.safetensors")).unlink()
    assert "holds no .safetensors and no .bin" in found(asked.weights(config), "weights").said
    torch.save({"a": SimpleNamespace()}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin cannot be read" in found(asked.weights(config), "weights").said


@pytest.fixture
def unloaded(monkeypatch):
    def loaded(_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("pipeline.backbones.checkpoints.Checkpoint.loaded", loaded)


@pytest.mark.parametrize(
    ("feature", "weights", "said"),
    [
        ({}, "mini-clip", "is of model_type 'clip', expected 'dinov3_vit'"),
        ({"backbone": "vjepa2"}, "mini-dinov3", "is of model_type 'dinov3_vit', expected 'vjepa2'"),
        ({"backbone": "hf", "output": "hidden:99"}, "mini-dinov3", "has no output hidden:99"),
        ({"backbone": "timm", "output": "cls"}, "mini-dinov3", "names no architecture of timm"),
        ({"backbone": "r3d18"}, "mini-i3d-rgb.safetensors", "is not a state dict of R3D-18"),
    ],
    ids=lambda of: of.get("backbone", "dinov3") if isinstance(of, dict) else None,
)
def test_a_whole_checkpoint_of_another_architecture_is_named_and_none_is_loaded(
    place, videos, unloaded, feature, weights, said
):
    checks = list(asked.weights(loaded(videos, {"path": str(ROOT / "weights" / weights)}, **feature)))
    assert found(checks, "weights of tokens").state == "ok"
    one = found(checks, "feature tokens")
    assert one.state == "bad" and said in one.said


def test_a_hub_s_checkpoint_is_looked_at_where_it_lies_and_no_hub_is_asked(place, videos, unloaded, monkeypatch):
    monkeypatch.setattr("pipeline.backbones.checkpoints.cached", lambda *_: ROOT / "weights/mini-clip")
    monkeypatch.setattr("pipeline.backbones.checkpoints.snapshot_download", None)
    checks = list(asked.weights(loaded(videos, {"hub": "lab/open", "revision": "main"})))
    assert found(checks, "weights of tokens").said.startswith("lab/open@main: ")
    assert "mini-clip/config.json is of model_type 'clip'" in found(checks, "feature tokens").said


def test_checkpoints_that_fit_are_said_once_and_none_is_loaded(place, unloaded, monkeypatch):
    monkeypatch.chdir(ROOT)
    shipped = load_params("params.yaml")
    assert {(of.state, of.what.partition(" ")[0]) for of in asked.weights(shipped)} == {("ok", "weights")}


def test_a_config_that_is_a_folder_is_one_finding_and_no_end_of_the_others(place, videos):
    folder = copied(place)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    checks = list(examine(params(videos, {"path": str(folder)})))
    one = found(checks, "weights of tokens")
    assert one.state == "bad" and "config.json cannot be read (Is a directory)" in one.said
    assert found(checks, "disk").state == "ok" and found(checks, "data set own").state == "ok"


def test_below_a_home_that_is_absent_nothing_is_made(place, videos, monkeypatch):
    folder = copied(place)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(place / "nobody"))
    monkeypatch.setattr("pipeline.config.keys.SMALL", 0)
    monkeypatch.setattr("pipeline.config.keys.SETTLED_NS", 0)
    assert found(examine(params(videos, {"path": str(folder)})), "disk").state == "ok"
    assert not (place / "nobody").exists()


def test_random_weights_are_a_note(place, videos):
    assert found(asked.weights(loaded(videos, {"random": 0})), "weights").state == "note"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one gated repository and one open one; nothing of either is cached here."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            open_one = "/api/models/lab/open" in self.path
            body = {"id": "lab/open", "siblings": [{"rfilename": "model.safetensors", "size": 12_000_000}]}
            text = json.dumps(body).encode() if open_one else b"{}"
            self.send_response(200 if open_one else 403)
            if not open_one:
                self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_gated_model_is_named_with_where_its_licence_is_accepted(place, videos, hub):
    one = found(asked.weights(loaded(videos, {"hub": "lab/gated", "revision": "main"})), "weights")
    assert one.state == "bad" and "lab/gated@main is gated" in f"{one.said} {one.remedy}"
    assert "hf auth login" in f"{one.said} {one.remedy}"


def test_a_model_that_may_be_downloaded_says_how_large_it_is(place, videos, hub):
    one = found(asked.weights(loaded(videos, {"hub": "lab/open", "revision": "main"})), "weights")
    assert one.state == "ok" and one.said == "lab/open@main: not here yet; 12 MB to download"


def test_a_hub_that_does_not_answer_is_told_from_one_that_refuses(place, videos, monkeypatch, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    one = found(asked.weights(loaded(videos, {"hub": "lab/open", "revision": "main"})), "weights")
    assert one.state == "bad" and "the hub did not answer" in one.said and "go online" in f"{one.said} {one.remedy}"


def test_videos_that_do_not_decode_are_named(place, videos):
    own = place / "own"
    shutil.copytree(videos, own)
    (own / "a" / "0.webm").write_bytes(b"no video")
    one = found(probed(loaded(own)), "data set own")
    assert one.state == "note" and "3 of 4 probed" in one.said and "a/0.webm: unreadable" in one.said
    for path in own.rglob("*.webm"):
        path.write_bytes(b"")
    one = found(probed(loaded(own)), "data set own")
    assert one.state == "bad" and "0 of 4 probed" in one.said and "empty" in one.said


def test_a_root_that_is_not_there_is_named(place):
    one = found(probed(loaded(place / "nowhere")), "data set own")
    assert one.state == "bad" and "nowhere" in one.said


def test_imported_features_that_are_not_there_are_named(place, videos):
    document = json.loads(params(videos))
    root = place / "vectors"
    document["features"]["theirs"] = {
        "backbone": "imported", "form": "files", "root": str(root), "content": "vectors", "width": 4
    }  # fmt: skip
    document["datasets"]["own"]["features"] = ["theirs"]
    config = load_params(json.dumps(document))
    one = found(examine(json.dumps(document)), "feature theirs of own")
    assert one.state == "bad" and f"{root} holds 0 of 4 samples" in one.said and "root" in one.remedy
    for name in ("a/0", "a/1", "b/0"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{name}.npy", np.zeros(4))
    one = found(imported(config), "feature theirs of own")
    assert one.state == "note" and "3 of 4 samples, not b/1" in one.said
    np.save(root / "b/1.npy", np.zeros(4))
    assert found(imported(config), "feature theirs of own").state == "ok"
    document["features"]["theirs"] |= {"form": "hdf5", "root": str(place / "no.h5")}
    one = found(imported(load_params(json.dumps(document))), "feature theirs of own")
    assert one.state == "bad" and "it does not exist" in one.said
    (place / "no.h5").write_bytes(b"no HDF5")
    assert found(imported(load_params(json.dumps(document))), "feature theirs of own").state == "bad"


def test_annotations_are_read_once_a_data_set(place, videos, monkeypatch):
    from pipeline import datasets

    real, read = datasets.read_annotations, []
    monkeypatch.setattr(datasets, "read_annotations", lambda of: read.append(of) or real(of))
    assert found(examine(params(videos)), "disk").state == "ok"
    assert len(read) == 1


def test_probes_are_spread_and_end_in_time(place, videos, monkeypatch):
    own = place / "own"
    for number in range(70):
        (own / "a").mkdir(parents=True, exist_ok=True)
        (own / "a" / f"{number:02d}.webm").symlink_to(videos / "a" / "0.webm")
    document = json.loads(params(own))
    document["datasets"]["own"]["allow_links"] = True
    config = load_params(json.dumps(document))
    assert "18 of 18 probed samples decode (70 in all)" in found(probed(config), "data set own").said
    monkeypatch.setattr(asked, "SECONDS_OF_PROBES", -1.0)
    assert "1 of 1 probed samples" in found(probed(config), "data set own").said
