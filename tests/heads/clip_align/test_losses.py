"""Each loss against loops, values and gradients; floors, constants, missing maps; what the original formulas cost."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pipeline.heads.clip_align.losses import (
    LARGEST_SCALE,
    LossSettings,
    align_loss,
    classification_loss,
    clip_loss,
    map_loss,
    pairs,
    token_loss,
)

from . import literal
from .literal import GRID

MAPS = torch.tensor([4, 4, 5, 6, 7, 5, 8])
GROUPS = torch.tensor([0, 1, 1, 2, 2, 3, 3])
VALID = torch.tensor([1, 1, 1, 1, 1, 0, 1]).bool()
SETTINGS = LossSettings(clip_weight=0.7, lambda_token=0.3, label_smoothing=0.1)


def embeddings(videos=7, width=5):
    return [F.normalize(torch.randn(videos, width, dtype=torch.float64), dim=-1) for _ in range(2)]


@pytest.mark.parametrize("compat", [None, "published"])
@pytest.mark.parametrize("scale", [1 / 0.07, 300.0])
def test_the_contrastive_loss_is_what_loops_over_pairs_give(compat, scale):
    video, attn = embeddings()
    positive, excluded = pairs(MAPS, GROUPS, compat)
    found = clip_loss(video, attn, torch.tensor(math.log(scale)), positive, VALID, excluded)
    wanted = literal.clip(video, attn, min(scale, LARGEST_SCALE), positive, VALID, excluded)
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_asymmetric_positives_are_read_row_by_row_and_column_by_column():
    video, attn = embeddings()
    positive = torch.eye(7).bool()
    positive[0, 3] = True
    nothing = torch.zeros(7, 7).bool()
    found = clip_loss(video, attn, torch.tensor(1.0), positive, VALID)
    assert found.item() == pytest.approx(literal.clip(video, attn, math.e, positive, VALID, nothing), rel=1e-6)


def test_the_contrastive_loss_has_the_gradient_that_finite_differences_have():
    video, attn = (x.requires_grad_() for x in embeddings(5, 3))
    log_scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    positive, excluded = pairs(MAPS[:5], GROUPS[:5])
    valid = torch.tensor([1, 1, 0, 1, 1]).bool()
    assert torch.autograd.gradcheck(lambda *x: clip_loss(*x, positive, valid, excluded), (video, attn, log_scale))


def test_another_clip_of_the_patient_is_neither_positive_nor_negative():
    video, attn = embeddings()
    positive, excluded = pairs(MAPS, GROUPS)
    # Videos 3 and 4 are of one patient, with maps of their own.
    loss = clip_loss(video[3:5], attn[3:5], torch.tensor(2.0), positive[3:5, 3:5], VALID[3:5], excluded[3:5, 3:5])
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert not positive[3, 4] and excluded[3, 4] and not excluded.diagonal().any()
    assert not (positive & excluded).any()


def test_videos_that_share_maps_cost_nothing_at_perfect_alignment_where_a_diagonal_costs_the_log_of_their_number():
    maps = torch.arange(32) % 6
    aligned, groups, valid = torch.eye(6)[maps], torch.arange(32), torch.ones(32).bool()
    log_scale = torch.tensor(math.log(100.0))
    ours, published = (
        clip_loss(aligned, aligned, log_scale, *pairs(maps, groups, compat)[:1], valid).item()
        for compat in (None, "published")
    )
    assert ours == pytest.approx(0, abs=1e-6)
    counts = torch.bincount(maps).double()
    assert published == pytest.approx(float((counts * counts.log()).sum() / 32), rel=1e-5)
    assert published > 1.6


@pytest.mark.parametrize("valid", [[0, 0, 0], [0, 1, 0]])
def test_with_no_pair_to_tell_apart_the_contrastive_loss_is_zero_and_so_is_its_gradient(valid):
    video, attn = (x.requires_grad_() for x in embeddings(3))
    log_scale = torch.tensor(2.0, requires_grad=True)
    loss = clip_loss(video, attn, log_scale, torch.eye(3).bool(), torch.tensor(valid).bool())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert not video.grad.any() and not attn.grad.any() and not log_scale.grad.any()


def test_the_token_term_is_what_loops_over_cells_give():
    tokens, maps = torch.randn(5, *GRID, 4, dtype=torch.float64), torch.rand(5, *GRID, dtype=torch.float64)
    maps[1], tokens[2] = 0.0, 1.0
    valid = torch.tensor([1, 1, 1, 0, 1]).bool()
    terms = []
    for b in range(5):
        energy = [math.sqrt(sum(x * x for x in tokens[b][cell].tolist())) for cell in literal.cells(GRID)]
        correlation = literal.pearson(energy, [float(maps[b][cell]) for cell in literal.cells(GRID)])
        if valid[b]:
            terms.append(0.0 if correlation is None else 1 - correlation)
    assert terms.count(0.0) == 2
    assert token_loss(tokens, maps, valid).item() == pytest.approx(sum(terms) / 4, rel=1e-9)


def test_the_token_term_has_the_gradient_that_finite_differences_have():
    tokens = torch.randn(3, *GRID, 2, dtype=torch.float64, requires_grad=True)
    maps = torch.rand(3, *GRID, dtype=torch.float64)
    maps[1] = 0
    assert torch.autograd.gradcheck(lambda x: token_loss(x, maps, torch.tensor([1, 1, 0]).bool()), (tokens,))


@pytest.mark.parametrize("flat", ["map", "energy", "no token", "no row"])
def test_a_constant_map_or_energy_has_no_token_term_and_no_gradient(flat):
    tokens, maps, valid = torch.randn(2, *GRID, 4), torch.rand(2, *GRID), torch.ones(2).bool()
    if flat == "map":
        maps[:] = 0.3
    elif flat == "no row":
        valid[:] = False
    else:
        tokens[:] = torch.randn(4) * (flat == "energy")
    tokens.requires_grad_()
    loss = token_loss(tokens, maps, valid)
    loss.backward()
    assert loss.item() == 0 and not tokens.grad.any()


def test_after_gating_the_correlation_is_nearly_free():
    tokens, maps = torch.randn(16, 8, 7, 7, 128), torch.rand(16, 8, 7, 7)
    valid = torch.ones(16).bool()
    assert token_loss(tokens, maps, valid).item() == pytest.approx(1, abs=0.05)
    assert token_loss(tokens * (1 + maps).unsqueeze(-1), maps, valid).item() < 0.15


def guesses(videos=5):
    """Log a (B, H, W), and m (B, T, H, W) of which the second video has an unmarked step and the third no map."""
    log_map = torch.randn(videos, GRID[1] * GRID[2], dtype=torch.float64).log_softmax(1).view(videos, *GRID[1:])
    m = torch.rand(videos, *GRID, dtype=torch.float64)
    m[1, 1], m[2], m[3, 0, 0, 0] = 0.0, 0.0, 0.0
    return log_map, m / m.sum((2, 3), keepdim=True).clamp_min(1e-300)


def test_the_map_term_is_what_loops_over_steps_and_cells_give():
    log_map, m = guesses()
    valid = torch.tensor([1, 1, 1, 1, 0]).bool()
    terms = []
    for b in range(4):
        shares = {cell: float(m[b][cell]) for cell in literal.cells(GRID)}
        a = {cell[1:]: float(log_map[b][cell[1:]].exp()) for cell in literal.cells(GRID)}
        terms.append(literal.divergence(shares, a))
    assert terms[2] is None
    wanted = (terms[0] + terms[1] + terms[3]) / 3
    assert map_loss(log_map, m, valid).item() == pytest.approx(wanted, rel=1e-12)
    same = m[:2, :1].clamp_min(1e-30)
    assert map_loss(same[:, 0].log(), same.expand(2, *GRID), valid[:2]).item() == pytest.approx(0, abs=1e-12)


def test_the_map_term_has_the_gradient_that_finite_differences_have_and_none_without_a_map():
    log_map, m = (x[:3] for x in guesses())
    valid = torch.tensor([1, 1, 1]).bool()
    assert torch.autograd.gradcheck(lambda x: map_loss(x, m, valid), (log_map.requires_grad_(),))
    loss = map_loss(log_map, torch.zeros_like(m), valid)
    loss.backward()
    assert loss.item() == 0 and not log_map.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_the_classification_term_is_what_loops_over_classes_give(smoothing, weights):
    logits, labels = torch.randn(6, 3), torch.tensor([0, 2, 1, 1, 0, 2])
    found = classification_loss(logits, labels, smoothing, None if weights is None else torch.tensor(weights))
    wanted = literal.classification(logits, labels, smoothing, weights or [1.0] * 3)
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def step(**changes):
    """Output of a small model, and what a batch brings."""
    model = literal.small(**changes)
    tokens, maps = literal.batch(7)
    return model, model(tokens, maps, VALID), torch.tensor([0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize("compat", [None, "published"])
def test_the_loss_is_the_weighed_sum_of_its_terms(compat):
    _, output, labels = step()
    settings = replace(SETTINGS, compat=compat)
    terms = align_loss(output, labels, MAPS, GROUPS, settings)
    positive, excluded = pairs(MAPS, GROUPS, compat)
    clip = clip_loss(output.video_embed, output.attn_embed, output.log_scale, positive, VALID, excluded)
    tokens = output.gated_tokens if compat else output.video_tokens
    token = token_loss(tokens, output.token_map, VALID)
    assert terms["clip"].item() == pytest.approx(clip.item())
    assert terms["token"].item() == pytest.approx(token.item())
    wanted = terms["classification"] + 0.7 * clip + 0.3 * token
    assert terms["loss"].item() == pytest.approx(wanted.item())


def test_a_map_teaches_the_predicted_one_and_rows_without_a_map_do_not():
    model, output, labels = step(guidance="predicted")
    terms = align_loss(output, labels, MAPS, GROUPS, LossSettings(0.0, 0.0, 0.0, None, 0.5))
    assert terms["loss"].item() == pytest.approx((terms["classification"] + 0.5 * terms["map"]).item())
    assert terms["map"].item() == pytest.approx(map_loss(output.log_map, output.step_map, VALID).item())
    gradient = torch.autograd.grad(terms["map"], output.log_map, retain_graph=True)[0]
    assert gradient[VALID].any((1, 2)).all() and not gradient[~VALID].any()
    terms["map"].backward()
    taught = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"tokens", "guidance"}
    assert not align_loss(output, labels, MAPS, GROUPS, LossSettings(0.0, 0.0, 0.0))["map"]


REACHED = {  # what each term may teach, of a model classified by its video
    "classification": {"tokens", "readout", "classifier", "guidance"},
    "clip": {"tokens", "readout", "guidance", "maps", "project_video", "project_attn", "log_scale"},
    "token": {"tokens"},
}


@pytest.mark.parametrize("clip", [0.0, 0.7])
@pytest.mark.parametrize("token", [0.0, 0.3])
def test_a_term_that_is_switched_off_is_zero_and_teaches_nothing(clip, token):
    model, output, labels = step()
    terms = align_loss(output, labels, MAPS, GROUPS, LossSettings(clip, token, 0.0))
    terms["loss"].backward()
    taught = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    wanted = REACHED["classification"] | (REACHED["clip"] if clip else set()) | (REACHED["token"] if token else set())
    assert taught == wanted
    assert bool(terms["clip"]) == bool(clip) and bool(terms["token"]) == bool(token)


def test_the_token_term_alone_teaches_the_token_encoder_alone_unless_published():
    for compat, wanted in ((None, {"tokens"}), ("published", {"tokens", "guidance"})):
        model, output, labels = step()
        align_loss(output, labels, MAPS, GROUPS, replace(SETTINGS, compat=compat))["token"].backward()
        taught = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert taught == wanted


def test_rows_without_a_map_are_classified_and_aligned_with_nothing():
    model = literal.small()
    tokens, maps = literal.batch(7)
    tokens.requires_grad_()
    output = model(tokens, maps, VALID)
    terms = align_loss(output, torch.tensor([0, 1, 2, 0, 1, 2, 0]), MAPS, GROUPS, SETTINGS)
    for name, felt in (("clip", False), ("token", False), ("classification", True)):
        gradient = torch.autograd.grad(terms[name], tokens, retain_graph=True)[0]
        assert bool(gradient[5].any()) == felt and gradient[VALID].any()
