"""Claims about clip_align on new videos: under its map and without one an answer is that of the run's evaluation."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets import read_manifest
from tests.later import Later
from tests.prediction.worlds import ask, document, evaluation_of, finished, verb

pytestmark = pytest.mark.slow
image = Later("matplotlib.image")
ROOT = Path("data/toy-clinic")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a finished run of clip_align."""
    small = document(
        "clip_align", rendered={"clinic": {"train": 12, "val": 4, "test": 4, "size": 64, "frames": [16, 20]}}
    )
    small["heads"]["clip_align"]["clinicians"] = None
    with finished(tmp_path_factory.mktemp("world"), small, "clip_align") as root:
        yield root


@pytest.fixture(autouse=True)
def here(world, monkeypatch):
    monkeypatch.chdir(world)


def evaluated():
    table = pd.read_parquet(evaluation_of("clip_align") / "predictions.parquet")
    frame = read_manifest(Path("features/toy-clinic/manifest.parquet")).set_index("sample")
    paths = {sample: ROOT / "videos" / frame.loc[sample, "path"] for sample in table["sample"]}
    return table, paths, frame["map"]


def test_a_video_with_its_map_has_the_probabilities_of_its_row():
    table, paths, maps = evaluated()
    result = json.loads((evaluation_of("clip_align") / "result.json").read_text())
    classes = result["confusion"]["classes"]
    drawn = table[[maps[sample] is not None for sample in table["sample"]]]
    for row in list(drawn.itertuples())[:3]:
        done = ask("clip_align", paths[row.sample], map=ROOT / maps[row.sample])
        said = json.loads(done.stdout)
        assert done.exit_code == 0 and said["map"] == str(ROOT / maps[row.sample])
        found = {of["class"]: of["probability"] for of in said["top"]}
        assert [found[name] for name in classes] == pytest.approx(list(row.probabilities), abs=1e-3)


def test_without_a_map_the_answer_is_that_under_the_predicted_one_and_a_picture_shows_it(tmp_path):
    table, paths, _ = evaluated()
    done = ask("clip_align", *paths.values(), out=tmp_path / "seen")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [of["top"][0]["class"] for of in said] == table["prediction_without_map"].tolist()
    assert all(of["map"] == "none: the one that it predicts" for of in said)
    pictures = [tmp_path / "seen" / f"{path.stem}.png" for path in paths.values()]
    assert [of["picture"] for of in said] == list(map(str, pictures))
    assert all(image.imread(picture).std() > 0.01 for picture in pictures)
    told = json.loads(ask("clip_align", paths[table["sample"][0]], map="none", out=tmp_path / "again").stdout)
    assert told["top"][0]["class"] == said[0]["top"][0]["class"] and (tmp_path / "again").is_dir()


def test_an_explanation_shows_the_predicted_maps_beside_the_drawn_ones_over_the_frames():
    verb("explain", "clip_align", "--only", "maps")
    assert image.imread("results/clinic_clip_align/explanation/pictures/maps.png").std() > 0.01


def test_a_map_is_of_one_video():
    _, paths, maps = evaluated()
    first, second, *_ = paths
    assert "--map is of one video, got 2" in str(
        ask("clip_align", paths[first], paths[second], map=ROOT / str(maps[first])).exception
    )


def test_a_map_that_does_not_fit_is_an_error_that_names_it(tmp_path):
    _, paths, _ = evaluated()
    first = next(iter(paths.values()))
    np.save(tmp_path / "wide.npy", np.zeros((32, 64), np.float32))
    done = ask("clip_align", first, map=tmp_path / "wide.npy")
    assert done.exit_code == 1 and not done.stdout
    assert "another shape" in done.stderr and str(tmp_path / "wide.npy") in done.stderr
    assert "gone.npy: there is no such file" in str(ask("clip_align", first, map=tmp_path / "gone.npy").exception)
