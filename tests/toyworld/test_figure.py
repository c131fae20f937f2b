"""Claims about toy-clinic's patients: what moves where, and how."""

import numpy as np
import pytest

from pipeline.toyworld.figure import DIAGNOSES, FAINT, SITE_NAMES, STRONG, film, motion, patient
from pipeline.toyworld.scene import render


@pytest.mark.parametrize("kind", DIAGNOSES)
def test_a_motion_stays_within_its_size_and_but_for_sway_on_a_line_through_its_place(kind):
    for seed in range(20):
        path = motion(np.random.default_rng(seed), kind, 0.05, 36)
        assert path.shape == (36, 2) and np.linalg.norm(path, axis=1).max() <= 0.05 + 1e-12
        assert np.linalg.matrix_rank(path, tol=1e-9) == 1 + (kind == "sway")


def test_a_tremor_is_fast_a_drift_goes_one_way_a_jerk_rests_between_jumps_and_a_sway_goes_round():
    for seed in range(20):
        tremor, drift, jerk, sway = (motion(np.random.default_rng(seed), kind, 1.0, 36) for kind in DIAGNOSES)
        along = tremor @ np.linalg.svd(tremor)[2][0]
        assert 15 <= (np.diff(np.sign(along)) != 0).sum() <= 25, "a turn every one to two frames"
        steps = np.diff(drift, axis=0)
        assert np.allclose(steps, steps[0]) and np.isclose(np.linalg.norm(drift[-1] - drift[0]), 2)
        jumps = np.linalg.norm(np.diff(jerk, axis=0), axis=1)
        assert set(jumps.round(9)) == {0, 2} and 3 <= (jumps > 0).sum() <= 7
        assert np.diff(np.flatnonzero(jumps)).min() >= 5
        turned = np.ptp(np.unwrap(np.arctan2(*sway.T))) / (2 * np.pi)
        assert np.allclose(np.linalg.norm(sway, axis=1), 1) and 35 / 14 <= turned <= 3.5


def test_another_kind_of_motion_is_refused():
    with pytest.raises(ValueError, match="unknown kind of motion 'nod': known are tremor, drift, jerk, sway"):
        motion(np.random.default_rng(0), "nod", 0.1, 9)


def test_the_affected_site_moves_a_little_and_one_or_two_others_more():
    counts = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        who = patient(rng, DIAGNOSES[seed % 4], SITE_NAMES[seed % 6])
        scene, seen = film(rng, who, 36)
        path = seen - scene.camera_T2[:, None]
        half = np.linalg.norm(path[:, None] - path[None], axis=-1).max((0, 1)) / 2
        affected = SITE_NAMES.index(who.site)
        others = np.delete(half, affected)
        assert 0.8 * FAINT[0] < half[affected] <= FAINT[1] + 1e-9
        assert np.all((others < 1e-9) | (others > 0.8 * STRONG[0])) and others.max() <= STRONG[1] + 1e-9
        counts.add(int((others > 1e-9).sum()))
    assert counts == {1, 2}


def test_what_moves_elsewhere_says_nothing_of_the_diagnosis(monkeypatch):
    kinds: list[str] = []
    record = motion

    def noted(rng, kind, half, frames):
        kinds.append(kind)
        return record(rng, kind, half, frames)

    monkeypatch.setattr("pipeline.toyworld.figure.motion", noted)
    elsewhere = {kind: np.zeros(4) for kind in DIAGNOSES}
    for seed in range(1200):
        rng = np.random.default_rng(seed)
        diagnosis = DIAGNOSES[seed % 4]
        kinds.clear()
        film(rng, patient(rng, diagnosis, "head"), 8)
        assert kinds[0] == diagnosis
        for kind in kinds[1:]:
            elsewhere[diagnosis][DIAGNOSES.index(kind)] += 1
    shares = np.array([counts / counts.sum() for counts in elsewhere.values()])
    assert np.abs(shares - 1 / 4).max() < 0.08


def test_the_affected_site_alone_is_redder_and_is_where_it_is_said_to_be():
    redness = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        who = patient(rng, "drift", SITE_NAMES[seed % 6])
        scene, seen = film(rng, who, 8)
        frames, _ = render(scene, 128)
        centres = np.rint(seen[4] * 128 - 0.5).astype(int)
        r, g, b = np.array([frames[4][y - 3 : y + 4, x - 3 : x + 4].mean((0, 1)) for x, y in centres]).T
        share = r / (g + b)
        affected = SITE_NAMES.index(who.site)
        assert share.argmax() == affected
        redness.append(share[affected] / np.median(share))
    assert min(redness) > 1.1 and max(redness) < 3.5
