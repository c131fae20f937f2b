"""Prediction against a loop over frames."""

import math

import pytest
import torch

from pipeline.heads.fact.classes import Classes
from pipeline.heads.fact.outputs import BlockOutput
from pipeline.heads.fact.prediction import predict

from . import plain


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def predicted_by_loops(frame_TC, token_MK, a2f_TM, mwt, seen, parts):
    """One video. Classes held out are struck from the lists before anything else."""
    live = [a for a in range(len(seen)) if seen[a]]

    def log_p(row, null):
        if parts is None:
            logits = {a: float(row[a]) for a in live} | ({"null": float(row[-1])} if null else {})
            total = math.log(sum(math.exp(x) for x in logits.values()))
            return {a: x - total for a, x in logits.items()}
        n_verbs, n_nouns, pairs = parts
        names, at = [], 0
        for column, size in enumerate((n_verbs, n_nouns)):
            own = {int(pairs[a, column]) for a in live}
            logits = {c: float(row[at + c]) for c in own} | ({"null": float(row[at + size])} if null else {})
            total = math.log(sum(math.exp(x) for x in logits.values()))
            names.append({c: x - total for c, x in logits.items()})
            at += size + null
        both = {a: names[0][int(pairs[a, 0])] + names[1][int(pairs[a, 1])] for a in live}
        return both | ({"null": names[0]["null"] + names[1]["null"]} if null else {})

    def among(log, total=1.0):
        return torch.tensor([math.exp(log[a]) / total if a in live else 0.0 for a in range(len(seen))])

    tokens = [log_p(row, True) for row in token_MK]
    kept = [m for m, log in enumerate(tokens) if max(log, key=log.get) != "null"]
    rows = []
    for frame, attention in zip(frame_TC, a2f_TM, strict=True):
        own = among(log_p(frame, False))
        if kept:
            chosen = max(kept, key=lambda m: float(attention[m]))
            without_null = sum(math.exp(tokens[chosen][a]) for a in live)
            own = (1 - mwt) * among(tokens[chosen], without_null) + mwt * own
        rows.append(own)
    return torch.stack(rows)


@pytest.mark.parametrize("hidden", [(), (1,), (0, 2)])
@pytest.mark.parametrize("parts", [None, (2, 3, plain.PAIRS)])
@pytest.mark.parametrize("mwt", [0.0, 0.1, 1.0])
def test_each_frame_mixes_its_token_and_itself_as_a_loop_does(mwt, parts, hidden):
    lengths, tokens = [1, 6, 9], [4, 2, 3]
    channels = (4, 5) if parts is None else (5, 7)
    seen = torch.tensor([a not in hidden for a in range(4)])
    frame, token = torch.randn(3, 9, channels[0]) * 2, torch.randn(3, 4, channels[1]) * 2
    token[2, :, -1] += 20  # every token of this video is null
    if parts:
        token[2, :, 2] += 20
    token_mask = torch.arange(4) < torch.tensor(tokens)[:, None]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    a2f = torch.randn(3, 9, 4).masked_fill(~token_mask[:, None], -math.inf)
    output = BlockOutput(
        frame_logits_BTC=frame,
        token_logits_BMK=token,
        frame_features_BTH=torch.zeros(3, 9, 1),
        token_features_BMH=torch.zeros(3, 4, 1),
        token_mask_BM=token_mask,
        a2f_BTM=a2f,
        classes=Classes(seen, *parts) if parts else Classes(seen),
    )
    got = predict(output, mask, mwt)
    for b, (length, n) in enumerate(zip(lengths, tokens, strict=True)):
        wanted = predicted_by_loops(frame[b, :length], token[b, :n], a2f[b, :length, :n], mwt, seen, parts)
        assert torch.allclose(got[b, :length], wanted, atol=1e-5)
        assert (got[b, length:] == 0).all()
    if parts is None:
        assert torch.allclose(got[mask].sum(-1), torch.ones(int(mask.sum())))


def with_transcript(class_BM, token_mask_BM, a2f_BTM, frame_BTC, classes=None):
    tokens = torch.zeros(*class_BM.shape, 1)
    return BlockOutput(
        frame_logits_BTC=frame_BTC,
        token_logits_BMK=torch.randn(*class_BM.shape, frame_BTC.shape[2] + 1 + (classes is not None)) * 9,
        frame_features_BTH=torch.zeros(*frame_BTC.shape[:2], 1),
        token_features_BMH=tokens,
        token_mask_BM=token_mask_BM,
        token_class_BM=class_BM,
        a2f_BTM=a2f_BTM.masked_fill(~token_mask_BM[:, None], -math.inf),
        classes=classes,
    )


@pytest.mark.parametrize("parts", [None, (2, 3, plain.PAIRS)])
@pytest.mark.parametrize("mwt", [0.0, 0.3, 1.0])
def test_with_a_transcript_each_frame_has_the_class_of_its_best_position(mwt, parts):
    """argmax over positions, class = transcript[position], whatever the tokens' classifier says."""
    transcripts, lengths = [[2], [1, 3, 1, 0], [3, 2, 3]], [2, 12, 7]
    class_BM = torch.tensor([row + [-1] * (4 - len(row)) for row in transcripts])
    frame = torch.randn(3, 12, 4 if parts is None else 5) * 2
    classes = None if parts is None else Classes(torch.ones(4, dtype=torch.bool), *parts)
    output = with_transcript(class_BM, class_BM >= 0, torch.randn(3, 12, 4) * 2, frame, classes)
    got = predict(output, torch.arange(12) < torch.tensor(lengths)[:, None], mwt)
    for b, (own, length) in enumerate(zip(transcripts, lengths, strict=True)):
        for t in range(length):
            attention = [math.exp(float(x)) for x in output.a2f_BTM[b, t, : len(own)]]
            if parts is None:
                p = frame[b, t].softmax(0).tolist()
            else:
                verb, noun = frame[b, t, :2].softmax(0), frame[b, t, 2:].softmax(0)
                p = [float(verb[v] * noun[n]) for v, n in plain.PAIRS.tolist()]
            score = [(1 - mwt) * x / sum(attention) + mwt * p[a] for x, a in zip(attention, own, strict=True)]
            best = max(range(len(own)), key=score.__getitem__)
            assert int(got[b, t].argmax()) == own[best] and float(got[b, t].max()) == pytest.approx(score[best])
            assert (got[b, t, [a for a in range(4) if a not in own]] == 0).all()
        assert (got[b, length:] == 0).all()


def test_a_class_that_comes_twice_in_a_transcript_does_not_win_by_adding_up():
    a2f = torch.log(torch.tensor([[[0.3, 0.4, 0.3]]]))
    output = with_transcript(torch.tensor([[1, 0, 1]]), torch.ones(1, 3) > 0, a2f, torch.zeros(1, 1, 2))
    assert predict(output, None, 0.0)[0, 0].tolist() == pytest.approx([0.4, 0.3])


def test_a_block_without_attention_over_tokens_is_refused():
    output = BlockOutput(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), *(torch.zeros(1, 2, 1),) * 2, torch.ones(1, 2) > 0)
    with pytest.raises(ValueError, match="last block"):
        predict(output, None, 0.1)
