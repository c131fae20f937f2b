"""Every switch of every trained head, flipped: its loss and its prediction change, or the table says why one does not.

Both are measured as a run does it, from params by way of samples, with weights that are the same wherever two settings
have a parameter in common, and no start from zero that would hide a layer.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import nn

from pipeline.config import Params, ParamsError, override
from pipeline.evaluation.segmentation import row_scores
from pipeline.runs import Run
from pipeline.training.clips import ClipTable
from pipeline.training.frames import Rows
from pipeline.training.registry import HeadError, build, predict
from pipeline.training.tokens import Tokens
from tests.evaluation.clinic import clinic
from tests.later import Later
from tests.training import learnable, procedures

alignment = Later("pipeline.training.alignment")
classification = Later("pipeline.training.classification")
segmentation = Later("pipeline.training.segmentation")


@dataclass(frozen=True)
class Flip:
    """Another value of a switch.

    Attributes:
        to: the value.
        without: why "loss", "prediction" or both do not change; "refused": how params or the model refuse it.
        given: what has to be set for the switch to matter at all.
    """

    to: Any
    without: dict[str, str] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)


RANDOM = {"prediction": "blanks at random, in training alone"}
TAUGHT = {"prediction": "weighs what is taught; a prediction is the weights' own"}
ONE_WIDTH = {"refused": "in different blocks"}
TRUTH = {"prediction": "tokens are matched to the truth, which a prediction has not"}
ANSWER = {"loss": "mixes two answers that are taught each by itself"}

BLOCK: dict[str, Flip] = {
    "a_ffdim": Flip(24), "a_layers": Flip(2), "a_nhead": Flip(4), "dropout": Flip(0.5, RANDOM),
    "f": Flip("m2"), "f_dim": Flip(8), "f_layers": Flip(2), "f_ln": Flip(True),
}  # fmt: skip
FACT: dict[str, Flip] = {
    "model.blocks": Flip("iu"),
    **{f"model.{block}.{name}": flip for block in ("Bi", "Bu", "BU") for name, flip in BLOCK.items()},
    "model.Bi.hid_dim": Flip(40),
    "model.Bi.a_dim": Flip(8),
    **{f"model.{block}.hid_dim": Flip(40, ONE_WIDTH) for block in ("Bu", "BU")},
    **{f"model.{block}.a_dim": Flip(8, ONE_WIDTH) for block in ("Bu", "BU")},
    "model.Bi.s_layers": Flip(2, given={"model.blocks": "Iu"}),
    "model.Bu.s_layers": Flip(2, {"loss": "u makes no segments", "prediction": "u makes no segments"}),
    "model.BU.s_layers": Flip(2),
    "model.tokens": Flip(9),
    "model.frame_positions": Flip(False),
    "model.transcript": Flip(True, given={"loss.match": "seq"}),
    "model.channel_dropout": Flip(0.5, RANDOM),
    "model.time_mask": Flip({"longest": 12, "share": 0.5, "times": 3}, RANDOM),
    "loss.match": Flip("o2m", TRUTH),
    "loss.pc": Flip(0.0, TRUTH, given={"loss.a2fc": 0.1}),
    "loss.a2fc": Flip(0.0, TRUTH),
    "loss.sw": Flip(5.0, TAUGHT),
    "loss.bgw": Flip(0.2, TAUGHT),
    "loss.nullw": Flip(0.05, TAUGHT),
    "mwt": Flip(0.9, ANSWER),
    "sample_rate": Flip(3),
}
FACT_CLIP: dict[str, Flip] = {
    **FACT,
    "model.transcript": Flip(True, {"refused": "a transcript names the classes"}),
    "mwt": Flip(0.9, ANSWER, given={"alignment.target": "both"}),
    "alignment.target": Flip("action_token"),
    "alignment.hidden": Flip(16),
    "alignment.dropout": Flip(0.5, RANDOM),
    "alignment.temperature": Flip(0.5),
    "alignment.w_fact": Flip(0.9, TAUGHT),
    "alignment.w_con": Flip(0.9, TAUGHT),
    "alignment.scoring": Flip("classifier", {"loss": "chooses between two answers, both of which are taught"}),
}
GASM_CAST: dict[str, Flip] = {
    "model.fusion": Flip("vanilla"),
    "model.layers": Flip(2, given={"model.radii": [1, 1]}),
    "model.width": Flip(16),
    "model.attention_heads": Flip(4),
    "model.bottleneck": Flip(16),
    "model.window": Flip("full"),
    "model.graph": Flip("spatial"),
    "model.radii": Flip([0]),
    "model.semantic_neighbours": Flip(5),
    "model.motion_neighbours": Flip(3, given={"model.radii": [0]}),
    "model.dropout": Flip(0.5, RANDOM),
    "model.token_dropout": Flip(0.5, RANDOM),
    "label_smoothing": Flip(0.3, TAUGHT),
    "mixup": Flip(0.8, TAUGHT),
}
UNEQUAL = {"train": ["ann", "bob"], "evaluated": ["ann", "bob"]}  # who drew of one diagnosis less often
PREDICTED = {"model.map_guided_type": "predicted", "model.classifier_source": "video"}
CLIP_ALIGN: dict[str, Flip] = {
    "model.encoder": Flip("2dcnn"),
    "model.map_guided": Flip(False),
    "model.map_guided_type": Flip("channel"),
    "model.sigmoid_gate": Flip(True),
    "model.classifier_source": Flip("video"),
    "model.map_dropout": Flip(0.7, RANDOM),
    "model.map_teach": Flip(1.0, RANDOM, given=PREDICTED),
    "model.width": Flip(16),
    "model.feature_dim": Flip(24),
    "model.embed_dim": Flip(20),
    "model.map_width": Flip(16),
    "model.dropout": Flip(0.6, RANDOM),
    "loss.clip_weight": Flip(0.3, TAUGHT),
    "loss.lambda_token": Flip(0.5, TAUGHT),
    "loss.lambda_map": Flip(3.0, TAUGHT, given=PREDICTED),
    "loss.class_weights": Flip(True, TAUGHT, given={"clinicians": UNEQUAL}),
    "compat": Flip("published", given={"model.encoder": "2dcnn"}),
    "label_smoothing": Flip(0.3, TAUGHT),
}
HEADS = {"fact": FACT, "fact_clip": FACT_CLIP, "gasm_cast": GASM_CAST, "clip_align": CLIP_ALIGN}

# (head, what is set, the switch that is idle then, another value), as the docs of the models say.
IDLE = [
    ("fact", {"model.transcript": True, "loss.match": "seq"}, "model.tokens", 9),
    ("fact_clip", {"alignment.target": "frame"}, "mwt", 0.9),  # one answer alone is compared with texts
    ("fact_clip", {"alignment.target": "logit"}, "mwt", 0.9),
    ("gasm_cast", {"model.fusion": "concat"}, "model.window", "full"),
    ("gasm_cast", {"model.fusion": "vanilla"}, "model.bottleneck", 16),
    ("gasm_cast", {"model.graph": "none"}, "model.radii", [0]),
    ("gasm_cast", {"model.graph": "none"}, "model.semantic_neighbours", 5),
    ("gasm_cast", {"model.graph": "learned"}, "model.radii", [0]),
    ("gasm_cast", {"model.graph": "dense"}, "model.radii", [0]),
    ("gasm_cast", {"model.graph": "dense"}, "model.motion_neighbours", 5),
    ("gasm_cast", {"model.graph": "spatial"}, "model.semantic_neighbours", 5),
    ("clip_align", {"model.map_guided": False}, "model.map_guided_type", "channel"),
    ("clip_align", {"model.map_guided_type": "weighted_pool"}, "model.sigmoid_gate", True),
    ("clip_align", {"model.map_guided_type": "weighted_pool"}, "model.map_teach", 1.0),
    ("clip_align", {"model.map_guided": False}, "loss.lambda_map", 3.0),
]

# What is no switch of a head's function.
ELSEWHERE = {
    "what is trained, and what is read": {
        "kind",
        "dataset", "features", "vocabulary", "unseen", "stand_ins", "train_split", "eval_split", "holdout",
        "holdout_split", "tolerance", "clinicians", "fraction",
    },
    "how the weights are come by, in which both have their part": {
        "seed", "lr", "batch_size", "epochs", "warmup_epochs", "decay_epoch", "weight_decay", "clip_norm", "ema_decay",
        "patience", "max_trainable", "accumulate", "gradient_checkpointing", "compile",
    },
    "by `inference` and by the trainer, for any head": {"precision"},
    "of the figures, after the prediction": {
        "result", "bootstrap", "calibration_bins", "elsewhere", "with_background", "decode",
    },
}  # fmt: skip


def leaves(model: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of what can be set."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


class Made(NamedTuple):
    """A head's params and what it reads."""

    params: Params
    manifest: Any
    stores: dict[str, Any]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[str, Made]:
    def root(name: str):
        return tmp_path_factory.mktemp(name)

    videos = procedures.make(root("videos"))
    tokens = learnable.make(root("tokens"), train=4, validation=2)
    here = root("clinic")
    clips = clinic(here)
    stores = {"tokens": here / "clips-keyclips", "maps": here / "attention-keymaps"}
    return {
        **{head: Made(videos.params, videos.manifest, videos.features(head)) for head in ("fact", "fact_clip")},
        "gasm_cast": Made(tokens.params, tokens.manifest, tokens.features),
        "clip_align": Made(clips.params, here / "manifest.parquet", stores),
    }


@pytest.fixture(scope="module")
def measured(worlds):
    """(head, changes) -> loss and prediction."""

    @cache
    def measure(head: str, changes: str) -> tuple[float, np.ndarray]:
        world = worlds[head]
        config = override(world.params.head(head), json.loads(changes))
        params = world.params.replacing(head, config)
        samples = Run(params, head, world.manifest, world.stores, Path()).samples
        model = build(head, config, samples)
        scatter(model)
        return loss_and_prediction(head, model, config, samples)

    return lambda head, changes: measure(head, json.dumps(changes))


@torch.no_grad()
def scatter(model: nn.Module) -> None:
    """Weights that follow from their names and shapes."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(crc32(f"{name}{tuple(parameter.shape)}".encode()))
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def loss_and_prediction(head: str, model: nn.Module, config: Any, samples: Any) -> tuple[float, np.ndarray]:
    ids = samples.parts["train"][:6]
    tables = {"fact": Rows, "fact_clip": Rows, "gasm_cast": Tokens, "clip_align": ClipTable}
    batch = tables[head](samples, ids, 1e9)[list(range(len(ids)))]
    modules = {"gasm_cast": classification.ClassificationStep, "clip_align": alignment.AlignmentStep}
    module = modules.get(head, segmentation.SegmentationStep)(head, model, config, samples, 1)
    module.log = lambda *_, **__: None
    module.on_train_batch_start(batch, 0)  # its draws
    loss = float(module.train().training_step(batch, 0).detach())
    model.eval()
    with torch.inference_mode():
        if head == "gasm_cast":
            return loss, predict(model, batch, ("semantic", "motion")).softmax(-1).numpy().ravel()
        if head == "clip_align":
            own, without = model(batch["tokens"], batch["maps"], batch["has_map"]), model(batch["tokens"])
            found = own.logits.softmax(-1), without.logits.softmax(-1), own.video_embed, own.attn_embed
            return loss, torch.cat([of.flatten() for of in found]).numpy()
        scores = list(row_scores(model, config, samples, [batch]))
        return loss, np.concatenate([of[samples.row_of_label[id]].ravel() for id, of in zip(ids, scores, strict=True)])


@pytest.mark.parametrize("head", HEADS)
def test_every_switch_is_in_the_table_or_is_none(worlds, head):
    config = worlds[head].params.head(head)
    elsewhere = set().union(*ELSEWHERE.values())
    switches = {name for name in leaves(config) if name.partition(".")[0] not in elsewhere}
    assert switches == HEADS[head].keys()


@pytest.mark.parametrize(("head", "name"), [(head, name) for head, table in HEADS.items() for name in table])
def test_a_switch_is_honoured_by_training_and_by_prediction(measured, head, name):
    flip = HEADS[head][name]
    if "refused" in flip.without:
        with pytest.raises((ParamsError, HeadError), match=flip.without["refused"]):
            measured(head, {name: flip.to})
        return
    (loss, before), (other, after) = measured(head, flip.given), measured(head, {**flip.given, name: flip.to})
    assert np.isfinite([loss, other]).all()
    assert (loss == other) == ("loss" in flip.without), (loss, other)
    assert np.array_equal(before, after) == ("prediction" in flip.without)


@pytest.mark.parametrize(("head", "given", "name", "to"), IDLE)
def test_a_switch_that_has_no_meaning_beside_another_changes_nothing(measured, head, given, name, to):
    (loss, before), (other, after) = measured(head, given), measured(head, {**given, name: to})
    assert loss == other and np.array_equal(before, after)
