"""How long Snakemake plans: every feature of a video, and the head, over sets up to the size of Something-Something-V2.

    python -m benchmarks.plan [--samples N] [--rounds N] [--folder DIR] [--json FILE]

`snakemake -n -- all features` in a project with nothing made, as a user waits for it, by turns at a hundredth, a tenth
and all of the samples. The params are configs/ssv2.yaml with every feature of params.yaml that a video alone can have.
Annotation files are made up, and videos are not there: planning opens none.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks._harness import ROOT, copy_workflow, interleaved, main, scratch, table

PUBLISHED = {"train": 168_913, "validation": 24_777, "test": 27_157}
CLASSES = 174
DATASET = "ssv2"


def run(samples: int, rounds: int, folder: str) -> dict[str, Any]:
    """Times `snakemake -n` at three sizes and counts the jobs that it plans."""
    with scratch(folder) as root:
        projects = {count: root / str(count) for count in (samples // 100, samples // 10, samples)}
        for count, project in projects.items():
            _write(project, count)
        planned = {count: _jobs(project) for count, project in projects.items()}
        cases = {str(count): (lambda project=project: _jobs(project)) for count, project in projects.items()}
        seconds = interleaved(cases, rounds, warmup=0)
    rows = [
        {"samples": count, "jobs": sum(jobs.values()), "s": median(seconds[str(count)])}
        for count, jobs in planned.items()
    ]
    table("snakemake -n -- all features", rows)
    return {"rows": rows, "seconds": seconds, "rounds": rounds}


def _write(project: Path, count: int) -> None:
    """A project with so many made-up samples in the shape of the published set."""
    annotations = project / "data" / DATASET
    annotations.mkdir(parents=True)
    copy_workflow(project)
    templates = [f"Doing [something] in way {number}" for number in range(CLASSES)]
    labels = {template.translate(str.maketrans("", "", "[]")): str(k) for k, template in enumerate(templates)}
    (annotations / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    whole, first = sum(PUBLISHED.values()), 0
    for split, published in PUBLISHED.items():
        ids = range(first, first := first + round(count * published / whole))
        entries: list[dict[str, Any]] = [{"id": str(number)} for number in ids]
        if split != "test":
            for entry, number in zip(entries, ids, strict=True):
                template = templates[number % CLASSES]
                label = template.replace("[something]", "a cup").lower()
                entry |= {"label": label, "template": template, "placeholders": ["a cup"]}
        (annotations / f"{split}.json").write_text(json.dumps(entries), encoding="utf-8")
    (project / "params.yaml").write_text(yaml.safe_dump(_params(), sort_keys=False), encoding="utf-8")


def _params() -> dict[str, Any]:
    """configs/ssv2.yaml, and of params.yaml every feature of a video: of no text, class or map that a person drew."""
    document = yaml.safe_load((ROOT / "configs/ssv2.yaml").read_text(encoding="utf-8"))
    others = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["features"]
    document["features"] = {
        **{name: of for name, of in others.items() if of["backbone"] not in ("clip_text", "clip_cam", "maps")},
        **document["features"],
    }
    document["datasets"][DATASET]["features"] = list(document["features"])
    return document


def _jobs(project: Path) -> dict[str, int]:
    """Plans, and returns how many jobs of each rule. Raises RuntimeError with what Snakemake said."""
    line = [sys.executable, "-m", "snakemake", "--cores", "8", "--dry-run", "--quiet", "rules", "--", "all", "features"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(line, cwd=project, env=os.environ | {"PYTHONPATH": path}, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"snakemake ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    said = done.stdout + done.stderr
    rows = said.rpartition("Job stats:")[2].partition("total")[0].splitlines()[3:]
    return {row.split()[0]: int(row.split()[1]) for row in rows if row.strip()}


if __name__ == "__main__":
    main(run, {"rounds": 3}, samples=sum(PUBLISHED.values()), rounds=1, folder="")
