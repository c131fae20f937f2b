"""Acc, Edit and F1 against cases worked by hand and against literal loops over frames and segments."""

import json

import numpy as np
import pytest

from pipeline.evaluation.segment_metrics import (
    bootstrap_intervals,
    class_confusion,
    class_intervals,
    class_table,
    edit_score,
    figures,
    levenshtein,
    segment_counts,
    segment_metrics,
    segments,
)

# --- literal references -----------------------------------------------------------------------------------------------


def loop_segments(labels, background):
    """(label, start, stop) by walking over the frames."""
    found, start = [], 0
    for t in range(1, len(labels) + 1):
        if t == len(labels) or labels[t] != labels[start]:
            if labels[start] not in background:
                found.append((labels[start], start, t))
            start = t
    return found


def loop_levenshtein(one, other):
    """The textbook's table."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            change = table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, change)
    return table[-1][-1]


def loop_hits(predicted, true, threshold):
    """(true positives, labels of the truths hit): greedy in predicted order, frame sets instead of end points."""
    used = set()
    for label, start, stop in predicted:
        best, best_overlap = None, 0.0
        for number, (other, first, last) in enumerate(true):
            if other == label:
                mine, theirs = set(range(start, stop)), set(range(first, last))
                overlap = len(mine & theirs) / len(mine | theirs)
                if overlap > best_overlap:
                    best, best_overlap = number, overlap
        if best is not None and best_overlap >= threshold and best not in used:
            used.add(best)
    return len(used), [true[number][0] for number in used]


def loop_metrics(predictions, truths, background):
    right = frames = own_right = own = 0
    edits, tp, claimed, there = [], {10: 0, 25: 0, 50: 0}, 0, 0
    for prediction, truth in zip(predictions, truths, strict=True):
        pairs = [(p, t) for p, t in zip(prediction, truth, strict=True) if t >= 0]
        for p, t in pairs:
            frames, right = frames + 1, right + (p == t)
            if t not in background:
                own, own_right = own + 1, own_right + (p == t)
        guess = loop_segments([p for p, _ in pairs], background)
        true = loop_segments([t for _, t in pairs], background)
        longer = max(len(guess), len(true))
        distance = loop_levenshtein([s[0] for s in guess], [s[0] for s in true])
        edits.append(100 * (1 - distance / longer) if longer else 100)
        claimed, there = claimed + len(guess), there + len(true)
        for k in tp:
            tp[k] += loop_hits(guess, true, k / 100)[0]
    f1 = {}
    for k, hits in tp.items():
        false_positive, false_negative = claimed - hits, there - hits
        precision = hits / (hits + false_positive) if claimed else 1
        recall = hits / (hits + false_negative) if there else 1
        f1[f"f1@{k}"] = 100 * 2 * precision * recall / (precision + recall) if precision + recall else 0
    return {
        "acc": 100 * right / frames,
        "acc_without_background": 100 * own_right / own,
        "edit": sum(edits) / len(edits),
        **f1,
    }


def random_videos(seed, n=6, classes=5, unlabelled=False):
    """Truths of runs, and predictions that follow them with shifted ends, wrong labels and spurious pieces."""
    random = np.random.default_rng(seed)
    predictions, truths = [], []
    for _ in range(n):
        truth = np.repeat(random.integers(0, classes, 12), random.integers(1, 15, 12))
        prediction = np.roll(truth, random.integers(-4, 5))
        for _ in range(4):
            at = random.integers(0, len(truth))
            prediction[at : at + random.integers(1, 9)] = random.integers(0, classes)
        if unlabelled:
            at = random.integers(0, len(truth))
            truth[at : at + 10] = -1
        predictions.append(prediction)
        truths.append(truth)
    return predictions, truths


# --- against loops ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("background", [(), {0}, {0, 3}])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_all_figures_are_those_of_literal_loops(seed, background, unlabelled):
    predictions, truths = random_videos(seed, unlabelled=unlabelled)
    result = segment_metrics(predictions, truths, background)
    expected = loop_metrics(predictions, truths, background)
    assert {name: result[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(30))
def test_levenshtein_is_the_textbook_s(seed):
    random = np.random.default_rng(seed)
    one, other = (random.integers(0, 4, random.integers(0, 12)) for _ in range(2))
    assert levenshtein(one, other) == loop_levenshtein(one, other) == levenshtein(other, one)


@pytest.mark.parametrize("seed", range(5))
def test_the_table_of_classes_is_that_of_literal_loops(seed):
    predictions, truths = random_videos(seed, classes=6)
    predictions.append(np.array([4, 4]))
    truths.append(np.array([1, 1]))
    rows = class_table(predictions, truths, list("abcdefg"), background={0})
    prediction, truth = np.concatenate(predictions), np.concatenate(truths)
    for c, row in enumerate(rows):
        hits = sum((p == c) and (t == c) for p, t in zip(prediction, truth, strict=True))
        own, guessed = sum(truth == c), sum(prediction == c)
        assert (row["class"], row["n"]) == ("abcdefg"[c], own)
        assert row["accuracy"] == (pytest.approx(100 * hits / own) if own else None)
        assert row["precision"] == (pytest.approx(100 * hits / guessed) if guessed else None)
        true = predicted = found = 0
        for p, t in zip(predictions, truths, strict=True):
            one, other = loop_segments(p, {0}), loop_segments(t, {0})
            true += sum(label == c for label, *_ in other)
            predicted += sum(label == c for label, *_ in one)
            found += loop_hits(one, other, 0.25)[1].count(c)
        assert row["segments"] == true
        assert row["f1@25"] == (pytest.approx(200 * found / (true + predicted)) if true + predicted else None)
    assert rows[6]["f1@50"] is None and rows[6]["accuracy"] is None
    counts = class_confusion(predictions, truths, 7)
    assert counts.sum() == len(truth) and counts[1, 4] == sum((truth == 1) & (prediction == 4))


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_ms_tcn_s_edit_and_f1_worked_by_hand():
    # The public definition (edit_score and f_score of MS-TCN's eval.py), worked on paper; '.' is background.
    # truth       ..AAAAAAAABBBB....      A [2, 10)  B [10, 14)
    # prediction  AAAAAABBBBBBBB.A..      A [0, 6)   B [6, 14)   A [15, 16)
    # A [0, 6) and A [2, 10): 4 shared of 10: 0.4. B: 4 shared of 8: 0.5. A [15, 16) meets nothing: false positive.
    # Edit: ABA to AB is one deletion in 3: 100 * (1 - 1/3).
    truth = np.array([{"A": 1, "B": 2, ".": 0}[c] for c in "..AAAAAAAABBBB...."])
    prediction = np.array([{"A": 1, "B": 2, ".": 0}[c] for c in "AAAAAABBBBBBBB.A.."])
    result = segment_metrics([prediction], [truth], background={0})
    assert result["edit"] == pytest.approx(100 * 2 / 3)
    assert (result["counts"]["tp@10"], result["counts"]["fp@10"], result["counts"]["fn@10"]) == (2, 1, 0)
    assert (result["counts"]["tp@50"], result["counts"]["fp@50"], result["counts"]["fn@50"]) == (1, 2, 1)
    assert result["f1@10"] == result["f1@25"] == pytest.approx(80)  # precision 2/3, recall 1
    assert result["f1@50"] == pytest.approx(40)  # precision 1/3, recall 1/2; B's IoU of exactly 0.5 is a hit
    assert result["acc"] == pytest.approx(100 * 11 / 18)
    assert result["acc_without_background"] == pytest.approx(100 * 8 / 12)


def test_segments_of_background_count_where_a_data_set_says_so_and_its_frames_are_background_all_the_same():
    truth, prediction = np.array([0, 0, 1, 1, 0]), np.array([0, 1, 1, 1, 0])
    without = segment_metrics([prediction], [truth], {0})
    with_ = segment_metrics([prediction], [truth], {0}, with_background=True)
    assert (without["counts"]["true"], with_["counts"]["true"]) == (1, 3)
    assert without["acc"] == with_["acc"] == 80
    assert without["acc_without_background"] == with_["acc_without_background"] == 100
    assert segment_metrics([prediction], [truth])["edit"] == with_["edit"]
    rows = class_table([prediction], [truth], ["background", "push"], {0}, with_background=True)
    assert [row["segments"] for row in rows] == [2, 1]


def test_a_truth_is_hit_once_and_the_first_prediction_takes_it():
    truth = np.zeros(20, int)
    prediction = np.array([0] * 11 + [1] + [0] * 8)  # IoU 0.55, none, 0.4 with the one truth
    counts = segment_metrics([prediction], [truth])["counts"]
    assert (counts["tp@25"], counts["fp@25"], counts["fn@25"]) == (1, 2, 0)
    assert (counts["tp@50"], counts["fp@50"], counts["fn@50"]) == (1, 2, 0)


def test_a_prediction_whose_best_truth_is_taken_does_not_go_to_the_second_best():
    # truth A [0, 10) . A [12, 20); predictions A [0, 5) and A [6, 15): best of both is the first truth (0.5; 4 of 15,
    # against 3 of 14), so the second is a false positive although the other truth is free.
    truth = np.array([1] * 10 + [0] * 2 + [1] * 8)
    prediction = np.array([1] * 5 + [0] + [1] * 9 + [0] * 5)
    counts = segment_metrics([prediction], [truth], background={0})["counts"]
    assert (counts["tp@10"], counts["fp@10"], counts["fn@10"]) == (1, 1, 1)


def test_the_last_segment_ends_where_it_ends():
    assert segments(np.array([3, 3, 5])).stop.tolist() == [2, 3]
    result = segment_metrics([np.array([1, 1, 2])], [np.array([1, 1, 2])])  # a last segment of one frame
    assert result["f1@50"] == 100 and result["counts"]["tp@50"] == 2


def test_f1_pools_segments_edit_means_videos_and_acc_pools_frames():
    long, short = np.repeat([1, 2, 3, 4], 10), np.array([1, 1])
    result = segment_metrics([long, np.array([2, 2])], [long, short])
    assert result["edit"] == 50
    assert result["f1@50"] == pytest.approx(200 * 4 / 10)
    assert result["acc"] == pytest.approx(100 * 40 / 42)


def test_frames_without_a_label_are_cut_out_and_join_what_lies_around_them():
    result = segment_metrics([np.array([1, 1, 5, 6, 1, 2])], [np.array([1, 1, -1, -1, 1, 2])])
    assert (result["acc"], result["edit"], result["f1@50"], result["counts"]["frames"]) == (100, 100, 100, 4)


# --- what must not crash ----------------------------------------------------------------------------------------------


def test_videos_of_background_alone_score():
    nothing, something = np.zeros(5, int), np.array([0, 1, 1, 0, 0])
    right = segment_metrics([nothing], [nothing], {0})
    assert (right["acc"], right["edit"], right["f1@50"]) == (100, 100, 100)
    assert right["acc_without_background"] is None
    for prediction, truth in ((something, nothing), (nothing, something)):
        wrong = segment_metrics([prediction], [truth], {0})
        assert (wrong["acc"], wrong["edit"], wrong["f1@10"]) == (60, 0, 0)


@pytest.mark.parametrize("truth", [np.zeros(0, int), np.full(4, -1)])
def test_videos_without_a_labelled_frame_score(truth):
    result = segment_metrics([truth * 0, np.array([1])], [truth, np.array([1])])
    assert (result["acc"], result["edit"], result["f1@50"]) == (100, 100, 100)
    alone = segment_metrics([truth * 0], [truth])
    assert (alone["acc"], alone["edit"], alone["f1@50"]) == (None, 100, 100)
    assert class_table([truth * 0], [truth], ["a"])[0]["accuracy"] is None
    assert class_confusion([truth * 0], [truth], 2).tolist() == [[0, 0], [0, 0]]
    json.dumps(result, allow_nan=False)
    json.dumps(alone, allow_nan=False)


def test_edit_of_nothing_is_whole_and_of_one_side_alone_is_zero():
    empty, one = np.zeros(0, int), np.array([4])
    assert (edit_score(empty, empty), edit_score(empty, one), edit_score(one, empty)) == (100, 0, 0)


def test_videos_that_do_not_fit_are_refused_by_number():
    with pytest.raises(ValueError, match=r"video 1: predictions of shape \(3,\), truth of shape \(2,\)"):
        segment_metrics([np.zeros(2, int), np.zeros(3, int)], [np.zeros(2, int), np.zeros(2, int)])
    with pytest.raises(ValueError, match="predictions of 1 videos and truths of 2"):
        segment_metrics([np.zeros(2, int)], [np.zeros(2, int)] * 2)
    with pytest.raises(ValueError, match="0 videos"):
        segment_metrics([], [])
    with pytest.raises(ValueError, match="above 0"):
        segment_metrics([np.zeros(2, int)], [np.zeros(2, int)], thresholds=(0, 0.5))


# --- per video and intervals ------------------------------------------------------------------------------------------


def test_each_video_alone_gives_its_row_of_the_table():
    predictions, truths = random_videos(3)
    rows = figures(segment_counts(predictions, truths, {0}))
    for number in range(len(truths)):
        alone = segment_metrics(predictions[number : number + 1], truths[number : number + 1], {0})
        assert rows.iloc[number].to_dict() == pytest.approx({name: alone[name] for name in rows})


def test_intervals_are_quantiles_over_videos_drawn_anew():
    predictions, truths = random_videos(4, n=5)
    found = bootstrap_intervals(segment_counts(predictions, truths, {0}), draws=100, seed=7)
    draws = np.random.default_rng(7).multinomial(5, np.full(5, 0.2), size=100)
    drawn = []
    for weights in draws:
        picked = [number for number, times in enumerate(weights) for _ in range(times)]
        drawn.append(segment_metrics([predictions[i] for i in picked], [truths[i] for i in picked], {0}))
    for name in ("acc", "acc_without_background", "edit", "f1@10", "f1@50"):
        assert found[name] == pytest.approx(np.quantile([d[name] for d in drawn], [0.025, 0.975]).tolist())


def test_an_interval_of_no_frame_is_null_and_of_one_video_a_point():
    nothing = np.zeros(5, int)
    found = bootstrap_intervals(segment_counts([nothing], [nothing], {0}), draws=10, seed=0)
    assert found["acc_without_background"] is None and found["acc"] == [100, 100]


def test_a_class_s_interval_draws_videos_not_frames():
    truth = np.repeat([0, 1], 50)
    right, wrong = truth.copy(), np.ones(100, np.int64)
    intervals = class_intervals([right, right, wrong, wrong], [truth] * 4, 3, draws=2000, seed=0)
    assert intervals[0] == pytest.approx([0, 100], abs=1)  # 200 independent frames would give 43 to 57
    assert intervals[1] == [100, 100] and intervals[2] is None
    weights = np.random.default_rng(0).multinomial(4, np.full(4, 1 / 4), size=2000)
    literal = [100 * (w[0] + w[1]) * 50 / (w.sum() * 50) for w in weights]
    assert intervals[0] == pytest.approx(np.quantile(literal, [0.025, 0.975]).tolist())
