"""Chains of blocks: their settings, and every answer of every block against the definition, video by video."""

import pytest
import torch

from pipeline.heads.fact.blocks import BlockSettings, blocks
from pipeline.heads.fact.model import Fact

from . import plain

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small(chain, n_classes=4, parts=None, transcript=False, fpos=True, tokens=5, **settings):
    model = Fact(
        feature_dim=7,
        n_classes=n_classes,
        tokens=tokens,
        blocks=blocks(chain, plain.SMALL | settings),
        fpos=fpos,
        transcript=transcript,
        cmr=0.3,
        time_mask=(4, 0.5, 2),
        parts=parts,
    )
    return plain.stir(model)


def test_what_u_leaves_unset_comes_from_i_and_what_U_leaves_unset_from_the_block_before():
    made = blocks("iuUU", plain.SMALL | {"f_layers": 10}, {"f_layers": 5, "a_layers": 1, "dropout": None}, {"f": "cnn"})
    assert [block.kind for block in made] == list("iuUU")
    assert [block.f_layers for block in made] == [10, 5, 5, 5]
    assert [block.a_layers for block in made] == [2, 1, 1, 1]
    assert [block.f for block in made] == ["m", "m", "cnn", "cnn"]
    assert blocks("iUu", plain.SMALL, {}, {"f_layers": 1})[2].f_layers == plain.SMALL["f_layers"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"f": "m3"}, "m, m2, cnn"),
        ({"f": "m2", "f_ln": True}, "set f_ln to false"),
        ({"hid_dim": 15}, "even"),
        ({"a_nhead": 3}, "does not divide"),
        ({"a_dim": 32}, "raise hid_dim"),
        ({"kind": "x"}, "expected one of i, I, u, U"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_remedy(settings, says):
    with pytest.raises(ValueError, match=says):
        BlockSettings(**({"kind": "i"} | plain.SMALL | settings))


@pytest.mark.parametrize(
    ("chain", "Bi", "says"),
    [
        ("ix", plain.SMALL, "unknown"),
        ("i", {"f": "m"}, "lacks .*hid_dim"),
        ("i", plain.SMALL | {"wide": 3}, "has no wide"),
    ],
)
def test_chains_that_cannot_be_made_are_refused(chain, Bi, says):
    with pytest.raises(ValueError, match=says):
        blocks(chain, Bi)


CASES = [
    ("i", {}),
    ("I", {"s_layers": 2}),
    ("iu", {"f": "m2"}),
    ("iU", {"fpos": False}),
    ("iuUU", {"f": "m2", "f_layers": 4}),
    ("iuU", {"f": "cnn", "f_ln": True, "transcript": True}),
    ("IUuU", {"tokens": 1}),
    ("IUU", {"parts": (2, 3, plain.PAIRS)}),
    ("iuU", {"parts": (2, 3, plain.PAIRS), "transcript": True}),
    ("iuU", {"n_classes": 1}),
]


@pytest.mark.parametrize(("chain", "case"), CASES, ids=[f"{chain}-{'-'.join(case)}" for chain, case in CASES])
@torch.no_grad()
def test_every_answer_of_every_block_is_the_definitions_for_each_video_of_a_padded_batch(chain, case):
    model = small(chain, **case)
    lengths, transcripts = [1, 9, 14], [[0], [1, 0, 2], [2, 3]] if case.get("transcript") else [None] * 3
    mask = torch.arange(16) < torch.tensor(lengths)[:, None]
    x = torch.where(mask[..., None], 1.0, 50.0) * torch.randn(3, 16, 7, dtype=torch.float64)
    transcript = torch.tensor([[0, -1, -1], [1, 0, 2], [2, 3, -1]]) if case.get("transcript") else None
    got = model(x, mask, transcript)
    kinds = [(kind, case.get("f", "m")) for kind in chain]
    segments = 0
    for b, (length, own) in enumerate(zip(lengths, transcripts, strict=True)):
        n_tokens = case.get("tokens", 5) if own is None else len(own)
        for kind, output, wanted in zip(chain, got, plain.fact(model, kinds, x[b, :length], own), strict=True):

            def same(mine, name, wanted=wanted):
                assert torch.allclose(mine, wanted[name], atol=1e-6), name

            same(output.frame_logits_BTC[b, :length], "frame_logits")
            same(output.frame_features_BTH[b, :length], "frame_features")
            same(output.token_logits_BMK[b, :n_tokens], "token_logits")
            same(output.token_features_BMH[b, :n_tokens], "token_features")
            assert output.token_mask_BM[b].sum() == n_tokens
            if kind in "IU":
                n_segments = len(wanted["segment_logits"])
                segments = max(segments, n_segments)
                same(output.segment_logits_BSC[b, :n_segments], "segment_logits")
                assert output.segment_mask_BS[b].sum() == n_segments
                assert output.segment_of_frame_BT[b].tolist() == wanted["segment_of_frame"] + [-1] * (16 - length)
            if "a2f" not in wanted:
                assert output.a2f_BTM is None and output.f2a_BMT is None and output.f2a_BMS is None
                continue
            if kind in "IU":
                assert output.f2a_BMT is None
                same(output.f2a_BMS[b, :n_tokens, :n_segments], "f2a")
                assert (output.f2a_BMS[b, :, n_segments:] == -torch.inf).all()
                same(output.a2f_BSM[b, :n_segments, :n_tokens], "a2f")
                repeated = wanted["a2f"][wanted["segment_of_frame"]]
                assert torch.allclose(output.a2f_BTM[b, :length, :n_tokens], repeated, atol=1e-6)
            else:
                same(output.f2a_BMT[b, :n_tokens, :length], "f2a")
                assert (output.f2a_BMT[b, :, length:] == -torch.inf).all()
                same(output.a2f_BTM[b, :length, :n_tokens], "a2f")
            assert (output.a2f_BTM[b, :, n_tokens:] == -torch.inf).all()
    if {"U", "I"} & set(chain) and case.get("n_classes") != 1:
        assert segments > 2, "the segments of this test are too few to show anything"
