"""Claims about names that differ and yet are one: which are refused, which are told, and what is said to do."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Dataset
from pipeline.datasets import DatasetError, build_manifest, quality_markdown
from pipeline.datasets.twins import as_read, but_for_looks, refuse_one_text, twins
from tests.datasets.made_up import write_images, write_labelled, write_texts
from tests.later import Later

transformers = Later("transformers")

ROOT = Path(__file__).parents[2]
ONE = [
    ("Red Disc", "red disc"),
    ("red  disc", " red\u00a0disc "),
    ("caf\u00e9", "cafe\u0301"),
    ("T-shirt", "t - SHIRT"),
    ("\u03a3\u0391\u03a3", "\u03c3\u03b1\u03c3"),
]
TWO = [
    ("red disc", "reddisc"),
    ("red_disc", "red disc"),
    ("Stra\u00dfe", "STRASSE"),
    ("cup", "cup\u200b"),
    ("v12", "v 1 3"),
]


@pytest.mark.parametrize(
    ("pair", "one"), [*((pair, True) for pair in ONE), *((pair, False) for pair in TWO)], ids=ascii
)
def test_two_texts_are_read_as_one_where_clip_s_tokenizer_gives_them_the_same_tokens(pair, one):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(ROOT / "weights/mini-clip")
    tokens = [tokenizer(text)["input_ids"] for text in pair]
    assert (tokens[0] == tokens[1]) is one is (as_read(pair[0]) == as_read(pair[1]))


def test_the_report_of_texts_names_those_that_clip_reads_as_one_and_characters_that_nobody_sees(tmp_path):
    write_texts(tmp_path / "t", ["Red Disc", "cup", "red disc", "cup\u200b", "caf\u00e9", "cafe\u0301"])
    report = build_manifest(Dataset(layout="texts", root=str(tmp_path / "t")))[1]
    groups = [["Red Disc", "red disc"], ["caf\u00e9", "cafe\u0301"]]
    assert report["alike"] == {"texts": {"count": 2, "groups": groups}}
    assert report["unseen"] == {"texts": {"count": 1, "names": ["cup\u200b"]}}
    assert json.loads(json.dumps(report)) == report
    text = quality_markdown(report)
    assert (
        "- Texts that CLIP reads as one: 2 groups: 'Red Disc', 'red disc'; 'caf\u00e9', 'cafe\\\\u0301'; in one" in text
    )
    assert "- Texts with a character that nobody sees: 1, 'cup\\\\u200b'; remove it." in text


def test_the_report_names_classes_and_samples_that_look_alike(tmp_path):
    write_images(tmp_path, {"Cat": 1, "cat": 1, "sea lion": 1, "sea_lion": 1, "dog": 1})
    report = build_manifest(Dataset(layout="images", root=str(tmp_path)))[1]
    assert report["alike"]["classes"] == {"count": 2, "groups": [["Cat", "cat"], ["sea lion", "sea_lion"]]}
    assert report["alike"]["samples"]["groups"][0] == ["Cat/0000.png", "cat/0000.png"]
    assert (
        "- Classes whose names differ in capitals, in spaces or in what is not seen alone: 2 groups: 'Cat', 'cat'; "
        in (quality_markdown(report))
    )
    write_images(tmp_path / "other", {"cat": 2, "dog": 1})
    assert "alike" not in build_manifest(Dataset(layout="images", root=str(tmp_path / "other")))[1]


def test_classes_of_frames_count_though_none_has_a_frame(tmp_path):
    root = write_labelled(tmp_path, {"splits/train.split1.bundle": ["v1.txt"], "splits/test.split1.bundle": ["v2.txt"]})
    with (root / "mapping.txt").open("a", encoding="utf-8") as stream:
        stream.write("3 Take cup\n")
    dataset = Dataset(layout="mstcn", root=str(root), videos=None)
    assert build_manifest(dataset)[1]["alike"] == {"classes": {"count": 1, "groups": [["take_cup", "Take cup"]]}}


def test_hundreds_of_thousands_of_numbers_are_no_work():
    assert twins(map(str, range(220_847))) == []


def test_a_name_that_is_not_there_is_told_beside_the_one_that_looks_like_it():
    assert but_for_looks("cafe\u0301", ["tea", "caf\u00e9"]) == " ('caf\u00e9' is one)"
    assert but_for_looks("coffee", ["tea"]) == ""


@pytest.mark.parametrize(
    ("texts", "vectors"),
    [(["Cardigan", "cup", "cardigan"], np.eye(3)), (["a", "b", "c"], np.eye(3)[[0, 1, 0]])],
    ids=["read as one", "one vector"],
)
def test_two_classes_of_one_embedding_are_an_error_that_names_both(texts, vectors):
    with pytest.raises(
        DatasetError, match=f"^classes of x: the classes '{texts[0]}' and '{texts[2]}' have one embedding"
    ):
        refuse_one_text(texts, texts, "classes of x", vectors)
    refuse_one_text(texts[:2], texts[:2], "classes of x", vectors[:2])
