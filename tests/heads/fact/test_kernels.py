"""The kernels of FACT against loops."""

import random

import pytest
import torch
import torch.nn.functional as F

from pipeline.heads.fact.kernels import dropout, runs, segment_mean, segments, sinusoid, taps, time_windows, to_frames

from . import plain


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)


def ragged(lengths, n_labels=3):
    labels = [[random.randrange(n_labels) for _ in range(length)] for length in lengths]
    label_BT = torch.randint(n_labels, (len(lengths), max(lengths) + 2))
    for row, own in zip(label_BT, labels, strict=True):
        row[: len(own)] = torch.tensor(own)
    return labels, label_BT, torch.arange(label_BT.shape[1]) < torch.tensor(lengths)[:, None]


def test_sinusoids_are_their_formula():
    assert torch.allclose(sinusoid(40, 6).double(), plain.sinusoid(40, 6), atol=1e-6)


@pytest.mark.parametrize("lengths", [[1], [9], [1, 7, 12], [5, 5]])
def test_runs_and_their_lengths_and_middles_are_those_of_a_loop(lengths):
    for _ in range(10):
        labels, label_BT, mask_BT = ragged(lengths)
        run_BT, count_B = runs(label_BT, mask_BT)
        found = segments(label_BT, mask_BT)
        for b, own in enumerate(labels):
            spans = plain.runs(own)
            wanted = [s for s, span in enumerate(spans) for _ in span]
            assert run_BT[b].tolist() == wanted + [-1] * (label_BT.shape[1] - len(own))
            assert count_B[b] == found.count_B[b] == len(spans) == found.mask_BS[b].sum()
            assert found.length_BS[b, : len(spans)].tolist() == [len(span) for span in spans]
            assert found.middle_BS[b, : len(spans)].tolist() == [(span[0] + span[-1]) // 2 for span in spans]
            assert not found.mask_BS[b, len(spans) :].any()


def test_means_over_segments_and_the_way_back_are_those_of_a_loop():
    labels, label_BT, mask_BT = ragged([1, 7, 12])
    found = segments(label_BT, mask_BT)
    x = torch.randn(3, label_BT.shape[1], 4, dtype=torch.float64)
    mean = segment_mean(x, found)
    up = to_frames(mean, found)
    for b, own in enumerate(labels):
        for s, span in enumerate(plain.runs(own)):
            wanted = sum(x[b, t] for t in span) / len(span)
            assert torch.allclose(mean[b, s], wanted)
            assert all(torch.allclose(up[b, t], wanted) for t in span)
        assert (mean[b, len(plain.runs(own)) :] == 0).all()


@pytest.mark.parametrize("videos", [1, 3])
@pytest.mark.parametrize("offsets", [(-1, 0, 1), (0, -2, 2, -4, 4), (-40, 0, 40), (0,)])
def test_taps_and_their_gradients_are_those_of_a_loop(videos, offsets):
    frames = 9
    x = torch.randn(videos, frames, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(offsets), 4, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    wanted = torch.stack(
        [
            torch.stack(
                [
                    bias + sum(x[b, t + o] @ weight[k] for k, o in enumerate(offsets) if 0 <= t + o < frames)
                    for t in range(frames)
                ]
            )
            for b in range(videos)
        ]
    )
    got = taps(x, weight, bias, offsets)
    assert torch.allclose(got, wanted)
    down = torch.randn_like(wanted)
    for mine, theirs in zip(
        torch.autograd.grad(got, [x, weight, bias], down),
        torch.autograd.grad(wanted, [x, weight, bias], down),
        strict=True,
    ):
        assert torch.allclose(mine, theirs)


def test_taps_are_the_librarys_dilated_convolution_also_in_half_precision():
    x, weight, bias = torch.randn(2, 50, 16), torch.randn(3, 16, 16) / 7, torch.randn(16)
    wanted = F.conv1d(x.mT, weight.permute(2, 1, 0), bias, padding=8, dilation=8).mT
    assert torch.allclose(taps(x, weight, bias, (-8, 0, 8)), wanted, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        got = taps(x, weight, bias, (-8, 0, 8))
    assert got.dtype == torch.bfloat16 and torch.allclose(got.float(), wanted, atol=0.1)


def test_windows_of_time_are_short_and_inside_the_video_and_come_from_the_seed():
    length = torch.tensor([1, 10, 400])
    for seed in range(30):
        torch.manual_seed(seed)
        windows = time_windows(length, 30, 0.1, 1, 400)
        torch.manual_seed(seed)
        assert torch.equal(windows, time_windows(length, 30, 0.1, 1, 400))
        for row, n in zip(windows, length.tolist(), strict=True):
            assert not row[n:].any()
            assert row.sum() <= min(29, int(0.1 * n))
            assert row.int().diff().abs().sum() <= 2
    torch.manual_seed(0)
    many = torch.stack([time_windows(length, 30, 0.5, 5, 400) for _ in range(300)]).float().mean(0)
    # Five windows of 14.5 frames on average, here and there overlapping, over 400 frames.
    assert 0.12 < many[2].mean() < 0.18 and many[2, 100:300].std() < 0.05
    assert many[2].min() > 0 or many[2, 1:-1].min() > 0


def test_half_precision_means_and_gradients_of_long_segments_are_exact_enough():
    found = segments(torch.zeros(1, 5000, dtype=torch.int64), torch.ones(1, 5000, dtype=torch.bool))
    assert segment_mean(torch.full((1, 5000, 2), 3.0, dtype=torch.bfloat16), found).tolist() == [[[3.0, 3.0]]]
    segment = torch.ones(1, 1, 2, dtype=torch.bfloat16, requires_grad=True)
    up = to_frames(segment, found)
    up.sum().backward()
    assert up.dtype == torch.bfloat16 and (segment.grad - 5000).abs().max() < 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_drops_its_share_each_element_for_itself_and_scales_the_rest(p, dtype):
    x = torch.ones(401, 1001, dtype=dtype, requires_grad=True)
    y = dropout(x, p, training=True)
    kept = y != 0
    assert torch.allclose(y[kept], torch.full_like(y[kept], 1 / (1 - p)), rtol=1e-4)
    assert abs(kept.float().mean() - (1 - p)) < 0.005
    flat = kept.flatten().float() - (1 - p)
    assert all(abs((flat[:-lag] * flat[lag:]).mean()) < 0.002 for lag in (1, 2, 3, 4, 8, 1001))
    down = torch.rand_like(y)
    assert torch.equal(torch.autograd.grad(y, x, down)[0], down * y.detach())


def test_dropout_comes_from_the_seed_and_leaves_alone_what_is_not_trained():
    x, drawn = torch.randn(3, 7), []
    for _ in range(2):
        torch.manual_seed(4)
        drawn.append(dropout(x, 0.5, training=True))
    assert torch.equal(*drawn) and not torch.equal(drawn[0], dropout(x, 0.5, training=True))
    assert dropout(x, 0.5, training=False) is x and dropout(x, 0.0, training=True) is x
    assert dropout(x, 1.0 - 1e-9, training=True).count_nonzero() <= 1
    assert dropout(x[:0], 0.5, training=True).shape == (0, 7)
