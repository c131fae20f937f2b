"""toy-clinic: the real layout, maps that follow the site as each clinician does, and the same bytes from one seed."""

import csv
import hashlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config import Dataset, Toyworld
from pipeline.datasets import build_manifest
from pipeline.toyworld import ToyworldError, write_clinic
from pipeline.toyworld.clinic import CLINICIANS, HEAD, MAP_SIZE, SPLITS, Clinician, attention, stage, videos, who
from pipeline.toyworld.figure import DIAGNOSES, SITE_NAMES
from pipeline.toyworld.scene import render
from pipeline.video import probe


def _params(seed: int = 1, train: int = 5) -> Toyworld:
    sizes = {"train": train, "val": 1, "test": 2, "size": 64, "frames": (6, 9), "fps": 12}
    return Toyworld(seed=seed, clinic=sizes)


def _large() -> Toyworld:
    sizes = {"train": 96, "val": 96, "test": 96, "size": 64, "frames": (6, 9), "fps": 12}
    return Toyworld(seed=1, clinic=sizes)


def _write(root: Path, **params) -> list[str]:
    lines: list[str] = []
    write_clinic(_params(**params), root, say=lines.append, workers=1)
    return lines


def _digests(root: Path) -> dict[str, str]:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "toy-clinic"
    _write(root)
    return root


def test_the_layout_is_the_csv_of_clinics(written):
    with (written / "clinic.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == HEAD
    assert rows[0] == {
        "sample": "train_000_0", "video": "train_000_0.mp4", "map": "maps/train_000_0.npz", "label": "tremor",
        "patient": "train_000", "clinician": "c1", "split": "train",
    }  # fmt: skip
    assert Counter(row["patient"] for row in rows) == {
        "train_000": 2, "train_001": 2, "train_002": 2, "train_003": 2, "train_004": 3, "val_000": 2, "test_000": 2,
        "test_001": 2,
    }  # fmt: skip


def test_its_manifest_is_whole_and_knows_maps_patients_and_clinicians(written):
    frame, quality = build_manifest(Dataset(layout="clinic", root=str(written), videos="videos"))
    assert set(frame["status"]) == {"ok"} and quality["maps"]["unreadable"]["count"] == 0
    assert quality["same_content"]["count"] == 0 and quality["maps"]["distinct"] == frame["map"].notna().sum()
    assert quality["maps"]["patients"] == {"train": 5, "val": 1, "test": 2}
    for row in frame.dropna(subset=["map"]).to_dict("records"):
        with np.load(written / row["map"], allow_pickle=False) as stored:
            assert stored["map"].shape == (row["frames"], MAP_SIZE, MAP_SIZE) and stored["map"].dtype == np.uint8


def test_videos_are_h264_that_every_decoder_reads_exactly_and_show_what_was_rendered(written):
    for video in videos(_params())[::4]:
        file = written / "videos" / f"{video.sample}.mp4"
        frames, _ = render(stage(video, _params())[0], 64)
        with av.open(str(file)) as container:
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert decoded.shape == frames.shape and np.abs(decoded.astype(int) - frames).mean() < 8
        facts = probe(file, decord=True)
        assert (facts.codec, facts.fps, facts.edit_list, facts.decord_exact) == ("h264", 12, False, True)


def test_a_patient_has_one_diagnosis_and_site_and_every_pair_of_them_is_in_every_split_that_is_large_enough():
    params = _large()
    people = {video.patient: (video, who(video, params)) for video in videos(params)}
    counts = Counter((video.split, found.diagnosis, found.site) for video, found in people.values())
    assert counts == {(split, kind, site): 4 for split in SPLITS for kind in DIAGNOSES for site in SITE_NAMES}
    first, other = (who(video, params) for video in videos(params)[:2])
    assert np.array_equal(first.places, other.places) and first.skin == other.skin


def test_clinicians_see_every_diagnosis_alike_and_every_site_and_a_tenth_of_all_videos_has_no_map():
    todo, params = videos(_large()), _large()
    for split in SPLITS:
        of = [video for video in todo if video.split == split]
        seen = Counter((video.clinician, who(video, params).diagnosis) for video in of)
        assert len(of) == 240 and set(seen.values()) == {20}, "three clinicians, four diagnoses"
        without = Counter(who(video, params).diagnosis for video in of if not video.has_map)
        assert set(without) == set(DIAGNOSES) and 17 <= without.total() <= 27
        assert max(without.values()) - min(without.values()) <= 3
        assert {(video.clinician, who(video, params).site) for video in of} == set(product(CLINICIANS, SITE_NAMES))


def test_a_map_is_a_spot_of_the_clinicians_width_at_their_offset_from_the_site():
    seen = np.full((40, 6, 2), 0.5)
    seen[:, 2] = np.linspace((0.3, 0.6), (0.5, 0.4), 40)
    axis = (np.arange(MAP_SIZE) + 0.5) / MAP_SIZE
    for clinician in CLINICIANS.values():
        still = Clinician(clinician.offset, clinician.width, noise=0.0, lapses=0.0)
        maps = attention(np.random.default_rng(0), still, seen, 2).astype(float)
        x, y = ((maps.sum(1 + i) * axis).sum(1) / maps.sum((1, 2)) for i in range(2))
        assert np.allclose(np.stack([x, y], 1) - seen[:, 2], clinician.offset, atol=0.01)
        spread = np.sqrt((maps.sum(1) * (axis - x[:, None]) ** 2).sum(1) / maps.sum((1, 2)))
        assert np.allclose(spread, clinician.width, rtol=0.1)


def test_noise_moves_the_spot_and_lapses_take_it_elsewhere_for_their_share_of_the_time():
    seen = np.full((6000, 6, 2), 0.2)
    seen[:, 3] = 0.8
    axis = (np.arange(MAP_SIZE) + 0.5) / MAP_SIZE

    def where(noise: float, lapses: float) -> np.ndarray:
        maps = attention(np.random.default_rng(0), Clinician((0, 0), 0.05, noise, lapses), seen, 3).astype(float)
        return (maps.sum(1) * axis).sum(1) / maps.sum((1, 2))

    assert np.isclose(where(0.02, 0.0).std(), 0.02, rtol=0.1)
    assert np.isclose((where(0.0, 0.3) < 0.5).mean(), 0.3 * 5 / 6, atol=0.03), "one lapse in six comes back by chance"


def test_clinicians_differ_in_where_and_how_widely_they_look():
    offsets = np.array([clinician.offset for clinician in CLINICIANS.values()])
    assert len(CLINICIANS) >= 3
    assert min(np.linalg.norm(a - b) for i, a in enumerate(offsets) for b in offsets[:i]) > 0.04
    assert len({clinician.width for clinician in CLINICIANS.values()}) == len(CLINICIANS)


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(written, tmp_path):
    write_clinic(_params(), tmp_path / "again", say=lambda line: None, workers=2)
    assert _digests(tmp_path / "again") == _digests(written)


def test_another_seed_gives_other_videos_and_maps_and_a_larger_set_begins_with_the_smaller_one(written, tmp_path):
    _write(tmp_path, seed=2, train=1)
    for name in ("videos/train_000_0.mp4", "maps/train_000_0.npz"):
        assert (tmp_path / name).read_bytes() != (written / name).read_bytes()
    small, large = videos(_params()), videos(_params(train=8))
    assert [video for video in large if video in small] == small


def test_whole_files_are_kept_missing_ones_made_again_and_those_of_another_recipe_replaced(tmp_path):
    _write(tmp_path)
    before, kept = _digests(tmp_path), tmp_path / "videos/train_001_0.mp4"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "videos/test_000_0.mp4").unlink()
    (tmp_path / "maps/test_000_0.npz").unlink()
    _write(tmp_path)
    assert _digests(tmp_path) == before and kept.stat().st_mtime_ns == stamp
    _write(tmp_path, seed=5, train=1)
    after = _digests(tmp_path)
    assert after["maps/test_000_0.npz"] != before["maps/test_000_0.npz"]
    assert "videos/train_001_0.mp4" not in after and "maps/train_001_0.npz" not in after


def _write_in_process(root: Path) -> None:
    os.setpgrp()
    write_clinic(_params(train=40), root, workers=1)


def test_a_killed_run_leaves_no_csv_and_resumes_to_the_same_bytes(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_write_in_process, args=(tmp_path / "killed",))
    process.start()
    while len(list((tmp_path / "killed").glob("videos/*.mp4"))) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "killed/clinic.csv").exists()
    _write(tmp_path / "killed", train=6)
    _write(tmp_path / "whole", train=6)
    killed, whole = _digests(tmp_path / "killed"), _digests(tmp_path / "whole")
    assert not any(name.endswith(".partial") for name in killed)
    assert {name: killed[name] for name in whole} == whole


def test_a_folder_that_holds_someone_elses_data_is_never_touched(tmp_path):
    (tmp_path / "clinic.csv").write_text("sample\n")
    with pytest.raises(ToyworldError, match=r"holds clinic.csv, which the toy world did not write; name an empty"):
        _write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["clinic.csv"]


def test_progress_is_told(tmp_path):
    assert _write(tmp_path)[-1].startswith("toy-clinic: 17/17 videos, ")
