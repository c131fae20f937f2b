"""Claims about `permafrost doctor`: each thing that is wrong with a machine is named, with its remedy."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import permafrost.doctor as doctor
from permafrost.cli import app
from pipeline.config import Compute
from tests.conftest import write_clip

ROOT = Path(__file__).parents[2]
MINI = {"path": str(ROOT / "weights/mini-dinov3")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        for number in range(2):
            (folder / name).mkdir(exist_ok=True)
            write_clip(folder / name / f"{number}.webm", number, frames=12)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty project, on a machine whose PATH is this environment's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "_memory_free", lambda: 64 << 30)
    return tmp_path


@pytest.fixture
def mounted(place):
    """Mounts file systems of a few MB below the project."""
    made = []

    def mount(name: str, size: str, *more: str) -> Path:
        folder = place / name
        folder.mkdir()
        options = ",".join((f"size={size}", *more))
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a small tmpfs is not permitted here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def params(videos: Path, weights: dict = MINI, compute: dict | None = None, **feature) -> str:
    """A literal document: a folder of videos, a backbone, a probe."""
    tokens = {"backbone": "dinov3", "weights": weights, "sampling": {"frames": 4}, "preprocess": {"resize": [64, 64]}}
    split = {"train": 0.5, "test": 0.5}
    return json.dumps(
        {
            "compute": compute or {},
            "datasets": {"own": {"root": str(videos), "layout": "videos", "split": split, "features": ["tokens"]}},
            "features": {"tokens": tokens | feature},
        }
    )


def found(checks, what: str) -> doctor.Finding:
    (one,) = (of for of in checks if of.what.startswith(what))
    assert bool(one.remedy) == (one.state != "ok"), one
    return one


def loaded(*given, **named) -> doctor.Params:
    return doctor.load_params(params(*given, **named))


def test_a_machine_that_is_ready_says_so_and_leaves_nothing_behind(place, videos):
    done = CliRunner().invoke(app, ["doctor", "--params", params(videos)])
    assert done.exit_code == 0 and done.stdout.endswith("ready\n") and "bad" not in done.stdout, done.stdout
    assert "4 of 4 probed samples decode (4 in all)" in done.stdout
    # 4 videos of 4 steps of 8 x 8 tokens and a CLS token, of 64 numbers of 2 bytes: as the mini weights' config says.
    width = json.loads((ROOT / "weights/mini-dinov3/config.json").read_text())["hidden_size"]
    patch = json.loads((ROOT / "weights/mini-dinov3/config.json").read_text())["patch_size"]
    size = 4 * 4 * ((64 // patch) ** 2 + 1) * width * 2
    assert f"{doctor._size(size)} of features to store" in done.stdout
    assert list(place.iterdir()) == []


def test_one_bad_thing_among_good_ones_decides_the_exit_code(place, videos):
    done = CliRunner().invoke(app, ["doctor", "--params", params(videos, {"path": "nowhere"})])
    assert done.exit_code == 1 and done.stdout.endswith("1 thing to mend\n"), done.stdout
    assert "bad  weights of tokens: nowhere does not exist" in done.stdout
    assert "-> download it there, or correct its path in params" in done.stdout


def test_without_params_only_the_machine_is_looked_at(place):
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0 and "no params.yaml here" in done.stdout and "data set" not in done.stdout


def test_params_that_cannot_be_read_are_one_finding_and_the_machine_is_looked_at_all_the_same(place):
    found_all = list(doctor.examine('{"compute": {"devise": "cpu"}}'))
    assert "devise" in found(found_all, "params").said and found(found_all, "torch").state == "ok"


# --- weights ----------------------------------------------------------------------------------------------------------


def copied(place: Path) -> Path:
    folder = place / "mini"
    shutil.copytree(ROOT / "weights/mini-dinov3", folder)
    return folder


def test_a_torn_download_is_named_by_its_file(place, videos):
    folder = copied(place)
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    one = found(doctor.weights(loaded(videos, {"path": str(folder)})), "weights")
    assert one.state == "bad" and str(file) in one.said and one.remedy == "download it again"


def test_a_checkpoint_without_weights_a_shard_that_is_not_there_and_a_pickle_are_named(place, videos):
    folder = copied(place)
    config = loaded(videos, {"path": str(folder)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert "model-2.safetensors does not exist" in found(doctor.weights(config), "weights").said
    (folder / "model.safetensors.index.json").unlink()
    next(folder.glob("*.safetensors")).unlink()
    assert "holds no .safetensors and no .bin" in found(doctor.weights(config), "weights").said
    torch.save({"a": SimpleNamespace()}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin cannot be read" in found(doctor.weights(config), "weights").said


def test_random_weights_are_a_note(place, videos):
    assert found(doctor.weights(loaded(videos, {"random": 0})), "weights").state == "note"


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
    one = found(doctor.weights(loaded(videos, {"hub": "lab/gated", "revision": "main"})), "weights")
    assert one.state == "bad" and "lab/gated@main is gated" in f"{one.said} {one.remedy}"
    assert "hf auth login" in f"{one.said} {one.remedy}"


def test_a_model_that_may_be_downloaded_says_how_large_it_is(place, videos, hub):
    one = found(doctor.weights(loaded(videos, {"hub": "lab/open", "revision": "main"})), "weights")
    assert one.state == "ok" and one.said == "lab/open@main: not here yet; 12 MB to download"


def test_a_hub_that_does_not_answer_is_told_from_one_that_refuses(place, videos, monkeypatch, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    one = found(doctor.weights(loaded(videos, {"hub": "lab/open", "revision": "main"})), "weights")
    assert one.state == "bad" and "the hub did not answer" in one.said and "go online" in f"{one.said} {one.remedy}"


# --- the machine ------------------------------------------------------------------------------------------------------


def test_shared_memory_that_is_too_small_is_named(place, videos, mounted, monkeypatch):
    monkeypatch.setattr("pipeline.extraction.stream.SHARED_MEMORY", mounted("shm", "100k"))
    one = found(doctor.shared_memory(loaded(videos)), "shared memory")
    assert one.state == "bad" and "--shm-size" in one.remedy
    none = loaded(videos, compute={"decode_workers": 0})
    assert found(doctor.shared_memory(none), "shared memory").state == "ok"


def test_a_full_disk_and_a_folder_that_is_read_only_are_named(place, videos, mounted):
    (mounted("features", "2m") / "ballast").write_bytes(bytes(1_500_000))
    mounted("runs", "2m", "ro")
    checks = list(doctor.folders(loaded(videos)))
    assert "No space left" in found(checks, "features").said and "free some space" in found(checks, "features").remedy
    assert "Read-only file system" in found(checks, "runs").said and found(checks, "results").state == "ok"
    assert found(doctor.disk(loaded(videos)), "disk").state == "bad"


def test_a_decoder_that_is_not_there_is_named(place, videos, monkeypatch):
    real = av.codec.Codec

    def without(name: str, mode: str):
        return real("no such codec" if name == "av1" else name, mode)

    monkeypatch.setattr(av.codec, "Codec", without)
    monkeypatch.setitem(sys.modules, "decord", None)
    checks = list(doctor.codecs(loaded(videos, decoder="decord")))
    assert "has none of av1" in found(checks, "decoders").said and "decoder: auto" in found(checks, "decord").remedy


def test_too_many_threads_are_a_note_and_too_large_a_cache_is_bad():
    assert found(doctor.cores(Compute(threads=1024)), "cores").state == "note"
    assert "cache_memory_gb" in found(doctor.memory(Compute(cache_memory_gb=1e6)), "memory").remedy


def test_programs_of_another_environment_are_named(place, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    assert [of.state for of in doctor.programs()] == ["bad", "bad"]
    (place / "python").symlink_to("/bin/sh")
    assert "another environment" in found(doctor.programs(), "python").said


def test_a_gpu_that_torch_cannot_use_is_told_from_none_at_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "driver_version", lambda: None)
    assert found(doctor.torch_build(Compute()), "torch").state == "ok"
    assert "install the driver" in found(doctor.torch_build(Compute(device="cuda")), "torch").remedy
    monkeypatch.setattr(doctor, "driver_version", lambda: "470.1")
    assert found(doctor.torch_build(Compute(device="cpu")), "torch").state == "ok"

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    one = found(doctor.torch_build(Compute()), "torch")
    assert one.state == "bad" and "too old" in one.said and "update the driver" in one.remedy
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CUDA build" in found(doctor.torch_build(Compute()), "torch").remedy


def test_gpus_that_are_too_few_full_or_too_new_for_torch_are_named(monkeypatch):
    def kernel(_: object, index: int) -> None:
        if index == 1:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    free = {0: 60 << 30, 1: 60 << 30, 2: 1 << 20, 3: 5 << 30}
    monkeypatch.setattr(doctor, "_run_kernel", kernel)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free[index], 80 << 30))
    checks = list(doctor.gpus(Compute(devices=8), torch))
    assert [of.state for of in checks] == ["bad", "ok", "bad", "bad", "note"]
    assert "torch sees 4" in found(checks, "GPUs").said and "no kernel image" in found(checks, "GPU 1").said
    assert found(checks, "GPU 0").said == "card 0, 64.4 GB of 85.9 GB free"


def test_leases_that_cannot_be_kept_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11111111-2222-3333-4444-555555555555")
    monkeypatch.setenv("PERMAFROST_LEASES", "here")
    assert "from the root" in found(doctor.leases(), "leases").remedy


# --- data sets --------------------------------------------------------------------------------------------------------


def test_videos_that_do_not_decode_are_named(place, videos):
    own = place / "own"
    shutil.copytree(videos, own)
    (own / "a" / "0.webm").write_bytes(b"no video")
    one = found(doctor.datasets(loaded(own)), "data set own")
    assert one.state == "note" and "3 of 4 probed" in one.said and "a/0.webm: unreadable" in one.said
    for path in own.rglob("*.webm"):
        path.write_bytes(b"")
    one = found(doctor.datasets(loaded(own)), "data set own")
    assert one.state == "bad" and "0 of 4 probed" in one.said and "empty" in one.said


def test_a_root_that_is_not_there_is_named(place):
    one = found(doctor.datasets(loaded(place / "nowhere")), "data set own")
    assert one.state == "bad" and "nowhere" in one.said


def test_imported_features_that_are_not_there_are_named(place, videos):
    document = json.loads(params(videos))
    root = place / "vectors"
    document["features"]["theirs"] = {
        "backbone": "imported", "form": "files", "root": str(root), "content": "vectors", "width": 4
    }  # fmt: skip
    document["datasets"]["own"]["features"] = ["theirs"]
    config = doctor.load_params(json.dumps(document))
    one = found(doctor.examine(json.dumps(document)), "feature theirs of own")
    assert one.state == "bad" and f"{root} holds 0 of 4 samples" in one.said and "root" in one.remedy
    for name in ("a/0", "a/1", "b/0"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{name}.npy", np.zeros(4))
    one = found(doctor.imports(config), "feature theirs of own")
    assert one.state == "note" and "3 of 4 samples, not b/1" in one.said
    np.save(root / "b/1.npy", np.zeros(4))
    assert found(doctor.imports(config), "feature theirs of own").state == "ok"
    document["features"]["theirs"] |= {"form": "hdf5", "root": str(place / "no.h5")}
    one = found(doctor.imports(doctor.load_params(json.dumps(document))), "feature theirs of own")
    assert one.state == "bad" and "it does not exist" in one.said
    (place / "no.h5").write_bytes(b"no HDF5")
    assert found(doctor.imports(doctor.load_params(json.dumps(document))), "feature theirs of own").state == "bad"


def test_probes_are_spread_and_end_in_time(place, videos, monkeypatch):
    own = place / "own"
    for number in range(70):
        (own / "a").mkdir(parents=True, exist_ok=True)
        (own / "a" / f"{number:02d}.webm").symlink_to(videos / "a" / "0.webm")
    document = json.loads(params(own))
    document["datasets"]["own"]["allow_links"] = True
    config = doctor.load_params(json.dumps(document))
    assert "18 of 18 probed samples decode (70 in all)" in found(doctor.datasets(config), "data set own").said
    monkeypatch.setattr(doctor, "SECONDS_OF_PROBES", -1.0)
    assert "1 of 1 probed samples" in found(doctor.datasets(config), "data set own").said
