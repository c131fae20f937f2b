"""One step of training: schedule, decay groups, mixup."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.training.registry import HeadError
from tests.later import Later

classification = Later("pipeline.training.classification")
steps = Later("pipeline.training.step")


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine_to_zero_per_step():
    factors = [steps.lr_factor(step, 10, 110) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:] == pytest.approx([(1 + math.cos(math.pi * i / 100)) / 2 for i in range(101)])
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0)


def test_the_rate_is_that_of_torch_s_own_warm_up_and_cosine():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert [steps.lr_factor(step, 0, 20) for step in range(20)] == pytest.approx(expected)


def test_a_schedule_without_steps_or_past_its_end_stays_in_range():
    assert [round(steps.lr_factor(step, 2, 6), 3) for step in range(7)] == [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    assert steps.lr_factor(0, 0, 0) == 1
    assert steps.lr_factor(500, 3, 10) == 0


class Everything(nn.Module):
    """One of each kind of parameter."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.convolution = nn.Conv1d(3, 3, 2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(3)
        self.words = nn.Embedding(5, 3)
        self.position = nn.Parameter(torch.zeros(4, 1, 3))
        self.scalar = nn.Parameter(torch.ones(()))
        self.steps = nn.ParameterList([torch.zeros(4, 3)])
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def test_weight_decay_spares_biases_norms_positions_embeddings_and_scalars():
    model = Everything()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = steps.parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert {names[id(p)] for p in decayed["params"]} == {
        "linear.weight",
        "convolution.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert {names[id(p)] for p in spared["params"]} == {
        "linear.bias",
        "convolution.bias",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "norm.weight",
        "norm.bias",
        "words.weight",
        "position",
        "scalar",
        "steps.0",
    }


def _batch(size: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    streams = {"semantic": torch.randn(size, 2, 4, 3).half(), "motion": torch.randn(size, 2, 1, 3).half()}
    return {**streams, "times": torch.rand(size, 2), "label": torch.arange(size)}


def test_mixup_uses_one_share_for_both_streams_and_their_times():
    batch = _batch()
    mixed = classification.mix(batch, ("semantic", "motion"), 0.3)
    for key in ("semantic", "motion", "times"):
        for sample in range(5):
            neighbour = batch[key][(sample - 1) % 5].float()
            torch.testing.assert_close(mixed[key][sample], 0.3 * batch[key][sample].float() + 0.7 * neighbour)
    assert torch.equal(mixed["label"], batch["label"])


def test_mixup_leaves_the_cached_batch_as_it_was():
    batch = _batch()
    before = {key: value.clone() for key, value in batch.items()}
    classification.mix(batch, ("semantic", "motion"), 0.3)
    assert all(torch.equal(batch[key], before[key]) for key in batch)


def test_the_mixed_loss_weighs_both_labels_by_the_share(made, monkeypatch):
    config = made.params.head("gasm_cast")
    logits = torch.randn(5, 7)
    model = nn.Linear(1, 1)
    model.logits = lambda batch: logits
    module = classification.ClassificationStep("fixed", model, config, samples_of(7), 3)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)

    module.share = 0.25
    batch = _batch()
    smooth = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    expected = 0.25 * smooth(logits, batch["label"]) + 0.75 * smooth(logits, batch["label"].roll(1))
    torch.testing.assert_close(module.training_step(batch, 0), expected)


@pytest.mark.parametrize(
    ("logits", "found"),
    [(torch.zeros(5, 3), r"\(5, 3\)"), (torch.zeros(7), r"\(7,\)"), ((torch.zeros(5, 7),), "tuple")],
)
def test_logits_of_another_shape_are_refused_at_the_first_batch_by_the_head_s_name(made, monkeypatch, logits, found):
    model = nn.Linear(1, 1)
    model.logits = lambda batch: logits
    module = classification.ClassificationStep("mine", model, made.params.head("gasm_cast"), samples_of(7), 3)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    for step in (module.training_step, module.validation_step):
        with pytest.raises(HeadError, match=rf"heads\.mine: the logits of Linear are {found}, expected \(5, 7\)"):
            step(_batch(), 0)


def samples_of(n_classes: int, train: int = 100) -> SimpleNamespace:
    """What a module asks of samples."""
    parts, streams = {"train": ["a sample"] * train}, {"semantic": None, "motion": None}
    return SimpleNamespace(classes=list(range(n_classes)), parts=parts, streams=streams)


def test_the_peak_rate_scales_with_the_batch_and_the_first_step_is_warm_up(made):
    config = made.params.head("gasm_cast")
    module = classification.ClassificationStep("gasm_cast", nn.Linear(3, 3), config, samples_of(3), 5)
    optimizer = module.configure_optimizers()["optimizer"]
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(config.lr * config.batch_size / 256)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(config.lr * config.batch_size / 256 / 5)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_rate_scales_with_the_batch_that_there_is_not_with_one_that_no_set_can_fill(made):
    config = made.params.head("gasm_cast").model_copy(update={"batch_size": 4096})
    module = classification.ClassificationStep("gasm_cast", nn.Linear(3, 3), config, samples_of(3, train=58), 1)
    (group, *_) = module.configure_optimizers()["optimizer"].param_groups
    assert group["initial_lr"] == pytest.approx(config.lr * 58 / 256)
