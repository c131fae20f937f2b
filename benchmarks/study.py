"""An ablation study from caches, and the same with the frozen backbones inside the training loop.

    python -m benchmarks.study [--full] [--ablation NAME] [--batches N] [--rounds N] [--json FILE]

By turns in one run: a step of each row of the ablation with the batch from the stores, and decoding, resizing and each
backbone's forward of the same batch, as a training without caches does in every epoch for each stream that its row
reads. One thread each, and the tokens must agree with the stored ones. The study is what its rows, seeds and epochs
make of that, with one extraction of every clip on the side of the caches; holdout and evaluation, which a training
without caches extracts for, too, are left out on both. Derived inputs (maps) come from the cache. Makes the features
where they are absent: with --full those of params.yaml here, else those of a twentieth of the toy world, whose times a
clip are the same.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks._harness import interleaved, main, project, ratio, table, workflow
from pipeline.backbones import load, preprocessor
from pipeline.config import BackboneFeature, Params, load_params
from pipeline.datasets import read_manifest, samples_by_name, video_folder
from pipeline.plan import Plan, manifest_path
from pipeline.runs import Run
from pipeline.training.data import FeatureData
from pipeline.training.registry import build
from pipeline.training.table import Readers
from pipeline.video import VideoFacts, read_frames, sampling_times

CLOSE = 2e-2  # of the largest token: stores hold half precision


class Pixels:
    """What the backbones make anew of the videos, a role at a time."""

    def __init__(self, params: Params, head: str) -> None:
        config = params.head(head)
        self.folder = video_folder(params.datasets[config.dataset])
        manifest = read_manifest(Path("features") / config.dataset / "manifest.parquet")
        self.rows = samples_by_name(manifest)
        self.eyes = {}
        for role, read in config.inputs.items():
            feature = params.features[read.feature]
            if isinstance(feature, BackboneFeature):
                self.eyes[role] = feature, preprocessor(feature), load(feature, torch.device("cpu"))

    def tokens(self, role: str, ids: list[str]) -> Tensor:
        """Tokens of the videos as a backbone gives them."""
        (feature, preprocess, backbone), clips = self.eyes[role], []
        for sample in map(self.rows.__getitem__, ids):
            facts = VideoFacts(**sample.facts)
            times = sampling_times(feature.sampling, facts.duration)
            clips.append(
                torch.from_numpy(preprocess(read_frames(self.folder / sample.path, times, feature.decoder, facts)))
            )
        with torch.inference_mode():
            return next(iter(backbone(torch.stack(clips)).values()))


class Row:
    """A row of the ablation, ready to take steps."""

    def __init__(self, run: Run, tables: dict[str, FeatureData]) -> None:
        self.config, samples, task = run.config, run.samples, run.task
        if samples.digest not in tables:
            tables[samples.digest] = FeatureData(
                samples,
                task.code("table"),
                batch_size=self.config.batch_size,
                seed=0,
                memory=4e9,
                readers=Readers(0, 0),
            )
            tables[samples.digest].setup("fit")
        self.samples, self.data = samples, tables[samples.digest]
        self.module = task.code("step")(
            run.head, build(run.head, self.config, samples), self.config, samples, steps=100
        )
        self.module.log = lambda *_, **__: None
        self.optimizer = self.module.configure_optimizers()["optimizer"]
        # A training of one stream alone would not extract the other.
        self.roles = set(getattr(self.module.model, "streams", self.config.inputs))
        self.passes = self.config.epochs * len(samples.parts["train"])

    def steps(self, batches: list[list[int]]) -> None:
        """A step of each batch from the caches."""
        for rows in batches:
            self.optimizer.zero_grad()
            self.module.training_step(self.data.table[rows], 0).backward()
            self.optimizer.step()


def small(document: dict[str, Any]) -> None:
    """Sizes that are rendered and extracted in a minute."""
    document["toyworld"]["ssv2"] |= {"train": 2, "validation": 1, "test": 1}
    document["toyworld"]["clinic"] |= {"train": 24, "val": 8, "test": 8}
    document["datasets"]["toy-ssv2"] |= {"features": [], "shard_size": 96}


def run(ablation: str, batches: int, rounds: int, full: bool) -> dict[str, Any]:
    """Times both and says what the whole study would take on one core."""
    with project(full, small):
        return study(ablation, batches, rounds)


def study(ablation: str, batches: int, rounds: int) -> dict[str, Any]:
    """Of the project here."""
    params = load_params("params.yaml")
    chosen = params.ablations[ablation]
    plan, tables = Plan(params), {}
    runs = {name: plan.ablated(ablation)[name, chosen.seeds[0]] for name in chosen.rows}
    reads = [read for of in runs.values() for read in of.config.inputs.values()]
    # A set that is not rendered yet has no shards to name.
    workflow(*{str(manifest_path(read.dataset)) for read in reads})
    workflow(*plan.shard_manifests(reads))
    torch.set_num_threads(1)

    rows = {name: Row(of, tables) for name, of in runs.items()}
    first = next(iter(rows.values()))
    if any(row.config.inputs != first.config.inputs for row in rows.values()):
        raise SystemExit(f"ablations.{ablation}: its rows read different features; name one whose rows read the same")
    drawn = {
        of: [row["row"].tolist() for row, _ in zip(of.train_dataloader(), range(batches), strict=False)]
        for of in tables.values()
    }
    ids = [[first.data.table.ids[row] for row in batch] for batch in drawn[first.data]]
    pixels = Pixels(params, chosen.head)
    for role in pixels.eyes:
        stored = first.data.table[drawn[first.data][0]][role].float()
        apart = float((pixels.tokens(role, ids[0]) - stored).abs().max() / stored.abs().max())
        if apart > CLOSE:
            raise SystemExit(f"{role}: tokens from pixels differ from the stored ones by {apart:.1e} of the largest")

    cases: dict[str, Callable[[], None]] = {
        role: lambda role=role: [pixels.tokens(role, batch) for batch in ids] for role in pixels.eyes
    }
    cases |= {name: lambda row=row: row.steps(drawn[row.data]) for name, row in rows.items()}
    seconds = interleaved(cases, rounds)
    clips = sum(map(len, ids))
    clips_of = {name: sum(map(len, drawn[row.data])) for name, row in rows.items()}

    def study(number: int) -> tuple[float, float]:
        """Hours of the whole study from caches, and with the backbones in the loop, as one round measured them."""
        each = {role: seconds[role][number] / clips for role in pixels.eyes}
        once = sum(each.values()) * sum(len(part) for part in first.samples.parts.values())
        steps = {
            name: len(chosen.seeds) * row.passes * seconds[name][number] / clips_of[name] for name, row in rows.items()
        }
        anew = {
            name: len(chosen.seeds) * row.passes * sum(each[role] for role in row.roles & each.keys())
            for name, row in rows.items()
        }
        return (once + sum(steps.values())) / 3600, (sum(steps.values()) + sum(anew.values())) / 3600

    caches, loop = zip(*map(study, range(rounds)), strict=True)
    shown = [{"what": f"{role} from pixels", "ms a clip": 1000 * median(seconds[role]) / clips} for role in pixels.eyes]
    shown += [{"what": f"step of {name}", "ms a clip": 1000 * median(seconds[name]) / clips_of[name]} for name in rows]
    table(f"{ablation}: one thread, {rounds} rounds", shown)
    hours = [
        {"study": "from caches", "hours": median(caches)},
        {"study": "backbones in the loop", "hours": median(loop)},
    ]
    trainings = len(rows) * len(chosen.seeds)
    table(f"{trainings} trainings, {first.config.epochs} epochs over {len(first.samples.parts['train'])} clips", hours)
    print(f"study_ratio {ratio(loop, caches):.1f}")
    return {"study_ratio": ratio(loop, caches), "rows": shown, "hours": hours, "trainings": trainings}


if __name__ == "__main__":
    main(run, {"batches": 2, "rounds": 3}, ablation="gasm_cast_design", batches=1, rounds=1)
