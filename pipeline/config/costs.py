"""What work costs, as declared: seconds a sample, by backbone and by kind of head. Cuts shards and runs into jobs.

A declared cost decides how many shards or runs a job gets and what a plan says; it enters no key and changes no byte.
Knows no scheduler.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

START_SECONDS = 10.0  # of a job: imports, CUDA's context, weights, decode processes
LEAST_SECONDS = 60.0  # of a job where shards are spread over several devices: six times its start


class Cost(NamedTuple):
    """Seconds a sample: of one core that decodes it, and of the forward on one CPU thread or one GPU."""

    decode: float
    cpu: float
    gpu: float


# DINOv3 ViT-B/16 of 8 frames and R3D-18 of 32: decode and CPU as measured (benchmarks/README.md, Extraction); of a GPU
# nothing was measured here: 500 videos a second through both are reckoned of an H100 by their arithmetic. The others
# are of their published sizes, by arithmetic from these two; `compute.seconds_a_sample` corrects them.
COSTS = {
    "dinov3": Cost(0.071, 3.4, 0.0013),
    "r3d18": Cost(0.071, 1.8, 0.0007),
    "vjepa2": Cost(0.14, 30.0, 0.012),
    "clip": Cost(0.02, 0.4, 0.0003),
    "clip_text": Cost(0.0, 0.2, 0.0002),
    "i3d": Cost(2.0, 120.0, 0.5),  # a row a frame, of videos of minutes
    "flow": Cost(2.0, 30.0, 0.5),
}
OTHER_BACKBONE = Cost(0.071, 3.4, 0.0013)
# A sample of an epoch, by kind of head, which decodes nothing: of one CPU thread as measured at the toy world's sizes,
# of a GPU reckoned by how many kernels a step launches.
LEARNED = {
    "gasm_cast": Cost(0.0, 0.01, 0.001),
    "clip_align": Cost(0.0, 0.002, 0.0005),
    "fact": Cost(0.0, 0.1, 0.05),
    "fact_clip": Cost(0.0, 0.2, 0.1),  # trained twice where it has stand-ins
}
OTHER_HEAD = Cost(0.0, 0.002, 0.0005)
FROM_FILES = Cost(0.0, 0.02, 0.02)  # derived and imported features: reading, and writing what was read


def seconds_a_sample(features: Mapping[str, Any], compute: Any) -> float:
    """Seconds that a sample of features in one pass takes: it is decoded beside the forward where processes decode.

    Args:
        features: name -> feature, of one pass.
        compute: of params. With `device: auto` a GPU is taken for granted.
    """
    said = compute.seconds_a_sample
    costs = [_cost(feature) for name, feature in features.items() if name not in said]
    forward = sum(cost.cpu / compute.extract_threads if compute.device == "cpu" else cost.gpu for cost in costs)
    decode = max((cost.decode for cost in costs), default=0.0)
    workers = compute.decode_workers
    own = max(forward, decode / workers) if workers else forward + decode
    return own + sum(said[name] for name in features if name in said)


def _cost(feature: Any) -> Cost:
    if feature.derived or not feature.sources:
        return COSTS.get(feature.backbone, FROM_FILES)
    return COSTS.get(feature.backbone, OTHER_BACKBONE)


def seconds_a_sample_learned(head: str, kind: str, compute: Any) -> float:
    """Seconds that a sample takes in each epoch of a training of a head, or in an evaluation.

    Args:
        head: its name.
        kind: of LEARNED; any other is taken for a small head.
        compute: of params.
    """
    cost = LEARNED.get(kind, OTHER_HEAD)
    return compute.seconds_a_sample.get(head, cost.cpu / compute.threads if compute.device == "cpu" else cost.gpu)


def divide(count: int, seconds: float, compute: Any, at_once: int) -> list[tuple[int, int]]:
    """Cuts runs into jobs: the first run of each, and the one behind its last.

    A job has `compute.job_minutes` of work or more, as far as there is so much; but there are as many jobs as can run
    at once, if there are so many runs.

    Args:
        count: of runs.
        seconds: of one run.
        compute: of params.
        at_once: jobs that can run at once.

    >>> from types import SimpleNamespace
    >>> compute = SimpleNamespace(job_minutes=10.0)
    >>> divide(10, 30.0, compute, 4)
    [(0, 2), (2, 5), (5, 7), (7, 10)]
    >>> len(divide(48, 300.0, compute, 4))
    24
    """
    jobs = min(count, max(1, int(count * seconds // (60 * compute.job_minutes)), at_once))
    return list(pairwise(count * number // jobs for number in range(jobs + 1))) if count else []


def cut(wanted: Sequence[int], shards: Sequence[int], seconds: float, compute: Any) -> list[tuple[int, int]]:
    """Cuts shards into jobs: the first and the last of each, of which it makes all shards between.

    A job has `compute.job_minutes` of work or more, as far as there is so much. Where that gives fewer than
    `compute.jobs`, there are so many, as long as each has a minute.

    Args:
        wanted: the shards to be made, ascending.
        shards: all of the data set, ascending: a job reaches over none of those that are not wanted.
        seconds: of one shard.
        compute: of params.

    >>> from types import SimpleNamespace
    >>> compute = SimpleNamespace(job_minutes=10.0, jobs=8)
    >>> cut(range(24), range(24), 60.0, compute)[:3]
    [(0, 2), (3, 5), (6, 8)]
    >>> cut([0, 1, 2, 7], range(8), 1.0, compute)
    [(0, 2), (7, 7)]
    """
    if not wanted:
        return []
    total = len(wanted) * seconds
    count = max(1, int(total // (60 * compute.job_minutes)), min(compute.jobs, int(total // LEAST_SECONDS)))
    place = {shard: number for number, shard in enumerate(shards)}
    edges = [0, *(n for n, (a, b) in enumerate(pairwise(wanted), 1) if place[b] != place[a] + 1), len(wanted)]
    found = []
    for start, stop in pairwise(edges):
        pieces = min(stop - start, max(1, round((stop - start) * count / len(wanted))))
        bounds = [start + (stop - start) * piece // pieces for piece in range(pieces + 1)]
        found += [(wanted[one], wanted[other - 1]) for one, other in pairwise(bounds)]
    return found


def makespan(jobs: Iterable[float], at_once: int) -> float:
    """Seconds that jobs of so many seconds take with their starts, the longest first, so many at once.

    >>> makespan([50.0, 20.0, 20.0], 2)
    60.0
    """
    busy = [0.0] * at_once
    for job in sorted(jobs, reverse=True):
        heapq.heapreplace(busy, busy[0] + job + START_SECONDS)
    return max(busy)
