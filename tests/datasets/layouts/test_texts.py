"""Claims about the layout `texts`: a file of texts, one a line."""

import hashlib
import json

import pytest

from pipeline.config import Dataset
from pipeline.datasets import (
    DatasetError,
    annotation_files,
    build_manifest,
    quality_markdown,
    read_annotations,
    read_manifest,
    shard_digests,
    shard_samples,
    write_manifest,
)
from pipeline.datasets.manifest import FACTS
from tests.datasets.made_up import write_texts


def dataset(path, **fields) -> Dataset:
    return Dataset(layout="texts", root=str(path), **fields)


def texts_of(path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return read_annotations(dataset(path))["sample"].tolist()


def test_a_sample_is_a_line_and_its_id_the_text_itself_in_the_files_order(tmp_path):
    texts = write_texts(tmp_path / "words.txt", ["zebra", "a red fox", "Ärger"])
    frame = read_annotations(dataset(tmp_path / "words.txt"))
    assert frame["sample"].tolist() == texts
    assert set(frame["split"]) == {"all"}
    assert frame[["path", "label", "template"]].isna().all(axis=None)


@pytest.mark.parametrize(
    "text",
    [
        "../secret",
        "/etc/passwd",
        "# no comment",
        "a,b;c",
        '"quoted"',
        "hot_dog",
        "..",
        ".",
        "-",
        "a\u2028b",
        "日本",
        "a\tb",
    ],
    ids=ascii,
)
def test_a_text_may_be_anything_that_a_line_can_hold(tmp_path, text):
    assert texts_of(tmp_path / "t", f"dog\n{text}\n".encode()) == ["dog", text]


@pytest.mark.parametrize(
    "content",
    [
        b"dog\nred fox\n",
        b"dog\nred fox",
        b"dog\r\nred fox\r\n",
        b"dog\rred fox\r",
        b"\xef\xbb\xbfdog\nred fox\n",
        b"\n\ndog\n  \n\t\r\nred fox\n\n",
        b"  dog \nred fox\t\n",
    ],
)
def test_line_ends_byte_order_mark_blank_lines_and_white_space_around_a_text_do_not_matter(tmp_path, content):
    assert texts_of(tmp_path / "t", content) == ["dog", "red fox"]


def test_texts_that_differ_in_case_or_in_how_unicode_composes_them_are_two(tmp_path):
    assert len(texts_of(tmp_path / "t", "Turkey\nturkey\ncaf\u00e9\ncafe\u0301\n".encode())) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"dog\ncat\n\ndog \n", "'dog' is on line 1 and again on line 4; remove one"),
        (b"", "holds no text; write one text a line"),
        (b"\xef\xbb\xbf\r\n  \n", "holds no text"),
        (b"caf\xe9\n", "not UTF-8 text: .*; save it as UTF-8"),
        ("dog\n".encode("utf-16"), "not UTF-8 text"),
        ("dog\n".encode("utf-16-le"), "line 1 holds a NUL; save the file as UTF-8"),
    ],
    ids=ascii,
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(tmp_path, content, says):
    with pytest.raises(DatasetError, match=rf"words\.txt.*{says}"):
        texts_of(tmp_path / "words.txt", content)


@pytest.mark.parametrize("reader", [read_annotations, annotation_files, build_manifest])
def test_a_root_that_is_absent_or_a_folder_is_an_error_with_the_remedy(tmp_path, reader):
    with pytest.raises(DatasetError, match=r"nowhere does not exist, wanted a file with one text a line; correct"):
        reader(dataset(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="is a folder, wanted a file"):
        reader(dataset(tmp_path))


def test_the_annotation_file_is_the_file_itself_and_may_be_a_link(tmp_path):
    texts = write_texts(tmp_path / "elsewhere" / "words.txt")
    (tmp_path / "words.txt").symlink_to(tmp_path / "elsewhere" / "words.txt")
    chosen = dataset(tmp_path / "words.txt")
    assert annotation_files(chosen) == [tmp_path / "words.txt"]
    assert read_annotations(chosen)["sample"].tolist() == texts


def test_every_text_is_ok_its_digest_is_its_own_and_it_has_no_facts(tmp_path):
    texts = write_texts(tmp_path / "t", ["dog", "a red fox", "Ärger"])
    lines = []
    frame, _ = build_manifest(dataset(tmp_path / "t", shard_size=2), progress=lines.append)
    assert frame[["path", "bytes", "mtime_ns", *FACTS]].isna().all(axis=None)
    rows = [*shard_samples(frame, 0), *shard_samples(frame, 1)]
    for row, text in zip(rows, texts, strict=True):
        assert row[:5] == (text, hashlib.sha256(text.encode()).hexdigest(), None, None, "ok")
    assert lines[-1].startswith("3 of 3 texts looked at, 0 not ok, ")


def test_a_manifest_of_texts_reads_back_and_an_added_text_leaves_the_old_shards_alone(tmp_path):
    path = tmp_path / "m.parquet"
    write_texts(tmp_path / "t", ["dog", "cat", "fox"])
    write_manifest(build_manifest(dataset(tmp_path / "t", shard_size=2))[0], path)
    before = shard_digests(path)
    write_texts(tmp_path / "t", ["ant", "dog", "cat", "fox"])
    frame, _ = build_manifest(dataset(tmp_path / "t", shard_size=2), read_manifest(path))
    assert frame["shard"].tolist() == [2, 0, 0, 1]
    write_manifest(frame, path)
    assert {shard: digest for shard, digest in shard_digests(path).items() if shard in before} == before
    assert not write_manifest(read_manifest(path), path)


def test_the_report_of_texts_tells_their_lengths(tmp_path):
    write_texts(tmp_path / "t", ["dog", "a red fox", "ice cream"])
    report = build_manifest(dataset(tmp_path / "t"))[1]
    assert report == {
        "kind": "text", "samples": 3, "ok": 3, "splits": {"all": {"ok": 3}}, "not_ok": {},
        "characters": {"min": 3.0, "median": 9.0, "max": 9.0}, "words": {"min": 1.0, "median": 2.0, "max": 3.0},
    }  # fmt: skip
    assert json.loads(json.dumps(report)) == report
    text = quality_markdown(report)
    assert text.startswith("# Data set: 3 of 3 texts ok")
    assert "| all | 3 | 3 |" in text
    assert "| words | 1.0 | 2.0 | 3.0 |" in text
