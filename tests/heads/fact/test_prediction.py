"""Prediction against a loop over frames."""

import math

import pytest
import torch

from pipeline.heads.fact import BlockOutput, Classes, predict

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

    def among(log, wanted):
        total = sum(math.exp(log[a]) for a in wanted)
        return torch.tensor([math.exp(log[a]) / total if a in wanted else 0.0 for a in range(len(seen))])

    tokens = [log_p(row, True) for row in token_MK]
    kept = [m for m, log in enumerate(tokens) if max(log, key=log.get) != "null"]
    rows = []
    for frame, attention in zip(frame_TC, a2f_TM, strict=True):
        own = among(log_p(frame, False), live)
        if kept:
            chosen = max(kept, key=lambda m: float(attention[m]))
            own = (1 - mwt) * among(tokens[chosen], live) + mwt * own
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
    assert torch.allclose(got[mask].sum(-1), torch.ones(int(mask.sum())))


def test_a_block_without_attention_over_tokens_is_refused():
    output = BlockOutput(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), *(torch.zeros(1, 2, 1),) * 2, torch.ones(1, 2) > 0)
    with pytest.raises(ValueError, match="last block"):
        predict(output, None, 0.1)
