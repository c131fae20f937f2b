"""Claims about the layout `words`: a folder of word lists, as WordNet's lexicographer files."""

import hashlib

import pytest

from pipeline.config import Dataset
from pipeline.datasets import DatasetError, annotation_files, build_manifest, read_annotations, read_manifest
from pipeline.datasets.manifest import write_manifest


def dataset(path, **fields) -> Dataset:
    return Dataset(layout="words", root=str(path), **fields)


def lists(folder, **files: str):
    """Writes noun_food="a\\nb\\n" as noun.food."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def words_of(folder) -> dict[str, str]:
    frame = read_annotations(dataset(folder))
    return dict(zip(frame["sample"], frame["label"], strict=True))


def test_nouns_come_first_then_adjectives_each_in_the_order_of_files_and_lines(tmp_path):
    lists(tmp_path, adj_all="red\n", noun_plant="oak\n", noun_animal="zebra\nant\n", adj_pert="atomic\n")
    found = words_of(tmp_path)
    assert list(found) == ["zebra", "ant", "oak", "red", "atomic"]
    assert list(found.values()) == ["noun"] * 3 + ["adjective"] * 2
    assert [path.name for path in annotation_files(dataset(tmp_path))] == [
        "noun.animal", "noun.plant", "adj.all", "adj.pert"
    ]  # fmt: skip


def test_an_underscore_is_a_space_and_of_a_word_that_is_there_again_the_first_counts(tmp_path):
    lists(tmp_path, noun_a="sea_lion\norange\nsea lion\n", noun_b="orange\nfox\n", adj_all="orange\nsea_lion\ndry\n")
    assert words_of(tmp_path) == {"sea lion": "noun", "orange": "noun", "fox": "noun", "dry": "adjective"}


def test_other_files_and_folders_are_none_of_it(tmp_path):
    lists(tmp_path, noun_txt="fox\n", verb_txt="go\n", README="words\n", nouns_txt="x\n")
    (tmp_path / "noun.folder").mkdir()
    assert words_of(tmp_path) == {"fox": "noun"}


def test_one_kind_alone_will_do(tmp_path):
    assert words_of(lists(tmp_path, adj_txt="red\n")) == {"red": "adjective"}


@pytest.mark.parametrize("reader", [read_annotations, annotation_files, build_manifest])
def test_a_folder_that_is_absent_or_has_no_list_is_an_error_with_the_remedy(tmp_path, reader):
    lists(tmp_path / "empty", verb_txt="go\n")
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(DatasetError, match=rf"{folder.name} holds no word list, wanted files named noun\.\* or"):
            reader(dataset(folder))


@pytest.mark.parametrize(("content", "says"), [(b"", "holds no text"), (b"caf\xe9\n", "not UTF-8 text")], ids=ascii)
def test_a_list_that_cannot_be_used_is_an_error_that_names_it(tmp_path, content, says):
    lists(tmp_path, noun_good="fox\n")
    (tmp_path / "noun.zz").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"noun\.zz.*{says}"):
        words_of(tmp_path)


@pytest.mark.parametrize(
    "name", ["noun.animal.bak", "noun.animal~", "noun.bak", "noun.txt.orig", "adj.exc", "noun.#a#"]
)
def test_a_file_that_is_named_nearly_like_a_list_is_refused(tmp_path, name):
    lists(tmp_path, noun_animal="fox\n")
    (tmp_path / name).write_text("red_fox\n")
    with pytest.raises(DatasetError, match=rf"{name} is not named like a word list .*; remove it, or rename it"):
        words_of(tmp_path)


@pytest.mark.parametrize(
    "line", ["{ dog, canine1,@ }", "[ cat, noun.Tops:x,+ ]", "(all mammals)", "dog, hound", "dog,", "_"]
)
def test_a_line_that_is_no_lemma_is_an_error_that_names_it(tmp_path, line):
    lists(tmp_path, noun_animal=f"fox\n\n{line}\n")
    with pytest.raises(DatasetError) as caught:
        words_of(tmp_path)
    assert f"noun.animal: line 3 is {line!r}, wanted a lemma, as domestic_dog; write the lemmas alone" in str(
        caught.value
    )


def test_a_lemma_may_have_marks_and_lists_a_suffix(tmp_path):
    lemmas = ["A.D.", "'hood", "20/20", "mother-in-law", "Saint_John's_bread", "C++"]
    (tmp_path / "noun.my-list.txt").write_text("\n".join(lemmas))
    assert list(words_of(tmp_path)) == [lemma.replace("_", " ") for lemma in lemmas]


def test_a_manifest_of_words_keeps_their_kinds_and_its_digests_are_those_of_the_words(tmp_path):
    lists(tmp_path / "words", noun_txt="sea_lion\n", adj_txt="red\n")
    frame, report = build_manifest(dataset(tmp_path / "words"))
    write_manifest(frame, tmp_path / "m.parquet")
    again = read_manifest(tmp_path / "m.parquet")
    assert again["label"].tolist() == ["noun", "adjective"] and set(again["split"]) == {"all"}
    assert again["digest"].tolist() == [hashlib.sha256(word.encode()).hexdigest() for word in ("sea lion", "red")]
    assert report["kind"] == "text" and report["ok"] == 2
