"""What a command costs before its first work: processor seconds and memory of its imports, beside those of libraries.

    python -m benchmarks.startup [--rounds N] [--json FILE]

Each case is a process that loads what a command loads before it opens a sample, and reports its processor time (user
and system) and its peak of resident memory. `over torch` is what a command adds to a bare `import torch` of that round.
What the commands must not have loaded by then is claimed by tests/benchmarks/test_startup.py, without a clock.
"""

import os
import subprocess
import sys
from statistics import median
from typing import Any, NamedTuple

from benchmarks._harness import ROOT, main, table

PARAMS = """
from pipeline.config import load_params
from pipeline.plan import Plan
plan = Plan(load_params("params.yaml"))
"""
HELP = "from {0}.cli import app\napp([{1}'--help'], standalone_mode=False)\n"
HEADS = ("gasm_cast", "fact", "fact_clip", "clip_align", "negalign")
ASKED = """
for name in ("samples", "table", "model", "evaluate"):
    if getattr(plan.task("{0}"), name):
        plan.task("{0}").code(name)
load(plan.params.head("{0}").implementation)
"""
EVALUATED = """
from pipeline.evaluation import evaluate
from pipeline.accelerator import deterministic
from pipeline.plugins import load
with deterministic():
    pass
"""
ARCHITECTURES = frozenset({"transformers", "torchvision", "timm"})
DECODERS = frozenset({"av", "decord", "cv2"})
STATISTICS = frozenset({"scipy", "sklearn"})
TABLES = frozenset({"pandas", "pyarrow"})
# What no command needs before its first work, a training apart.
NEVER = frozenset({"lightning", "torchmetrics", "dvclive", "torch._dynamo", "torch._inductor", "sympy"})
NEVER |= {*ARCHITECTURES, "matplotlib", "plotly", "umap", "numba", "optuna", "dvc"}
LIGHT = NEVER | DECODERS | STATISTICS | {"torch"}
HELPED = LIGHT | TABLES | {"numpy", "yaml", "pipeline.config"}


class Start(NamedTuple):
    """The start of a command.

    Attributes:
        code: what it loads before its first work.
        budget: processor seconds that it may take on an idle machine; None of what libraries alone decide.
        unloaded: modules that it must not have loaded.
    """

    code: str
    budget: float | None
    unloaded: frozenset[str]


# Of the tables, which lie beside the figures.
COLUMNS = "from pipeline.tasks import TASKS\nfor task in TASKS.values(): task.code('columns')"
STARTS = {
    "--help": Start(HELP.format("pipeline", ""), 0.4, HELPED),
    "train --help": Start(HELP.format("pipeline", "'train', "), 0.4, HELPED),
    "permafrost --help": Start(HELP.format("permafrost", ""), 0.4, HELPED),
    "permafrost extract --help": Start(HELP.format("permafrost", "'extract', "), 0.4, HELPED),
    "a plan": Start(f"{PARAMS}plan.results", 1.0, LIGHT | {"pandas"}),
    "Snakemake's rules": Start(
        f"{PARAMS}import pipeline.jobs.results, pipeline.jobs.several", None, LIGHT | {"pandas"}
    ),
    "verify, info, prune": Start(
        f"{PARAMS}from pipeline.store import describe, remove, verify", 1.0, LIGHT | {"pandas"}
    ),
    "runs": Start(f"{PARAMS}import pipeline.finished", 1.0, LIGHT | {"pandas"}),
    "manifest": Start(f"{PARAMS}from pipeline.datasets import build_manifest, read_manifest", 1.2, LIGHT),
    "report": Start(f"{PARAMS}from pipeline.reports import publish", 1.2, LIGHT),
    "ablation, claims, search": Start(
        f"{PARAMS}from pipeline.reports import ablation_table, claims_table, search_table\nimport pipeline.search",
        1.2,
        LIGHT,
    ),
    "page": Start(f"{PARAMS}from pipeline.reports.page import write_page\n{COLUMNS}", 1.2, LIGHT),
    "extract": Start(f"{PARAMS}from pipeline.extraction import extract", 2.5, NEVER | STATISTICS | {"cv2", "pandas"}),
    "derive": Start(f"{PARAMS}from pipeline.extraction import derive", 2.5, NEVER | STATISTICS | {"cv2", "pandas"}),
    "evaluate": Start(PARAMS + EVALUATED + "".join(map(ASKED.format, HEADS)), 3.0, NEVER | DECODERS),
    "predict": Start(
        f"{PARAMS}from pipeline.prediction import predict\nimport pipeline.prediction.videos", 3.0, NEVER | {"cv2"}
    ),
    "explain": Start(f"{PARAMS}from pipeline.explanation import explain", 3.0, NEVER | DECODERS | STATISTICS),
    "train": Start(f"{PARAMS}from pipeline.training import train", None, DECODERS),
}
LIBRARIES = {
    "python": "",
    "numpy": "import numpy",
    "pandas": "import pandas",
    "torch": "import torch",
    "torchvision": "import torchvision",
    "a tower of transformers": "from transformers import DINOv3ViTModel",
    "lightning": "import lightning",
}
SAID = """
import resource
spent = resource.getrusage(resource.RUSAGE_SELF)
print(f"\\n{spent.ru_utime + spent.ru_stime} {spent.ru_maxrss / 1024}")
"""


def run(rounds: int) -> dict[str, Any]:
    """Starts every command and every library by turns, so many times."""
    cases = {**LIBRARIES, **{name: start.code for name, start in STARTS.items()}}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for number in range(-1, rounds):  # the first, which compiles and reads from the disk, is not counted
        for name in sorted(cases, key=list(cases).index, reverse=bool(number % 2)):
            spent = started(cases[name])
            if number >= 0:
                found[name].append(spent)
    rows = []
    for name, spent in found.items():
        torch = STARTS[name].unloaded.isdisjoint({"torch"}) if name in STARTS else False
        over = [one[0] - other[0] for one, other in zip(spent, found["torch"], strict=True)]
        rows.append(
            {
                "start": name,
                "CPU s": median(seconds for seconds, _ in spent),
                "MB": round(max(megabytes for _, megabytes in spent)),
                "over torch, s": median(over) if torch else None,
                "budget, s": STARTS[name].budget if name in STARTS else None,
            }
        )
    table("Processor time and memory before the first work", rows)
    return {"rows": rows, "spent": found, "rounds": rounds}


def started(code: str) -> tuple[float, float]:
    """Processor seconds and peak MB of a process that runs some code.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", code + SAID]
    done = subprocess.run(line, cwd=ROOT, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"a start failed:\n{code}\n{done.stderr[-2000:]}")
    seconds, megabytes = done.stdout.splitlines()[-1].split()
    return float(seconds), float(megabytes)


if __name__ == "__main__":
    main(run, {"rounds": 5}, rounds=1)
