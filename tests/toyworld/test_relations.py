"""toy-relations: what its classes say is so, and no object by itself tells any of them."""

import json
from collections import defaultdict

import numpy as np
import pytest
import scipy.stats

from pipeline.config import ToySSv2, Toyworld
from pipeline.toyworld import write_relations
from pipeline.toyworld.relations import RELATIONS, stage_relation
from pipeline.toyworld.ssv2 import videos


def _params(train: int = 1, size: int = 64) -> Toyworld:
    return Toyworld(seed=1, relations=ToySSv2(train=train, validation=1, test=1, size=size, frames=(32, 32), fps=12))


@pytest.fixture(scope="module")
def scenes():
    """Class -> scenes, 150 of each."""
    params, found = _params(train=150), defaultdict(list)
    for video in videos(params.relations, RELATIONS):
        if video.split == "train":
            found[video.template].append(stage_relation(video, params)[0])
    return found


def test_objects_of_a_colour_lie_as_the_class_says(scenes):
    for number, template in enumerate(RELATIONS):
        for scene in scenes[number]:
            tracks = scene.tracks
            where = np.array([[track.x_T.mean(), track.y_T.mean()] for track in tracks])
            far = {k: int(np.linalg.norm(where - where[k], axis=1).argmax()) for k in range(4)}
            alike = {k: [j for j in range(4) if j != k and tracks[j].colour == tracks[k].colour] for k in range(4)}
            assert [alike[k] == [far[k]] for k in far] == ["across" in template.text] * 4
            assert all(len(of) == 1 for of in alike.values())


def test_things_that_decide_are_far_apart_and_in_view(scenes):
    for scene in (scene for of in scenes.values() for scene in of):
        where = np.array([[track.x_T, track.y_T] for track in scene.tracks])
        gaps = np.linalg.norm(where[:, None] - where[None], axis=2) + np.eye(4)[..., None]
        assert gaps.min() > 0.25, "more than two radii"
        assert where.min() > 0.08 and where.max() < 0.92


def test_an_object_by_itself_is_alike_in_every_class(scenes):
    """One object a scene, since those of a scene depend on each other: place, colour, shape, size, and how it moves."""

    def seen(track):
        far = np.abs(track.x_T - track.x_T.mean()).max(), np.abs(track.y_T - track.y_T.mean()).max()
        return [track.x_T.mean(), track.y_T.mean(), track.radius_T[0], *far, track.x_T[8] - track.x_T[0]]

    figures = {number: np.array([seen(s.tracks[n % 4]) for n, s in enumerate(of)]).T for number, of in scenes.items()}
    colours = np.array(
        [np.unique([s.tracks[n % 4].colour for n, s in enumerate(of)], return_counts=True)[1] for of in scenes.values()]
    )
    for number in range(1, len(RELATIONS)):
        for mine, theirs in zip(figures[0], figures[number], strict=True):
            assert scipy.stats.ks_2samp(mine, theirs).pvalue > 0.001
    assert scipy.stats.chi2_contingency(colours).pvalue > 0.001


def test_sums_over_objects_have_no_evidence_that_a_line_could_read(scenes):
    """Of the two colours of a scene, where the objects of each lie and how they move, summed: no mean differs."""
    sums = {
        number: np.array(
            [
                [
                    sum(track.x_T.mean() for track in s.tracks),
                    sum(np.ptp(track.x_T) for track in s.tracks),
                    sum(track.x_T[8] - track.x_T[0] for track in s.tracks),
                ]
                for s in of
            ]
        ).T
        for number, of in scenes.items()
    }
    for number in range(1, len(RELATIONS)):
        for mine, theirs in zip(sums[0], sums[number], strict=True):
            assert scipy.stats.ttest_ind(mine, theirs, equal_var=False).pvalue > 0.001


def test_the_set_has_something_something_v2s_layout_and_the_same_bytes_again(tmp_path):
    for name in ("one", "two"):
        write_relations(_params(), tmp_path / name, say=lambda line: None, workers=1)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    entries = json.loads(one["validation.json"])
    assert {entry["template"] for entry in entries} == {template.text for template in RELATIONS}
    assert {f"{entry['id']}.webm" for entry in entries} < one.keys() and len(
        [name for name in one if name.endswith("webm")]
    ) == 6
    for entry in entries:
        first, second = entry["placeholders"]
        assert first.split()[1] == second.split()[1], "both are of one colour"
    assert list(json.loads(one["labels.json"]).values()) == ["0", "1"]
