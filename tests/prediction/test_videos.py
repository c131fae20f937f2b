"""Claims about classifiers on new videos: an answer is that of the run's own evaluation; what is wrong is told a file.

One small rendered world; the head reads an int8 feature that is derived from another one, beside a plain one.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import pipeline.cli.heads
from pipeline import prediction
from pipeline.config import NpyFeature, load_params
from pipeline.datasets import build, read_manifest
from pipeline.extraction import TooMuch
from pipeline.files import lock
from pipeline.plan import Plan
from pipeline.prediction import files, predict
from pipeline.prediction.many import listed, predict_table
from pipeline.runs import Run
from pipeline.store import StoreFull
from pipeline.training import registry
from tests.prediction.worlds import ask, document, evaluation_of, finished, invoke, run_of, shipped

VIDEOS = Path("data/toy-ssv2")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a finished run of gasm_cast."""
    small = document(
        "gasm_cast", rendered={"ssv2": {"train": 2, "validation": 1, "test": 1, "size": 64, "frames": [20, 24]}}
    )
    features = shipped().model_dump(mode="json")["features"]
    small["features"] |= {name: features[name] for name in ("dinov3_full", "dinov3_pool_int8")}
    small["heads"]["gasm_cast"]["features"]["semantic"] = "dinov3_pool_int8"
    with finished(tmp_path_factory.mktemp("world"), small, "gasm_cast") as root:
        yield root


@pytest.fixture(autouse=True)
def here(world, monkeypatch):
    monkeypatch.chdir(world)


def answers(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def errors(done):
    return [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]


def evaluated():
    return pd.read_parquet(evaluation_of("gasm_cast") / "predictions.parquet")


def test_a_video_of_the_evaluation_split_has_the_answer_of_its_row():
    table = evaluated()
    done = ask("gasm_cast", *(VIDEOS / f"{sample}.webm" for sample in table["sample"]))
    assert done.exit_code == 0, done.output
    found = answers(done)
    assert len(found) == len(table) == 16
    for said, row in zip(found, table.itertuples(), strict=True):
        assert said["file"] == str(VIDEOS / f"{row.sample}.webm") and said["run"] == str(run_of("gasm_cast"))
        assert [of["class"] for of in said["top"]] == list(row.top)
        assert [of["probability"] for of in said["top"]] == pytest.approx(list(row.probabilities), abs=1e-5)


def test_alone_a_video_has_the_same_answer_up_to_the_rounding_of_its_features():
    row = next(evaluated().itertuples())
    (said,) = answers(ask("gasm_cast", VIDEOS / f"{row.sample}.webm"))
    assert [of["probability"] for of in said["top"]] == pytest.approx(list(row.probabilities), abs=1e-3)


def test_what_is_wrong_with_a_file_is_one_error_and_the_others_are_answered(tmp_path):
    good, other = (VIDEOS / f"{sample}.webm" for sample in evaluated()["sample"][:2])
    cut, empty, folder, gone = (tmp_path / name for name in ("cut.webm", "empty.webm", "folder", "gone.webm"))
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    empty.touch()
    folder.mkdir()
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture)
    os.mkfifo(pipe := tmp_path / "pipe.webm")
    files = [cut, good, empty, folder, gone, picture, pipe, other, good]
    done = ask("gasm_cast", *files)
    assert done.exit_code == 1
    assert [said["file"] for said in answers(done)] == [str(good), str(other), str(good)]
    said = ("short: ", "empty: ", "is a folder; name the files in it", "no such file", "is a picture (png)")
    said = (*said, "is not a regular file; name a video")
    told = errors(done)
    assert len(told) == 6
    for line, path, part in zip(told, (cut, empty, folder, gone, picture, pipe), said, strict=True):
        assert line.startswith(str(path)) and part in line and line.count(str(path)) == 1


def test_a_name_that_is_no_utf8_is_one_error_and_the_other_files_are_answered(tmp_path):
    good = VIDEOS / f"{evaluated()['sample'][0]}.webm"
    odd = tmp_path / os.fsdecode(b"\xff.webm")
    shutil.copy(good, odd)
    done = ask("gasm_cast", odd, good)
    assert done.exit_code == 1 and [said["file"] for said in answers(done)] == [str(good)]
    assert "its name is not UTF-8 text; rename the file, or set LC_ALL=C.UTF-8" in done.stderr


def test_nothing_but_the_run_and_the_weights_is_needed_and_nothing_is_left(tmp_path, monkeypatch):
    video = VIDEOS / f"{evaluated()['sample'][0]}.webm"
    with_features = ask("gasm_cast", video)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stores = [store for store in Path("features").glob("*/*-*") if store.is_dir()]
    for store in stores:
        store.rename(store.with_name(f"{store.name}.aside"))
    try:
        without = ask("gasm_cast", video)
    finally:
        for store in stores:
            store.with_name(f"{store.name}.aside").rename(store)
    assert stores and answers(without) == answers(with_features) != []
    assert list(tmp_path.iterdir()) == []


def test_the_table_shows_five_classes_of_each_video():
    video = VIDEOS / f"{evaluated()['sample'][0]}.webm"
    done = invoke("predict", video, video, "--head", "gasm_cast")
    assert done.exit_code == 0
    assert done.stdout.count("probability") == 1 and done.stdout.count(video.name) == 2
    # Of the same batch: among other samples a feature is rounded otherwise, which four digits may show.
    top = answers(ask("gasm_cast", video, video))[0]["top"]
    assert len(top) == 5
    for of in top:
        assert of["class"] in done.stdout and f"{of['probability']:.4f}" in done.stdout


def in_ones():
    """The params, with features of which no two samples share a batch."""
    params = load_params("params.yaml")
    alone = {name: of if of.derived else of.model_copy(update={"batch": 1}) for name, of in params.features.items()}
    return params.model_copy(update={"features": alone})


def asking(*files):
    params = in_ones()
    return predict(Run(params, "gasm_cast", Path("features/toy-ssv2/manifest.parquet"), {}, run_of("gasm_cast")), files)


def test_weights_are_loaded_once_however_many_batches_the_files_fill(monkeypatch):
    loaded, load = [], registry.load_file
    monkeypatch.setattr(registry, "load_file", lambda path: loaded.append(path) or load(path))
    files = [VIDEOS / f"{sample}.webm" for sample in evaluated()["sample"][:2]]
    assert len(list(asking(*files))) == 2 and len(loaded) == 1


def test_each_answer_is_there_before_the_next_file_is_looked_at(monkeypatch):
    first, second = (VIDEOS / f"{sample}.webm" for sample in evaluated()["sample"][:2])
    looked, honest = [], files.examine
    monkeypatch.setattr(files, "examine", lambda job: looked.append(job.path) or honest(job))
    asked = asking(first, Path("gone.webm"), second, first)
    assert next(asked).file == looked[-1] == str(first) and len(looked) == 1
    assert "no such file" in str(next(asked)) and len(looked) == 1
    assert next(asked).file == looked[-1] == str(second)
    assert next(asked).file == str(first) and len(looked) == 2


def test_a_file_that_ends_its_decode_process_has_that_for_its_answer_and_the_others_have_theirs(monkeypatch):
    good, bad, other = (VIDEOS / f"{sample}.webm" for sample in evaluated()["sample"][:3])
    honest = files.extract

    def dies(params, dataset, feature, shard, root, progress, max_failed):
        if str(bad) in set(read_manifest(root / dataset / "manifest.parquet")["sample"]):
            raise TooMuch("a decode process died at a sample")
        return honest(params, dataset, feature, shard, root, progress, max_failed)

    monkeypatch.setattr(files, "extract", dies)
    done = ask("gasm_cast", good, bad, other)
    assert done.exit_code == 1
    assert [said["file"] for said in answers(done)] == [str(good), str(other)]
    assert errors(done) == [f"{bad}: a decode process died at a sample"]
    assert f"1 of 3 files have no answer: {bad}" in done.stderr


def test_a_reader_that_leaves_after_the_first_answer_ends_the_verb_without_a_traceback(monkeypatch, tmp_path):
    def closed(line):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(pipeline.cli.heads, "say", closed)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = ask("gasm_cast", *(VIDEOS / f"{sample}.webm" for sample in evaluated()["sample"][:2]))
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit) and not done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_concerns_every_file_ends_the_answers_and_keeps_those_that_were_given(monkeypatch):
    first, second = (VIDEOS / f"{sample}.webm" for sample in evaluated()["sample"][:2])
    asked = asking(first, second)
    assert next(asked).file == str(first)
    full = StoreFull(errno.ENOSPC, "the disk is full")
    monkeypatch.setattr(files, "extract", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(StoreFull):
        next(asked)


def test_a_head_that_is_not_trained_says_so():
    done = ask("gasm_cast", VIDEOS / f"{evaluated()['sample'][0]}.webm", set="seed=5")
    assert done.exit_code == 1 and "train the head first" in str(done.exception)


def test_absent_weights_are_named_with_the_remedy():
    small = load_params("params.yaml").model_dump(mode="json")
    small["features"]["r3d18_clips"]["weights"]["path"] = "absent.safetensors"
    done = ask("gasm_cast", VIDEOS / f"{evaluated()['sample'][0]}.webm", params=json.dumps(small))
    assert done.exit_code == 1
    assert "weights absent.safetensors do not exist; correct the path" in str(done.exception)


def test_features_that_somebody_else_computed_cannot_be_made_from_a_video(tmp_path):
    # As of a feature that does not say what it gives: of one that does, params say that it is no grid of tokens.
    computed = NpyFeature(backbone="npy", root="nowhere", orientation="TD", width=8, fps=12.0)
    small = load_params("params.yaml")
    small = small.model_copy(update={"features": small.features | {"r3d18_clips": computed}})
    run = Path(json.loads(ask("gasm_cast", VIDEOS / f"{evaluated()['sample'][0]}.webm").stdout)["run"])
    shutil.copytree(run, tmp_path / "run")
    from pipeline.prediction import PredictionError, predict

    of = Run(small, "gasm_cast", Path("features/toy-ssv2/manifest.parquet"), {}, tmp_path / "run")
    with pytest.raises(PredictionError, match="r3d18_clips, which somebody else computed"):
        list(predict(of, [VIDEOS / "100000.webm"]))


@pytest.mark.parametrize("option", ["map", "out"])
def test_an_option_that_the_head_has_no_use_for_is_refused(option):
    done = ask("gasm_cast", VIDEOS / f"{evaluated()['sample'][0]}.webm", **{option: "none"})
    assert done.exit_code == 1 and f"gasm_cast takes no --{option}" in str(done.exception).replace(
        "writes no file and ", ""
    )


# --- many files in a table --------------------------------------------------------------------------------------------


def table(*paths, out, **changes):
    run = Plan(load_params("params.yaml")).run("gasm_cast")
    return predict_table(run, listed([Path(path) for path in paths]), Path(out), **changes)


WORKERS = build._workers


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A folder of nine videos, of which one is damaged, and a list of three, of which one is not there."""
    for name in sorted(path.name for path in VIDEOS.glob("*.webm"))[:8]:
        shutil.copy(VIDEOS / name, tmp_path / name)
    (tmp_path / "torn.webm").write_bytes(b"no video")
    (tmp_path / "notes.md").write_text("no video either")
    monkeypatch.setattr(build, "_workers", ThreadPoolExecutor)  # a process imports for seconds
    first, second = sorted(tmp_path.glob("[0-9]*.webm"))[:2]
    (tmp_path / "some.txt").write_text(f"{second.name}\n\n{first.name}\nnowhere.webm\n")
    return tmp_path


def test_a_folder_and_a_list_are_a_row_a_file_with_its_answer_or_why_there_is_none(many, capsys):
    done = invoke("predict", many, "--head", "gasm_cast", "--out", many / "said.parquet")
    assert done.exit_code == 1 and "said.parquet: 9 files; 1 have no answer" in done.stdout
    assert "passed over as no videos or pictures: 1 .md, 1 .txt" in done.stderr
    frame = pd.read_parquet(many / "said.parquet")
    assert list(frame["file"]) == [str(path) for path in sorted(many.glob("*.webm"))]
    (torn,) = frame[frame["error"].notna()].itertuples()
    assert torn.file.endswith("torn.webm") and torn.error.startswith(f"{many}/torn.webm: ") and torn.top is None
    alone = {row["file"]: row for row in answers(ask("gasm_cast", *frame["file"]))}
    for row in frame[frame["error"].isna()].itertuples():
        assert [dict(of) for of in row.top] == alone[row.file]["top"] and row.run == alone[row.file]["run"]

    told = table(many / "some.txt", out=many / "said.jsonl")
    assert (told.files, told.failed) == (3, 1)
    rows = [json.loads(line) for line in (many / "said.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).name for row in rows] == [*(many / "some.txt").read_text().split()]
    assert "there is no such file" in rows[2]["error"] and {row["error"] for row in rows[:2]} == {None}
    table(many / "some.txt", out=many / "said.csv")
    frame = pd.read_csv(many / "said.csv")
    assert [json.loads(of) for of in frame["top"][:2]] == [row["top"] for row in rows[:2]]
    assert not [*many.glob("*.part")]


@pytest.mark.parametrize("answered", [5, 8])
def test_killed_it_goes_on_where_it_was_and_ends_with_the_same_bytes(many, monkeypatch, answered):
    monkeypatch.setattr(prediction.many, "at_once", lambda run: 2)
    monkeypatch.setattr(files, "at_once", lambda run: 2)
    table(many, out=many / "whole.jsonl")
    if (child := os.fork()) == 0:
        table(many, out=many / "said.jsonl", done=lambda done, total: done < answered or os.kill(os.getpid(), 9))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    with (many / "said.jsonl.part").open("a") as journal:
        journal.write('["torn')
    told = table(many, out=many / "said.jsonl")
    assert told.resumed == answered // 2 * 2
    assert (many / "said.jsonl").read_bytes() == (many / "whole.jsonl").read_bytes()


def ends_at_the_torn(jobs):
    if any(job.path.endswith("torn.webm") for job in jobs):
        os._exit(1)
    return [build.examine(job) for job in jobs]


def test_a_file_that_crashes_the_decoder_has_that_for_its_row_and_the_others_have_their_answers(many, monkeypatch):
    monkeypatch.setattr(build, "_workers", WORKERS)
    monkeypatch.setattr(build, "_examine_chunk", ends_at_the_torn)
    told = table(many, out=many / "said.parquet")
    frame = pd.read_parquet(many / "said.parquet")
    assert (told.files, told.failed) == (9, 1)
    (row,) = frame[frame["error"].notna()].itertuples()
    assert row.error.startswith(f"{many}/torn.webm ends the process that reads it (the decoder crashes)")


def test_a_file_that_has_changed_begins_it_anew_and_what_cannot_be_is_refused_before_anything_is_asked(many):
    table(many / "some.txt", out=many / "said.jsonl")
    (many / "said.jsonl.part").write_text('"of others"\n["a", {}]\n')
    assert table(many / "some.txt", out=many / "said.jsonl").resumed == 0
    for paths, out, says in (
        ([many / "empty.txt"], "said.csv", "empty.txt: names no file; write a path a line"),
        ([many / "some.txt"], "said.xlsx", "a table ends with .parquet, .csv, .jsonl"),
    ):
        (many / "empty.txt").write_text("\n")
        with pytest.raises(prediction.PredictionError, match=re.escape(says)):
            table(*paths, out=many / out)
    held = lock(many / "said.csv.part")
    with pytest.raises(prediction.PredictionError, match="another process writes it"):
        table(many / "some.txt", out=many / "said.csv")
    os.close(held)
