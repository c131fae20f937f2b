"""What is made from caches: tables whose rows cost no extraction, and one job for rows that cost no training."""

import csv
import json
import re
import shutil

import pytest

pytestmark = pytest.mark.slow

ROWS = ("neglabel", "role_aware", "p_align", "negalign")
TABLES = ("negalign_parts", "clinic_clip_align_ablations")


@pytest.fixture(scope="module")
def project(project):
    """Without the studies that are not asked for, whose hundreds of runs each call would plan."""

    def few(document: dict) -> None:
        document.update(ablations={name: document["ablations"][name] for name in TABLES}, claims={})
        parts = document["ablations"]["negalign_parts"]
        parts["variants"] = {name: parts["variants"][name] for name in ROWS}  # another derives features of its own

    project.change(few)
    return project


def test_the_rows_of_a_head_without_training_are_one_job_and_reuse_the_result(project):
    project.run("snakemake --cores 2 results/waterbirds_ood.json")
    line = "snakemake --cores 2 results/ablations/negalign_parts.json"
    assert project.jobs(line) == {"sweep_negalign_parts": 1, "ablation_ood": 1}
    project.run(line)
    assert project.jobs(line) == {}
    table = json.loads((project.root / "results/ablations/negalign_parts.json").read_text())["variants"]
    assert set(table) == set(ROWS)
    assert table["neglabel"]["mean"]["auroc"] == table["neglabel"]["mean"]["auroc_neglabel"]
    # The result's own run, made by itself, and what the sweep makes of the same params are one file, byte for byte.
    own = json.loads((project.root / "results/waterbirds_ood.json").read_text())
    assert table["negalign"]["per_seed"]["auroc"][0] == own["auroc"]
    assert own["pointing_game"]["pictures"] == 12


def test_the_study_of_clip_align_extracts_once_and_trains_each_row_from_caches(project):
    def few(document: dict, seeds: tuple[int, ...] = (0,)) -> None:
        study = document["ablations"]["clinic_clip_align_ablations"]
        study["seeds"] = list(seeds)
        study["variants"] = {name: study["variants"][name] for name in ("B0", "predicted")}

    before = (project.root / "params.yaml").read_text()
    project.change(few)
    project.run("snakemake --cores 2 results/clinic_clip_align.json")
    result = json.loads((project.root / "results/clinic_clip_align.json").read_text())
    assert set(result["by_clinician"]) == {"c3"} and set(result["retrieval"]) == {
        "published",
        "unguided",
        "shuffled",
        "predicted",
    }
    for name in ("confusion", "attention", "retrieval", "training"):
        picture = project.root / f"results/clinic_clip_align/report/pictures/{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    line = "snakemake --cores 2 results/clinic_clip_align_ablations.json"
    # That of seed 0 is the result's own run: nothing of it is made again.
    with project.edited(lambda document: few(document, seeds=(0, 1))):
        # The three others are asked for together: a job where one runs at once, and three where four do.
        assert project.jobs(line) == {"train_runs": 1, "evaluate_runs": 1, "ablation_alignment": 1}
        several = project.jobs(line.replace("--cores 2", "--cores 8"))
        assert several == {"train_runs": 3, "evaluate_runs": 3, "ablation_alignment": 1}
        # A run that fails takes no other with it, and Snakemake removes none that the failed job has finished.
        said = project.plan(line).stdout
        (job,) = re.findall(r"output: (logs/train/clip_align/[\d_-]+)\.done", said)
        runs = re.findall(r"runs/clip_align/\w+", said.split("rule evaluate_runs", 1)[1])
        runs = [project.root / run for run in dict.fromkeys(runs)][:3]
        (runs[1] / "lock").mkdir(parents=True)
        done = project.run(line, check=False)
        assert done.returncode and "1 of 3 runs failed; the others are complete" in done.stdout
        assert [(run / "run.json").exists() for run in runs] == [True, False, True]
        (runs[1] / "lock").rmdir()
        finished = [(run / "run.json").stat().st_mtime_ns for run in (runs[0], runs[2])]
        assert project.jobs(line) == {"train_runs": 1, "evaluate_runs": 1, "ablation_alignment": 1}
        project.run(line)
        assert [(run / "run.json").stat().st_mtime_ns for run in (runs[0], runs[2])] == finished
        assert project.jobs(line) == {} and not list(project.root.glob(f"{job}*.done"))
        # What an evaluation was made with is made again: that one, and the table.
        (runs[0] / "run.json").touch()
        assert project.jobs(line) == {"evaluate_runs": 1, "ablation_alignment": 1}
        (runs[2] / "run.json").unlink()
        assert project.jobs(line) == {"train_runs": 1, "evaluate_runs": 1, "ablation_alignment": 1}
        project.run(line)
    assert project.jobs(line) == {"ablation_alignment": 1}
    project.run(line)
    with (project.root / "results/clinic_clip_align_ablations.csv").open() as stream:
        assert [row["variant"] for row in csv.DictReader(stream)] == ["predicted", "B0"]  # the head as it is on top
    shutil.rmtree(project.root / "results")
    assert set(project.jobs(line)) == {"ablation_alignment"}
    (project.root / "params.yaml").write_text(before)
