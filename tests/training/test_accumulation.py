"""A batch in parts has the gradients of the whole batch, whatever its loss compares; what does not fit is divided."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import nn

from pipeline.config import ParamsError, override, parse_params
from pipeline.runs import Run
from pipeline.training import accumulation
from pipeline.training.accumulation import Draws, Part, checkpointed, of_means, of_outputs, parts
from pipeline.training.registry import HeadError
from tests.evaluation.clinic import clinic
from tests.later import Later, train
from tests.training.learnable import HEAD, Made
from tests.training.procedures import make

classification = Later("pipeline.training.classification")
trainer = Later("pipeline.training.trainer")

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def step_of(run: Run, **changes) -> tuple:
    """A run's step in double precision, in training, and a batch of nine."""
    run = Run(
        run.params.replacing(run.head, override(run.config, changes)), run.head, run.manifest, run.features, run.folder
    )
    torch.manual_seed(0)
    model = trainer.build(run.head, run.config, run.samples)
    with torch.no_grad():  # no start from zero that would hide a layer
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    step = run.task.code("step")(run.head, model, run.config, run.samples, 4).double().train()
    step.log = lambda *args, **kwargs: None
    batch = run.table(run.samples.parts["train"])[list(range(9))]
    return step, {name: of.double() if of.is_floating_point() else of for name, of in batch.items()}


def learned(step, batch, accumulate: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a step, and the gradients that its backward leaves."""
    step.divide(accumulate)
    step.zero_grad(set_to_none=True)
    torch.manual_seed(step.drawn)
    loss = step.training_step(batch, 0)
    loss.backward()
    return loss.detach(), {name: of.grad for name, of in step.model.named_parameters() if of.grad is not None}


def double(monkeypatch) -> None:
    """Features are read as they are, where a head would make single precision of them."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.double())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    here = tmp_path_factory.mktemp("clips")
    made = clinic(here)
    stores = {"tokens": here / "clips-keyclips", "maps": here / "attention-keymaps"}
    return Run(made.params, "clip_align", here / "manifest.parquet", stores, here / "run")


@pytest.mark.parametrize("accumulate", [2, 4, 9])
@pytest.mark.parametrize("changes", [{}, {"mixup": 0.0}, {"gradient_checkpointing": True}], ids=str)
def test_a_classifier_s_gradients_in_parts_are_those_of_the_batch_dropout_and_mixup_included(
    made, tmp_path, monkeypatch, changes, accumulate
):
    double(monkeypatch)
    step, batch = step_of(made.run(tmp_path / "run", model__dropout=0.4, model__token_dropout=0.3), **changes)
    if step.config.gradient_checkpointing:
        assert checkpointed(step.model, step.config.blocks_in) == 1
    step.share = 0.3
    loss, gradients = learned(step, batch, 1)
    again, found = learned(step, batch, accumulate)
    assert len(gradients) > 20
    torch.testing.assert_close(again, loss, **CLOSE)
    torch.testing.assert_close(found, gradients, **CLOSE)
    other, _ = learned(step, batch | {"label": batch["label"].roll(1)}, accumulate)
    assert not torch.isclose(other, loss)


@pytest.mark.parametrize("changes", [
    {}, {"loss.lambda_token": 0.5}, {"loss.class_weights": True}, {"loss.clip_weight": 0.0},
    {"loss.lambda_token": 0.5, "compat": "published"},
    {"model.map_guided_type": "predicted", "model.classifier_source": "video", "model.map_dropout": 0.0},
], ids=str)  # fmt: skip
def test_a_contrast_in_parts_is_still_one_over_the_whole_batch(clips, monkeypatch, changes):
    double(monkeypatch)
    step, batch = step_of(clips, **{"model.dropout": 0.3, "model.map_dropout": 0.4, **changes})
    loss, gradients = learned(step, batch, 1)
    assert any("log_scale" in name for name in gradients) == (changes.get("loss.clip_weight") != 0.0)
    for accumulate in (2, 4, 9):
        again, found = learned(step, batch, accumulate)
        torch.testing.assert_close(again, loss, **CLOSE)
        torch.testing.assert_close(found, gradients, **CLOSE)
    if step.settings.clip_weight:
        # Whoever averages the losses of the parts has fewer negatives, and another loss.
        halves = [step.training_step({name: of[rows] for name, of in batch.items()}, 0).detach()
                  for rows in (slice(0, 5), slice(5, 9)) if not step.divide(1)]  # fmt: skip
        assert abs(float((halves[0] * 5 + halves[1] * 4) / 9 - loss)) > 1e-3


@pytest.fixture(scope="module")
def procedures(tmp_path_factory):
    return make(tmp_path_factory.mktemp("videos"))


@pytest.mark.parametrize(("head", "match"), [("fact", "o2o"), ("fact_clip", "o2m")])
def test_videos_are_matched_each_alone_so_that_a_segmentation_s_gradients_in_parts_are_those_of_the_batch(
    procedures, tmp_path, monkeypatch, head, match
):
    double(monkeypatch)
    run = Run(procedures.params, head, procedures.manifest, procedures.features(head), tmp_path / "run")
    step, batch = step_of(run, **{"batch_size": 9, "loss.match": match, "model.channel_dropout": 0.4})
    loss, gradients = learned(step, batch, 1)
    assert len(gradients) > 20
    for accumulate in (2, 9):
        again, found = learned(step, batch, accumulate)
        torch.testing.assert_close(again, loss, **CLOSE)
        torch.testing.assert_close(found, gradients, **CLOSE)
    other, _ = learned(step, batch | {"labels": batch["labels"].roll(1, 0)}, 2)
    assert not torch.isclose(other, loss)


@pytest.mark.parametrize("loss", ["label", "labels", "target"])
def test_means_over_samples_are_weighed_by_how_many_a_part_has(loss):
    torch.manual_seed(0)
    layer = nn.Linear(6, 3).double()
    x, label, target = torch.randn(7, 6).double(), torch.randint(3, (7,)), torch.rand(7, 3).double()

    def mean(part: Part) -> torch.Tensor:
        rows = slice(part.start, part.stop)
        if loss == "label":
            return F.cross_entropy(layer(x[rows]), label[rows], label_smoothing=0.1)
        one = F.binary_cross_entropy_with_logits if loss == "labels" else F.mse_loss
        return one(layer(x[rows]), target[rows])

    whole = mean(Part(0, 7, 7))
    whole.backward()
    expected = [of.grad for of in layer.parameters()]
    for given in (
        of_means(parts(7, 3), mean, list(layer.parameters())),
        of_means(parts(7, 3), mean, list(layer.parameters()), scale=2.0**16),
    ):
        torch.testing.assert_close(given.loss, whole.detach(), **CLOSE)
        torch.testing.assert_close(given.gradients, expected, **CLOSE)


def test_a_loss_of_outputs_may_compare_all_rows_and_read_parameters():
    torch.manual_seed(0)
    layer, scale = nn.Linear(4, 5).double(), nn.Parameter(torch.tensor(0.7).double())
    idle = nn.Parameter(torch.ones(2).double())
    x = torch.randn(6, 4).double()

    def outputs(part: Part) -> tuple:
        return F.normalize(layer(x[part.start : part.stop]), dim=1), scale, None

    def loss(of: tuple) -> torch.Tensor:
        return F.cross_entropy(of[1].exp() * of[0] @ of[0].T, torch.arange(6).roll(1))

    loss(outputs(Part(0, 6, 6))).backward()
    given = of_outputs(parts(6, 4), outputs, loss, [*layer.parameters(), scale, idle], scale=1024.0)
    expected = [*(of.grad for of in layer.parameters()), scale.grad]
    torch.testing.assert_close(given.gradients[:-1], expected, **CLOSE)
    assert given.gradients[-1] is None


def test_parts_are_even_and_no_more_than_there_are_rows():
    for size in range(1, 12):
        for count in range(1, 14):
            found = parts(size, count)
            assert [row for part in found for row in range(part.start, part.stop)] == list(range(size))
            sizes = [part.stop - part.start for part in found]
            assert len(found) == min(size, count) and max(sizes) - min(sizes) <= 1
            assert math.isclose(sum(part.share for part in found), 1)


DRAWN = {
    "rand": lambda x: torch.rand(x.shape[:2]),
    "randn": lambda x: torch.randn(2 * len(x), 3),
    "randint": lambda x: torch.randint(9, (len(x),)),
    "dropout": lambda x: F.dropout(x, 0.4),
    "native_dropout": lambda x: torch.native_dropout(x, 0.4, True)[0],
    "like": lambda x: torch.rand_like(x),
    "bernoulli": lambda x: torch.empty_like(x).bernoulli_(0.3),
    "random": lambda x: torch.empty(x.numel(), dtype=torch.int64).random_(0, 50),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_part_draws_its_rows_of_what_the_batch_draws(name):
    x = torch.arange(1.0, 31.0).view(6, 5)
    torch.manual_seed(5)
    whole = DRAWN[name](x), torch.rand(6)
    found = []
    for part in parts(6, 4):
        torch.manual_seed(5)
        with Draws(part):
            rows = x[part.start : part.stop]
            found.append((DRAWN[name](rows), torch.rand(len(rows))))
    for expected, of in zip(whole, zip(*found, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(of), expected)
    assert Draws.now is None


def test_draws_that_have_no_rows_are_refused():
    with Draws(Part(0, 2, 6)), pytest.raises(HeadError, match=r"\(3, 2\) are not by sample, of which a part has 2"):
        torch.rand(3, 2)
    with Draws(Part(0, 2, 6)), pytest.raises(HeadError, match="randperm draws at random in a way that has no rows"):
        torch.randperm(4)
    q = torch.ones(1, 1, 2, 2)
    with Draws(Part(0, 1, 2)):
        F.scaled_dot_product_attention(q, q, q)


def test_a_batch_norm_is_refused_in_parts_and_so_is_what_draws_for_a_batch(made, tmp_path):
    step, _ = step_of(made.run(tmp_path / "run"))
    step.model.norm = nn.BatchNorm1d(3)
    step.divide(1)
    with pytest.raises(HeadError, match=r"heads\.gasm_cast\.accumulate is 2, but norm of its model is a batch norm"):
        step.divide(2)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"kind": "gasm_cast", **HEAD, "accumulate": 17}, "accumulate is 17, expected at most batch_size, which is 16"),
        ({"kind": "probe", "accumulate": 2}, "accumulate is 2, but a linear probe's batch norm"),
        ({"kind": "probe", "gradient_checkpointing": True}, "only an attentive probe of 2 blocks or more"),
    ],
)
def test_what_cannot_save_memory_is_refused_when_params_are_read(made, head, message):
    document = made.params.model_dump(mode="json", exclude_none=True)
    common = {"dataset": "made", "result": "one", "eval_split": "validation"}
    features = {} if "features" in head else {"features": "patches"}
    document["heads"] = {"one": common | features | head}
    with pytest.raises(ParamsError, match=message):
        parse_params(document)


def test_a_head_without_blocks_is_told_what_to_set_in_place_of_checkpointing(clips):
    with pytest.raises(ParamsError, match="clip_align has no list of blocks to compute again; leave it false"):
        override(clips.config, {"gradient_checkpointing": True})


def test_neither_choice_moves_a_key(made):
    head = made.params.head("gasm_cast")
    changed = override(head, {"accumulate": 4, "gradient_checkpointing": True})
    assert changed.learned == head.learned and changed.evaluated == head.evaluated


def test_a_training_in_parts_learns_what_one_at_once_learns_and_its_record_says_so(made, tmp_path):
    said = {}
    for name, changes in {"whole": {}, "parts": {"accumulate": 5}, "again": {"gradient_checkpointing": True}}.items():
        record = train(made.run(tmp_path / name, epochs=1, **changes), progress=lambda line: None)
        said[name] = record.get("accumulate"), (tmp_path / name / "weights.safetensors").read_bytes()
    assert [said[name][0] for name in said] == [None, 5, None]
    torch.testing.assert_close(load(said["parts"][1]), load(said["whole"][1]), rtol=1e-3, atol=1e-4)
    assert said["again"][1] == said["whole"][1]


# --- what does not fit ------------------------------------------------------------------------------------------------

FULL = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


def tight(monkeypatch, most: int, where: str) -> list[int]:
    """A memory that holds so many samples; returns how many were asked of it."""
    honest, asked = getattr(classification.ClassificationStep, where), []

    def held(self, *args):
        size = len(args[-1]["row"])
        if self.training:
            asked.append(size)
            if size > most and len(asked) > 4:
                raise RuntimeError(FULL)
        return honest(self, *args)

    monkeypatch.setattr(classification.ClassificationStep, where, held)
    return asked


def test_what_does_not_fit_is_divided_from_the_last_epoch_on(made, tmp_path, monkeypatch):
    whole = train(made.run(tmp_path / "whole", epochs=2), progress=lambda line: None)
    asked, lines = tight(monkeypatch, 4, "loss_of"), []
    record = train(made.run(tmp_path / "tight", epochs=2), progress=lines.append)
    assert asked[:4] == [16] * 4 and asked[4:6] == [16, 8] and set(asked[6:]) == {4}  # an epoch has four steps
    assert record["accumulate"] == [1, 4] and "accumulate" not in whole
    told = [line for line in lines if "out of memory" in line]
    assert told[0] == f"  out of memory ({FULL}); goes on with accumulate: 2, 8 samples a part"
    assert told[1].endswith("accumulate: 4, 4 samples a part") and len(told) == 2
    assert any(line.startswith("resumed after epoch 1") for line in lines)
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "tight"))
    assert first["holdout_accuracy"] == second["holdout_accuracy"]


def test_a_sample_that_does_not_fit_ends_with_the_settings_to_lower(made, tmp_path, monkeypatch):
    tight(monkeypatch, 0, "outputs")
    with pytest.raises(
        trainer.OutOfMemory, match=r"heads.gasm_cast: a part of 1 samples does not fit the memory \(CUDA error"
    ):
        train(made.run(tmp_path / "run", epochs=2), progress=lambda line: None)


def test_an_undivided_head_ends_with_the_settings_to_lower(made: Made, tmp_path, monkeypatch):
    tight(monkeypatch, 0, "outputs")
    run = made.run(tmp_path / "run", epochs=2)
    monkeypatch.setattr(type(run.config), "undivided", "it cannot be")
    settings = "gradient_checkpointing: true or precision: bf16-mixed or a lower batch_size or a smaller model"
    with pytest.raises(trainer.OutOfMemory, match=f"a batch of 16 does not fit .* set {settings}, and run again"):
        train(run, progress=lambda line: None)


def test_another_error_is_no_lack_of_memory(made, tmp_path, monkeypatch):
    def broken(self, *args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(classification.ClassificationStep, "outputs", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(made.run(tmp_path / "run", epochs=1), progress=lambda line: None)


def test_blocks_computed_again_give_the_same_bits_under_autocast_too():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.GELU(), nn.Linear(4, 4))
    model = nn.Module()
    model.blocks = nn.ModuleList([plain])
    x = torch.randn(5, 4)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.blocks[0](x).float().square().mean()
        loss.backward()
        return [of.grad.clone() for of in model.parameters()]

    before, names = gradients(), set(model.state_dict())
    assert checkpointed(model, ("blocks",)) == 1 and accumulation.checkpointed(model, ("layers",)) == 0
    assert all(map(torch.equal, gradients(), before)) and set(model.state_dict()) == names
