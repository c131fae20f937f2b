"""A document that carries its digest, and a file whose digest another keeps, are what was written or an error."""

import json
from pathlib import Path

import pytest

from pipeline.digests import DIGEST, Damaged, json_bytes, read_json, read_kept, sha256, write_json

DOCUMENT = {"b": [1, 0.1, None, True], "a": {"γ": "ein Text", "2": -1e-300}}


@pytest.mark.parametrize("how", [{}, {"indent": None}, {"ordered": True}])
def test_a_document_is_read_as_it_was_written_and_equal_ones_are_equal_bytes(tmp_path, how):
    write_json(tmp_path / "a.json", DOCUMENT, **how)
    again = read_json(tmp_path / "a.json", "make it again")
    assert again == DOCUMENT and json_bytes(again, **how) == (tmp_path / "a.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_bytes()).keys() == {DIGEST, "a", "b"}, "plain JSON"
    assert list(again) == (["b", "a"] if how.get("ordered") else ["a", "b"])


def test_keys_are_digested_as_they_are_read(tmp_path):
    write_json(tmp_path / "a.json", {10: "x", 9: "y"})
    assert read_json(tmp_path / "a.json", "") == {"10": "x", "9": "y"}


def test_another_layout_is_the_same_document_and_another_value_is_not(tmp_path):
    path = tmp_path / "a.json"
    told = json.loads(json_bytes(DOCUMENT))
    path.write_text(json.dumps(told, indent=7), encoding="utf-8")
    assert read_json(path, "") == DOCUMENT
    path.write_text(json.dumps(told | {"b": []}), encoding="utf-8")
    with pytest.raises(Damaged, match=r"a\.json is damaged, or was edited: it does not fit its own digest; make it so"):
        read_json(path, "make it so")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"_sha256"', "[" * 100_000])
def test_what_is_no_document_is_one_error_with_the_remedy(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(Damaged, match=r"a\.json is damaged: it is no JSON object \(.*\); make it so"):
        read_json(tmp_path / "a.json", "make it so")


def test_a_document_of_an_earlier_version_is_refused_unless_that_is_said(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(Damaged, match=r"a\.json has no digest of itself: an earlier version wrote it.*; make it so"):
        read_json(tmp_path / "a.json", "make it so")
    assert read_json(tmp_path / "a.json", "", unproved=True) == {"a": 1}


@pytest.mark.parametrize("digest", [sha256(b"other"), None])
def test_a_kept_file_is_the_one_that_its_digest_is_of(tmp_path, digest):
    (tmp_path / "a").write_bytes(b"content")
    assert read_kept(tmp_path / "a", sha256(b"content"), "") == b"content"
    with pytest.raises(Damaged, match=r"a is not the file that was written: .*; make it so"):
        read_kept(tmp_path / "a", digest, "make it so")
    with pytest.raises(Damaged, match="none is not there; make it so"):
        read_kept(tmp_path / "none", digest, "make it so")


# Whose JSON is not ours, or not a file: params and labels of people, configurations of weights, what lies within a
# guarded file, a tar of features or an exported head, and lines of a journal.
OTHERS = {
    "documents.py",
    "listings.py",
    "contents.py",
    "checkpoints.py",
    "ssv2.py",
    "manifest.py",
    "plan.py",
    "journal.py",
    "sharding.py",
    "imported.py",
    "formats.py",
    "many.py",
}


def test_nobody_reads_a_document_past_these_functions():
    files = (Path(__file__).parents[1] / "pipeline").rglob("*.py")
    found = {path.name for path in files if "json.load" in path.read_text(encoding="utf-8")}
    assert found - OTHERS <= {"digests.py", "recipe.py", "card.py", "mini_clip.py"}, "read_json of pipeline.digests"
