"""The processes of one training: who starts them, which is the first, what it tells the others. Knows no head.

On one node the first starts the others itself, once all is decided: they find it on the disk. On several, Slurm or
torchrun starts all of them at once, and the first has to tell.
"""

import atexit
import os
from typing import Any

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from pipeline.accelerator import accelerator
from pipeline.config import Compute
from pipeline.runs import RunError


def environment(compute: Compute) -> ClusterEnvironment:
    """What tells each process its place.

    Raises:
        RunError: several nodes are asked for, and nobody has started this process as one of many.
    """
    if compute.nodes == 1:
        return LightningEnvironment()  # processes of our own, under a scheduler too
    if TorchElasticEnvironment.detect():  # first, since torchrun may run within Slurm
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)  # the workflow tries again
    raise RunError(
        f"compute.nodes is {compute.nodes}, but neither srun nor torchrun started this process; start one for each of "
        f"the {compute.nodes * compute.devices} devices (docs/cluster.md), or set compute.nodes: 1"
    )


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank_zero_only.rank == 0


def meet(compute: Compute) -> None:
    """Joins the processes of several nodes before anything is decided; Lightning goes on with their group.

    Raises:
        ParamsError: no CUDA device, and `compute.device` asks for one.
        RunError: fewer of them than `compute.devices`, or what `environment` says.
    """
    on_cuda = accelerator(compute) == "cuda"
    if on_cuda and (found := torch.cuda.device_count()) < compute.devices:
        raise RunError(
            f"compute.devices is {compute.devices}, but torch finds {found} CUDA devices here; lower it, or look at "
            "CUDA_VISIBLE_DEVICES and at what the scheduler was asked for"
        )
    if compute.nodes == 1 or distributed.is_initialized():
        return
    place = environment(compute)
    if on_cuda:
        torch.cuda.set_device(place.local_rank())
    os.environ |= {"MASTER_ADDR": place.main_address, "MASTER_PORT": str(place.main_port)}
    size = {"rank": place.global_rank(), "world_size": place.world_size()}
    distributed.init_process_group("nccl" if on_cuda else "gloo", **size)
    atexit.register(distributed.destroy_process_group)


def agreed(found: Any) -> Any:
    """What the first process found, in every process that is there already."""
    if not distributed.is_initialized():
        return found
    box = [found]
    distributed.broadcast_object_list(box)
    return box[0]
