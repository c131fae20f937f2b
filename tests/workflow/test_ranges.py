"""Jobs that make a range of shards: what is finished stays, and only what is missing runs again."""

import re

import pytest

from tests.datasets.made_up import picture, write_images
from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow
LINE = "snakemake --cores 2 features"


def ours(document: dict) -> None:
    """Pictures in shards of 2, one feature of them, and one that is derived from it."""
    for section in ("toyworld", "heads", "ablations", "claims", "fused"):
        document.pop(section)
    document["datasets"] = {
        "pets": {"layout": "images", "root": "pets", "shard_size": 2, "features": ["pooled"]},
    }
    tokens = {"sampling": {"frames": 1}, "preprocess": {"resize": [64, 64]}, "max_failed": 0.0}
    document["features"] = {
        "tokens": document["features"]["dinov3_full"] | tokens,
        "pooled": {"backbone": "derived", "source": "tokens", "pool": 2},
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("ranges"))
    write_images(project.root / "pets", {"cat": 6}, size=(64, 64))
    project.change(ours)
    return project


def ran(out: str) -> dict[str, str]:
    """Stage -> the ranges that jobs of it made in a call."""
    found = re.findall(r"^ +output: logs/(\w+)/.*/shard-([\d-]+)\.done", out, re.MULTILINE)
    return {stage: " ".join(sorted(told for of, told in found if of == stage)) for stage, _ in found}


def shards(project: Project, feature: str) -> list[str]:
    return sorted(path.stem for path in project.root.glob(f"features/pets/{feature}-*/shard-*.json"))


def test_a_range_is_one_job_and_only_missing_replaced_and_added_shards_run_again(project):
    # A shard that fails takes no other with it, and Snakemake removes none that the failed job has finished.
    good = (project.root / "pets/cat/0002.png").read_bytes()
    (project.root / "pets/cat/0002.png").write_bytes(b"no picture")
    done = project.run(LINE, check=False)
    assert done.returncode and "1 of 3 shards could not be finished (001)" in done.stdout
    assert shards(project, "tokens") == ["shard-000", "shard-002"]
    (project.root / "pets/cat/0002.png").write_bytes(good)
    assert ran(project.run(LINE).stdout) == {"extract": "001", "derive": "000-002"}
    assert project.jobs(LINE) == {} and not list(project.root.glob("logs/**/*.done"))

    # Another cut makes no finished shard again.
    project.change(lambda document: document["compute"].update(job_minutes=0.0001, jobs=3))
    assert project.jobs(LINE) == {}
    project.change(lambda document: document["compute"].update(job_minutes=10.0, jobs=8))

    # A missing manifest, a replaced picture, pictures that are added: those shards alone.
    next(project.root.glob("features/pets/tokens-*/shard-000.json")).unlink()
    out = project.run(LINE).stdout
    assert ran(out) == {"extract": "000"} and "computed 0 of 2" in out
    picture(50, (64, 64)).save(project.root / "pets/cat/0004.png")
    write_images(project.root / "pets", {"dog": 3}, size=(64, 64), seed=9)
    out = project.run(LINE).stdout
    assert ran(out) == {"extract": "002-004", "derive": "002-004"}
    computed = re.findall(r"tokens shard (\d+): computed (\d) of", out)
    assert sorted(computed) == [("002", "1"), ("003", "2"), ("004", "1")]
    assert project.jobs(LINE) == {}
    assert "were not present when the DAG was created" not in out and "rule shard:" not in out
