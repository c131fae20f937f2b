"""Claims about reading Something-Something-V2's annotation files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import Dataset
from pipeline.datasets import DatasetError, annotation_files, read_annotations
from tests.datasets.made_up import OFFICIAL_COUNTS, entry, write_annotations, write_json, write_set


def dataset(root: Path, **fields) -> Dataset:
    return Dataset(layout="ssv2", root=str(root), **fields)


def test_samples_come_in_the_order_train_validation_test_and_in_file_order(tmp_path):
    ids = write_annotations(tmp_path, {"train": 7, "validation": 4, "test": 3}, n_classes=3)
    frame = read_annotations(dataset(tmp_path))
    assert frame["sample"].tolist() == ids
    assert frame["split"].tolist() == ["train"] * 7 + ["validation"] * 4 + ["test"] * 3
    assert frame["path"].tolist() == [f"{sample}.webm" for sample in ids]


def test_a_label_is_the_template_without_its_brackets(tmp_path):
    template = "Putting [something similar to other things] next to [something], then [something]"
    write_json(tmp_path, "labels.json", {template.replace("[", "").replace("]", ""): "0"})
    write_json(tmp_path, "train.json", [{"id": "1", "template": template}])
    write_json(tmp_path, "validation.json", [])
    row = read_annotations(dataset(tmp_path)).iloc[0]
    assert row.label == "Putting something similar to other things next to something, then something"
    assert row.template == template


def test_the_test_split_has_no_labels_until_its_answers_are_there(tmp_path):
    counts = {"train": 2, "validation": 2, "test": 5}
    write_annotations(tmp_path, counts, n_classes=4)
    assert read_annotations(dataset(tmp_path))["label"].tolist()[4:] == [None] * 5
    write_annotations(tmp_path, counts, n_classes=4, answers=True)
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert read_annotations(dataset(tmp_path))["label"].tolist()[4:] == [list(labels)[i % 4] for i in range(5)]


def test_a_test_entry_that_has_a_template_is_labelled_by_it(tmp_path):
    write_set(tmp_path, train=["1"])
    write_json(tmp_path, "test.json", [entry("2", "Moving [something] up"), {"id": "3"}])
    assert read_annotations(dataset(tmp_path))["label"].tolist() == ["Holding something", "Moving something up", None]


def test_ids_that_are_numbers_become_text(tmp_path):
    write_set(tmp_path, train=[78687, "12"], test=[5])
    assert read_annotations(dataset(tmp_path))["sample"].tolist() == ["78687", "12", "5"]


def test_the_test_split_is_optional_and_the_extension_is_the_data_sets(tmp_path):
    write_set(tmp_path, train=["1"], validation=["2"])
    (tmp_path / "test.json").unlink()
    assert read_annotations(dataset(tmp_path, extension=".mp4"))["path"].tolist() == ["1.mp4", "2.mp4"]


@pytest.mark.parametrize("folder", [".", "labels"])
@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_label_files_are_found_with_and_without_the_downloads_prefix_in_root_and_labels(tmp_path, folder, prefix):
    ids = write_annotations_in(tmp_path / folder, prefix)
    assert read_annotations(dataset(tmp_path))["sample"].tolist() == ids
    names = [
        f"{prefix}{name}" for name in ("labels.json", "train.json", "validation.json", "test.json", "test-answers.csv")
    ]
    assert annotation_files(dataset(tmp_path)) == [tmp_path / folder / name for name in names]


def write_annotations_in(folder: Path, prefix: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return write_annotations(folder, {"train": 2, "validation": 1, "test": 1}, 2, answers=True, prefix=prefix)


def test_the_plain_name_is_read_where_both_are_there(tmp_path):
    write_set(tmp_path, train=["plain"])
    write_json(tmp_path, "something-something-v2-train.json", [entry("prefixed", "Holding [something]")])
    assert read_annotations(dataset(tmp_path))["sample"].tolist() == ["plain"]


@pytest.mark.parametrize("name", ["labels.json", "train.json", "validation.json"])
def test_a_missing_label_file_is_named_with_every_place_it_was_looked_for(tmp_path, name):
    write_set(tmp_path, train=["1"])
    (tmp_path / name).unlink()
    with pytest.raises(DatasetError, match=rf"{name} .*missing.*something-something-v2-{name}.*root in params"):
        read_annotations(dataset(tmp_path))
    with pytest.raises(DatasetError, match=name):
        annotation_files(dataset(tmp_path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'[{"id": "1"', "not valid JSON.*line 1.*download it again"),
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe\x00\xd8", "not UTF-8"),
        (b'{"id": "1"}', "must hold a list of entries at its top, got dict"),
        (b"[17]", "entry 0 has no id, got 17"),
        (b'[{"id": "1", "id": "2"}]', "the key 'id' twice in one object, and either may be meant; remove one"),
        (b'[{"id": null}]', "entry 0 has the id None"),
        (b'[{"id": true}]', "entry 0 has the id True"),
        (b'[{"id": 1.5}]', "entry 0 has the id 1.5"),
        (b'[{"id": "1 "}]', "entry 0 has the id '1 '; an id is text without a space around it"),
        (
            b'[{"id": "1", "template": "holding [something]"}]',
            r"the label 'holding something', .* of labels.json \('Holding something' is one\); use",
        ),
        (b'[{"id": "1"}]', "id '1' has the template None"),
        (b'[{"id": "1", "template": ["Holding [something]"]}]', "id '1' has the template"),
        (
            b'[{"id": "1", "template": "Eating [something]"}]',
            "id '1' has the label 'Eating something'.*2 of labels.json",
        ),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path, content, says):
    write_set(tmp_path, train=["1"])
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"(?s)train\.json.*{says}"):
        read_annotations(dataset(tmp_path))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("7,Holding something\n", "line 1 is '7,Holding something', wanted id;label"),
        ("7;Eating something\n", "id '7' has the label 'Eating something'"),
        ("7;Holding something\n7;Moving something up\n", "id '7' is listed with two labels"),
    ],
)
def test_broken_answers_are_an_error_that_names_the_file(tmp_path, lines, says):
    write_set(tmp_path, train=["1"], test=["7"])
    (tmp_path / "test-answers.csv").write_text(lines)
    with pytest.raises(DatasetError, match=rf"test-answers\.csv.*{says}"):
        read_annotations(dataset(tmp_path))


def test_answers_with_a_byte_order_mark_windows_line_ends_and_blank_lines_are_read(tmp_path):
    write_set(tmp_path, train=["1"], test=["7", "8"])
    (tmp_path / "test-answers.csv").write_bytes(b"\xef\xbb\xbf7;Holding something\r\n\r\n8;Moving something up\r\n")
    assert read_annotations(dataset(tmp_path))["label"].tolist()[1:] == ["Holding something", "Moving something up"]


def test_an_id_listed_twice_counts_where_it_came_first(tmp_path):
    write_set(tmp_path, train=["1", "2"], validation=["1", "3"])
    frame = read_annotations(dataset(tmp_path))
    assert frame[["sample", "split"]].values.tolist() == [["1", "train"], ["2", "train"], ["3", "validation"]]
    assert frame.attrs["listed_twice"] == [["1", "train", "validation"]]


def test_an_id_of_train_that_test_repeats_without_a_label_stays_in_train(tmp_path):
    write_set(tmp_path, train=["1"], test=["1", "2"])
    frame = read_annotations(dataset(tmp_path))
    assert frame["split"].tolist() == ["train", "test"]
    assert frame.attrs["listed_twice"] == [["1", "train", "test"]]


def test_an_id_listed_with_two_labels_is_an_error(tmp_path):
    write_set(tmp_path, train=["1", "2"], validation=["2"])
    with pytest.raises(
        DatasetError, match="'2' is labelled 'Holding something' in validation and 'Moving something up' in train"
    ):
        read_annotations(dataset(tmp_path))


@pytest.mark.parametrize(
    "attack",
    [
        "../secret",
        "..",
        ".",
        "",
        ".hidden",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        "\ud800",
        "x" * 300,
        "é" * 130,
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_id_that_is_no_plain_file_name_is_refused_by_name(tmp_path, attack, split):
    write_set(tmp_path, **{split: ["1", attack]})
    with pytest.raises(DatasetError, match=rf"{split}\.json: the video's name .* is refused") as error:
        read_annotations(dataset(tmp_path))
    assert repr(f"{attack}.webm") in str(error.value)


MEASURE = """
import re, sys, time
from pathlib import Path
from pipeline.config import Dataset
from pipeline.datasets import annotation_files, assign_shards, read_annotations
start = time.perf_counter()
frame = read_annotations(Dataset(layout="ssv2", root=sys.argv[1]))
seconds = time.perf_counter() - start
shards = assign_shards(frame["sample"].tolist(), {}, 128)
heavy = [name for name in ("torch", "av", "decord") if name in sys.modules]
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(len(frame), max(shards.values()), int(peak[1]) // 1024, seconds, *heavy)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc")
def test_the_whole_of_ssv2_is_read_in_half_a_gigabyte_without_torch_or_a_decoder(tmp_path):
    write_annotations(tmp_path, OFFICIAL_COUNTS, answers=True)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    rows, last_shard, megabytes, seconds, *heavy = done.stdout.split()
    print(f"{rows} annotations in {float(seconds):.1f} s, {megabytes} MB at most")
    assert (int(rows), int(last_shard), heavy) == (220_847, 1725, [])
    assert int(megabytes) < 500
