"""Claims about `permafrost doctor` on a machine: each thing that is wrong with it is named, with its remedy."""

import json
import sys

import av
import torch
from typer.testing import CliRunner

from permafrost.cli import app
from permafrost.doctor import asked, examine, machine
from permafrost.doctor.findings import size_of
from pipeline import accelerator
from pipeline.config import Compute
from tests.permafrost.doctor.made_up import ROOT, found, loaded, params, planned


def test_a_machine_that_is_ready_says_so_and_leaves_nothing_behind(place, videos):
    done = CliRunner().invoke(app, ["doctor", "--params", params(videos)])
    assert done.exit_code == 0 and done.stdout.endswith("ready\n") and "bad" not in done.stdout, done.stdout
    assert "4 of 4 probed samples decode (4 in all)" in done.stdout
    # 4 videos of 4 steps of 8 x 8 tokens and a CLS token, of 64 numbers of 2 bytes: as the mini weights' config says.
    width = json.loads((ROOT / "weights/mini-dinov3/config.json").read_text())["hidden_size"]
    patch = json.loads((ROOT / "weights/mini-dinov3/config.json").read_text())["patch_size"]
    size = 4 * 4 * ((64 // patch) ** 2 + 1) * width * 2
    assert f"{size_of(size)} of features to store" in done.stdout
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
    found_all = list(examine('{"compute": {"devise": "cpu"}}'))
    assert "devise" in found(found_all, "params").said and found(found_all, "torch").state == "ok"


def test_shared_memory_that_is_too_small_is_named(place, videos, mounted, monkeypatch):
    monkeypatch.setattr("pipeline.extraction.ring.SHARED_MEMORY", mounted("shm", "100k"))
    one = found(machine.shared_memory(loaded(videos)), "shared memory")
    assert one.state == "bad" and "--shm-size" in one.remedy
    none = loaded(videos, compute={"decode_workers": 0})
    assert found(machine.shared_memory(none), "shared memory").state == "ok"


def test_frames_as_decoded_count_as_they_lie_in_shared_memory(videos):
    """Of 4 frames of 1280 x 720 in uint8, eight samples a batch."""
    one = found(machine.shared_memory(loaded(videos, resize="device", batch=8)), "shared memory")
    assert f"{size_of(8 * 4 * 3 * 1280 * 720)} in a batch" in one.said


def test_a_full_disk_and_a_folder_that_is_read_only_are_named(place, videos, mounted):
    (mounted("features", "2m") / "ballast").write_bytes(bytes(1_500_000))
    mounted("runs", "2m", "ro")
    checks = list(machine.folders(loaded(videos)))
    assert "No space left" in found(checks, "features").said and "free some space" in found(checks, "features").remedy
    assert "Read-only file system" in found(checks, "runs").said and found(checks, "results").state == "ok"
    assert found(asked.disk(*planned(videos)), "disk").state == "bad"


def test_a_decoder_that_is_not_there_is_named(place, videos, monkeypatch):
    real = av.codec.Codec

    def without(name: str, mode: str):
        return real("no such codec" if name == "av1" else name, mode)

    monkeypatch.setattr(av.codec, "Codec", without)
    monkeypatch.setitem(sys.modules, "decord", None)
    checks = list(machine.codecs(loaded(videos, decoder="decord")))
    assert "has none of av1" in found(checks, "decoders").said and "decoder: auto" in found(checks, "decord").remedy


def test_torchcodec_is_looked_at_where_a_feature_asks_for_it_and_its_remedy_is_told(place, videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    assert "torchcodec" not in {of.what for of in machine.codecs(loaded(videos))}
    one = found(machine.codecs(loaded(videos, decoder="torchcodec")), "torchcodec")
    assert one.state == "bad" and "not installed" in one.said
    assert one.remedy == "pip install 'torchcodec>=0.17,<0.18', or set decoder: auto"


def test_too_many_threads_are_a_note_and_too_large_a_cache_is_bad():
    assert found(machine.cores(Compute(threads=1024)), "cores").state == "note"
    assert "cache_memory_gb" in found(machine.memory(Compute(cache_memory_gb=1e6)), "memory").remedy


def test_programs_of_another_environment_are_named(place, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    assert [of.state for of in machine.programs()] == ["bad", "bad"]
    (place / "python").symlink_to("/bin/sh")
    assert "another environment" in found(machine.programs(), "python").said


def test_a_gpu_that_torch_cannot_use_is_told_from_none_at_all(monkeypatch):
    def driver(version: str | None) -> None:
        for place in (machine, accelerator):
            monkeypatch.setattr(place, "driver_version", lambda: version)
        accelerator.no_gpu.cache_clear()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    driver(None)
    assert found(machine.torch_build(Compute()), "torch").state == "ok"
    assert "install the driver" in found(machine.torch_build(Compute(device="cuda")), "torch").remedy
    driver("470.1")
    assert found(machine.torch_build(Compute(device="cpu")), "torch").state == "ok"

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    one = found(machine.torch_build(Compute()), "torch")
    assert one.state == "bad" and "too old" in one.said and "update the driver to 580" in one.remedy
    monkeypatch.setattr(torch.version, "cuda", None)
    accelerator.no_gpu.cache_clear()
    assert "CUDA build" in found(machine.torch_build(Compute()), "torch").remedy
    accelerator.no_gpu.cache_clear()


def test_a_gpu_that_torch_has_no_kernels_for_is_named_with_the_torch_that_has(monkeypatch):
    monkeypatch.setattr(machine, "_run_kernel", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (1, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    one = found(machine.gpus(Compute(), torch), "GPU 0")
    assert one.state == "bad" and one.said.startswith("Tesla V100, is sm_70, and torch ")
    assert "--torch-backend=cu126" in one.remedy


def test_gpus_that_are_too_few_full_or_too_new_for_torch_are_named(monkeypatch):
    def kernel(_: object, index: int) -> None:
        if index == 1:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    free = {0: 60 << 30, 1: 60 << 30, 2: 1 << 20, 3: 5 << 30}
    monkeypatch.setattr(machine, "_run_kernel", kernel)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free[index], 80 << 30))
    checks = list(machine.gpus(Compute(devices=8), torch))
    assert [of.state for of in checks] == ["bad", "ok", "bad", "bad", "note"]
    assert "torch sees 4" in found(checks, "GPUs").said and "no kernel image" in found(checks, "GPU 1").said
    assert found(checks, "GPU 0").said == "card 0, 64.4 GB of 85.9 GB free"


def test_leases_that_cannot_be_kept_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11111111-2222-3333-4444-555555555555")
    monkeypatch.setenv("PERMAFROST_LEASES", "here")
    assert "from the root" in found(machine.leases(), "leases").remedy
