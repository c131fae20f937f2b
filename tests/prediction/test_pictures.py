"""Claims about NegAlign on single files: their scores are the run's own, whatever the file; and about its sanity check.

One small toy world, from pictures to scores, by the verbs; nothing is trained.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.config import load_params, parse_params
from pipeline.digests import read_json
from pipeline.plan import Plan
from pipeline.prediction import PredictionError, Predictor, Scored
from pipeline.prediction.overlays import accepted_from, overlays
from pipeline.store import StoreCorrupt
from pipeline.training import RunError
from pipeline.video import VideoError
from pipeline.video.pictures import read_picture
from tests.evaluations import leave
from tests.later import Later
from tests.prediction.worlds import invoke, manifest, render, verb
from tests.store.conftest import flip as flip_bit

explanation_sanity = Later("pipeline.explanation.sanity")

ROOT = Path(__file__).parents[2]
SETS = ("toy-waterbirds", "toy-waterbirds-backgrounds")
TEXTS = ("toy-waterbirds-classes", "toy-waterbirds-words")
ROWS = {"plain": "neglabel", "star": "star", "p_align": "p_align"}
LOGITS = {"evidence": "evidence", "local": "local", "final": "negalign"}


def document(**score):
    """The shipped params, with few pictures and one OOD set."""
    full = json.loads(load_params(str(ROOT / "params.yaml")).part(head="negalign"))
    full["toyworld"] = load_params(str(ROOT / "params.yaml")).toyworld.model_dump(mode="json")
    full["toyworld"]["waterbirds"] |= {"train": 6, "val": 12, "test": 12, "ood": 8}
    full["compute"] |= {"device": "cpu", "decode_workers": 0}
    full["datasets"] = {name: of for name, of in full["datasets"].items() if name in SETS + TEXTS}
    for name in TEXTS:
        full["datasets"][name]["root"] = str(ROOT / full["datasets"][name]["root"])
    for feature in full["features"].values():
        if "weights" in feature:
            feature["weights"] = {"path": str(ROOT / "weights/mini-clip")}
    head = full["heads"]["negalign"]
    head |= {"ood": {"backgrounds": SETS[1]}, "bootstrap": 5}
    head["lam"] |= {"choose": "fixed", "fixed": 0.5}
    head["score"] |= score
    return full


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything up to a finished run; its path."""
    root = tmp_path_factory.mktemp("world")
    before = os.getcwd()
    os.chdir(root)
    try:
        text = json.dumps(document(zscore=True))
        Path("params.yaml").write_text(text, encoding="utf-8")
        plan = Plan(parse_params(json.loads(text)))
        render(SETS[0])
        for dataset in (*TEXTS, *SETS):
            manifest(dataset)
            for feature in plan.features(dataset):
                verb("derive" if plan.params.features[feature].derived else "extract", dataset, feature)
        verb("mine", "negalign")
        verb("evaluate", "negalign")
        yield root
    finally:
        os.chdir(before)


@pytest.fixture
def run(world, monkeypatch):
    """The finished run."""
    monkeypatch.chdir(world)
    return Plan(load_params("params.yaml")).run("negalign")


def predictions(run):
    return pd.read_parquet(run.evaluation_folder / "predictions.parquet")


def file_of(row):
    folder = Path("data/toy-waterbirds") / ("" if row.set == "id" else "ood/backgrounds")
    return folder / row.sample


# --- single pictures --------------------------------------------------------------------------------------------------


def test_a_picture_of_the_data_set_has_the_scores_of_its_row(run):
    predictor, table = Predictor(run), predictions(run)
    evaluated = table[table["part"] == "evaluated"]
    rows = [*evaluated[evaluated["set"] == "id"][:4].itertuples(), *evaluated[-3:].itertuples()]
    for row in rows:
        found = predictor.score(file_of(row))
        assert found.predicted == row.predicted and found.cam_valid == row.cam_valid
        for name, column in ROWS.items():
            assert getattr(found, name) == pytest.approx(getattr(row, column), abs=1e-3), (row.sample, name)
        for name, column in LOGITS.items():
            assert getattr(found, name) == pytest.approx(getattr(row, column), abs=0.1), (row.sample, name)
        assert found.final == pytest.approx(found.evidence + 0.5 * found.local)
        assert found.patch == divmod(row.patch, 8)


@pytest.fixture
def pictures(run):
    return [str(file_of(row)) for row in predictions(run).query("part == 'evaluated'").head(7).itertuples()]


def test_pictures_go_through_clip_together_and_have_the_bytes_that_each_has_alone(run, pictures, monkeypatch):
    predictor, seen = Predictor(run), []
    alone = {file: predictor.score(Path(file)) for file in pictures}
    tower = predictor.tower
    monkeypatch.setattr(predictor, "tower", lambda pixels: seen.append(len(pixels)) or tower(pixels))
    for size, batches in ((64, [7]), (3, [3, 3, 1])):
        monkeypatch.setattr(predictor, "batch", size)
        assert list(predictor.answers(pictures)) == list(alone.items()) and seen == batches
        seen.clear()


def test_a_picture_whose_scores_are_not_finite_is_refused_alone(run, pictures, monkeypatch):
    predictor = Predictor(run)
    tower, bad = predictor.tower, torch.from_numpy(predictor.pixels(read_picture(Path(pictures[2]))[None]))

    def spoilt(pixels):
        tokens = tower(pixels)["cam_tokens"]
        same = torch.tensor([torch.equal(of, bad) for of in pixels])
        return {"cam_tokens": torch.where(same[:, None, None], torch.nan, tokens)}

    whole = dict(predictor.answers(pictures))
    monkeypatch.setattr(predictor, "tower", spoilt)
    found = dict(predictor.answers(pictures))
    assert list(found) == pictures and isinstance(found[pictures[2]], PredictionError)
    assert str(found[pictures[2]]).startswith(f"{pictures[2]}: ")
    assert all(found[file] == whole[file] for file in pictures if file != pictures[2])


def test_a_batch_that_does_not_fit_the_memory_is_halved(run, pictures, monkeypatch):
    predictor = Predictor(run)
    whole, tower = list(predictor.answers(pictures)), predictor.tower

    def tight(pixels):
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tower(pixels)

    monkeypatch.setattr(predictor, "tower", tight)
    assert list(predictor.answers(pictures)) == whole


def test_z_scores_are_those_of_the_reference_pictures(run):
    reference = predictions(run).query("set == 'id' and part == 'reference'")["star"]
    assert (reference.mean(), reference.std()) == pytest.approx((0, 1), abs=1e-9)
    assert json.loads((run.evaluation_folder / "result.json").read_text())["standard"].keys() == {"mean", "std"}


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_pictures_of_every_kind_are_scored(run, tmp_path):
    row = next(predictions(run).query("set == 'id'").itertuples())
    with Image.open(file_of(row)) as opened:
        picture = opened.convert("RGB")
    turned, exif = picture.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    files = {
        "plain": save(tmp_path / "plain.png", picture),
        "rotated": save(tmp_path / "rotated.png", turned, exif=exif),
        "grey": save(tmp_path / "grey.png", picture.convert("L")),
        "cmyk": save(tmp_path / "cmyk.jpg", picture.convert("CMYK")),
        "point": save(tmp_path / "point.png", picture.crop((5, 5, 6, 6))),
        "strip": save(tmp_path / "strip.png", picture.resize((300, 2))),
    }
    predictor = Predictor(run)
    found = {name: predictor.score(path) for name, path in files.items()}
    for name, scored in found.items():
        assert isinstance(scored, Scored), scored
        assert np.isfinite(scored[1:5]).all(), name
    assert found["rotated"][1:] == found["plain"][1:]
    assert found["grey"].final != found["plain"].final


def test_a_file_that_cannot_be_read_is_one_error_with_its_name_and_the_others_are_scored(run, tmp_path):
    good = file_of(next(predictions(run).itertuples()))
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.png"
    broken.write_bytes(good.read_bytes()[:400])
    empty.touch()
    done = invoke("predict", "--head", "negalign", broken, good, empty, tmp_path / "gone.jpg")
    assert done.exit_code == 1
    assert good.name in done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for line, path in zip(errors, (broken, empty, tmp_path / "gone.jpg"), strict=True):
        assert str(path) in line
    assert invoke("predict", "--head", "negalign", good).exit_code == 0


def test_scores_as_json_are_those_of_the_table_and_a_video_is_no_picture(run, tmp_path):
    row = next(predictions(run).itertuples())
    video = tmp_path / "video.webm"
    video.write_bytes(bytes.fromhex("1a45dfa3") + bytes(100))
    done = invoke("predict", "--head", "negalign", "--json", video, file_of(row))
    assert done.exit_code == 1 and str(video) in done.stderr and "not a picture" in done.stderr
    said = json.loads(done.stdout)
    assert said["file"] == str(file_of(row)) and said["predicted"] == row.predicted
    assert said["final"] == pytest.approx(row.negalign, abs=0.1)
    assert said["p_align"] == pytest.approx(row.p_align, abs=1e-3), "the published terms are there, too"


def test_without_a_finished_run_the_error_says_what_to_do(run, tmp_path):
    with pytest.raises(RunError, match=r"negalign has no finished run.*snakemake results/waterbirds_ood\.json"):
        Predictor(replace(run, folder=tmp_path))


def test_what_a_picture_needs_is_one_pass_of_one_clip(run):
    changed = document(zscore=True)
    changed["features"]["clip_image"]["preprocess"] = {"resize": [128, 128]}
    with pytest.raises(PredictionError, match="clip_image and clip_cam_tokens differ in preprocess"):
        Predictor(replace(run, params=parse_params(changed)))


# --- the finished run -------------------------------------------------------------------------------------------------


def test_the_sanity_check_passes_and_says_so(run):
    found = explanation_sanity.sanity(replace(run))
    assert len(found) >= 10
    # 12 pictures and weights of a few MB: what must hold of the arithmetic, not how well it tells them apart.
    assert [check for check in found if not check.holds and "mean of ID" not in check.says] == []


def test_the_usual_map_is_zero_because_its_output_reads_cls_alone(run):
    predictor, row = Predictor(run), next(predictions(run).itertuples())
    tokens = predictor.tokens(file_of(row))
    target = predictor.cams.targets(tokens)
    assert not explanation_sanity.output_map(predictor.cams.blocks.last, tokens, target).any()
    assert predictor.cams.blocks.last.cam(tokens, target).abs().max() > 0


def failing(run):
    return [check.says for check in explanation_sanity.sanity(replace(run)) if not check.holds]


def test_the_sanity_check_sees_what_it_is_there_for(run, monkeypatch, tmp_path):
    table, result = predictions(run), read_json(run.evaluation_folder / "result.json", "")
    spoilt = tmp_path / "run"
    evaluation = spoilt / run.evaluation
    spoilt.mkdir()
    (spoilt / "negatives.csv").write_bytes((run.folder / "negatives.csv").read_bytes())
    inside = table["set"] == "id"
    table.loc[inside, "negalign"] -= 100
    table["cam_valid"] = table.index % 2 == 0
    twice = table[inside & (table["part"] == "reference")].head(1).assign(part="evaluated")
    leave(evaluation, result | {"lambda": 0.25}, pd.concat([table, twice]))
    said = "\n".join(failing(replace(run, folder=spoilt)))
    for part in ("cam_valid", "predict", "above that of backgrounds", "both for choosing", "λ is that of params"):
        assert part in said


def test_a_zero_map_fails_the_sanity_check(run, monkeypatch):
    from pipeline.store import FeatureStore

    read = FeatureStore.read
    monkeypatch.setattr(
        FeatureStore, "read", lambda self, ids, name: read(self, ids, name) * (0 if name == "map" else 1)
    )
    said = "\n".join(failing(run))
    assert "no map is identically zero" in said and "no map is constant" in said


# --- overlays ---------------------------------------------------------------------------------------------------------


def test_overlays_show_the_extremes_and_the_pictures_nearest_to_the_threshold(run, tmp_path):
    groups, threshold = overlays(run, shown=2), accepted_from(run.predictions)
    assert list(groups) == [f"{side}, {kind}" for side in ("ID", "OOD") for kind in ("highest", "borderline", "lowest")]
    inside = predictions(run).query("set == 'id' and part == 'evaluated'")["negalign"]
    assert (inside >= threshold).mean() >= 0.95 > (inside > threshold).mean()
    assert groups["ID, highest"][0].final == inside.max() and groups["ID, lowest"][-1].final == inside.min()
    nearest = np.sort(np.abs(inside - threshold))[:2]
    assert [abs(one.final - threshold) for one in groups["ID, borderline"]] == pytest.approx(list(nearest))
    for one in (overlay for shown in groups.values() for overlay in shown):
        assert one.picture_HWC.shape == (128, 128, 3) and one.picture_HWC.dtype == np.uint8
        assert one.map_RC.shape == one.background_RC.shape and (~one.background_RC).sum() > 0
    verb("explain", "negalign", "--out", tmp_path / "x", "--only", "overlays")
    assert (tmp_path / "x/explanation/pictures/overlays.png").stat().st_size > 10_000


def test_an_overlay_of_a_replaced_picture_or_a_damaged_map_is_refused(run):
    table = predictions(run).query("set == 'id' and part == 'evaluated'")
    highest = table.sort_values("negalign").iloc[-1]["sample"]
    path = Path("data/toy-waterbirds") / highest
    content = path.read_bytes()
    data = next(path for path in (run.features["cam"] / "shard-000.zarr/map/c").rglob("0") if path.is_file())
    shard = data.read_bytes()
    try:
        Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(path)
        with pytest.raises(VideoError, match=f"{highest}: replaced: .*make the manifest again"):
            overlays(run, shown=1)
        path.write_bytes(content)
        overlays(run, shown=1)  # another time, and the same picture
        for offset in range(0, len(shard) - 1000, 100):
            flip_bit(data, offset)
        for look in (lambda: overlays(run, shown=1), lambda: explanation_sanity.sanity(replace(run))):
            with pytest.raises(StoreCorrupt, match="does not fit its crc32c"):
                look()
    finally:
        path.write_bytes(content)
        data.write_bytes(shard)


def test_the_sanity_check_reads_no_damaged_embedding_and_no_replaced_picture(run):
    first = predictions(run).query("set == 'id' and part == 'evaluated'")["sample"].iloc[0]
    path = Path("data/toy-waterbirds") / first
    content = path.read_bytes()
    data = next(path for path in run.features["image"].glob("shard-000.zarr/*/c/**/0") if path.is_file())
    shard = data.read_bytes()
    try:
        for offset in range(0, len(shard) - 1000, 100):
            flip_bit(data, offset)
        with pytest.raises(StoreCorrupt, match="does not fit its crc32c"):
            explanation_sanity.sanity(replace(run))
        data.write_bytes(shard)
        Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(path)
        with pytest.raises(VideoError, match=f"{first}: replaced"):
            explanation_sanity.sanity(replace(run))
    finally:
        path.write_bytes(content)
        data.write_bytes(shard)


def test_an_overlay_of_a_picture_that_is_gone_names_it(run):
    moved = run.params.model_copy(deep=True)
    moved.datasets["toy-waterbirds"] = moved.datasets["toy-waterbirds"].model_copy(update={"root": "elsewhere"})
    with pytest.raises(VideoError, match=r"elsewhere/.*missing"):
        overlays(replace(run, params=moved))
