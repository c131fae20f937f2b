"""Claims about tables of one's own videos, and the manifests made of them."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Columns, Dataset, Shares
from pipeline.datasets import DatasetError, build_manifest, classes, quality_markdown, read_annotations
from pipeline.datasets.manifest import read_manifest, write_manifest

ROWS = [
    {"path": "a/1.mp4", "label": "cut", "split": "train"},
    {"path": "a/2.webm", "label": "peel", "split": "train"},
    {"path": "b/3.jpg", "label": "cut", "split": "test"},
]


def csv(rows: list[dict], mark: str = ",") -> str:
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    return "".join(mark.join(map(str, line)) + "\n" for line in lines)


def write(root: Path, rows: list[dict] | str, name: str = "videos.csv", **fields) -> Dataset:
    root.mkdir(parents=True, exist_ok=True)
    file = root / name
    if isinstance(rows, str):
        file.write_text(rows, encoding="utf-8")
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif name.endswith("l"):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        file.write_text(csv(rows, "\t" if name.endswith(".tsv") else ","), encoding="utf-8")
    return Dataset(layout="table", root=str(root), table=name, **fields)


def refused(match: str, root: Path, rows: list[dict] | str, name: str = "videos.csv", **fields) -> None:
    with pytest.raises(DatasetError, match=match):
        read_annotations(write(root, rows, name, **fields))


@pytest.mark.parametrize("name", ["videos.csv", "videos.tsv", "videos.parquet", "videos.jsonl"])
def test_a_table_is_the_same_in_each_of_its_forms(tmp_path, name):
    frame = read_annotations(write(tmp_path, ROWS, name))
    assert frame["sample"].tolist() == ["a/1", "a/2", "b/3"]
    assert frame["path"].tolist() == ["a/1.mp4", "a/2.webm", "b/3.jpg"]
    assert frame["label"].tolist() == ["cut", "peel", "cut"]
    assert frame["split"].tolist() == ["train", "train", "test"]


@pytest.mark.parametrize("name", ["videos.csv", "videos.tsv", "videos.parquet", "videos.jsonl"])
def test_what_can_be_learned_is_what_there_is_a_column_of(tmp_path, name):
    rows = [{**row, "age": 3.5, "target": 1} for row in ROWS]
    assert write(tmp_path, ROWS, name).targets == ("label",)
    assert write(tmp_path, rows, name).targets == ("label", "target")
    assert write(tmp_path, rows, name, columns=Columns(target="age", ignore=("label",))).targets == ("target",)
    assert write(tmp_path, rows, name, columns=Columns(labels="label")).targets == ("labels", "target")


def test_of_a_table_that_is_not_there_or_no_table_a_head_says_what_it_learns(tmp_path):
    assert Dataset(layout="table", root=str(tmp_path), table="gone.csv").targets == ("label", "labels", "target")
    for name in ("videos.csv", "videos.parquet", "videos.jsonl", "videos.txt"):
        assert write(tmp_path, "\x00[1", name).targets


def test_columns_are_named_in_params_and_others_are_passed_over(tmp_path):
    text = "age,who,file,activity,part\n7,p1,x.mp4,3,train\n,p2,./y.mp4,4,val\n,,,,\n"
    columns = Columns(path="file", id="who", label="activity", split="part")
    frame = read_annotations(write(tmp_path, "\ufeff" + text, columns=columns))
    assert frame[["sample", "path", "label", "split"]].values.tolist() == [
        ["p1", "x.mp4", "3", "train"],
        ["p2", "y.mp4", "4", "val"],
    ]


def test_a_whole_number_is_the_same_class_in_every_form(tmp_path):
    rows = [{"path": "a.mp4", "label": 3}, {"path": "b.mp4", "label": 4}]
    for name in ("videos.csv", "videos.parquet", "videos.jsonl"):
        assert read_annotations(write(tmp_path, rows, name))["label"].tolist() == ["3", "4"]


def test_an_absolute_path_below_the_root_is_taken_and_one_outside_is_refused(tmp_path):
    assert read_annotations(write(tmp_path, f"path\n{tmp_path}/a.mp4\n"))["path"].tolist() == ["a.mp4"]
    refused(
        r"line 2: the path '/elsewhere/a\.mp4' leads out of .*; write it relative", tmp_path, "path\n/elsewhere/a.mp4\n"
    )
    refused(r"line 3: the path '\.\./b\.mp4' leads out of", tmp_path, "path\na.mp4\n../b.mp4\n")
    refused(r"line 2: the path 'a\\\\b\.mp4' has a backslash.*; write /", tmp_path, "path\na\\b.mp4\n")


def test_a_column_that_is_missing_is_told_with_those_there_are(tmp_path):
    refused(
        r"videos\.csv has no column 'path'.* file, label: say which .*columns: \{path",
        tmp_path,
        "file,label\na.mp4,x\n",
    )
    refused(r"has no column 'kind'.* path, Kind.*correct columns\.label", tmp_path, "path,Kind\na.mp4,x\n",
            columns=Columns(label="kind"))  # fmt: skip
    refused(
        r"line 1 has one column, got 'path;label'; its columns are parted by ';'", tmp_path, "path;label\na.mp4;x\n"
    )
    refused(r"has the columns 'label' and 'labels'", tmp_path, "path,label,labels\na.mp4,x,y\n")
    refused(r"videos\.csv lists no video", tmp_path, "path,label\n")
    refused(r"videos\.txt is no table that is read \(\.csv", tmp_path, "path\na\n", name="videos.txt")


def test_an_empty_label_is_refused_where_others_of_its_split_have_one(tmp_path):
    text = "path,label,split\na.mp4,x,train\nb.mp4,,train\nc.mp4,,test\n"
    refused(r"line 3: the sample 'b' has no label, and others of train have; write it", tmp_path, text)
    frame = read_annotations(write(tmp_path, text.replace("b.mp4,,", "b.mp4,y,")))
    assert frame["label"].tolist() == ["x", "y", None]
    refused(r"line 2: the label 'x ' has a space around it.*'a\.mp4'", tmp_path, "path,label\na.mp4,x \n")


def test_a_row_without_a_split_or_a_group_is_refused(tmp_path):
    refused(r"line 3: the split is empty \(the file 'b\.mp4'\)", tmp_path, "path,split\na.mp4,train\nb.mp4,\n")
    refused(r"line 2: the group is empty", tmp_path, "path,group\na.mp4,\nb.mp4,g\n")


def test_a_repeated_row_counts_once_and_is_reported_and_one_that_contradicts_is_refused(tmp_path):
    frame = read_annotations(write(tmp_path, "path,label,split\na.mp4,x,val\nb.mp4,y,val\na.mp4,x,val\n"))
    assert frame["sample"].tolist() == ["a", "b"] and frame.attrs["listed_twice"] == [["a", "val", "val"]]
    refused(r"line 3: the sample 'a' has the label 'y', and in line 2 'x'", tmp_path, "path,label\na.mp4,x\na.mp4,y\n")
    refused(r"line 3: .* 'a' has the split 'test', and in line 2 'train'", tmp_path,
            "path,split\na.mp4,train\na.mp4,test\n")  # fmt: skip
    refused(r"line 3: .*path 'a\.avi', and in line 2 'a\.mp4'; give each a name", tmp_path, "path\na.mp4\na.avi\n")


def test_a_group_of_two_splits_is_refused_in_two_spellings_too(tmp_path):
    text = "path,group,split\na.mp4,Ann,train\nb.mp4,Bob,test\nc.mp4,{},test\n"
    for again in ("Ann", "ann"):
        refused(rf"line 4 has the group '{again}' in test, and line 2 has 'Ann' in train.*; move one", tmp_path,
                text.format(again))  # fmt: skip
    assert read_annotations(write(tmp_path, text.format("Bob")))["group"].tolist() == ["Ann", "Bob", "Bob"]


def test_several_labels_are_a_list_parted_by_a_mark_or_as_stored(tmp_path):
    text = "path,labels\na.mp4,cut; peel\nb.mp4,\nc.mp4,cut\n"
    assert read_annotations(write(tmp_path, text))["labels"].tolist() == [["cut", "peel"], [], ["cut"]]
    other = write(tmp_path, text.replace(";", "|"), columns=Columns(separator="|"))
    assert read_annotations(other)["labels"].tolist()[0] == ["cut", "peel"]
    rows = [{"path": "a.mp4", "labels": ["cut", "peel"]}, {"path": "b.mp4", "labels": []}]
    for name in ("videos.parquet", "videos.jsonl"):
        assert read_annotations(write(tmp_path, rows, name))["labels"].tolist() == [["cut", "peel"], []]
    refused(r"line 1: the label is a list.*columns: \{labels", tmp_path, [{"path": "a.mp4", "label": ["x"]}], "v.jsonl")
    refused(r"line 2: the labels 'cut;cut' name a class twice", tmp_path, "path,labels\na.mp4,cut;cut\n")


def test_targets_are_numbers_of_one_column_or_of_several(tmp_path):
    frame = read_annotations(write(tmp_path, "path,target\na.mp4,1\nb.mp4,-2.5\n"))
    assert frame["target"].tolist() == [[1.0], [-2.5]] and frame.attrs["targets"] == ["target"]
    text = "path,height,weight\na.mp4,1,3\nb.mp4,2,4\n"
    frame = read_annotations(write(tmp_path, text, columns=Columns(target=("height", "weight"))))
    assert frame["target"].tolist() == [[1.0, 3.0], [2.0, 4.0]] and frame.attrs["targets"] == ["height", "weight"]
    refused(r"line 2: the target 'tall' is no number \(the file 'a\.mp4'\)", tmp_path, "path,target\na.mp4,tall\n")
    refused(r"line 2: the target 'nan' is no number", tmp_path, "path,target\na.mp4,nan\n")
    refused(r"line 3: the sample 'b' has no target", tmp_path, "path,target\na.mp4,1\nb.mp4,\n")


def test_what_can_be_learned_is_every_column_that_params_name(tmp_path):
    def learned(**columns):
        return write(tmp_path, "path\na.mp4\n", columns=Columns(**columns)).targets

    assert learned() == ("label",) and learned(label="of") == ("label",) and learned(labels="tags") == ("labels",)
    assert learned(target=("a", "b"), label="of") == ("label", "target")


def test_clips_of_one_video_are_samples_by_their_ends(tmp_path):
    frame = read_annotations(write(tmp_path, "path,start,stop\nlong.mp4,0,1.5\nlong.mp4,1.5,\nother.mp4,,\n"))
    assert frame["sample"].tolist() == ["long_0_1.5", "long_1.5", "other"]
    assert frame["start"].tolist() == [0.0, 1.5, None] and frame["stop"].tolist() == [1.5, None, None]
    refused(r"line 2: the clip of 'a\.mp4' begins at 3 and stops at 2", tmp_path, "path,start,stop\na.mp4,3,2\n")
    refused(r"line 2: the start -1 is below 0", tmp_path, "path,start\na.mp4,-1\n")
    refused(r"line 2: the stop 2\.5 is below 0 or not a whole number", tmp_path, "path,stop\na.mp4,2.5\n",
            columns=Columns(unit="frames"))  # fmt: skip


def test_splits_are_drawn_by_shares_and_keep_groups_and_the_clips_of_a_video_together(tmp_path):
    shares = Shares(train=0.6, val=0.2, test=0.2)
    lines = [f"v{number // 3}.mp4,{number % 3},{number % 3 + 1},g{number // 6}\n" for number in range(180)]
    for head, by in (("path,start,stop,who\n", "path"), ("path,start,stop,group\n", "group")):
        frame = read_annotations(write(tmp_path, head + "".join(lines), split=shares))
        assert set(frame["split"]) == {"train", "val", "test"}
        assert (frame.groupby(by)["split"].nunique() == 1).all()
    alone = Shares(**{**shares.model_dump(), "by": "sample"})
    frame = read_annotations(write(tmp_path, "path,start,stop,who\n" + "".join(lines), split=alone))
    assert (frame.groupby("path")["split"].nunique() > 1).any()
    refused("has the column 'split', and params draw splits", tmp_path, ROWS, split=shares)
    refused("has no column 'group', and split.by in params is group", tmp_path, "path\na.mp4\n",
            split=Shares(train=1, by="group"))  # fmt: skip


def test_a_table_without_splits_has_one(tmp_path):
    assert read_annotations(write(tmp_path, "path\na.mp4\n"))["split"].tolist() == ["all"]


def test_the_quality_report_names_the_splits_that_are_there_and_counts_the_frames_of_clips(tmp_path, clips):
    (tmp_path / "0.webm").write_bytes(clips[0])
    lines = ["0.webm,cut,0,0.25,Train", "0.webm,peel,0.25,0.5,Test", "0.webm,cut,0,0.5,Test"]
    quality = build_manifest(write(tmp_path, "\n".join(["path,label,start,stop,split", *lines])))[1]
    assert {key: of for key, of in quality["classes"].items() if "not" in key} == {
        "not_in_Test": [], "not_in_train": ["peel"]
    }  # fmt: skip
    assert "in another split but not in train 1, peel" in quality_markdown(quality)
    assert "validation" not in quality_markdown(quality)
    assert quality["frames"]["max"] == quality["fps"]["max"] / 2


def test_what_a_manifest_keeps_of_a_table_is_there_when_it_is_read_again(tmp_path, clips):
    for number in range(3):
        (tmp_path / f"{number}.webm").write_bytes(clips[number])
    lines = ["0.webm,cut;peel,1,g,train", "1.webm,,2,h,test", "2.webm,peel,3,h,test", "no.webm,,4,h,test"]
    dataset = write(tmp_path, "\n".join(["path,labels,score,group,split", *lines]), columns=Columns(target="score"))
    made, quality = build_manifest(dataset)
    write_manifest(made, tmp_path / "m.parquet")
    frame = read_manifest(tmp_path / "m.parquet")
    assert frame["status"].tolist() == ["ok", "ok", "ok", "missing"]
    assert frame["labels"].tolist() == [["cut", "peel"], [], ["peel"], []] and classes(frame) == ["cut", "peel"]
    assert frame["target"].tolist() == [[1.0], [2.0], [3.0], [4.0]] and frame.attrs["targets"] == ["score"]
    assert frame["group"].tolist() == ["g", "h", "h", "h"] and frame["start"].isna().all()
    assert "start" not in pq.read_schema(tmp_path / "m.parquet").names
    assert not write_manifest(frame, tmp_path / "m.parquet")
    assert quality["not_ok"]["missing"]["samples"][0]["sample"] == "no"
    assert quality["targets"] == {"score": {"min": 1.0, "median": 2.5, "max": 4.0}}
    assert quality["classes"]["counts"] == {"train": {"cut": 1, "peel": 1}, "test": {"peel": 1}}
    assert quality["unlabelled"] == {"train": 0, "test": 0} and quality["groups"] == {"train": 1, "test": 1}
    told = quality_markdown(quality)
    assert "Target score: 1.0 to 4.0" in told and "Groups, none of which is in two splits: train (1), test (1)" in told


def test_a_column_that_only_is_called_like_a_role_can_be_passed_over(tmp_path):
    text = "path,target,split\na.mp4,cat,train\nb.mp4,dog,test\n"
    refused(
        r"line 2: the target 'cat' is no number .*; write it .*or pass .* columns: \{ignore: \[target\]\}",
        tmp_path,
        text,
    )
    columns = Columns(label="target", ignore=("target", "split"))
    frame = read_annotations(write(tmp_path, text, columns=columns))
    assert frame["label"].tolist() == ["cat", "dog"] and set(frame["split"]) == {"all"} and "target" not in frame
    refused(r"has no column 'aim'.*correct columns\.ignore", tmp_path, text, columns=Columns(ignore=("aim",)))


MEASURE = """
import re, sys, time
from pathlib import Path
from pipeline.config import Dataset
from pipeline.datasets import assign_shards, read_annotations
start = time.process_time()
frame = read_annotations(Dataset(layout="table", root=sys.argv[1]))
seconds = time.process_time() - start
shards = assign_shards(frame["sample"].tolist(), {}, 256)
heavy = [name for name in ("torch", "av", "decord") if name in sys.modules]
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(len(frame), max(shards.values()), int(peak[1]) // 1024, seconds, *heavy)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc")
def test_300000_rows_are_read_in_half_a_gigabyte_without_torch_or_a_decoder(tmp_path):
    lines = (f"class_{n % 700}/{n:011d}.mp4,class {n % 700},train,{n % 300},{n % 300 + 10}\n" for n in range(300_000))
    (tmp_path / "videos.csv").write_text("path,label,split,start,stop\n" + "".join(lines), encoding="utf-8")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    rows, last_shard, megabytes, seconds, *heavy = done.stdout.split()
    print(f"{rows} rows in {float(seconds):.1f} CPU s, {megabytes} MB at most")
    assert (int(rows), int(last_shard), heavy) == (300_000, 1171, [])
    assert int(megabytes) < 500 and float(seconds) < 30


def test_a_group_in_two_spellings_is_refused_where_a_draw_parts_it(tmp_path):
    rows = [{"path": f"{n}.mp4", "group": ("Anna", "anna", "Bob", "Eve")[n % 4]} for n in range(40)]
    drawn = [Shares(train=0.5, test=0.5, seed=seed) for seed in range(6)]
    outcomes = set()
    for split in drawn:
        try:
            frame = read_annotations(write(tmp_path, rows, split=split))
            parted = frame[frame["group"].isin(["Anna", "anna"])]["split"].nunique() > 1
        except DatasetError as error:
            assert "write one group alike in all rows" in str(error) or "gets none" in str(error)
            parted = False
            outcomes.add("refused")
        assert not parted
    assert "refused" in outcomes
    read_annotations(write(tmp_path, rows, split=Shares(train=0.5, test=0.5, by="sample")))


def test_a_clip_of_less_than_a_millionth_second_is_none_and_an_empty_list_is_no_target(tmp_path):
    refused("not after that", tmp_path, "path,start,stop\na.mp4,0.2,0.2000001\n")
    rows = [{"path": "a.mp4", "target": [], "split": "test"}, {"path": "b.mp4", "target": [1.0], "split": "train"}]
    assert read_annotations(write(tmp_path, rows, "videos.jsonl"))["target"].tolist() == [None, [1.0]]


def test_a_root_that_is_the_top_of_the_disk_takes_absolute_paths(tmp_path):
    dataset = write(tmp_path, f"path\n{tmp_path}/a.mp4\n")
    top = dataset.model_copy(update={"root": "/", "table": str(tmp_path / "videos.csv").lstrip("/")})
    assert read_annotations(top)["path"].tolist() == [str(tmp_path / "a.mp4").lstrip("/")]
