"""The main job from end to end, as a user runs it: once, again, after an edit, and killed in the middle."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.workflow.conftest import LINE, Project
from tests.workflow.forks import started
from tests.workflow.states import committed_samples, stores

pytestmark = pytest.mark.slow

KEYS = {"top1", "top5", "ece", "per_class", "confusion", "ci95", "samples", "provenance"}


@pytest.fixture(scope="module")
def finished(finished: Path) -> Project:
    """A copy of what the literal line made, whose shared original nobody writes into."""
    return Project.copied(finished)


def test_the_literal_line_ends_in_a_result_with_pictures(finished):
    result = json.loads((finished.root / "results/ssv2_top1.json").read_text())
    assert set(result) >= KEYS
    assert result["samples"]["evaluated"] == 16 and len(result["per_class"]) == 16
    low, high = result["ci95"]
    assert 0 <= low <= result["top1"] <= high <= 1
    for name in ("confusion", "training"):
        assert (finished.root / f"results/ssv2_top1/report/pictures/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_provenance_names_what_the_number_rests_on(finished):
    provenance = json.loads((finished.root / "results/ssv2_top1.json").read_text())["provenance"]
    assert {"params", "features", "code", "seed", "versions", "device", "timings"} <= set(provenance)
    for feature in provenance["features"].values():
        assert (finished.root / "features" / feature["dataset"] / f"{feature['name']}-{feature['key']}").is_dir()


def test_a_second_run_does_nothing(finished):
    assert finished.jobs(LINE) == {}


def test_the_stores_are_intact_and_info_says_who_uses_them(finished):
    folders = " ".join(str(path) for path in sorted(finished.root.glob("features/*/*-*/")))
    assert finished.run(f"python -m pipeline verify {folders}").stdout.count("intact") == 2
    assert finished.run("python -m pipeline info").stdout.count("gasm_cast") == 2


def test_another_learning_rate_trains_that_head_only(finished):
    with finished.edited(lambda document: document["heads"]["gasm_cast"].update(lr=1.0e-4)):
        assert finished.jobs(LINE) == {"train": 1, "evaluate": 1, "result": 1}


def test_a_deleted_shard_manifest_costs_nothing_to_make_again(finished):
    shard = next(finished.root.glob("features/*/r3d18*/shard-000.json"))
    before = stores(finished)
    shard.unlink()
    assert "computed 0 of 64" in finished.run(f"snakemake --cores 1 {shard.relative_to(finished.root)}").stdout
    assert stores(finished) == before


def test_the_command_killed_at_random_moments_ends_byte_for_byte_equal(finished):
    """Kill -9 of the whole process group; nothing that was committed is ever computed again.

    tests/extraction/test_loop.py has ten kills.
    """
    wanted = stores(finished)
    folder = next(finished.root.glob("features/*/r3d18*"))
    shutil.rmtree(folder)
    words = ["extract", "toy-ssv2", "r3d18_clips", "--shard", "0"]
    rng = random.Random(0)
    kills = 0
    committed = 0
    while kills < 3:
        job, said = started(words, finished.root, finished.environment)
        line = next(line for line in said if not line.startswith("warning: "))  # that there is no GPU
        there = int(line.split(": ")[1].split()[0])
        assert there >= committed, "something that was committed had to be computed again"
        time.sleep(rng.uniform(0, 1.0))
        os.killpg(job, signal.SIGKILL)
        said.close()
        if os.waitpid(job, 0)[1] == 0:
            # Finished before it could be killed: begin again, for three kills are three kills.
            shutil.rmtree(folder)
            committed = 0
            continue
        kills += 1
        committed = committed_samples(folder / "shard-000.journal")
    finished.run("python -m pipeline extract toy-ssv2 r3d18_clips")
    assert stores(finished) == wanted
