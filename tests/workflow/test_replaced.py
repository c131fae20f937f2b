"""What is replaced is computed again, alone, by the plain command; what an edit asks for is seen under any profile."""

import re
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import manifest
from pipeline.config import load_params
from pipeline.extraction import derive, extract
from tests.datasets.made_up import picture, write_images, write_labelled
from tests.workflow.conftest import Project

LINE = "snakemake --cores 2 features"
LISTS = {"splits/train.split1.bundle": ["v1.txt", "v2.txt"], "splits/test.split1.bundle": ["v3.txt"]}


def ours(document: dict) -> None:
    """Pictures with masks, and labelled sequences of imported features."""
    for section in ("toyworld", "heads", "ablations", "claims", "fused"):
        document.pop(section)
    document["datasets"] = {
        "pets": {"layout": "images", "root": "pets", "masks": "masks", "features": ["object_masks"]},
        "steps": {"layout": "mstcn", "root": "steps", "videos": None, "features": ["published"]},
    }
    tokens = document["features"]["dinov3_full"] | {"sampling": {"frames": 1}, "preprocess": {"resize": [64, 64]}}
    published = {"backbone": "npy", "root": "published", "orientation": "TD", "width": 4, "fps": 15.0}
    document["features"] = {
        "tokens": tokens,
        "object_masks": {"backbone": "maps", "source": "tokens", "scale": 1},
        "published": published,
    }


def publish(project: Project, number: int, value: float) -> None:
    np.save(project.root / f"published/v{number}.npy", np.full((4, 4), value, np.float32))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Project:
    """A project whose features are there, made by the verbs that the rules call, and known to Snakemake."""
    project = Project(tmp_path_factory.mktemp("made"))
    write_images(project.root / "pets", {"cat": 4}, size=(64, 64))
    write_images(project.root / "pets/masks", {"cat": 4}, size=(64, 64), seed=20)
    write_labelled(project.root / "steps", LISTS)
    (project.root / "published").mkdir()
    for number in (1, 2, 3):
        publish(project, number, number)
    project.change(ours)
    with chdir(project.root):
        params, root = load_params("params.yaml"), Path("features")
        for dataset in params.datasets:
            manifest(dataset)
        extract(params, "pets", "tokens", 0, root)
        derive(params, "pets", "object_masks", 0, root)
        extract(params, "steps", "published", 0, root)
    project.run(f"{LINE} --touch")
    return project


def ran(out: str) -> dict[str, int]:
    """How many jobs of each rule a call has started, and how many samples each extraction computed."""
    rules = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", out, re.MULTILINE)
    computed = re.findall(r"(\w+) shard \d+: computed (\d+) of", out)
    return {rule: rules.count(rule) for rule in rules if rule != "features"} | {f: int(count) for f, count in computed}


def test_what_is_replaced_is_computed_again_alone_by_the_plain_command_under_any_triggers(made):
    assert made.jobs(LINE) == {}
    picture(50, (64, 64)).save(made.root / "pets/cat/0001.png")
    picture(51, (64, 64)).save(made.root / "pets/masks/cat/0002.png")
    publish(made, 2, 9)
    out = made.run(f"{LINE} --rerun-triggers mtime").stdout
    assert "rerun-triggers: input, params added" in out
    rules = {"manifest": 2, "extract": 2, "derive": 1}
    assert ran(out) == rules | {"tokens": 1, "object_masks": 2, "published": 1}
    assert made.jobs(LINE) == {}


def test_a_project_without_snakemake_s_memory_computes_what_is_replaced_too(made):
    shutil.rmtree(made.root / ".snakemake/metadata")
    other = made.root / "other.yaml"
    other.write_text((made.root / "params.yaml").read_text())
    line = f"{LINE} --configfile {other}"
    assert made.jobs(line) == {}
    publish(made, 3, 8)
    assert ran(made.run(line).stdout) == {"manifest": 1, "extract": 1, "published": 1}
    assert made.jobs(line) == {}


def test_a_forced_extraction_says_that_it_is_complete_and_how_to_compute_it_again(made):
    lines: list[str] = []
    with chdir(made.root):
        extract(load_params("params.yaml"), "steps", "published", 0, Path("features"), lines.append)
    assert "computed 0 of 3" in lines[-2]
    assert re.search(r"published-\w+/shard-000: complete already.* rm -r features/steps/.*/shard-000\.\*", lines[-1])


@pytest.mark.slow
def test_a_replaced_video_is_followed_to_the_result_and_nothing_else_runs(finished):
    project = Project.copied(finished)
    videos = sorted((project.root / "data/toy-ssv2").glob("*.webm"))
    shutil.copy(videos[5], videos[40])
    computed = {"dinov3_patches": 1, "r3d18_clips": 1}
    downstream = {"train": 1, "evaluate": 1, "result": 1}
    line = "snakemake --cores 2 results/ssv2_top1.json"
    first = {"manifest": 1, "extract": 2, "baselines_ssv2_top1": 1}
    assert ran(project.run(line).stdout) == first | downstream | computed
    assert project.jobs(line) == {}
    out = project.run(f"{line} --forcerun train").stdout
    assert "complete already, trained 0 epochs" in out and "to train again, delete it" in out
    project.change(lambda document: document["heads"]["gasm_cast"].update(lr=0.008))
    assert project.jobs(f"{line} --rerun-triggers mtime") == downstream
