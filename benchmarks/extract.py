"""Times extraction: against the pure forward of the same batches, and against a plain per-video extractor.

Real sizes: DINOv3 ViT-B/16 (8 frames, 224 x 224) and R3D-18 (32 frames, 112 x 112), random weights, clips like
Something-Something-V2's. Mini: the shipped backbones on clips like the toy's, where the loop binds, not the arithmetic.
Weights are loaded, and clips probed, before the clock starts: on real data both are paid once. The extraction computes
on one thread and decodes in another process; the per-video extractor is timed on one thread and with PyTorch's threads
on every core, and the faster of the two counts. What a job's start costs is told by the CPU seconds of processes, the
path of a batch by those of threads.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import av
import decord
import numpy as np
import torch

from benchmarks._batch_path import measured as path_of_a_batch
from benchmarks._harness import Busy, interleaved, main, ratio, table
from pipeline import backbones
from pipeline.config import Params, load_params, parse_params
from pipeline.config.costs import cut, seconds_a_sample
from pipeline.config.datasets import Dataset
from pipeline.datasets import build_manifest, read_manifest, shard_samples, video_folder, write_manifest
from pipeline.extraction import extract
from pipeline.extraction.clips import ClipSource, View, samples_of_job, slots_of
from pipeline.extraction.provenance import stored_fields
from pipeline.extraction.ring import Ring
from pipeline.extraction.stream import Stream
from pipeline.store import ShardWriter
from pipeline.toyworld.templates import TEMPLATES

ROOT = Path(__file__).parents[1]
REAL = {
    "dinov3": {"backbone": "dinov3", "weights": {"random": 0}, "sampling": {"frames": 8}}
    | {"preprocess": {"resize": [224, 224]}},
    "r3d18": {"backbone": "r3d18", "weights": {"random": 0}, "sampling": {"frames": 32}}
    | {"preprocess": {"resize": [128, 171], "crop": [112, 112]}},
}
MINI = {
    "dinov3": REAL["dinov3"]
    | {"weights": {"path": str(ROOT / "weights/mini-dinov3")}, "preprocess": {"resize": [128, 128]}, "pool": 2},
    "r3d18": REAL["r3d18"]
    | {"weights": {"path": str(ROOT / "weights/mini-r3d18.safetensors")}, "preprocess": {"resize": [64, 64]}},
}

PARTS = ("decode", "forward", "write")


@dataclass(frozen=True)
class Scale:
    """One size of clips and backbones."""

    features: Mapping[str, Mapping[str, Any]]
    clips: int
    width: int
    height: int
    frames: int
    batch: int


# --- the world --------------------------------------------------------------------------------------------------------


def write_clip(path: Path, seed: int, scale: Scale) -> None:
    """A VP9 clip of textures that drift, 12 frames a second."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (scale.height // 8, scale.width // 8, 3)).astype(np.uint8)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=12, options={"cpu-used": "8", "deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt = texture.shape[1], texture.shape[0], "yuv420p"
        for step in range(scale.frames):
            picture = np.roll(texture, (step, 2 * step), axis=(0, 1))
            noise = rng.integers(-6, 7, picture.shape[:2])[..., None]
            shown = np.clip(picture + noise, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, "rgb24")))
        container.mux(stream.encode())


def world(folder: Path, scale: Scale, device: str, workers: int) -> Params:
    """Encoded clips in Something-Something-V2's layout, their manifest, and the params that extract from them."""
    videos = folder / "set"
    videos.mkdir(parents=True)
    for number in range(scale.clips):
        write_clip(videos / f"{number}.webm", number, scale)
    (videos / "labels.json").write_text('{"Moving": "0"}', encoding="utf-8")
    entries = ", ".join(f'{{"id": "{number}"}}' for number in range(scale.clips))
    (videos / "test.json").write_text(f"[{entries}]", encoding="utf-8")
    for split in ("train", "validation"):
        (videos / f"{split}.json").write_text("[]", encoding="utf-8")
    precision = "bf16" if device == "cuda" else "fp32"
    features = {name: {**f, "batch": scale.batch, "precision": precision} for name, f in scale.features.items()}
    params = parse_params(
        {
            "compute": {"device": device, "extract_threads": 1, "decode_workers": workers},
            "datasets": {"clips": {"layout": "ssv2", "root": str(videos), "shard_size": 4096}},
            "features": features,
        }
    )
    write_manifest(build_manifest(params.datasets["clips"])[0], folder / "clips" / "manifest.parquet")
    return params


# --- what is compared -------------------------------------------------------------------------------------------------


class Bench:
    """One scale: its world, its backbones, and the cases to be timed."""

    def __init__(self, folder: Path, scale: Scale, device: str, workers: int) -> None:
        self.folder, self.scale, self.device, self.workers = folder, scale, device, workers
        self.params = world(folder, scale, device, workers)
        self.rows = shard_samples(read_manifest(folder / "clips" / "manifest.parquet"), 0)
        self.backbones = {name: backbones.load(f, device) for name, f in self.params.features.items()}
        self.pixels = {name: self._batches(name) for name in self.params.features}

    def _source(self, name: str) -> tuple[ClipSource, Ring]:
        feature = self.params.features[name]
        preprocess = backbones.preprocessor(feature)
        slots = [slots_of(name, feature, preprocess)]
        ring = Ring(slots, samples_of_job(slots), False)
        samples = [row.sample for row in self.rows]
        batches = [samples[start : start + self.scale.batch] for start in range(0, len(samples), self.scale.batch)]
        view = View(feature, preprocess, batches, ring.begin(0, len(batches)))
        return ClipSource(video_folder(self.params.datasets["clips"]), self.rows, [view], ring.run), ring

    def _decoded(self, name: str, workers: int) -> Iterator[torch.Tensor]:
        """Each batch, as it lies in the ring."""
        source, ring = self._source(name)
        held = 0
        with Stream([source], workers, ring) as messages:
            for _, message in messages:
                before, held = held, held + (len(message.clips) if message else 0)
                if message and (held % self.scale.batch == 0 or held == len(self.rows)):
                    yield ring.batch(0, before // self.scale.batch)[: (held - 1) % self.scale.batch + 1]
                    ring.release(0)

    def _batches(self, name: str) -> list[torch.Tensor]:
        return [batch.clone() for batch in self._decoded(name, 0)]

    def extract(self, *names: str) -> None:
        """This project: extraction into an empty store."""
        for name in names:
            for store in (self.folder / "clips").glob(f"{name}-*"):
                shutil.rmtree(store)
        extract(self.params, "clips", list(names), 0, self.folder, lambda line: None)

    def forward(self, name: str) -> None:
        """Nothing but the backbone, on batches that lie ready."""
        torch.set_num_threads(1)
        for batch in self.pixels[name]:
            self.backbones[name](batch.to(self.device))
        if self.device == "cuda":
            torch.cuda.synchronize()

    def per_video(self, threads: int, *names: str) -> None:
        """The plain extractor: feature after feature, video after video: decode, forward, save."""
        torch.set_num_threads(threads)
        out = self.folder / "npy"
        out.mkdir(exist_ok=True)
        for name in names:
            feature, backbone = self.params.features[name], self.backbones[name]
            preprocess = backbones.preprocessor(feature)
            for path in sorted(video_folder(self.params.datasets["clips"]).glob("*.webm")):
                reader = decord.VideoReader(str(path))
                count = feature.sampling.frames
                chosen = ((np.arange(count) + 0.5) / count * len(reader)).astype(int)
                pixels = torch.from_numpy(preprocess(reader.get_batch(chosen).asnumpy()))
                for field, values in backbone(pixels[None].to(self.device)).items():
                    np.save(out / f"{path.stem}_{name}_{field}.npy", values[0].float().cpu().numpy())

    def decode(self, name: str) -> None:
        """Nothing but decoding and preprocessing, in as many processes as the extraction has."""
        for _ in self._decoded(name, self.workers):
            pass

    def write(self, name: str) -> None:
        """Nothing but the store, in batches."""
        backbone, feature = self.backbones[name], self.params.features[name]
        fields = stored_fields(backbone.fields, backbone.grid, feature.storage)
        values = {field: np.zeros(shape, np.float32) for field, (shape, _) in backbone.fields.items()}
        base = self.folder / "written" / name / "shard-000"
        shutil.rmtree(base.parent, ignore_errors=True)
        with ShardWriter(base, [(row.sample, row.digest) for row in self.rows], fields, {"key": "0"}) as writer:
            for number, row in enumerate(self.rows, 1):
                writer.put(row.sample, values, {})
                if number % self.scale.batch == 0:
                    writer.commit()
            writer.finish()


def measure(bench: Bench, names: Sequence[str], rounds: int, warmup: int) -> dict[str, Any]:
    """Videos a second, ratios and, of a single feature, the slowest part."""
    cores = len(os.sched_getaffinity(0))
    cases: dict[str, Callable[[], None]] = {
        "extract": lambda: bench.extract(*names),
        "per_video": lambda: bench.per_video(1, *names),
        "per_video_threads": lambda: bench.per_video(cores, *names),
    }
    if len(names) == 1:
        cases |= {part: partial(getattr(bench, part), *names) for part in PARTS}
    seconds = interleaved(cases, rounds, warmup)
    plain = [min(pair) for pair in zip(seconds["per_video"], seconds["per_video_threads"], strict=True)]
    result: dict[str, Any] = {
        "videos_per_s": bench.scale.clips / median(seconds["extract"]),
        "vs_per_video": ratio(plain, seconds["extract"]),
    }
    if bench.device == "cuda":
        with Busy(bench.device) as gpu:
            bench.extract(*names)
        result["gpu_busy"] = gpu.share
    if len(names) == 1:
        parts = {part: 1000 * median(seconds[part]) / bench.scale.clips for part in PARTS}
        result |= {
            "wall_over_forward": ratio(seconds["extract"], seconds["forward"]),
            "ms_a_video": parts,
            "binds": max(parts, key=parts.__getitem__),
        }
    return result


def starts_of(folder: Path, device: str, shards: int, shard_size: int) -> dict[str, Any]:
    """What starting a job costs of the extraction of both mini backbones: with a job a shard, and with one for all.

    CPU seconds of `python -m pipeline extract`, its decode processes among them: whole, and once more where nothing is
    left to compute, which is the start alone. Of larger shards the shares follow from these two.

    Args:
        folder: empty; holds the clips, few of which differ.
        shards, shard_size: of the data set that is extracted.

    Returns:
        `start_s` and `work_ms`, of a job and of a video; `measured`, of what was extracted; and by name of other
        extractions how many jobs there are and which share their starts have, before (a job a shard) and after.
    """
    params = world(folder, Scale(MINI, min(16, shard_size), 128, 128, 36, batch=16), device, 1)
    videos = Path(params.datasets["clips"].root)
    samples = shards * shard_size
    for number in range(min(16, shard_size), samples):
        os.link(videos / f"{number % min(16, shard_size)}.webm", videos / f"{number}.webm")
    entries = [{"id": str(number)} for number in range(samples)]
    (videos / "test.json").write_text(json.dumps(entries), encoding="utf-8")
    document = json.loads(params.model_dump_json())
    document["datasets"]["clips"] |= {"shard_size": shard_size}
    (folder / "params.json").write_text(json.dumps(document), encoding="utf-8")
    params = parse_params(document)
    write_manifest(build_manifest(params.datasets["clips"])[0], folder / "clips" / "manifest.parquet")
    line = [sys.executable, "-m", "pipeline", "extract", "clips", *MINI, "--root", str(folder)]
    line += ["--params", str(folder / "params.json"), "--shards", f"0-{shards - 1}"]
    whole, start = _cpu_seconds(line), _cpu_seconds([*line[:-1], "0"])
    each = (whole - start) / samples

    def shares(videos: int, before: int, after: int) -> dict[str, Any]:
        def share(jobs: int) -> float:
            return jobs * start / (jobs * start + videos * each)

        return {"videos": videos, "jobs": [before, after], "before": share(before), "after": share(after)}

    size = Dataset.model_fields["shard_size"].default
    return {
        "start_s": start,
        "work_ms": 1000 * each,
        "measured": {"shards": shards, **shares(samples, shards, 1)},
        "20 shards": shares(20 * size, 20, 1),
        "64 shards": shares(64 * size, 64, 1),
        "ssv2_top1": shares(*_toy()),
    }


def _toy() -> tuple[int, int, int]:
    """Of the extraction of results/ssv2_top1.json: videos, and jobs with a shard each and as the workflow cuts them."""
    params = load_params(ROOT / "params.yaml")
    of, size = params.toyworld.ssv2, params.datasets["toy-ssv2"].shard_size
    videos = len(TEMPLATES) * (of.train + of.validation + of.test)
    shards = range(-(-videos // size))
    features = {read.feature: params.features[read.feature] for read in params.heads["gasm_cast"].inputs.values()}
    jobs = [
        cut(shards, shards, size * seconds_a_sample({name: feature}, params.compute), params.compute)
        for name, feature in features.items()
    ]
    return videos, len(features) * len(shards), sum(map(len, jobs))


def _cpu_seconds(line: Sequence[str]) -> float:
    def used() -> float:
        found = resource.getrusage(resource.RUSAGE_CHILDREN)
        return found.ru_utime + found.ru_stime

    before = used()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path})
    return used() - before


def run(
    device: str = "cpu", clips: int = 4, mini_clips: int = 48, rounds: int = 3, shards: int = 64, shard_size: int = 64
) -> dict[str, Any]:
    """Everything; the claims are the first four keys. `vs_per_video` is of both mini backbones over the same clips."""
    workers = 1 if device == "cpu" else max(1, len(os.sched_getaffinity(0)) - 1)
    scales = {
        "real": Scale(REAL, clips, 320, 240, 48, batch=2 if device == "cpu" else 16),
        "mini": Scale(MINI, mini_clips, 128, 128, 36, batch=16),
    }
    results: dict[str, Any] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, weights_loaded_once():
        for size, scale in scales.items():
            bench = Bench(Path(folder) / size, scale, device, workers)
            times, warmup = (rounds, 1) if size == "mini" else (max(1, rounds // 2), 0)
            for name in scale.features:
                results[f"{size} {name}"] = measure(bench, [name], times, warmup)
            if size == "mini":
                results["mini fused"] = measure(bench, list(scale.features), times, warmup)
        starts = starts_of(Path(folder) / "starts", device, shards, shard_size)
        path = path_of_a_batch(Path(folder) / "path", 32, 16, 2 * rounds + 1)
    _show(results, device, workers)
    show_starts(starts)
    table("the path of a batch, CPU ms a video", [{"way": way, **ms} for way, ms in path["cpu_ms_a_video"].items()])
    return {
        "startup_share": starts["20 shards"]["after"],
        "wall_over_forward": max(results[f"real {name}"]["wall_over_forward"] for name in REAL),
        "vs_per_video": results["mini fused"]["vs_per_video"],
        "batch_path_vs_plain": path["share_of_plain"],
        "vs_per_video_each": {case: figures["vs_per_video"] for case, figures in results.items()},
        "starts": starts,
        "batch_path": path,
        "cases": results,
        "device": device,
        "decode_workers": workers,
        "scales": {size: asdict(scale) for size, scale in scales.items()},
        "seconds": time.perf_counter() - began,
    }


@contextmanager
def weights_loaded_once() -> Iterator[None]:
    """Inside, a backbone that was loaded is not loaded again."""
    load, loaded = backbones.load, {}

    def load_once(feature: Any, device: Any) -> Any:
        key = feature.model_dump_json()
        if key not in loaded:
            loaded[key] = load(feature, device)
        return loaded[key]

    backbones.load = load_once
    try:
        yield
    finally:
        backbones.load = load


def show_starts(starts: Mapping[str, Any]) -> None:
    rows = [
        {
            "extraction": name,
            "videos": of["videos"],
            "jobs before": of["jobs"][0],
            "share": f"{of['before']:.1%}",
            "jobs after": of["jobs"][1],
            "share after": f"{of['after']:.1%}",
        }
        for name, of in starts.items()
        if isinstance(of, Mapping)
    ]
    table(f"a start is {starts['start_s']:.1f} s of CPU, a video {starts['work_ms']:.0f} ms: its share", rows)


def _show(results: Mapping[str, Mapping[str, Any]], device: str, workers: int) -> None:
    rows = []
    for case, figures in results.items():
        parts = figures.get("ms_a_video", {})
        rows.append(
            {
                "case": case,
                "videos/s": figures["videos_per_s"],
                "wall / forward": figures.get("wall_over_forward"),
                "x per-video": figures["vs_per_video"],
                **{f"{part} ms": parts.get(part) for part in PARTS},
                "binds": figures.get("binds"),
                "GPU busy": figures.get("gpu_busy"),
            }
        )
    table(f"extraction on {device}, {workers} decode processes", rows)


if __name__ == "__main__":
    sizes = {"clips": 4, "mini_clips": 48, "rounds": 3, "shards": 64, "shard_size": 64}
    main(run, sizes, device="cpu", clips=1, mini_clips=8, rounds=1, shards=20, shard_size=16)
