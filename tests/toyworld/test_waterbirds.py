"""toy-waterbirds: the real layout, exact counts, the same bytes from the same seed, and no harm from being killed."""

import csv
import hashlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Dataset, Toyworld
from pipeline.datasets import build_manifest, read_annotations
from pipeline.toyworld import ToyworldError, write_waterbirds
from pipeline.toyworld.scene import render
from pipeline.toyworld.shapes import SHAPES
from pipeline.toyworld.vocabulary import phrases
from pipeline.toyworld.waterbirds import (
    ALL_SPECIES,
    OOD,
    OTHER,
    PLACES,
    SPLITS,
    SPURIOUS,
    UNKNOWN,
    mask_file,
    pictures,
    stage,
)

VOCABULARIES = Path(__file__).parents[2] / "configs/vocabularies"


def _params(seed: int = 1, train: int = 40, ood: int = 12) -> Toyworld:
    sizes = {"train": train, "val": 12, "test": 12, "ood": ood, "size": 64, "radii": (0.15, 0.34)}
    return Toyworld(seed=seed, waterbirds=sizes)


def _write(root: Path, **params) -> list[str]:
    lines: list[str] = []
    write_waterbirds(_params(**params), root, say=lines.append, workers=1)
    return lines


def _digests(root: Path) -> dict[str, str]:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _rows(root: Path) -> list[dict[str, str]]:
    with (root / "metadata.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "toy-waterbirds"
    _write(root)
    return root


def test_the_layout_is_that_of_waterbirds(written):
    rows = _rows(written)
    assert list(rows[0]) == ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    assert [row["img_id"] for row in rows] == [str(number) for number in range(1, 65)]
    assert rows[0]["img_filename"] == "001.Square/Square_train_00000.jpg"
    with Image.open(written / rows[0]["img_filename"]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_its_manifest_is_whole_and_leaves_out_masks_and_what_is_out_of_distribution(written):
    frame, quality = build_manifest(Dataset(layout="waterbirds", root=str(written)))
    assert set(frame["status"]) == {"ok"} and frame["split"].tolist() == ["train"] * 40 + ["val"] * 12 + ["test"] * 12
    assert quality["classes"]["counts"]["test"] == {"landbird": 6, "waterbird": 6}
    assert quality["same_content"]["count"] == 0


def test_a_class_is_on_its_own_place_in_95_percent_of_train_and_in_half_of_val_and_test():
    params = _params(train=400)
    counts = Counter((p.part, p.y, p.place) for p in pictures(params) if p.part in SPLITS)
    for y in (0, 1):
        assert (counts["train", y, y], counts["train", y, 1 - y]) == (190, 10)
        for split in ("val", "test"):
            assert counts[split, y, y] == counts[split, y, 1 - y] == 3


def test_every_species_is_in_every_group_of_class_and_place_that_is_large_enough():
    groups = {(p.part, p.shape, p.place) for p in pictures(_params(train=400)) if p.part in SPLITS}
    assert groups == {(split, shape, place) for split in SPLITS for shape in ALL_SPECIES for place in (0, 1)}


def test_what_is_rendered_is_what_the_metadata_say(written):
    todo = [picture for picture in pictures(_params()) if picture.part in SPLITS]
    for picture, row in zip(todo, _rows(written), strict=True):
        scene = stage(picture, _params())
        (track,) = scene.tracks
        assert row["img_filename"].startswith(f"{1 + ALL_SPECIES.index(track.shape):03d}.{track.shape.capitalize()}/")
        assert scene.background in PLACES[int(row["place"])] and f"/{scene.background}/" in row["place_filename"]
        frames, owner = render(scene, 64)
        with Image.open(written / row["img_filename"]) as image:
            assert np.abs(np.asarray(image).astype(int) - frames[0]).mean() < 8
        with Image.open(mask_file(written, row["img_filename"])) as mask:
            assert np.array_equal(np.asarray(mask), np.where(owner[0] >= 0, 255, 0))


def test_objects_that_are_out_of_distribution_are_of_no_species_and_half_of_them_on_other_backgrounds():
    assert set(UNKNOWN) == set(SHAPES) - set(ALL_SPECIES) and not set(SPURIOUS) & set(OTHER)
    params = _params(ood=48)
    seen = {part: Counter() for part in OOD}
    for picture in pictures(params):
        if picture.part in OOD:
            scene = stage(picture, params)
            seen[picture.part][scene.tracks[0].shape if scene.tracks else None, scene.background] += 1
    assert seen["backgrounds"] == {(None, background): 12 for background in SPURIOUS}
    assert seen["unknown_spurious"] == {(shape, background): 2 for shape in UNKNOWN for background in SPURIOUS}
    assert seen["unknown_other"] == {(shape, background): 2 for shape in UNKNOWN for background in OTHER}


@pytest.mark.parametrize("part", OOD)
def test_what_is_out_of_distribution_lies_in_folders_of_pictures(written, part):
    frame = read_annotations(Dataset(layout="images", root=str(written), videos=f"ood/{part}"))
    assert len(frame) == 12 and frame.attrs["ignored"] == {}
    assert set(frame["label"]) == set(SPURIOUS if part == "backgrounds" else UNKNOWN)


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(written, tmp_path):
    write_waterbirds(_params(), tmp_path / "again", say=lambda line: None, workers=2)
    assert _digests(tmp_path / "again") == _digests(written)


def test_another_seed_gives_other_pictures_and_a_larger_set_begins_with_the_smaller_one(written, tmp_path):
    _write(tmp_path / "other", seed=2)
    name = "001.Square/Square_train_00000.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (written / name).read_bytes()
    _write(tmp_path / "larger", train=80, ood=24)
    larger = _digests(tmp_path / "larger")
    smaller = {name: digest for name, digest in _digests(written).items() if name != "metadata.csv"}
    stamp = {name for name in smaller if name.startswith(".")}
    assert all(larger[name] == digest for name, digest in smaller.items() if name not in stamp)


def test_whole_pictures_are_kept_missing_ones_made_again_and_those_of_a_larger_set_removed(tmp_path):
    _write(tmp_path)
    before = _digests(tmp_path)
    kept, lost = tmp_path / "002.Star/Star_train_00002.jpg", tmp_path / "masks/001.Square/Square_train_00000.png"
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    _write(tmp_path)
    assert _digests(tmp_path) == before and kept.stat().st_mtime_ns == stamp
    _write(tmp_path, train=80, ood=24)
    _write(tmp_path)
    assert _digests(tmp_path) == before, "a folder of pictures holds what lies there"
    _write(tmp_path, seed=5)
    assert _digests(tmp_path)["002.Star/Star_train_00002.jpg"] != before["002.Star/Star_train_00002.jpg"]


def _write_in_process(root: Path) -> None:
    os.setpgrp()
    write_waterbirds(_params(train=400), root, workers=1)


def test_a_killed_run_leaves_no_metadata_and_resumes_to_the_same_bytes(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_write_in_process, args=(tmp_path / "killed",))
    process.start()
    while len(list((tmp_path / "killed").glob("*/*.jpg"))) < 5:
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "killed/metadata.csv").exists()
    _write(tmp_path / "killed", train=400)
    _write(tmp_path / "whole", train=400)
    assert _digests(tmp_path / "killed") == _digests(tmp_path / "whole")


def test_a_folder_that_holds_someone_elses_data_is_never_touched(tmp_path):
    (tmp_path / "metadata.csv").write_text("img_id\n")
    with pytest.raises(ToyworldError, match=r"holds metadata.csv, which the toy world did not write; name an empty"):
        _write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["metadata.csv"]


def test_progress_is_told(tmp_path):
    assert _write(tmp_path)[-1].startswith("toy-waterbirds: 100/100 ")


def test_its_words_are_the_species_and_lists_that_hold_them_their_synonyms_and_much_else():
    classes, nouns, adjectives = (
        (VOCABULARIES / f"toy-waterbirds-{name}.txt").read_text().splitlines()
        for name in ("classes", "words/noun", "words/adj")
    )
    assert classes == list(ALL_SPECIES)
    assert {*ALL_SPECIES, *UNKNOWN, *SPURIOUS, *OTHER, "disc", "lawn"} < set(nouns), "as WordNet's would"
    spoken = {word for phrase in phrases() for word in phrase.split()}
    framing = {"photo", "scene", "texture", "video", "background", "object", "action"}
    assert set(nouns + adjectives) <= spoken | framing, "words that mini CLIP was taught"
    assert len(set(nouns + adjectives)) == len(nouns + adjectives)
    assert nouns == sorted(nouns) and adjectives == sorted(adjectives)
