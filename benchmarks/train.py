"""Times a training step of every trained head of params.yaml: data, arithmetic, memory, waits of the host; and a start.

Stores of random values have the toy world's shapes. A step is what the trainer does: a batch from the loader, its copy
to the device, forward, backward, clipping, update, averaging. Waiting for data is the time until the loader gives the
batch. Bytes kept for the backward are those that `torch.autograd.graph.saved_tensors_hooks` sees, each storage once,
parameters left out, with attention kept as a GPU's fused kernels keep it.
"""

import time
from itertools import count
from statistics import median
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks._harness import ROOT, Busy, main, scratch, table
from benchmarks._pretended import waits_of
from benchmarks._training import (
    CLASSES,
    TOY,
    Learning,
    batch_of,
    run_of,
    saved_bytes,
    steps_of,
    with_compute,
)
from benchmarks.startup import STARTS, started
from pipeline.config import load_params
from pipeline.runs import Run
from pipeline.training.table import Readers


def trained_heads(params: Any) -> list[str]:
    """Those of params that learn something."""
    return [name for name, head in params.heads.items() if head.trains]


def figures(run: Run, device: str, steps: int) -> dict[str, Any]:
    """What a step of a head costs."""
    from pipeline.training.data import FeatureData  # of Lightning

    config, compute = run.config, run.params.compute
    torch.set_num_threads(compute.threads)
    learning = Learning.of(run, device)
    average = AveragedModel(learning.step.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    data = FeatureData(
        run.samples,
        run.task.code("table"),
        batch_size=config.batch_size,
        seed=config.seed,
        memory=compute.cache_memory_gb * 1e9,
        readers=Readers(compute.decode_workers, compute.readahead_gb * 1e9),
    )
    data.setup("fit")
    loader = data.train_dataloader()
    waits, walls = [], []
    with Busy(device) as gpu:
        for epoch in count():
            loader.sampler.set_epoch(epoch)
            began = time.perf_counter()
            for number, batch in enumerate(loader):
                came = time.perf_counter()
                learning({name: of.to(device, non_blocking=True) for name, of in batch.items()}, number)
                average.update_parameters(learning.step.model)
                if device == "cuda":
                    torch.cuda.synchronize()
                ended = time.perf_counter()
                waits.append(came - began)
                walls.append(ended - began)
                began = ended
            if len(walls) > steps:
                break
    del loader
    waits, walls = waits[1:], walls[1:]  # the first step allocates
    batch = batch_of(run, config.batch_size, device)
    found = {
        "step_ms": 1000 * median(walls),
        "data_wait_share": sum(waits) / sum(walls),
        "host_waits": len(waits_of(steps_of(run, config.batch_size), device)),
        "saved_mb_a_sample": saved_bytes(learning, batch) / config.batch_size / 1e6,
        "parameters": sum(of.numel() for of in learning.step.parameters()),
        "batch_size": config.batch_size,
        "steps": len(walls),
    }
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        learning(batch)
        found["gpu_busy"] = gpu.share
        found["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def run(device: str = "cpu", steps: int = 12, cache_memory_gb: float = 2.0) -> dict[str, Any]:
    """Every head; keys are <head>.step_ms and so on."""
    params = with_compute(load_params(ROOT / "params.yaml"), device=device, cache_memory_gb=cache_memory_gb)
    result: dict[str, Any] = {}
    rows = []
    with scratch("") as folder:
        for head in trained_heads(params):
            size = 4 * params.head(head).batch_size
            made = run_of(params, head, TOY, CLASSES[head], size, folder)
            found = figures(made, device, steps)
            result[head] = found
            rows.append({"head": head, **{name: found.get(name) for name in SHOWN}})
    table(f"training on {device}, batches of params.yaml", rows)
    start_s, _ = started(STARTS["train"].code + FIRST_PRODUCT.format(device))
    print(f"a training's start, to the first product: {start_s:.1f} CPU s")
    figures_of = {f"{head}.{name}": value for head, of in result.items() for name, value in of.items()}
    return figures_of | {"start_s": start_s, "device": device}


SHOWN = ("batch_size", "step_ms", "data_wait_share", "host_waits", "saved_mb_a_sample", "gpu_busy", "peak_mb")
# On a GPU its context and cuBLAS are part of a start.
FIRST_PRODUCT = "\nimport torch\nones = torch.ones(8, 8, device='{0}')\n(ones @ ones).sum().item()"


if __name__ == "__main__":
    main(run, {"steps": 100}, device="cpu", steps=12, cache_memory_gb=2.0)
