"""Every loss of FACT against loops, values and gradients; what no loss may see; hand-worked cases."""

import math
from dataclasses import replace

import pytest
import torch

from pipeline.heads.fact.classes import Classes
from pipeline.heads.fact.losses import LossSettings, fact_loss, null_weight, smoothness, targets_of
from pipeline.heads.fact.matching import IGNORE, softmaxes
from pipeline.heads.fact.outputs import BlockOutput

from . import literal

SETTINGS = LossSettings(pc=0.7, a2fc=1.3, sw=2.5, bgw=0.4, nullw=0.3, match="o2o", avg_segments=4.0, background=(0, 2))
SEEN = Classes(seen_A=torch.tensor([True, False, True, True, False]))
VARIANTS = {
    "plain": (None, 5, 1, 5),
    "seen": (SEEN, 5, 1, 5),
    "verbs and nouns": (literal.verbs_and_nouns(), 7, 2, 7),
    "seen pairs": (literal.verbs_and_nouns(torch.tensor([1, 1, 1, 0, 0, 1, 1]).bool()), 7, 2, 7),
    # Verb 2 and noun 2 are in no seen pair.
    "unseen verb and noun": (literal.verbs_and_nouns(torch.tensor([1, 1, 1, 0, 0, 0, 1]).bool()), 7, 2, 7),
}


def problem(kinds, variant="plain", lengths=(9, 13, 1, 7), tokens=(4, 5, 3, 2), hidden=0.25):
    """Videos block by block, the padded outputs, and labels of which some are hidden and some of unseen classes."""
    classes, channels, nulls, n_classes = VARIANTS[variant]
    blocks = [
        [literal.random_video(kind, t, m, channels, nulls) for t, m in zip(lengths, tokens, strict=True)]
        for kind in kinds
    ]
    outputs = [literal.padded(videos, classes) for videos in blocks]
    labels = [literal.random_labels(t, n_classes, hidden) for t in lengths]
    label_BT, mask_BT = literal.padded_labels(labels)
    if classes is not None:
        labels = [[y if y != IGNORE and classes.seen_A[y] else IGNORE for y in row] for row in labels]
    return blocks, outputs, labels, label_BT, mask_BT, classes


@pytest.mark.parametrize("kinds", ["u", "U", "iuU"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["o2o", "o2m", "seq"])
def test_every_term_of_a_padded_batch_and_its_gradient_are_the_means_of_the_loops_over_its_videos(kinds, variant, mode):
    settings = replace(SETTINGS, match=mode)
    blocks, outputs, labels, label_BT, mask_BT, classes = problem(kinds, variant)
    targets = targets_of(outputs[-1], label_BT, mask_BT, settings)
    found = fact_loss(outputs, targets, settings)

    wanted = {}
    for b, row in enumerate(labels):
        own = [videos[b] for videos in blocks]
        tokens = len(own[-1][0]["token_logits_BMK"])
        runs = literal.runs(row)
        table = literal.cost(*own[-1], row, classes, settings.pc, settings.a2fc)
        match = {
            "o2o": lambda table=table, m=tokens, runs=runs: literal.one_to_one(table, m, len(runs)),
            "o2m": lambda table=table, m=tokens, runs=runs: literal.one_to_many(table, m, [y for y, *_ in runs]),
            "seq": lambda m=tokens, runs=runs: [s if s < m else -1 for s in range(len(runs))],
        }[mode]()
        nulls = literal.null_tokens(*own[-1], row, match)
        assert targets.null_BM[b].nonzero().flatten().tolist() == nulls
        for name, value in literal.of_video(own, row, match, nulls, settings, classes).items():
            wanted[name] = wanted.get(name, 0) + value / len(labels)
    assert found.keys() == wanted.keys()
    leaves = [leaf for videos in blocks for video, _ in videos for leaf in video.values()]
    for name in wanted:
        assert found[name].item() == pytest.approx(wanted[name].item(), rel=1e-6), name
        grads = torch.autograd.grad(found[name], leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        loops = torch.autograd.grad(wanted[name], leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        for grad, loop in zip(grads, loops, strict=True):
            torch.testing.assert_close(grad, loop, rtol=1e-5, atol=1e-8)


def test_the_loss_has_the_gradient_that_finite_differences_have():
    _, outputs, _, label_BT, mask_BT, _ = problem("uU", "seen", (5, 3), (3, 2))
    outputs = [replace(output, **detached(output)) for output in outputs]
    targets = targets_of(outputs[-1], label_BT, mask_BT, SETTINGS)
    names = [n for n in literal.AXES if "features" not in n]
    given = [(output, n) for output in outputs for n in names if getattr(output, n) is not None]
    # What is -inf has no finite differences.
    free = [getattr(output, n).nan_to_num(neginf=-3.0).requires_grad_() for output, n in given]

    def loss(*values):
        rebuilt = [
            replace(o, **{n: v for (other, n), v in zip(given, values, strict=True) if other is o}) for o in outputs
        ]
        return fact_loss(rebuilt, targets, SETTINGS)["loss"]

    assert torch.autograd.gradcheck(loss, free, eps=1e-6, atol=1e-6)


def detached(output):
    return {n: v.detach() for n, v in vars(output).items() if isinstance(v, torch.Tensor)}


def leaf_outputs(outputs):
    """The same outputs, each field a leaf of its own."""
    fresh = []
    for output in outputs:
        fields = detached(output)
        fresh.append(replace(output, **{n: v.requires_grad_(v.is_floating_point()) for n, v in fields.items()}))
    return fresh


def gradients(outputs, label_BT, mask_BT, settings=SETTINGS):
    """{(block, field): gradient of the loss}."""
    fresh = leaf_outputs(outputs)
    fact_loss(fresh, targets_of(fresh[-1], label_BT, mask_BT, settings), settings)["loss"].backward()
    return {
        (i, n): getattr(output, n).grad
        for i, output in enumerate(fresh)
        for n in literal.AXES
        if getattr(output, n) is not None and getattr(output, n).grad is not None
    }


@pytest.mark.parametrize("mode", ["o2o", "o2m", "seq"])
def test_no_class_that_is_held_out_ever_takes_a_gradient(mode):
    _, outputs, _, label_BT, mask_BT, _ = problem("iuU", "seen", hidden=0.0)
    assert (label_BT[mask_BT] == 1).any()  # held-out classes do occur
    found = gradients(outputs, label_BT, mask_BT, replace(SETTINGS, match=mode))
    for (_, name), grad in found.items():
        if "logits" in name:
            assert torch.equal(grad[..., [1, 4]], torch.zeros_like(grad[..., [1, 4]])), name
            assert grad[..., [0, 2, 3]].abs().sum() > 0, name
            assert grad.isfinite().all()


def test_verbs_and_nouns_of_held_out_pairs_only_take_no_gradient():
    _, outputs, _, label_BT, mask_BT, _ = problem("iuU", "unseen verb and noun", hidden=0.0)
    for (_, name), grad in gradients(outputs, label_BT, mask_BT).items():
        if "logits" in name:
            unseen = [2, 3 + 1 + 2] if "token" in name else [2, 3 + 2]
            assert torch.equal(grad[..., unseen], torch.zeros_like(grad[..., unseen])), name


@pytest.mark.parametrize("kinds", ["iu", "iuU"])
def test_frames_without_a_label_and_padded_ones_take_no_gradient(kinds):
    _, outputs, _, label_BT, mask_BT, _ = problem(kinds, hidden=0.4)
    hidden_BT = (label_BT == IGNORE) | ~mask_BT
    assert (hidden_BT & mask_BT).any()
    for (block, name), grad in gradients(outputs, label_BT, mask_BT).items():
        if name in ("frame_logits_BTC", "a2f_BTM"):
            assert grad[hidden_BT].abs().sum() == 0
        if name == "f2a_BMT":
            assert grad.transpose(1, 2)[hidden_BT].abs().sum() == 0
        if name in ("segment_logits_BSC", "a2f_BSM"):
            kept = torch.zeros(grad.shape[:2], dtype=torch.long)
            kept.scatter_add_(1, outputs[block].segment_of_frame_BT.clamp_min(0), (~hidden_BT).long())
            assert grad[kept == 0].abs().sum() == 0
        if name.startswith("token"):
            assert grad[~outputs[block].token_mask_BM].abs().sum() == 0


def test_a_token_at_work_on_held_out_frames_is_not_taught_null():
    a2f = torch.full((1, 4, 3), -9.0)
    a2f[0, :2, 0] = a2f[0, 2:, 1] = 9.0  # token 0 has the labelled frames, token 1 those held out, token 2 nothing much
    a2f[0, 1, 2] = 0.0
    output = BlockOutput(
        frame_logits_BTC=torch.zeros(1, 4, 2),
        token_logits_BMK=torch.zeros(1, 3, 3),
        frame_features_BTH=torch.zeros(1, 4, 1),
        token_features_BMH=torch.zeros(1, 3, 1),
        token_mask_BM=torch.ones(1, 3, dtype=torch.bool),
        a2f_BTM=a2f,
    )
    mask = torch.ones(1, 4, dtype=torch.bool)
    found = targets_of(output, torch.tensor([[1, 1, IGNORE, IGNORE]]), mask, SETTINGS)
    assert found.token_label_BM.tolist() == [[1, IGNORE, IGNORE]]
    assert found.null_BM.tolist() == [[False, False, True]]


@pytest.mark.parametrize("mode", ["o2o", "o2m", "seq"])
@pytest.mark.parametrize("kinds", ["i", "u", "U"])
@pytest.mark.parametrize(
    "labels",
    {
        "one frame": [[3]],
        "no label at all": [[IGNORE] * 5],
        "only background": [[0] * 6],
        "more segments than tokens": [[0, 1, 2, 3, 4, 0, 1, 2]],
        "a video without a label in company": [[1, 1, 2], [IGNORE] * 4],
    }.items(),
    ids=lambda item: item[0],
)
def test_odd_videos_have_a_finite_loss_and_finite_gradients(mode, kinds, labels):
    videos = [literal.random_video(kinds, len(row), 3, 5) for row in labels[1]]
    output = literal.padded(videos)
    label_BT, mask_BT = literal.padded_labels(labels[1])
    settings = replace(SETTINGS, match=mode, a2fc=0.0 if kinds == "i" else 1.0)
    found = gradients([output], label_BT, mask_BT, settings)
    assert all(grad.isfinite().all() for grad in found.values())
    terms = fact_loss([output], targets_of(output, label_BT, mask_BT, settings), settings)
    assert all(term.isfinite() for term in terms.values())


def test_one_class_alone_is_legal():
    videos = [literal.random_video("u", 4, 3, 1)]
    label_BT, mask_BT = literal.padded_labels([[0, 0, 0, 0]], 0)
    output = literal.padded(videos, room=0)
    terms = fact_loss([output], targets_of(output, label_BT, mask_BT, SETTINGS), SETTINGS)
    assert terms["frame"] == 0 and terms["loss"].isfinite()


def test_a_perfect_answer_costs_nothing():
    label_BT, mask_BT = literal.padded_labels([[2, 2, 0, 2]], 0)
    settings, sure = replace(SETTINGS, bgw=1.0), 80.0
    frame = sure * torch.eye(3)[label_BT]
    token = sure * torch.eye(4)[torch.tensor([[2, 0, 2, 3]])]
    of_frame = sure * torch.eye(4)[torch.tensor([[0, 0, 1, 2]])]
    pieces = [[0, 0.5], [0, 0.5], [1, 1], [2, 1]]  # f2a is over frames: half for each frame of the first segment
    f2a = torch.full((1, 4, 4), -sure)
    for t, (m, share) in enumerate(pieces):
        f2a[0, m, t] = math.log(share)
    features = torch.zeros(1, 4, 1)
    output = BlockOutput(frame, token, features, features, torch.ones(1, 4, dtype=torch.bool), f2a, of_frame)
    terms = fact_loss([output], targets_of(output, label_BT, mask_BT, settings), settings)
    assert terms["frame"] == terms["token"] == terms["a2f"] == 0
    # A token cannot look at each of 2 frames with more than half of its attention: log 2, for 2 frames of 4.
    assert terms["f2a"].item() == pytest.approx(0.5 * math.log(2), rel=1e-6)


def test_attention_is_weighed_by_segment_in_the_order_of_the_match():
    """Background is the first segment and the last token: weights in the video's order would weigh the wrong one."""
    label_BT, mask_BT = literal.padded_labels([[0, 0, 1, 1]], 0)
    token = 9.0 * torch.eye(3)[torch.tensor([[1, 0]])]
    features = torch.zeros(1, 2, 1)
    a2f = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 9.0], [0.0, 9.0]]])
    output = BlockOutput(
        torch.zeros(1, 4, 2), token, torch.zeros(1, 4, 1), features, torch.ones(1, 2, dtype=torch.bool), None, a2f
    )
    settings = replace(SETTINGS, a2fc=0.0, bgw=0.0, background=(0,))
    terms = fact_loss([output], targets_of(output, label_BT, mask_BT, settings), settings)
    wrong = math.log(1 + math.exp(9))  # frames 2 and 3 are token 0's, and attend to token 1
    assert terms["a2f"].item() == pytest.approx(2 * wrong / 4, rel=1e-6)


def test_smoothing_by_hand_is_clamped_at_sixteen_and_skips_what_is_not_kept():
    logits = torch.tensor([[[0.0, 0.0], [30.0, 0.0], [30.0, 0.0], [30.0, 0.0]]])
    keep = torch.tensor([[[True], [True], [True], [False]]])
    # Of 2 pairs x 2 channels: channel 0 goes from log 1/2 to 0, channel 1 from log 1/2 to -30.
    log = logits.log_softmax(2)
    assert smoothness(log, keep).item() == pytest.approx((math.log(2) ** 2 + 16) / 4, rel=1e-5)
    assert smoothness(log[:, :1], keep[:, :1]).item() == 0


def test_the_automatic_null_weight_makes_null_as_frequent_as_a_seen_class():
    automatic = replace(SETTINGS, nullw=-1.0, avg_segments=6.9)

    def weight(classes, channels, n_tokens, settings=automatic):
        video = literal.padded([literal.random_video("u", 4, 3, channels, 1)], classes)
        return float(null_weight(n_tokens, softmaxes(video), settings))

    assert weight(None, 48, 60) == pytest.approx(60 / (53.1 * 48))
    assert weight(SEEN, 5, 60) == pytest.approx(60 / (53.1 * 3))
    assert weight(literal.verbs_and_nouns(), 7, 60) == pytest.approx(60 / (53.1 * 3.5))
    assert weight(None, 48, 60, replace(automatic, nullw=0.05)) == 0.05
    with pytest.raises(ValueError, match=r"more tokens than the 6.9 segments .* got 6 tokens; give more tokens"):
        weight(None, 48, 6)
    assert weight(None, 48, 6, replace(automatic, match="seq")) == 0


@pytest.mark.parametrize("wrong", [{"match": "best"}, {"sw": -1.0}, {"nullw": -0.5}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SETTINGS, **wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_half_precision_give_a_loss_of_single_precision(dtype):
    _, outputs, _, label_BT, mask_BT, _ = problem("iuU", "seen")
    half = [replace(o, **{n: v.to(dtype) for n, v in detached(o).items() if v.is_floating_point()}) for o in outputs]
    targets = targets_of(outputs[-1], label_BT, mask_BT, SETTINGS)
    found = fact_loss(half, targets, SETTINGS)["loss"]
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(fact_loss(outputs, targets, SETTINGS)["loss"].item(), rel=0.02)


def test_a_step_makes_the_host_wait_once(monkeypatch):
    """On the meta device nothing has a value: whatever asks for one, or for a shape that depends on one, fails."""
    waits = []

    def cpu(tensor):
        waits.append(tensor.shape)
        return torch.zeros(tensor.shape)

    for variant, mode in (("seen", "o2o"), ("seen pairs", "o2m"), ("plain", "seq")):
        settings = replace(SETTINGS, match=mode, nullw=-1.0)
        _, outputs, _, label_BT, mask_BT, _ = problem("iuU", variant, tokens=(4, 5, 3, 6))
        outputs = [literal.mapped(output, lambda tensor: tensor.to("meta")) for output in outputs]
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "cpu", cpu)
            targets = targets_of(outputs[-1], label_BT.to("meta"), mask_BT.to("meta"), settings, n_segments=9)
            assert fact_loss(outputs, targets, settings)["loss"].shape == ()
    assert len(waits) == 2  # one for o2o, one for o2m, none for seq
