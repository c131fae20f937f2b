"""Two programs written apart from the same description give the same answers: the plain FACT and the head."""

import pytest
import torch

from benchmarks import _fact_plain as plain
from pipeline.heads.fact.blocks import blocks
from pipeline.heads.fact.losses import LossSettings, fact_loss, targets_of
from pipeline.heads.fact.model import Fact
from pipeline.heads.fact.prediction import predict

CLASSES, TOKENS, FRAMES = 7, 6, 66
SETTINGS = LossSettings(pc=0.2, a2fc=1.0, sw=5.0, bgw=1.0, nullw=-1.0, match="o2o", avg_segments=4.0)
CLOSE = dict(rtol=1e-5, atol=1e-6)  # the losses weigh in single precision


def both(chain: str, f: str, norm: bool, a_dim: int, fpos: bool):
    """The head and the plain program with its weights, in double precision."""
    entry = dict(hid_dim=24, dropout=0.0, a_dim=a_dim, a_ffdim=20, a_layers=3, a_nhead=2)
    entry |= dict(f=f, f_dim=12, f_layers=4, f_ln=norm, s_layers=1)
    chained = blocks(chain, entry, {"f_layers": 3, "a_layers": 1})
    head = Fact(
        feature_dim=10, n_classes=CLASSES, tokens=TOKENS, blocks=chained, fpos=fpos, transcript=False, cmr=0.0
    ).double()
    other = plain.PlainFact(10, CLASSES, TOKENS, chained, fpos=fpos).double()
    plain.load(other, head.state_dict())
    return head, other


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chain", ["iu", "iU", "iuUU"])
@pytest.mark.parametrize(
    "f, norm, a_dim, fpos", [("m", True, 16, True), ("m", False, 24, False), ("m2", False, 16, False)]
)
def test_answers_loss_and_gradients_are_the_same(chain, f, norm, a_dim, fpos, seed):
    torch.manual_seed(seed)
    head, other = both(chain, f, norm, a_dim, fpos)
    frames = torch.randn(1, FRAMES, 10, dtype=torch.float64)
    # More segments than tokens, all of different lengths, so that no two assignments cost the same.
    labels = torch.randint(CLASSES, (11,)).repeat_interleave(1 + torch.randperm(11))[None]
    mask = torch.ones(1, FRAMES, dtype=torch.bool)
    outputs, answers = head(frames), other(frames[0])
    for output, answer in zip(outputs, answers, strict=True):
        torch.testing.assert_close(output.frame_logits_BTC[0], answer.frame_TC)
        torch.testing.assert_close(output.token_logits_BMK[0], answer.token_MK)
        for mine, theirs in ((output.a2f_BTM, answer.a2f_TM), (output.segment_logits_BSC, answer.segment_SC)):
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.testing.assert_close(mine[0], theirs) is None
    torch.testing.assert_close(predict(outputs[-1], mask, 0.3)[0].double(), plain.predict(answers[-1], 0.3))

    loss = fact_loss(outputs, targets_of(outputs[-1], labels, mask, SETTINGS), SETTINGS)["loss"]
    expected = plain.loss_of(answers, labels[0], SETTINGS)
    torch.testing.assert_close(loss, expected, **CLOSE)
    loss.backward()
    expected.backward()
    expected = gradients(other)
    plain.load(other, gradients(head))  # a gradient lies as its weight does
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(parameter.data, expected[name], **CLOSE, msg=lambda t, name=name: f"{name}: {t}")
