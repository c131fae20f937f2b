"""Runs, soft IoU and the three matchings against loops and against every assignment there is."""

import math
import random

import numpy as np
import pytest
import torch

from pipeline.heads.fact.classes import Classes
from pipeline.heads.fact.matching import IGNORE, match, one_to_many, one_to_one, segments_of, soft_iou

from . import literal


def batch(kind, lengths, tokens, n_classes, classes=None, extra=1):
    videos = [literal.random_video(kind, t, m, n_classes, extra) for t, m in zip(lengths, tokens, strict=True)]
    return videos, literal.padded(videos, classes)


@pytest.mark.parametrize("hidden", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("room", [0, 3])
def test_segments_are_the_runs_of_a_loop(hidden, room):
    for _ in range(20):
        labels = [literal.random_labels(random.randint(1, 20), 3, hidden) for _ in range(4)]
        label_BT, mask_BT = literal.padded_labels(labels, room)
        found = segments_of(label_BT, mask_BT)
        wide = segments_of(label_BT, mask_BT, found.mask_BS.shape[1] + 2)
        assert found.mask_BS.shape[1] == max(1, *(len(literal.runs(row)) for row in labels))
        for some in (found, wide):
            for b, row in enumerate(labels):
                kept = some.mask_BS[b]
                mine = torch.stack([some.label_BS[b], some.start_BS[b], some.stop_BS[b]], 1)[kept]
                assert list(map(tuple, mine.tolist())) == literal.runs(row)
                inside = [-1] * label_BT.shape[1]
                for s, (_, start, stop) in enumerate(literal.runs(row)):
                    inside[start:stop] = [s] * (stop - start)
                assert some.of_frame_BT[b].tolist() == inside


def test_frames_that_are_held_out_part_the_run_around_them():
    found = segments_of(torch.tensor([[2, 2, IGNORE, 2]]), torch.ones(1, 4, dtype=torch.bool))
    assert found.label_BS.tolist() == [[2, 2]]
    assert found.start_BS.tolist() == [[0, 3]]


def test_soft_iou_is_that_of_a_loop_over_frames():
    attention = torch.rand(3, 17, 4, dtype=torch.float64)
    attention[1, 12:] = 0
    of_frame = torch.randint(-1, 5, (3, 17))
    found = soft_iou(attention, of_frame, 6)
    for b in range(3):
        for m in range(4):
            for s in range(6):
                inside = (of_frame[b] == s).double()
                overlap, union = (attention[b, :, m] * inside).sum(), (attention[b, :, m] + inside).clamp(max=1).sum()
                assert found[b, m, s] == pytest.approx((overlap / union).item(), abs=1e-12)


def test_soft_iou_of_nothing_with_nothing_is_zero():
    assert soft_iou(torch.zeros(1, 3, 2), torch.full((1, 3), IGNORE), 1).tolist() == [[[0.0], [0.0]]]


@pytest.mark.parametrize("tokens, segments", [(4, 4), (6, 3), (3, 6), (1, 4), (4, 1)])
def test_one_to_one_is_the_cheapest_of_all_assignments(tokens, segments):
    for _ in range(5):
        cost = np.random.default_rng(random.randrange(99)).random((tokens, segments))
        assert one_to_one(cost).tolist() == literal.one_to_one(cost, tokens, segments)


@pytest.mark.parametrize(
    "tokens, labels", [(5, [3, 1, 3, 1]), (2, [0, 1, 2, 0]), (6, [7, 7, 7]), (1, [4, 2]), (3, [5])]
)
def test_one_to_many_is_that_of_a_loop_over_classes(tokens, labels):
    for _ in range(5):
        cost = -np.random.default_rng(random.randrange(99)).random((tokens, len(labels)))
        found = one_to_many(cost, np.array(labels, dtype=np.float32))
        assert found.tolist() == literal.one_to_many(cost.tolist(), tokens, labels)


def test_one_to_many_by_hand_gives_a_repeated_class_to_one_token_and_a_spare_token_to_its_best_class():
    # Token 0 is for class 8 in both places; token 2 is left over, prefers class 8, and is cheaper for its second place.
    cost = np.array([[-0.9, 0.0, -0.3], [0.0, -0.8, 0.0], [-0.1, -0.2, -0.4]])
    assert one_to_many(cost, np.array([8, 2, 8])).tolist() == [0, 1, 2]
    assert one_to_many(cost[:2], np.array([8, 2, 8])).tolist() == [0, 1, 0]


SEEN = Classes(seen_A=torch.tensor([True, True, False, True]))
VARIANTS = {
    "plain": (None, 4, 1, 4),
    "seen": (SEEN, 4, 1, 4),
    "verbs and nouns": (literal.verbs_and_nouns(), 7, 2, 7),
    "seen pairs": (literal.verbs_and_nouns(torch.tensor([1, 1, 1, 0, 0, 1, 1]).bool()), 7, 2, 7),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["u", "U"])
@pytest.mark.parametrize("mode", ["o2o", "o2m"])
def test_a_padded_batch_is_matched_as_each_video_alone_by_the_costs_of_the_definition(variant, kind, mode):
    classes, n_channels, extra, n_classes = VARIANTS[variant]
    # The last video has more segments than tokens, and more classes.
    lengths, tokens = (9, 14, 1, 12), (4, 5, 3, 2)
    videos, output = batch(kind, lengths, tokens, n_channels, classes, extra)
    labels = [literal.random_labels(t, n_classes, 0.2) for t in lengths]
    if classes is not None:
        labels = [[y if y != IGNORE and classes.seen_A[y] else IGNORE for y in row] for row in labels]
    label_BT, mask_BT = literal.padded_labels(labels)
    segments = segments_of(label_BT, mask_BT)
    found = match(output, segments, mask_BT, mode, pc=0.7, a2fc=1.3)
    for b, (video, pooled) in enumerate(videos):
        runs = literal.runs(labels[b])
        table = literal.cost(video, pooled, labels[b], classes, 0.7, 1.3)
        if mode == "o2o":
            wanted = literal.one_to_one(table, tokens[b], len(runs))
        else:
            wanted = literal.one_to_many(table, tokens[b], [label for label, *_ in runs])
        assert found[b].tolist() == wanted + [-1] * (found.shape[1] - len(runs))


def test_in_sequence_token_i_stands_for_segment_i_as_far_as_both_go():
    _, output = batch("u", (6, 6), (2, 5), 3)
    label_BT, mask_BT = literal.padded_labels([[0, 0, 1, 1, 0, 2], [1, 1, 1, 2, 2, 2]])
    found = match(output, segments_of(label_BT, mask_BT), mask_BT, "seq", 1.0, 1.0)
    assert found.tolist() == [[0, 1, -1, -1], [0, 1, -1, -1]]


def test_a_batch_without_any_label_is_matched_to_nothing():
    _, output = batch("u", (6, 3), (2, 5), 3)
    label_BT = torch.full((2, 8), IGNORE)
    for mode in ("o2o", "o2m", "seq"):
        mask_BT = torch.ones(2, 8, dtype=torch.bool)
        assert match(output, segments_of(label_BT, mask_BT), mask_BT, mode, 1.0, 1.0).tolist() == [[-1], [-1]]


def test_what_cannot_be_matched_is_refused_with_the_remedy():
    _, output = batch("i", (6,), (3,), 3)
    label_BT, mask_BT = literal.padded_labels([[0, 0, 1, 1, 0, 2]])
    segments = segments_of(label_BT, mask_BT)
    with pytest.raises(ValueError, match="one of o2o, o2m, seq, got 'm2o'"):
        match(output, segments, mask_BT, "m2o", 1.0, 1.0)
    with pytest.raises(ValueError, match="set a2fc to 0"):
        match(output, segments, mask_BT, "o2o", 1.0, 1.0)
    assert match(output, segments, mask_BT, "o2o", 1.0, 0.0).shape == (1, 4)
    output.token_logits_BMK.data[0, 1, 0] = math.nan
    with pytest.raises(ValueError, match=r"video 0 of the batch .* not numbers"):
        match(output, segments, mask_BT, "o2o", 1.0, 0.0)
