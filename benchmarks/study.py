"""An ablation study from caches, and the same with the frozen backbones inside the training loop.

    python -m benchmarks.study [--ablation NAME] [--batches N] [--rounds N] [--json FILE]

Steps of the ablation's head by turns: with the batch from the stores, and with the same batch decoded, resized and put
through the backbones first, as a training without caches does in every epoch. Both end in the same step of the same
optimiser, one thread each, and their tokens must agree. The study is what its rows, seeds and epochs make of that, with
one extraction of every clip on the side of the caches. Derived inputs (maps) come from the cache on both sides. Makes
the head's features where they are absent.
"""

import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks._harness import interleaved, main, ratio, table
from pipeline.backbones import load, preprocessor
from pipeline.config import BackboneFeature, Params, feature_dir, load_params
from pipeline.datasets import read_manifest, shard_samples, video_folder
from pipeline.plan import Plan
from pipeline.training.data import FeatureData
from pipeline.training.registry import build
from pipeline.training.trainer import MODULES, head_samples
from pipeline.video import VideoFacts, read_frames, sampling_times

CLOSE = 2e-2  # of the largest token: stores hold half precision


class Pixels:
    """Batches whose tokens are computed anew from the videos."""

    def __init__(self, params: Params, head: str, ids: list[str]) -> None:
        config = params.head(head)
        self.ids, self.folder = ids, video_folder(params.datasets[config.dataset])
        manifest = read_manifest(Path("features") / config.dataset / "manifest.parquet")
        shards = manifest["shard"].unique()
        self.rows = {row.sample: row for shard in shards for row in shard_samples(manifest, shard)}
        self.eyes = {}
        for role, read in config.inputs.items():
            feature = params.features[read.feature]
            if isinstance(feature, BackboneFeature):
                self.eyes[role] = feature, preprocessor(feature), load(feature, torch.device("cpu"))

    def tokens(self, rows: Tensor) -> dict[str, Tensor]:
        """Role -> tokens of the batch."""
        clips: dict[str, list[Tensor]] = {role: [] for role in self.eyes}
        for row in rows.tolist():
            sample = self.rows[self.ids[row]]
            facts = VideoFacts(**sample.facts)
            for role, (feature, preprocess, _) in self.eyes.items():
                times = sampling_times(feature.sampling, facts.duration)
                frames = read_frames(self.folder / sample.path, times, feature.decoder, facts)
                clips[role].append(torch.from_numpy(preprocess(frames)))
        with torch.inference_mode():
            found = {role: next(iter(self.eyes[role][2](torch.stack(own)).values())) for role, own in clips.items()}
        return {role: tokens.clone() for role, tokens in found.items()}


def run(ablation: str, batches: int, rounds: int) -> dict[str, Any]:
    """Times both and says what the whole study would take on one core."""
    params = load_params("params.yaml")
    chosen = params.ablations[ablation]
    plan, head = Plan(params), chosen.head
    config = params.head(head)
    needed = plan.shard_manifests(config.inputs.values())
    subprocess.run([sys.executable, "-m", "snakemake", *needed, "--cores", "2"], check=True)
    torch.set_num_threads(1)

    features = {role: feature_dir(params, *read) for role, read in config.inputs.items()}
    samples = head_samples(params, head, Path("features") / config.dataset / "manifest.parquet", features)
    data = FeatureData(samples, batch_size=config.batch_size, seed=0, memory=4e9, workers=0)
    data.setup("fit")
    cached = [batch for batch, _ in zip(data.train_dataloader(), range(batches), strict=False)]
    pixels = Pixels(params, head, data.table.ids)
    module = MODULES[config.task](head, build(head, config, samples), config, samples, steps=100)
    module.log = lambda *_, **__: None
    optimizer = module.configure_optimizers()["optimizer"]

    def step(batch: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()

    for role, tokens in pixels.tokens(cached[0]["row"]).items():
        stored = cached[0][role].float()
        apart = float((tokens - stored).abs().max() / stored.abs().max())
        if apart > CLOSE:
            raise SystemExit(f"{role}: tokens from pixels differ from the stored ones by {apart:.1e} of the largest")

    def from_caches() -> None:
        for batch in cached:
            step(data.table[batch["row"].tolist()])

    def from_pixels() -> None:
        for batch in cached:
            step({**data.table[batch["row"].tolist()], **pixels.tokens(batch["row"])})

    seconds = interleaved({"caches": from_caches, "pixels": from_pixels}, rounds)
    clips = sum(len(batch["row"]) for batch in cached)
    each = {name: median(found) / clips for name, found in seconds.items()}
    trainings, learned = len(chosen.rows) * len(chosen.seeds), len(samples.parts["train"])
    passes = trainings * config.epochs * learned
    once = (each["pixels"] - each["caches"]) * sum(len(ids) for ids in samples.parts.values())
    hours = {"caches": (passes * each["caches"] + once) / 3600, "pixels": passes * each["pixels"] / 3600}
    rows = [
        {"from": name, "ms a clip and step": 1000 * each[name], "hours of the study, one core": hours[name]}
        for name in seconds
    ]
    table(f"{ablation}: {trainings} trainings of {config.epochs} epochs over {learned} clips", rows)
    found = {
        "step_ratio": ratio(seconds["pixels"], seconds["caches"]),
        "study_ratio": hours["pixels"] / hours["caches"],
    }
    print(", ".join(f"{name} {value:.1f}" for name, value in found.items()))
    return {**found, "rows": rows, "trainings": trainings}


if __name__ == "__main__":
    main(run, ablation="clinic_clip_align_ablations", batches=2, rounds=3)
