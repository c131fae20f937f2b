"""A pretended GPU: what it refuses and counts; and every backbone and every map of CLIP on it."""

import pytest
import torch

from benchmarks._pretended import Pretended, device_of, waits_of
from pipeline.accelerator import deterministic
from tests.devices import BACKBONES, CAMS, backbone_on, cams_on, models

GPU = "cuda"
WAITS = {
    "item": lambda x: x.sum().item(), "bool": lambda x: bool((x > 0).all()), "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(), "nonzero": lambda x: x.nonzero(), "mask": lambda x: x[x > 0],
    "upload": lambda x: torch.ones(3).to(x.device), "like": lambda x: torch.ones(3).to(x),
    "type": lambda x: torch.ones(3).type_as(x), "made there": lambda x: torch.tensor([1.0], device=x.device),
    "copied there": lambda x: x.copy_(torch.ones(3)), "copied here": lambda x: torch.ones(3).copy_(x),
    "indices of the host": lambda x: x[torch.arange(2)], "inference": torch.inference_mode()(lambda x: bool(x.all())),
    "backward": lambda x: (x.requires_grad_() * 2).sum().backward() or x.grad.cpu(),
}  # fmt: skip
NO_WAITS = {
    "on the host": lambda x: torch.tensor([1.0]).item(), "indices": lambda x: x[torch.zeros_like(x, dtype=torch.long)],
    "where": lambda x: torch.where(x > 0, x, 0), "made there": lambda x: torch.zeros(3, device=x.device) + x,
    "in the background": lambda x: torch.ones(3).to(x.device, non_blocking=True), 
    "a number": lambda x: x * torch.tensor(2),
    "another type": lambda x: x.to(torch.float16).float(), "views": lambda x: x.view(3, 1)[:2].T.contiguous(),
    "what is there": lambda x: x.to("cuda").cuda(), "padded": lambda x: torch.nn.utils.rnn.pad_sequence([x, x[:2]]),
}  # fmt: skip
REFUSED = {
    "sum": lambda x: x + torch.ones(3), "module": lambda x: torch.nn.Linear(3, 3)(x),
    "constant": lambda x: torch.cat([x, torch.arange(3.0)]), "copied": lambda x: x + x.cpu(),
    "number": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]), "index": lambda x: torch.ones(3)[x.long()],
    "numpy": lambda x: x.numpy(), "product": torch.inference_mode()(lambda x: torch.eye(3) @ x),
    "backward": lambda x: (x.requires_grad_() * 2).sum().backward() or x.grad + torch.ones(3),
}  # fmt: skip


@pytest.fixture
def pretended():
    with Pretended() as gpu:
        yield gpu


@pytest.fixture
def there(pretended):
    """Three ones."""
    return torch.ones(3).to(GPU, non_blocking=True)


def test_what_goes_there_is_there_and_what_comes_back_is_here(there):
    assert there.device == torch.device("cuda", 0) and there.is_cuda and not there.is_cpu
    assert there.cpu().device.type == "cpu" and not torch.ones(3).is_cuda
    module = torch.nn.BatchNorm1d(3).to(GPU)
    assert {of.device.type for of in (*module.parameters(), *module.buffers())} == {GPU}
    assert module(there.expand(2, 3)).sum().device.type == GPU
    assert torch.ones(3, device="meta").device.type == "meta"


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_counted(pretended, there, name):
    WAITS[name](there)
    assert len(pretended.waits) == 1, pretended.waits


@pytest.mark.parametrize("name", NO_WAITS)
def test_what_does_not_wait_is_not(pretended, there, name):
    NO_WAITS[name](there)
    assert pretended.waits == []


@pytest.mark.parametrize("name", REFUSED)
def test_tensors_of_two_devices_are_refused(there, name):
    with pytest.raises((RuntimeError, TypeError), match=r"same device|to numpy"):
        REFUSED[name](there)


def test_what_does_not_repeat_on_a_gpu_is_refused_where_only_such_is_wanted(there):
    def blurred():
        picture = there.expand(1, 1, 3, 3).clone().requires_grad_()
        torch.nn.functional.interpolate(picture, scale_factor=2, mode="bicubic").sum().backward()

    blurred()
    with deterministic(), pytest.raises(RuntimeError, match="bicubic2d_backward does not have a deterministic"):
        blurred()


def test_outside_all_is_as_it_was(there):
    with Pretended():
        pass
    assert device_of(torch.ones(3)).type == "cpu"


# --- all that computes on one -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_keeps_its_budget(folder, name):
    with deterministic():
        waits = waits_of(backbone_on(name, folder), "cpu")
    assert len(waits) <= BACKBONES[name][0], waits


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_backbone_keeps_its_budget_in_sixteen_bits(folder, precision):
    with deterministic():
        assert waits_of(backbone_on("clip cam_tokens", folder, precision), "cpu") == []


@pytest.mark.parametrize("name", CAMS)
def test_maps_keep_their_budget(name):
    with deterministic():
        waits = waits_of(cams_on(name), "cpu")
    assert len(waits) <= CAMS[name][0], waits
