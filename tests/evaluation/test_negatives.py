"""Mining negative words from caches: the table says what was kept and why, and people can read it."""

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets import DatasetError
from pipeline.datasets.manifest import read_manifest, write_manifest
from pipeline.evaluation.negatives import ORIGIN, TABLE
from pipeline.training.dataset import DataError
from tests.evaluation.pictures import ADJECTIVES, CLASSES, PLACES, THINGS, make, towards, word, write_store, write_table


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def mined(world, tmp_path_factory):
    run = tmp_path_factory.mktemp("mined") / "deep" / "run"
    return run, world.mined(run)


def test_a_row_is_a_word_with_what_it_was_judged_by(mined):
    _, table = mined
    assert list(table.columns) == ["word", "kind", "score", "r", "role"]
    classes = np.stack([word(name) for name in CLASSES])
    for row in table.itertuples():
        assert row.score == pytest.approx(np.quantile(classes @ word(row.word), 0.95), abs=1e-6)
        wanted = word(row.word) @ towards(row.word, 2) - word(row.word) @ towards(row.word, 5)
        assert row.r == pytest.approx(wanted, abs=1e-6)
        assert row.kind == ("adjective" if row.word in ADJECTIVES else "noun")


def test_the_words_furthest_from_the_classes_are_kept_of_each_kind_its_share_nouns_first(world, tmp_path):
    table = world.changed(words__top_p=0.5).mined(tmp_path)
    counts = table["kind"].value_counts(sort=False).to_dict()
    assert counts == {"noun": (len(THINGS) + len(PLACES) - 2) // 2, "adjective": len(ADJECTIVES) // 2}
    whole = world.changed(words__top_p=1.0).mined(tmp_path)
    for kind, found in table.groupby("kind"):
        assert found["score"].is_monotonic_increasing
        assert set(found["word"]) == set(whole[whole["kind"] == kind].nsmallest(len(found), "score")["word"])
    assert table["kind"].tolist() == sorted(table["kind"], reverse=True)


def test_class_names_and_words_that_some_store_could_not_embed_are_left_out(world, tmp_path):
    words = set(world.changed(words__top_p=1.0).mined(tmp_path)["word"])
    assert words == {*THINGS[1:], *PLACES[1:], *ADJECTIVES}


def test_things_are_objects_and_places_backgrounds(mined):
    role = mined[1].set_index("word")["role"]
    assert set(role[role.index.str.startswith("thing")]) <= {"object", "ambiguous"}
    assert set(role[role.index.str.startswith("place")]) == {"background"}


def test_the_files_say_what_the_table_says_even_of_words_that_look_like_nothing(mined):
    run, table = mined
    read = pd.read_csv(run / TABLE, keep_default_na=False)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    assert {"null", "nan"} & set(read["word"])
    for role in ("object", "background", "ambiguous"):
        assert (run / f"{role}.txt").read_text().splitlines() == table[table["role"] == role]["word"].tolist()
    texts = ["ambiguous.txt", "background.txt", "object.txt"]
    assert sorted(path.name for path in run.iterdir()) == sorted([*texts, TABLE, ORIGIN])


def test_a_role_without_a_word_is_an_empty_file_and_no_old_one_stays(world, tmp_path):
    world.mined(tmp_path)
    world.changed(**{"words__roles__mode": "tau", "words__roles__value": 2.0}).mined(tmp_path)
    assert (tmp_path / "object.txt").read_text() == (tmp_path / "background.txt").read_text() == ""


def test_the_same_words_again_are_the_same_bytes(world, mined, tmp_path):
    world.mined(tmp_path)
    for path in mined[0].iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_settings_that_keep_no_word_are_refused_by_their_place(world, tmp_path):
    with pytest.raises(DataError, match=r"heads\.negalign\.words: top_p 0\.01 of .* keeps no word"):
        world.changed(words__top_p=0.01).mined(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing half done"


def test_words_that_were_mined_from_other_lists_are_refused_and_a_table_that_a_person_brought_is_not(tmp_path):
    world, run = make(tmp_path / "world"), tmp_path / "run"
    world.mined(run)
    world.evaluated(run, mined=False)
    path = world.root / "words" / "manifest.parquet"
    write_manifest(read_manifest(path).iloc[:-1], path)
    with pytest.raises(DataError, match=r"mined from other words than the manifest of words has now.*mine negalign"):
        world.evaluated(run, mined=False)
    (run / ORIGIN).unlink()
    world.evaluated(run, mined=False)


def test_a_class_without_an_embedding_is_an_error_that_says_why(world, tmp_path):
    texts = {name: {"text_embed": word(name)} for name in CLASSES}
    store = write_store(tmp_path / "classes", "text", texts, failed=["sea lion"])
    with pytest.raises(DataError, match="the text 'sea lion' of classes has no embedding: no text"):
        world._replace(stores=world.stores | {"classes": store}).mined(tmp_path / "run")


def test_two_classes_that_clip_reads_as_one_are_an_error_that_names_both(tmp_path):
    world = make(tmp_path)
    names = (*CLASSES, "Sea Lion")
    write_table(world.root / "classes" / "manifest.parquet", names, [None] * 3, ["all"] * 3)
    # Of another batch, and so of other last bits.
    texts = {name: {"text_embed": word(name) + np.float32(1e-7 * number)} for number, name in enumerate(names)}
    store = write_store(tmp_path / "classes-again", "text", texts)
    with pytest.raises(DatasetError, match="classes: the classes 'sea lion' and 'Sea Lion' have one embedding"):
        world._replace(stores=world.stores | {"classes": store}).mined(tmp_path / "run")
