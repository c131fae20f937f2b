"""The verb/noun variant against FACT's public formulas, written anew for one video with dense targets; float64."""

import pytest
import torch

from pipeline.heads.fact.blocks import blocks
from pipeline.heads.fact.losses import LossSettings, fact_loss, targets_of, token_loss
from pipeline.heads.fact.matching import softmaxes
from pipeline.heads.fact.model import Fact
from pipeline.heads.fact.prediction import predict

from . import literal, plain

N_VERBS, N_NOUNS = 3, 4
PAIRS = literal.verbs_and_nouns().pairs_A2  # 7 of 12
ACTIONS = len(PAIRS)


def action_logp(logits, null):
    """(rows, actions), with null one more: the verb's log-probability and the noun's."""
    verbs, nouns = (part.log_softmax(1) for part in logits.split([N_VERBS + null, N_NOUNS + null], dim=1))
    known = verbs[:, PAIRS[:, 0]] + nouns[:, PAIRS[:, 1]]
    return torch.cat([known, verbs[:, -1:] + nouns[:, -1:]], dim=1) if null else known


def public_loss(outputs, labels, settings):
    """The public code's total for one video whose every frame is labelled, one token a segment."""
    n_frames = len(labels)
    segments = literal.runs(labels.tolist())
    weight = torch.ones(ACTIONS + 1, dtype=torch.float64)
    weight[list(settings.background)] = settings.bgw
    weight[-1] = settings.nullw
    frame_target = torch.eye(ACTIONS, dtype=torch.float64)[labels]
    segment_target = torch.zeros(n_frames, len(segments), dtype=torch.float64)
    for s, (_, start, stop) in enumerate(segments):
        segment_target[start:stop, s] = 1

    last = outputs[-1]
    token_logp = action_logp(last.token_logits_BMK[0], True)
    a2f = last.a2f_BTM[0].softmax(1)
    table = []
    for m in range(len(token_logp)):
        row = []
        for s, (label, _, _) in enumerate(segments):
            overlap = (a2f[:, m] * segment_target[:, s]).sum()
            union = (a2f[:, m] + segment_target[:, s]).clamp_max(1).sum()
            row.append((-settings.pc * token_logp[m, label].exp() - settings.a2fc * overlap / union).item())
        table.append(row)
    token_of = literal.one_to_one(table, len(token_logp), len(segments))
    matched = [s for s in range(len(segments)) if token_of[s] >= 0]
    tokens = [token_of[s] for s in matched]
    match_weight = torch.stack([weight[segments[s][0]] for s in matched])

    total = 0
    for output in outputs:
        pool = torch.nn.functional.one_hot(output.segment_of_frame_BT[0]).double()
        pool = (pool / pool.sum(0)).T  # (positions, frames)
        frame_logp = action_logp(output.frame_logits_BTC[0], False)
        segment_logp = action_logp(output.segment_logits_BSC[0], False)
        pooled = pool @ frame_target
        frame = -(frame_logp * frame_target * weight[:-1]).sum() / n_frames / 2
        segment = -(segment_logp * pooled * weight[:-1]).sum() / pooled.sum() / 2
        target = torch.full((len(token_logp),), ACTIONS)
        target[tokens] = torch.tensor([segments[s][0] for s in matched])
        logp = action_logp(output.token_logits_BMK[0], True)
        token = -(logp[torch.arange(len(target)), target] * weight[target]).mean() / 2
        smooth = (frame_logp[1:] - frame_logp[:-1]).square().clamp(0, 16).mean()
        total = total + (frame + segment) / 2 + token + settings.sw * smooth
        if output.f2a_BMS is not None:
            goal = (pool @ segment_target)[:, matched]
            divisor = (pool @ segment_target).sum()
            for logits, dim in ((output.f2a_BMS[0, tokens].T, 0), (output.a2f_BSM[0][:, tokens], 1)):
                total = total - (logits.log_softmax(dim) * goal * match_weight).sum() / divisor
    return total / len(outputs)


def public_prediction(output, mwt):
    """Each frame's action: tokens renormalised over the actions, frames not."""
    token, frame = action_logp(output.token_logits_BMK[0], True), action_logp(output.frame_logits_BTC[0], False).exp()
    kept = [m for m in range(len(token)) if int(token[m].argmax()) != ACTIONS]
    if not kept:
        return frame, frame.argmax(1)
    chosen = [max(kept, key=lambda m, row=row: float(row[m])) for row in output.a2f_BTM[0]]
    own = token[:, :-1].exp()
    mixed = (1 - mwt) * (own / own.sum(1, keepdim=True))[chosen] + mwt * frame
    return mixed, mixed.argmax(1)


def built(seed):
    settings = plain.SMALL | {"f": "m2", "hid_dim": 24, "s_layers": 2}
    model = Fact(
        feature_dim=7,
        n_classes=ACTIONS,
        tokens=6,
        blocks=blocks("IUU", settings, {}, {"s_layers": 1}),
        fpos=True,
        transcript=False,
        cmr=0.0,
        parts=(N_VERBS, N_NOUNS, PAIRS),
    )
    with torch.no_grad():
        for parameter in plain.stir(model, seed).parameters():
            parameter.mul_(0.6 if parameter.ndim > 1 else 1)  # attention that is spread: no two matches cost the same
    return model


SETTINGS = LossSettings(pc=0.2, a2fc=1.0, sw=5.0, bgw=0.5, nullw=0.05, match="o2o", avg_segments=4.0, background=(0,))


@pytest.mark.parametrize("seed", range(5))
def test_with_equal_weights_the_loss_is_the_public_codes(seed):
    model = built(seed)
    labels = torch.tensor([0] * 3 + [4] * 2 + [2] * 4 + [0] * 3 + [6] * 2)
    outputs = model(torch.randn(1, len(labels), 7, dtype=torch.float64))
    mask = torch.ones(1, len(labels), dtype=torch.bool)
    found = fact_loss(outputs, targets_of(outputs[-1], labels[None], mask, SETTINGS), SETTINGS)["loss"]
    # Losses are of single precision at least; here the model's is double.
    assert found.item() == pytest.approx(public_loss(outputs, labels, SETTINGS).item(), rel=1e-6)


@pytest.mark.parametrize("mwt", [0.1, 0.9])
@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_with_equal_weights_the_prediction_is_the_public_codes(seed, mwt):
    model = built(seed)
    output = model(torch.randn(1, 30, 7, dtype=torch.float64))[-1]
    wanted, classes = public_prediction(output, mwt)
    found = predict(output, None, mwt)[0]
    assert torch.allclose(found, wanted, atol=1e-6) and torch.equal(found.argmax(1), classes)


def test_the_token_term_is_a_plain_mean_however_little_null_weighs():
    """Of 6 tokens that all miss by log 2 in verb and noun, 1 stands for a segment: (1 + 5 nullw) / 6 of log 2."""
    output = built(0)(torch.randn(1, 4, 7, dtype=torch.float64))[-1]
    labels, mask = torch.full((1, 4), 3), torch.ones(1, 4, dtype=torch.bool)
    targets = targets_of(output, labels, mask, SETTINGS)
    logits = torch.full_like(output.token_logits_BMK, -80.0)
    for token, label in enumerate(targets.token_label_BM[0].tolist()):
        verb, noun = (N_VERBS, N_NOUNS) if label < 0 else PAIRS[label].tolist()
        for own, first, size in ((verb, 0, N_VERBS), (noun, N_VERBS + 1, N_NOUNS)):
            logits[0, token, [first + own, first + (own + 1) % (size + 1)]] = 0.0
    found = token_loss(logits, targets, softmaxes(output), SETTINGS)
    assert found.item() == pytest.approx((1 + 5 * 0.05) / 6 * 0.6931472, rel=1e-6)
