"""Claims about segmentation heads on new videos, and about the frames beside the timelines of results."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.config import load_params, override
from pipeline.datasets.labels import read_label_file
from pipeline.datasets.segments import frame_labels
from pipeline.plan import Plan
from pipeline.prediction import strips
from pipeline.reports.files import beside
from pipeline.training.frames import transcript
from tests.later import Later
from tests.prediction.worlds import ask, document, evaluation_of, finished, invoke, verb

pytestmark = pytest.mark.slow
image = Later("matplotlib.image")
VIDEOS = Path("data/toy-assembly/videos")
HEADS = ("fact", "fact_clip")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with finished runs of both heads."""
    small = document(
        *HEADS, rendered={"assembly": {"train": 8, "test": 2, "size": 64, "steps": [4, 6], "frames": [6, 8]}}
    )
    for head in small["heads"].values():
        head |= {"decay_epoch": 1}
    with finished(tmp_path_factory.mktemp("world"), small, *HEADS) as root:
        yield root


@pytest.fixture(autouse=True)
def here(world, monkeypatch):
    monkeypatch.chdir(world)


@pytest.mark.parametrize("head", HEADS)
def test_a_video_of_the_evaluation_split_has_the_labels_of_its_row(head, tmp_path):
    table = pd.read_parquet(evaluation_of(head) / "predictions.parquet")
    classes = json.loads((evaluation_of(head) / "result.json").read_text())["classes"]
    done = ask(head, *(VIDEOS / f"{sample}.mp4" for sample in table["sample"]), out=tmp_path / "out")
    assert done.exit_code == 0, done.output
    for line, row in zip(done.stdout.splitlines(), table.itertuples(), strict=True):
        said, text = json.loads(line), tmp_path / "out" / f"{row.sample}.txt"
        # As groundTruth is read.
        written = frame_labels(read_label_file(text, row.sample, frozenset(classes)), classes)
        assert written[: len(row.prediction)].tolist() == row.prediction.tolist()
        assert said["labels"] == str(text) and image.imread(said["timeline"]).shape[1] > 1000
        assert sum(of["frames"] for of in said["segments"]) == len(written)
        assert said["segments"][0]["start"] == 0
        assert said["segments"][-1]["stop"] == pytest.approx(len(written) / said["fps"])
        assert [of["label"] for of in said["segments"][:1]] == [classes[written[0]]]


def test_with_a_transcript_a_new_video_has_the_labels_of_its_row_and_none_that_the_transcript_lacks(tmp_path):
    changes = ("--set", "model.transcript=true", "--set", "loss.match=seq")
    for name in ("train", "evaluate"):
        verb(name, "fact", *changes)
    given = override(load_params("params.yaml").head("fact"), {"model.transcript": True, "loss.match": "seq"})
    run = Path(Plan(load_params("params.yaml").replacing("fact", given)).run("fact").evaluation_folder)
    table = pd.read_parquet(run / "predictions.parquet")
    classes, scripts = json.loads((run / "result.json").read_text())["classes"], tmp_path / "scripts"
    scripts.mkdir()
    for row in table.itertuples():
        names = [classes[c] for c in transcript(np.asarray(row.truth))]
        (scripts / f"{row.sample}.txt").write_text("".join(f"{name}\n" for name in names))
        assert {classes[c] for c in row.prediction} <= set(names)
    videos = [VIDEOS / f"{sample}.mp4" for sample in table["sample"]]

    def asked(**options):
        line = [word for name, value in options.items() for word in (f"--{name}", value)]
        return invoke("predict", *videos, "--head", "fact", "--json", "--out", tmp_path / "out", *line, *changes)

    done = asked(transcripts=scripts)
    assert done.exit_code == 0, done.output
    for row in table.itertuples():
        text = tmp_path / "out" / f"{row.sample}.txt"
        written = frame_labels(read_label_file(text, row.sample, frozenset(classes)), classes)
        assert written[: len(row.prediction)].tolist() == row.prediction.tolist()

    assert "give --transcripts FOLDER" in str(asked().exception)
    assert "takes no --transcripts" in str(ask("fact", videos[0], transcripts=scripts).exception)
    (first, second, *_) = table["sample"]
    (scripts / f"{first}.txt").unlink()
    (scripts / f"{second}.txt").write_text("juggling\n")
    done = asked(transcripts=scripts)
    assert done.exit_code == 1 and len(done.stdout.splitlines()) == len(videos) - 2
    assert f"{first}.txt cannot be read" in done.stderr and "'juggling' on line 1" in done.stderr


def test_two_videos_of_one_name_do_not_overwrite_each_other(tmp_path):
    (video, *_) = sorted(VIDEOS.iterdir())
    (tmp_path / video.name).symlink_to(video.resolve())
    done = ask("fact", video, tmp_path / video.name, out=tmp_path / "out")
    assert done.exit_code == 1 and len(done.stdout.splitlines()) == 1
    assert f"{tmp_path / video.name}: " in done.stderr and "--out" in done.stderr


def test_a_file_is_no_folder_for_what_is_written(tmp_path):
    (tmp_path / "out").touch()
    assert "is no folder" in str(ask("fact", sorted(VIDEOS.iterdir())[0], out=tmp_path / "out").exception)


def test_zero_shot_asks_for_the_evaluation_that_chose_gamma(tmp_path):
    result = evaluation_of("fact_clip") / "result.json"
    result.rename(tmp_path / "kept")
    try:
        said = str(ask("fact_clip", sorted(VIDEOS.iterdir())[0], out=tmp_path / "out").exception)
    finally:
        (tmp_path / "kept").rename(result)
    assert "fact_clip has no finished run" in said and "`snakemake results/assembly_zeroshot.json`" in said


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_show_frames_of_their_videos_and_the_same_ones_again(tmp_path):
    pictures = []
    for number in range(2):
        out = tmp_path / str(number) / "x.json"
        verb("report", evaluation_of("fact"), out, "--params", "params.yaml")
        pictures.append({path.name: path.read_bytes() for path in beside(out, "").rglob("*.png")})
    assert pictures[0] == pictures[1]
    verb("report", evaluation_of("fact"), tmp_path / "bare/x.json")
    tall, low = (image.imread(tmp_path / name / "x/report/pictures/worst.png").shape[0] for name in ("0", "bare"))
    assert tall > low + 50


def test_a_video_that_is_gone_has_no_frames_and_a_reason():
    params = load_params("params.yaml")
    run = Plan(params).run("fact")
    names = list(run.predictions["sample"][:2])
    there = strips(run, names)
    assert list(there) == names
    assert all(of.dtype == np.uint8 and of.shape[0] == 12 and of.shape[3] == 3 for of in there.values())
    for changed, why in (({"root": "elsewhere"}, "missing"), ({"videos": None}, "features only")):
        moved = params.datasets["toy-assembly"].model_copy(update=changed)
        other = params.model_copy(update={"datasets": {**params.datasets, "toy-assembly": moved}})
        found = strips(replace(run, params=other), names)
        assert found.keys() == there.keys() and all(why in of for of in found.values())
