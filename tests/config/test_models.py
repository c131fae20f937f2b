"""What params accept of a head's model, the model can be made of and run with; what they refuse, it refuses, too."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.heads.clip_align.config import ClipAlignModel
from pipeline.heads.clip_align.model import ClipAlign
from pipeline.heads.fact.blocks import blocks
from pipeline.heads.fact.config import FactModel
from pipeline.heads.fact.model import Fact, TimeMask
from pipeline.heads.gasm_cast.config import GasmCastModel
from pipeline.heads.gasm_cast.model import GasmCast

FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
SHARES = st.sampled_from([0.0, 0.5])


def accepted(kind, document):
    """The model as params hold it, or None."""
    try:
        return kind(**document)
    except ValidationError:
        return None


@FEW
@given(
    st.fixed_dictionaries(
        {
            "fusion": st.sampled_from(["cast", "vanilla", "concat", "semantic", "motion", "probe"]),
            "layers": st.integers(1, 3),
            "width": st.sampled_from([12, 24, 7]),
            "attention_heads": st.integers(1, 4),
            "bottleneck": st.sampled_from([12, 24, 10]),
            "window": st.sampled_from(["cell", "full"]),
            "graph": st.sampled_from(["full", "spatial", "none"]),
            "radii": st.lists(st.sampled_from([1, 2, 0, -1, 3, -1, -2]), min_size=1, max_size=4).map(tuple),
            "semantic_neighbours": st.integers(0, 9),
            "motion_neighbours": st.integers(0, 9),
            "dropout": SHARES,
            "token_dropout": SHARES,
        }
    )
)
def test_gasm_cast_is_made_of_what_params_accept_and_of_nothing_else(document):
    grids = {"steps": 3, "semantic_grid": (4, 4), "motion_grid": (2, 2)}
    try:
        model = GasmCast(semantic_dim=24, motion_dim=12, n_classes=3, **grids, **document)
    except ValueError:
        model = None
    assert (model is None) == (accepted(GasmCastModel, document) is None)
    if model is not None:
        times = torch.arange(3.0).expand(2, 3)
        assert model(torch.randn(2, 3, 16, 24), torch.randn(2, 3, 4, 12), times).shape == (2, 3)


BLOCK = {
    "a_dim": st.sampled_from([3, 4, 6, 12, 24]),
    "a_ffdim": st.integers(1, 4),
    "a_layers": st.integers(1, 2),
    "a_nhead": st.integers(1, 3),
    "f": st.sampled_from(["m", "m2", "cnn"]),
    "f_dim": st.integers(1, 4),
    "f_layers": st.integers(1, 5),
    "f_ln": st.booleans(),
    "dropout": SHARES,
    "hid_dim": st.sampled_from([9, 12, 14]),
    "s_layers": st.integers(1, 2),
}


CHANGED = st.sampled_from(sorted(BLOCK)).flatmap(lambda name: st.fixed_dictionaries({name: st.none() | BLOCK[name]}))


@settings(FEW, max_examples=100)
@given(
    st.from_regex("[iI][uU]{0,2}", fullmatch=True),
    st.fixed_dictionaries(BLOCK),
    st.just({}) | CHANGED,
    st.just({}) | CHANGED,
    st.sampled_from([None] * 9 + sorted(BLOCK)),
    st.booleans(),
    st.booleans(),
)
def test_fact_is_made_of_what_params_accept_and_of_nothing_else(chain, Bi, Bu, BU, absent, positions, transcript):
    Bi = {name: value for name, value in Bi.items() if name != absent}
    document = {"blocks": chain, "Bi": Bi, "Bu": Bu, "BU": BU, "tokens": 3}
    document |= {
        "frame_positions": positions,
        "transcript": transcript,
        "time_mask": {"longest": 3, "share": 0.5, "times": 1},
    }
    chosen = accepted(FactModel, document)
    try:
        given_blocks = [{name: value for name, value in block.items()} for block in (Bi, Bu, BU)]
        mask = TimeMask(3, 0.5, 1)
        model = Fact(
            feature_dim=5, n_classes=2, tokens=3, blocks=blocks(chain, *given_blocks), fpos=positions,
            transcript=transcript, cmr=0.3, time_mask=mask,
        )  # fmt: skip
        read = torch.tensor([[0, 1], [1, -1]]) if transcript else None
        answers = model(torch.randn(2, 7, 5), None, read)
    except (ValueError, RuntimeError):
        answers = None
    assert (answers is None) == (chosen is None)
    if answers is not None:
        assert answers[-1].frame_logits_BTC.shape == (2, 7, 2)
        assert [block.a_dim for _, block in chosen.chain] == [block.a_dim for block in blocks(chain, *given_blocks)]


@FEW
@given(
    st.fixed_dictionaries(
        {
            "encoder": st.sampled_from(["3dcnn", "2dcnn", "cnn_lstm"]),
            "map_guided": st.booleans(),
            "map_guided_type": st.sampled_from(
                ["predicted", "spatiotemporal", "channel", "weighted_pool", "summary_gate"]
            ),
            "sigmoid_gate": st.booleans(),
            "classifier_source": st.sampled_from(["video", "attn", "fusion"]),
            "map_dropout": SHARES,
            "map_teach": st.floats(0, 1),
            "width": st.sampled_from([8, 16, 12]),
            "feature_dim": st.integers(1, 5),
            "embed_dim": st.integers(2, 5),
            "map_width": st.sampled_from([8, 16, 12]),
            "dropout": SHARES,
        }
    )
)
def test_clip_align_is_made_of_what_params_accept_and_of_nothing_else(document):
    rest = dict(document)
    guided, kind, sigmoid = (rest.pop(name) for name in ("map_guided", "map_guided_type", "sigmoid_gate"))
    try:
        model = ClipAlign(
            6, (2, 2, 3), 3, guidance=kind if guided else "none", gate="sigmoid" if sigmoid else "linear", **rest
        )
    except ValueError:
        model = None
    assert (model is None) == (accepted(ClipAlignModel, document) is None)
    if model is not None:
        assert model(torch.randn(2, 2, 6, 6), torch.rand(2, 1, 2, 4, 6)).logits.shape == (2, 3)
