"""Claims about `permafrost init`: what it sees in a folder or a table, and the params file that it writes."""

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from permafrost.cli import app
from permafrost.start import StartError, shares_of, start
from pipeline.config import ParamsError, load_params
from pipeline.datasets import DatasetError


def put(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def folder(root: Path, classes: int = 4, each: int = 15, suffix: str = ".mp4") -> Path:
    return put(root, *(f"class {of}/{number}{suffix}" for of in range(classes) for number in range(each)))


def params(tmp_path: Path, place: Path, **options):
    """The params that are written, read as the workflow reads them."""
    out = tmp_path / "own.yaml"
    found = start(place, "own", out, **options)
    out.write_text(found.text, encoding="utf-8")
    assert len(found.text.splitlines()) <= 40
    return load_params(out), found


def test_a_folder_of_classes_becomes_a_probe_of_shipped_features_told_in_red(tmp_path):
    read, found = params(tmp_path, folder(tmp_path / "videos"))
    assert read.datasets["own"].layout == "videos" and set(read.features) == {"dinov3", "r3d18"}
    head = read.heads["probe"]
    assert (head.kind, head.result, head.eval_split) == ("probe", "own_top1", "test")
    assert len(found.warnings) == 2 and all("mini weights" in line for line in found.warnings)
    assert "results/own_top1.json" in found.command and "60 videos and 0 pictures" in found.said[0]


def test_drawn_splits_of_a_small_set_come_near_to_their_shares(tmp_path):
    _, found = params(tmp_path, folder(tmp_path / "videos"))
    sizes = dict(part.split() for part in found.said[0].partition("splits: ")[2].split(", "))
    assert 40 <= int(sizes["train"]) <= 54 and int(sizes["test"]) >= 8


def test_no_split_is_drawn_that_the_head_does_not_read(tmp_path):
    read, found = params(tmp_path, folder(tmp_path / "videos"))
    assert read.datasets["own"].split.names == ("train", "test") and ", val" not in found.said[0]
    assert set(shares_of("clip_align")) == {"train", "val", "test"}, "it stops early by a split of its own"


def test_folders_of_splits_are_taken_and_not_drawn(tmp_path):
    put(tmp_path / "v", *(f"{split}/{of}/{n}.avi" for split in ("train", "val") for of in "ab" for n in range(2)))
    read, _ = params(tmp_path, tmp_path / "v")
    assert read.datasets["own"].split is None and read.heads["probe"].eval_split == "val"


def test_lists_of_ucf101_are_seen(tmp_path):
    root = put(tmp_path / "ucf", *(f"UCF/{of}/v_{of}_{n}.avi" for of in ("Archery", "Bowling") for n in range(2)))
    (root / "lists").mkdir()
    (root / "lists/trainlist01.txt").write_text(
        "Archery/v_Archery_0.avi 1\nBowling/v_Bowling_0.avi 2\n", encoding="utf-8"
    )
    (root / "lists/testlist01.txt").write_text("Archery/v_Archery_1.avi\nBowling/v_Bowling_1.avi\n", encoding="utf-8")
    (root / "lists/classInd.txt").write_text("1 Archery\n2 Bowling\n", encoding="utf-8")
    read, _ = params(tmp_path, root)
    assert read.datasets["own"].lists.form == "ucf101" and read.datasets["own"].lists.folder == "lists"


def test_pictures_are_read_as_one_frame_by_backbones_of_pictures(tmp_path):
    read, found = params(tmp_path, folder(tmp_path / "pictures", suffix=".jpg"))
    assert set(read.features) == {"dinov3", "clip"}
    assert {feature.sampling.frames for feature in read.features.values()} == {1}
    assert "0 videos and 60 pictures" in found.said[0]


def table(place: Path, suffix: str, rows: list[dict]) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    path, frame = place / f"list{suffix}", pd.DataFrame(rows)
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


CLIPS = [
    {"Video": f"{of}.mp4", "Action": "ab"[n % 2], "begin": n, "end": n + 1, "person": f"p{of}"}
    for of in range(20)
    for n in range(4)
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_a_table_of_clips_is_read_by_common_names_of_columns(tmp_path, suffix):
    put(tmp_path / "set", *(f"videos/{of}.mp4" for of in range(20)))
    read, found = params(tmp_path, table(tmp_path / "set", suffix, CLIPS))
    dataset = read.datasets["own"]
    assert (dataset.table, dataset.videos) == (f"list{suffix}", "videos")
    columns = dataset.columns
    assert (columns.path, columns.label, columns.start, columns.stop) == ("Video", "Action", "begin", "end")
    assert columns.group == "person" and dataset.split is not None
    assert "80 videos" in found.said[0]


@pytest.mark.parametrize("name", ["class name", "Class-Name", " class_name"])
def test_a_column_s_name_is_common_whatever_parts_its_words(tmp_path, name):
    put(tmp_path / "set", *(f"{n}.mp4" for n in range(30)))
    rows = [{"file path": f"{n}.mp4", name: "ab"[n % 2]} for n in range(30)]
    read, found = params(tmp_path, table(tmp_path / "set", ".csv", rows))
    assert (read.datasets["own"].columns.path, read.datasets["own"].columns.label) == ("file path", name)
    assert found.command.endswith("results/own_top1.json")


def test_links_that_lead_out_of_the_folder_are_refused_with_the_option_that_allows_them(tmp_path, monkeypatch):
    films = folder(tmp_path / "films", 2, 15)
    put(tmp_path / "videos/a", "0.mp4")
    (tmp_path / "videos/b").symlink_to(films / "class 0")
    refused("--allow-links", tmp_path / "videos", DatasetError)
    read, _ = params(tmp_path, tmp_path / "videos", allow_links=True)
    assert read.datasets["own"].allow_links
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split("init videos --name own --out linked.yaml --allow-links"))
    assert done.exit_code == 0, done.output
    assert load_params("linked.yaml").datasets["own"].allow_links


def test_the_columns_of_the_docs_own_example_are_seen(tmp_path):
    put(tmp_path / "set", *(f"recordings/{of}.mp4" for of in range(20)))
    names = {"Video": "recording", "Action": "activity"}
    rows = [{names.get(key, key): value for key, value in row.items()} for row in CLIPS]
    read, _ = params(tmp_path, table(tmp_path / "set", ".csv", rows))
    columns = read.datasets["own"].columns
    assert (columns.path, columns.label, columns.group) == ("recording", "activity", "person")


@pytest.mark.parametrize("train, test", [("Train", "Test"), ("training", "valid"), ("TRAIN", "testing")])
def test_splits_in_other_words_are_learned_from_by_the_names_that_they_have(tmp_path, train, test):
    put(tmp_path / "set", *(f"{n}.mp4" for n in range(8)))
    rows = [{"path": f"{n}.mp4", "label": "ab"[n % 2], "split": train if n < 4 else test} for n in range(8)]
    head = params(tmp_path, table(tmp_path / "set", ".csv", rows))[0].heads["probe"]
    assert (head.train_split, head.eval_split) == (train, test)


def test_where_no_class_is_seen_the_names_that_would_be_are_told(tmp_path):
    put(tmp_path / "set", *(f"{n}.mp4" for n in range(30)))
    _, found = params(
        tmp_path, table(tmp_path / "set", ".csv", [{"path": f"{n}.mp4", "what": "ab"[n % 2]} for n in range(30)])
    )
    assert any("call its column label, class" in line for line in found.said)


def test_absolute_paths_are_below_the_folder_that_they_share(tmp_path):
    root = folder(tmp_path / "elsewhere", 2, 10)
    rows = [{"path": str(path), "label": path.parent.name} for path in sorted(root.rglob("*.mp4"))]
    read, _ = params(tmp_path, table(tmp_path / "lists", ".csv", rows))
    dataset = read.datasets["own"]
    assert Path(dataset.root, dataset.videos).samefile(root)


def test_several_labels_and_numbers_have_their_own_result(tmp_path):
    put(tmp_path / "set", *(f"{n}.mp4" for n in range(30)))
    tags = [{"path": f"{n}.mp4", "tags": ["a"] if n % 2 else ["a", "b"]} for n in range(30)]
    read, found = params(tmp_path, table(tmp_path / "set", ".jsonl", tags))
    assert read.heads["probe"].task == "multilabel" and "results/own_map.json" in found.command
    sizes = [{"path": f"{n}.mp4", "score": n / 3} for n in range(30)]
    read, found = params(tmp_path, table(tmp_path / "set", ".csv", sizes))
    assert read.heads["probe"].task == "regression" and "results/own_r2.json" in found.command


def test_where_nothing_is_to_be_learned_features_are_extracted(tmp_path):
    read, found = params(tmp_path, put(tmp_path / "flat", *(f"{n}.mp4" for n in range(40))))
    assert not read.heads and found.command.endswith("-- features")
    assert set(read.datasets["own"].features) == {"dinov3", "r3d18"}
    assert "nothing says of which class" in found.said[1]


def test_a_head_of_named_roles_gets_the_features_that_fit_them(tmp_path):
    read, _ = params(tmp_path, folder(tmp_path / "v"), kind="gasm_cast")
    assert dict(read.heads["gasm_cast"].features) == {"semantic": "dinov3", "motion": "r3d18"}


def test_weights_of_ones_own_are_told_in_no_red(tmp_path):
    read, found = params(tmp_path, folder(tmp_path / "v"), backbones={"dinov3": "random:3"})
    assert read.features["dinov3"].weights.random == 3 and "random weights" in found.warnings[0]


@pytest.mark.parametrize("name", ["yes", "a: b", "[1]", "# x", "1e3", "x'y", "naïve ünder"])
def test_names_of_folders_are_yaml_as_they_are(tmp_path, name):
    read, _ = params(tmp_path, folder(tmp_path / name))
    assert read.datasets["own"].root == str(tmp_path / name)


def refused(match: str, place: Path, error: type = StartError, **options) -> None:
    with pytest.raises(error, match=match):
        start(place, "own", Path("own.yaml"), **options)


def test_what_cannot_be_used_is_one_error_with_the_remedy(tmp_path):
    refused("is not there; name a folder", tmp_path / "absent")
    refused("holds no video or picture", put(tmp_path / "texts", "a.txt"), DatasetError)
    refused("neither a folder nor a table", put(tmp_path, "one.mp4") / "one.mp4")
    refused(r"none of the columns path, .*rename the one", table(tmp_path, ".csv", [{"where": "a.mp4"}]))
    refused(r"none of its first 1 files is below", table(tmp_path / "t", ".csv", [{"path": "gone.mp4", "label": "a"}]))
    videos = folder(tmp_path / "v")
    refused("dinov4", videos, ParamsError, backbones={"dinov4": "mini"})
    refused(
        "reads semantic, motion, and there are 1", videos, ParamsError, backbones={"dinov3": "mini"}, kind="gasm_cast"
    )


def test_the_command_says_what_was_found_and_replaces_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "videos")
    asked = shlex.split("init videos --name own --out own.yaml")
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "now run" in done.output and "--snakefile" in done.output and "WARNING" in done.stderr
    before = (tmp_path / "own.yaml").read_bytes()
    again = CliRunner().invoke(app, asked)
    assert isinstance(again.exception, StartError) and "own.yaml is there" in str(again.exception)
    assert (tmp_path / "own.yaml").read_bytes() == before


def test_in_a_project_weights_and_workflow_are_the_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["new", "."]).exit_code == 0
    found = start(folder(tmp_path / "videos"), "own", Path("own.yaml"))
    assert "path: weights/mini-dinov3" in found.text and "--snakefile" not in found.command


@pytest.mark.parametrize(
    ("names", "train", "evaluated"), [("Train Test", "Train", "Test"), ("training valid", "training", "valid")]
)
def test_splits_are_known_by_their_usual_names_in_a_table_too(tmp_path, names, train, evaluated):
    rows = "".join(f"{n}.mp4,{'ab'[n % 2]},{names.split()[n > 5]}\n" for n in range(8))
    (put(tmp_path / "v", "0.mp4") / "t.csv").write_text(f"path,label,split\n{rows}", encoding="utf-8")
    read, found = params(tmp_path, tmp_path / "v/t.csv")
    assert (read.heads["probe"].train_split, read.heads["probe"].eval_split) == (train, evaluated)
    assert found.command.endswith("results/own_top1.json")


def test_a_split_without_labels_is_not_what_a_head_is_evaluated_on(tmp_path):
    rows = "".join(f"{n}.mp4,{'ab'[n % 2]},{'train' if n < 6 else 'val'}\n" for n in range(8))
    (put(tmp_path / "v", "0.mp4") / "t.csv").write_text(f"path,label,split\n{rows}9.mp4,,test\n", encoding="utf-8")
    read, found = params(tmp_path, tmp_path / "v/t.csv")
    assert read.heads["probe"].eval_split == "val" and "1 of 9 samples have no label" in found.said


def test_of_too_few_or_unlabelled_files_features_are_extracted_and_no_split_is_drawn(tmp_path):
    for files in (["a/1.mp4"], ["a/1.mp4", "b/1.mp4"], [f"{n}.mp4" for n in range(9)]):
        folder = tmp_path / str(len(files))
        read, found = params(tmp_path, put(folder, *files))
        assert read.datasets["own"].split is None and found.command.endswith("-- features")


def test_one_sample_a_class_is_told_of_before_a_training_fails(tmp_path):
    put(tmp_path / "v", *(f"{split}/{of}/1.mp4" for split in ("train", "test") for of in "abc"))
    _, found = params(tmp_path, tmp_path / "v")
    assert found.command.endswith("-- features") and any("no class has two samples in train" in of for of in found.said)


def test_absolute_paths_and_a_relative_one_far_below_are_taken(tmp_path):
    rows = "".join(f"{tmp_path}/v/{n}.mp4,{'ab'[n % 2]},{'train' if n < 200 else 'test'}\n" for n in range(220))
    (put(tmp_path / "v", "0.mp4") / "t.csv").write_text(f"path,label,split\n{rows}z.mp4,a,test\n", encoding="utf-8")
    read, _ = params(tmp_path, tmp_path / "v/t.csv")
    assert read.datasets["own"].root == str(tmp_path / "v")


def test_the_command_can_be_pasted_where_the_params_file_has_a_space_in_its_name(tmp_path):
    command = start(folder(tmp_path / "videos"), "own", tmp_path / "my own.yaml").command
    assert str(tmp_path / "my own.yaml") in shlex.split(command)
