"""The workflow on the device, from videos to a result; and leases of the GPUs of a machine."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest

from pipeline.accelerator import made_by
from pipeline.config import Compute
from tests.workflow.conftest import BIN, Project, small

pytestmark = pytest.mark.gpu
JOBS = 8
# Notes when it had which devices; on a GPU, that it sees one.
JOB = """
import os, sys, time
shown = os.environ.get("CUDA_VISIBLE_DEVICES")
if sys.argv[2] == "cuda":
    import torch
    assert torch.cuda.device_count() == 1 and torch.ones(3, device="cuda").sum().item() == 3
began = time.monotonic()
time.sleep(0.3)
open(sys.argv[1], "w").write(f"{shown} {began} {time.monotonic()}")
"""


def test_videos_become_a_result_whose_provenance_names_the_device(tmp_path, device):
    project = Project(tmp_path)
    project.change(small)
    project.change(lambda document: document["compute"].update(device=device))
    project.called = "none"
    project.run(f"{BIN}/snakemake --cores 4 --resources gpu=1 -- results/ssv2_top1.json")
    made = json.loads((tmp_path / "results/ssv2_top1.json").read_text(encoding="utf-8"))["provenance"]
    assert made["device"] == made["trained"]["device"] == made_by(Compute(device=device))["device"]
    assert "Nothing to be done" in project.plan(f"{BIN}/snakemake --cores 4 results/ssv2_top1.json").stdout


def test_eight_jobs_share_the_gpus_and_no_two_have_one_at_once(tmp_path, device):
    environment = os.environ | {"PERMAFROST_LEASES": str(tmp_path / "leases")}
    if device == "cpu":  # names of devices, which are all that is lent
        environment |= {"CUDA_VISIBLE_DEVICES": "0,1"}
    said = [tmp_path / f"{number}" for number in range(JOBS)]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.gpu", "--n", "1", "--", sys.executable, "-c", JOB, str(path), device],
            env=environment,
        )
        for path in said
    ]
    assert [job.wait(300) for job in jobs] == [0] * JOBS
    told = [path.read_text(encoding="utf-8").split() for path in said]
    held = sorted((shown, float(began), float(ended)) for shown, began, ended in told)
    assert "None" not in {shown for shown, _, _ in held}
    for (one, _, ended), (other, began, _) in pairwise(held):
        assert one != other or ended <= began
