"""FACT as a whole: padding, edges, masks of the input, classes held out, errors."""

import pytest
import torch

from pipeline.heads.fact.blocks import blocks
from pipeline.heads.fact.model import Fact
from pipeline.heads.fact.prediction import predict

from . import plain

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def built(chain="iuU", n_classes=4, tokens=5, transcript=False, cmr=0.0, time_mask=None, parts=None, **settings):
    return Fact(
        feature_dim=7,
        n_classes=n_classes,
        tokens=tokens,
        blocks=blocks(chain, plain.SMALL | settings),
        fpos=True,
        transcript=transcript,
        cmr=cmr,
        time_mask=time_mask,
        parts=parts,
    )


def videos(*lengths, room=3):
    mask = torch.arange(max(lengths) + room) < torch.tensor(lengths)[:, None]
    return torch.where(mask[..., None], 1.0, 40.0) * torch.randn(*mask.shape, 7, dtype=torch.float64), mask


def logits(outputs, b, length):
    """All that a video's losses read, as one vector."""
    parts = []
    for output in outputs:
        parts += [output.frame_logits_BTC[b, :length], output.token_logits_BMK[b]]
        if output.a2f_BTM is not None:
            parts.append(output.a2f_BTM[b, :length])
        if output.segment_logits_BSC is not None:
            parts.append(output.segment_logits_BSC[b][output.segment_mask_BS[b]])
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("f", ["m", "m2", "cnn"])
@pytest.mark.parametrize("chain", ["i", "I", "iu", "iU"])
def test_padding_and_company_change_no_output_and_no_gradient(chain, f):
    model = plain.stir(built(chain, f=f)).train()  # nothing is random: no dropout, no masks
    lengths = (1, 6, 13)
    x, mask = videos(*lengths)
    together = model(x, mask)
    in_batch, alone = 0.0, 0.0
    for b, length in enumerate(lengths):
        own = model(x[b : b + 1, :length])
        mine, theirs = logits(together, b, length), logits(own, 0, length)
        assert torch.allclose(mine, theirs, atol=1e-5)
        in_batch, alone = in_batch + mine.square().sum(), alone + theirs.square().sum()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for a, b in zip(
        torch.autograd.grad(in_batch, parameters, allow_unused=True),
        torch.autograd.grad(alone, parameters, allow_unused=True),
        strict=True,
    ):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_every_parameter_is_trained():
    for chain in ("i", "iuU", "IUU"):
        model = plain.stir(built(chain)).train()
        x, mask = videos(9, 14)
        sum(logits(model(x, mask), b, n).square().sum() for b, n in enumerate((9, 14))).backward()
        # Content of learned tokens starts at zero, so the first values are the bias alone: FACT's design.
        first = "blocks.0.tokens.layers.0.own.value.weight"
        assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if name != first)


@pytest.mark.parametrize("chain", ["i", "I", "iu", "iuUU"])
def test_one_frame_one_token_and_one_class_are_legal(chain):
    model = plain.stir(built(chain, n_classes=1, tokens=1))
    x = torch.randn(1, 1, 7, dtype=torch.float64)
    outputs = model(x)
    assert outputs[-1].frame_logits_BTC.shape == (1, 1, 1)
    assert predict(outputs[-1], None, 0.1).tolist() == [[[1.0]]]


def test_more_segments_than_tokens_are_legal():
    model = plain.stir(built("iuUU", tokens=2))
    output = model(videos(40, 30)[0])[-1]
    assert output.segment_mask_BS.sum(1).max() > 2 and output.token_logits_BMK.shape[1] == 2


def test_inputs_are_left_as_they_were_and_only_training_is_random():
    model = plain.stir(built(cmr=0.5, time_mask=(8, 0.5, 3), dropout=0.2))
    x, mask = videos(12, 15)
    before = x.clone()
    assert all(
        torch.equal(a.frame_logits_BTC, b.frame_logits_BTC) for a, b in zip(model(x, mask), model(x, mask), strict=True)
    )
    model.train()
    torch.manual_seed(1)
    first = model(x, mask)[-1].frame_logits_BTC
    other = model(x, mask)[-1].frame_logits_BTC
    torch.manual_seed(1)
    assert torch.equal(first, model(x, mask)[-1].frame_logits_BTC) and not torch.equal(first, other)
    assert torch.equal(x, before)


def test_blanked_channels_are_blank_for_a_whole_video_and_the_rest_is_scaled_up():
    model = built(cmr=0.25).train()
    x = torch.randn(400, 3, 7) + 5
    ratio = model.blank(x, torch.ones(400, 3, dtype=torch.bool)) / x
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
    blank = ratio[:, 0] < 0.5
    assert torch.allclose(ratio[:, 0][~blank], torch.tensor(4 / 3)) and (ratio[:, 0][blank] == 0).all()
    assert 0.22 < blank.float().mean() < 0.28
    assert model.eval().blank(x, torch.ones(400, 3, dtype=torch.bool)) is x


def test_blanked_windows_are_zero_in_all_channels():
    model = built(time_mask=(10, 0.3, 2)).train()
    x = torch.randn(50, 40, 7) + 5
    gone = model.blank(x, torch.ones(50, 40, dtype=torch.bool)) == 0
    assert torch.equal(gone.any(-1), gone.all(-1)) and 0 < gone.float().mean() < 0.3


@pytest.mark.parametrize("parts", [None, (2, 3, plain.PAIRS)])
@torch.no_grad()
def test_a_class_that_was_held_out_moves_nothing(parts):
    model = plain.stir(built("IUU", parts=parts))
    model.seen[2] = False  # with parts: the pair of verb 1 and noun 2, both of which are seen in others
    x, mask = videos(30, 25)
    before = model(x, mask)
    heldout = {2} if parts is None else set()
    for output in before:
        likeliest = output.classes.likeliest(output.frame_logits_BTC)
        assert 2 not in likeliest[mask]
    assert (predict(before[-1], mask, 0.5)[..., 2] == 0).all()
    if parts is not None:
        return
    for block in model.blocks:  # whatever its classifier says
        for branch in (block.frames, block.tokens, block.segments):
            width = model.classes.channels(null=branch is block.tokens)
            branch.leave.bias[branch.leave.out_features - width + 2] += 50
    keep = [c for c in range(4) if c not in heldout]
    for a, b in zip(before, model(x, mask), strict=True):
        assert torch.equal(a.frame_logits_BTC[..., keep], b.frame_logits_BTC[..., keep])
        assert torch.equal(a.token_logits_BMK[..., [*keep, 4]], b.token_logits_BMK[..., [*keep, 4]])
        assert not torch.equal(a.frame_logits_BTC, b.frame_logits_BTC)


def test_a_class_that_was_held_out_takes_no_gradient_from_what_feeds_on():
    model = plain.stir(built("iu")).train()
    model.seen[1] = False
    model(videos(9)[0])[-1].frame_logits_BTC[..., 0].sum().backward()
    grad = model.blocks[0].frames.leave.weight.grad[-4:]
    assert (grad[1] == 0).all() and grad[0].any() and grad.isfinite().all()


def test_what_was_held_out_is_saved_with_the_weights():
    model = built()
    model.seen[3] = False
    other = built()
    other.load_state_dict(model.state_dict())
    assert other.seen.tolist() == [True, True, True, False]


def test_a_video_longer_than_any_before_has_the_same_positions():
    model = built().eval()
    long = model.position(3000).clone()
    assert torch.equal(model.position(500), long[:500]) and long.shape == (3000, 16)
    assert not any("code" in name for name in model.state_dict())


@torch.no_grad()
def test_half_precision_is_close():
    model = plain.stir(built("iu", f="m2")).float()
    x = videos(30)[0].float()
    wanted = model(x)[-1]
    with torch.autocast("cpu", torch.bfloat16):
        got = model(x)[-1]
    for name in ("frame_logits_BTC", "token_logits_BMK", "a2f_BTM"):
        a, b = getattr(got, name).float(), getattr(wanted, name)
        assert (a - b).abs().mean() < 0.05 * b.abs().mean()
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        full = plain.stir(built("iuUU", f="m2", dropout=0.1)).float().train()
        sum(output.frame_logits_BTC.float().square().sum() for output in full(x)).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in full.parameters())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n_classes": 15}, "raise hid_dim"),
        ({"chain": "ui"}, "i or I first"),
        ({"chain": "iui"}, "i or I first"),
        ({"tokens": 0}, "at least one"),
        ({"cmr": 1.0}, "cmr"),
        ({"time_mask": (0, 0.1, 1)}, "time_mask"),
        ({"parts": (2, 2, plain.PAIRS)}, "nouns under 2"),
        ({"parts": (2, 3, plain.PAIRS[:3])}, "one pair for each class"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_remedy(arguments, says):
    with pytest.raises(ValueError, match=says):
        built(**arguments)


def test_blocks_of_different_widths_are_refused():
    with pytest.raises(ValueError, match=r"a_dim is .* set it in Bi"):
        Fact(
            feature_dim=7,
            n_classes=4,
            tokens=5,
            blocks=blocks("iu", plain.SMALL, {"a_dim": 4}),
            fpos=True,
            transcript=False,
            cmr=0.0,
        )


def test_inputs_that_do_not_fit_are_refused_with_the_remedy():
    model, x = built(), torch.randn(2, 5, 7)
    with pytest.raises(ValueError, match=r"frames have shape .* expected"):
        model(x[..., :6])
    with pytest.raises(ValueError, match="frames >= 1"):
        model(x[:, :0])
    with pytest.raises(ValueError, match=r"torch.bool"):
        model(x, torch.ones(2, 5))
    with pytest.raises(ValueError, match="no frame at all"):
        model(x, torch.tensor([[True] * 5, [False] * 5]))
    with pytest.raises(ValueError, match="no transcript"):
        model(x, None, torch.zeros(2, 1, dtype=torch.int64))
    scripted = built(transcript=True)
    with pytest.raises(ValueError, match="got none"):
        scripted(x)
    with pytest.raises(ValueError, match="at least one segment"):
        scripted(x, None, torch.tensor([[0], [-1]]))


@torch.no_grad()
def test_a_model_with_a_transcript_predicts_among_its_segments_alone():
    model = plain.stir(built("iuU", transcript=True))
    model.blocks[-1].tokens.leave.bias[-5] += 50  # the tokens' classifier takes every segment for class 0
    x, mask = videos(12, 9)
    for given in ([[1, 3, 1], [2, -1, -1]], [[1, 2, -1], [3, 1, 3]]):
        transcript = torch.tensor(given)
        last = model(x, mask, transcript)[-1]
        found = predict(last, mask, 0.5).argmax(-1)
        for b, own in enumerate(given):
            assert set(found[b][mask[b]].tolist()) <= set(own)
        assert (last.token_logits_BMK.argmax(-1) == 0).all()


def test_transcripts_of_no_segment_at_all_are_refused():
    with pytest.raises(ValueError, match="at least one segment"):
        built(transcript=True)(torch.randn(2, 5, 7), None, torch.zeros(2, 0, dtype=torch.int64))
