"""Every backbone, and every map of CLIP, on the device: as on the CPU, to the bit again, within its budget of waits."""

import pytest
import torch

from benchmarks._pretended import waits_of
from pipeline.accelerator import deterministic
from tests.devices import BACKBONES, CAMS, backbone_on, cams_on, models

pytestmark = pytest.mark.gpu
# Of the norm of a field; in sixteen bits against the CPU's single precision.
CLOSE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return models(tmp_path_factory.mktemp("models"))


def agree(work, exact, device, within):
    """Two runs are one; and near those of the CPU in single precision."""
    with deterministic():
        first, again = ({name: of.cpu() for name, of in work(device)().items()} for _ in range(2))
        expected = exact("cpu")()
    assert first.keys() == again.keys() == expected.keys()
    for name, wanted in expected.items():
        assert torch.equal(first[name], again[name]), name
        found, wanted = first[name].double(), wanted.double()
        assert (found - wanted).norm() <= within * wanted.norm(), name


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_repeats_and_gives_what_the_cpu_gives(name, precision, folder, device):
    if precision != "fp32" and (name == "raft" or (device == "cpu" and name.startswith("r3d18"))):
        pytest.skip("RAFT has one precision, and the CPU takes a minute for these convolutions in sixteen bits")
    agree(backbone_on(name, folder, precision), backbone_on(name, folder), device, CLOSE[precision])


@pytest.mark.parametrize("name", CAMS)
def test_maps_repeat_and_are_the_cpu_s(name, device):
    agree(cams_on(name), cams_on(name), device, CLOSE["fp32"])


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_waits_no_more_than_its_budget(name, folder, device):
    with deterministic():
        assert len(waits := waits_of(backbone_on(name, folder), device)) <= BACKBONES[name][0], waits


@pytest.mark.parametrize("name", CAMS)
def test_maps_wait_no_more_than_their_budget(name, device):
    with deterministic():
        assert len(waits := waits_of(cams_on(name), device)) <= CAMS[name][0], waits
