"""Claims about the quality report."""

import json
from pathlib import Path

import pytest

from pipeline.config import Dataset
from pipeline.datasets import build_manifest, quality_markdown
from pipeline.datasets.quality import SHOWN
from tests.datasets.made_up import entry, write_images, write_json


@pytest.fixture
def report(make_set):
    """The report of a set with most of what can be wrong."""
    dataset = make_set(train=["1", "2", "3", "4"], validation=["5", "1"], test=["6", "7"])
    root = Path(dataset.root)
    write_json(root, "validation.json", [entry("5", "Holding [something]"), entry("1", "Holding [something]")])
    (root / "2.webm").unlink()
    (root / "3.webm").write_bytes(b"")
    (root / "5.webm").write_bytes((root / "1.webm").read_bytes())
    return build_manifest(dataset)[1]


def test_counts_add_up_by_split_and_status(report):
    assert report["splits"] == {
        "train": {"ok": 2, "empty": 1, "missing": 1},
        "validation": {"ok": 1},
        "test": {"ok": 2},
    }
    assert sum(sum(counts.values()) for counts in report["splits"].values()) == report["samples"] == 7
    assert report["ok"] == 5
    assert report["unlabelled"] == {"train": 0, "validation": 0, "test": 2}


def test_every_sample_that_is_not_ok_is_named_with_a_sentence(report):
    (missing,) = report["not_ok"]["missing"]["samples"]
    assert missing["sample"] == "2"
    assert "2.webm does not exist" in missing["detail"]
    assert report["not_ok"]["empty"]["samples"][0]["sample"] == "3"
    assert "3.webm" in report["not_ok"]["empty"]["samples"][0]["detail"]


def test_the_same_content_under_two_ids_is_told_and_so_are_ids_listed_twice(report):
    twins = {"count": 2, "samples": ["train/1", "validation/5"]}
    assert report["same_content"] == {"count": 1, "across_splits": 1, "groups": [twins]}
    assert report["listed_twice"] == {"count": 1, "samples": [["1", "train", "validation"]]}


def test_an_id_that_is_listed_twice_in_one_split_is_told_so(report):
    said = quality_markdown(report)
    assert "Ids listed twice: 1; 1 counts for train, not for validation." in said
    report["listed_twice"] = {"count": 1, "samples": [["1", "test", "test"]]}
    assert "Ids listed twice: 1; 1 in test." in quality_markdown(report)


def test_classes_absent_from_a_split_are_told(report):
    assert report["classes"]["count"] == 2
    assert report["classes"]["not_in_validation"] == ["Moving something up"]
    assert report["classes"]["not_in_train"] == []
    assert "in train but not in validation 1, in another split but not in train 0." in quality_markdown(report)
    assert report["classes"]["counts"]["train"] == {"Holding something": 2, "Moving something up": 2}


def test_facts_are_summed_up_over_the_ok_samples(report):
    assert report["frames"] == {"min": 6.0, "median": 6.0, "max": 6.0}
    assert report["fps"]["median"] == 12.0
    assert report["duration"]["median"] == pytest.approx(0.5, abs=0.01)
    assert report["sizes"] == {"32x32": 5}
    assert report["codecs"] == {"vp9": 5}


def test_lists_are_cut_but_their_counts_are_complete(make_set):
    ids = [f"v{i}" for i in range(SHOWN + 5)]
    dataset = make_set(train=ids)
    for sample in ids:
        (Path(dataset.root) / f"{sample}.webm").unlink()
    report = build_manifest(dataset)[1]
    assert report["not_ok"]["missing"]["count"] == SHOWN + 5
    assert len(report["not_ok"]["missing"]["samples"]) == SHOWN
    assert report["duration"] == {"min": None, "median": None, "max": None, "hours": 0.0}
    assert f"missing: {SHOWN + 5}, the first {SHOWN}" in quality_markdown(report)
    assert "| duration | – | – | – |" in quality_markdown(report)


def test_a_set_without_samples_has_a_report_too(make_set):
    report = build_manifest(make_set())[1]
    assert (report["samples"], report["splits"]) == (0, {})
    assert quality_markdown(report).startswith("# Data set: 0 of 0 videos ok")


def test_the_report_is_json_and_its_markdown_says_what_deserves_a_look(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    text = quality_markdown(report)
    assert "| train | 4 | 2 | 1 | 1 | 0 |" in text
    assert "2 times: train/1, validation/5" in text
    assert "1 counts for train, not for validation" in text
    assert "## missing: 1\n\n| sample | detail |\n|---|---|\n| 2 | " in text


def test_names_in_the_report_s_lists_and_tables_are_text(make_set, tmp_path):
    names = ["$5_$6", "<b>", "a|b", "_hidden_", "[x](y)"]
    write_images(tmp_path / "pictures", {name: 1 for name in names})
    copied = (tmp_path / "pictures/<b>/0000.png").read_bytes()
    (tmp_path / "pictures/a|b/copy.png").write_bytes(copied)
    (tmp_path / "pictures/_hidden_/bad.png").write_bytes(b"")
    text = quality_markdown(build_manifest(Dataset(layout="images", root=str(tmp_path / "pictures")))[1])
    assert r"2 times: \<b\>/0000.png, a\|b/copy.png." in text
    assert r"| \_hidden\_/bad.png | \_hidden\_/bad.png: empty" in text
