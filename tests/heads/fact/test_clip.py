"""FACT_CLIP: the contrastive loss against loops and by hand, what is held out of it, scoring over any vocabulary."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipeline.heads.fact.blocks import blocks
from pipeline.heads.fact.clip import TARGETS, FactClip, centred, clip_loss, contrast, score
from pipeline.heads.fact.losses import LossSettings, fact_loss, targets_of
from pipeline.heads.fact.matching import IGNORE
from pipeline.heads.fact.model import Fact
from pipeline.heads.fact.prediction import predict

from . import literal

SEEN = torch.tensor([True, False, True, True, False])
SETTINGS = LossSettings(pc=1.0, a2fc=1.0, sw=1.0, bgw=1.0, nullw=-1.0, match="o2o", avg_segments=3.0)
TINY = dict(hid_dim=20, dropout=0.0, a_dim=16, a_ffdim=8, a_layers=1, a_nhead=2, f="m", f_dim=12, f_layers=2, f_ln=True)


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def by_loops(items, labels, text, seen, temperature):
    """The loss of one video."""
    chosen = [n for n, y in enumerate(labels) if y != IGNORE and seen[y]]
    if not chosen:
        return items.sum() * 0
    sim = {(n, c): (items[n] @ text[c] / temperature).exp() for n in chosen for c in range(len(text)) if seen[c]}
    to_text = 0
    for n in chosen:
        to_text = to_text - (sim[n, labels[n]] / sum(v for (m, _), v in sim.items() if m == n)).log() / len(chosen)
    present, to_item = sorted({labels[n] for n in chosen}), 0
    for c in present:
        total = sum(sim[n, c] for n in chosen)
        positives = [n for n in chosen if labels[n] == c]
        mean = -sum((sim[n, c] / total).log() for n in positives) / len(positives)
        to_item = to_item + (mean - math.log(len(positives))) / len(present)
    return (to_text + to_item) / 2


@pytest.mark.parametrize("seen", [SEEN, torch.ones(5, dtype=torch.bool)], ids=["some held out", "all seen"])
def test_the_contrastive_loss_and_its_gradients_are_those_of_loops_over_videos_items_and_classes(seen):
    items, text = unit(4, 9, 6).requires_grad_(), unit(5, 6).requires_grad_()
    labels = torch.randint(-1, 5, (4, 9))
    labels[2], labels[3, 1:] = IGNORE, IGNORE
    found = contrast(items, labels, text, seen, 0.3)
    wanted = sum(by_loops(items[b], labels[b].tolist(), text, seen, 0.3) for b in range(4)) / 4
    assert found.item() == pytest.approx(wanted.item(), rel=1e-10)
    pairs = zip(torch.autograd.grad(found, (items, text)), torch.autograd.grad(wanted, (items, text)), strict=True)
    for grad, loop in pairs:
        torch.testing.assert_close(grad, loop)


def test_the_contrastive_loss_has_the_gradient_that_finite_differences_have():
    labels = torch.tensor([[0, 2, 2, -1], [1, 3, 0, 0]])
    inputs = unit(2, 4, 3).requires_grad_(), unit(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda items, text: contrast(items, labels, text, SEEN, 0.5), inputs)


def diagonal(items, temperature):
    """The loss that takes item i's text for its only positive, as if classes did not repeat."""
    logits = items @ items.T / temperature
    target = torch.arange(len(items))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@pytest.mark.parametrize(
    "transcript, plain", [([0, 5, 9, 5, 12, 5, 9], 0.669), ([0, 5, 9, 12], 0.0)], ids=["repeats", "no repeats"]
)
def test_perfect_alignment_costs_nothing_though_classes_repeat(transcript, plain):
    text = torch.eye(13)
    aligned = text[transcript]
    assert diagonal(aligned, 0.07).item() == pytest.approx(plain, abs=5e-4)
    found = contrast(aligned[None], torch.tensor([transcript]), text, torch.ones(13, dtype=torch.bool), 0.07)
    assert 0 <= found.item() < 1e-4


def test_every_item_of_a_class_is_drawn_to_its_text_not_the_best_one_alone():
    text = torch.eye(3, dtype=torch.float64)
    items = F.normalize(torch.tensor([[1.0, 0.1, 0], [0.5, 1, 0], [0, 0, 1]], dtype=torch.float64), dim=-1)[None]
    items.requires_grad_()
    contrast(items, torch.tensor([[0, 0, 2]]), text, torch.ones(3, dtype=torch.bool), 0.07).backward()
    assert items.grad[0, 1, 0] < -1  # the laggard, though the first item alone would satisfy a log of a sum


def test_the_size_of_the_loss_does_not_depend_on_how_long_the_same_video_is():
    items, text, labels = unit(2, 6, 4), unit(5, 4), torch.tensor([[0, 2, 2, 3, 0, 0], [3, 3, 3, 3, 3, 2]])
    once = contrast(items, labels, text, SEEN, 0.1)
    often = contrast(items.repeat_interleave(50, 1), labels.repeat_interleave(50, 1), text, SEEN, 0.1)
    assert often.item() == pytest.approx(once.item(), rel=1e-9)


def test_no_held_out_text_and_no_held_out_item_ever_takes_a_gradient():
    items, text = unit(3, 12, 6).requires_grad_(), unit(5, 6).requires_grad_()
    labels = torch.randint(-1, 5, (3, 12))
    contrast(items, labels, text, SEEN, 0.07).backward()
    assert torch.equal(text.grad[~SEEN], torch.zeros(2, 6, dtype=torch.float64))
    assert (text.grad[SEEN].abs().sum(1) > 0).all()
    hidden = (labels == IGNORE) | ~SEEN[labels.clamp_min(0)]
    assert torch.equal(items.grad[hidden], torch.zeros_like(items.grad[hidden]))
    assert (items.grad[~hidden].abs().sum(1) > 0).all()


def test_a_video_without_a_label_costs_nothing_and_harms_no_gradient():
    items = unit(2, 3, 4).requires_grad_()
    contrast(items, torch.full((2, 3), IGNORE), unit(5, 4), SEEN, 0.07).backward()
    assert torch.equal(items.grad, torch.zeros_like(items.grad))


@pytest.mark.parametrize("seen", [SEEN, torch.zeros(5, dtype=torch.bool)], ids=["some seen", "none seen, so all count"])
def test_centred_texts_point_from_the_mean_of_the_seen_ones(seen):
    text = unit(5, 6)
    found = centred(text, seen)
    counted = [c for c in range(5) if seen[c]] or list(range(5))
    for c in range(5):
        way = [text[c, e].item() - sum(text[k, e].item() for k in counted) / len(counted) for e in range(6)]
        length = math.sqrt(sum(value**2 for value in way))
        assert found[c].tolist() == pytest.approx([value / length for value in way], abs=1e-12)


def test_what_all_texts_have_in_common_changes_no_loss_and_no_score():
    output, _ = scored()
    items, mask, labels = unit(1, 4, 6), torch.ones(1, 7, dtype=torch.bool), torch.tensor([[0, 2, 3, 2]])
    own, common = F.pad(unit(5, 5), (0, 1)), F.pad(torch.zeros(5, 5), (0, 1), value=3.0).double()
    losses = [contrast(items, labels, centred(text, SEEN), SEEN, 0.07) for text in (own, own + common)]
    torch.testing.assert_close(*losses)
    scores = [
        score(output, {"action_token": items}, text, mask, 0.3, 0.1, SEEN, "cosine", 0.07)
        for text in (own, own + common)
    ]
    torch.testing.assert_close(*scores)


def small(target, chain="iuU", seen=SEEN):
    fact = Fact(
        feature_dim=7,
        n_classes=5,
        tokens=6,
        blocks=blocks(chain, TINY),
        fpos=True,
        transcript=False,
        cmr=0.0,
    )
    fact.seen.copy_(seen)
    return FactClip(fact, text_dim=8, target=target, hidden=16, dropout=0.0, temperature=0.07)


def test_a_head_that_takes_a_transcript_is_refused():
    fact = Fact(feature_dim=7, n_classes=5, tokens=6, blocks=blocks("iu", TINY), fpos=True, transcript=True, cmr=0.0)
    with pytest.raises(ValueError, match="set `transcript` to false"):
        FactClip(fact, text_dim=8, target="frame", hidden=16, dropout=0.0, temperature=0.07)


def example():
    labels = [literal.random_labels(14, 5), literal.random_labels(9, 5)]
    label_BT, mask_BT = literal.padded_labels(labels, 0)
    return torch.randn(2, 14, 7), label_BT, mask_BT


@pytest.mark.parametrize("target", TARGETS)
def test_embeddings_are_unit_vectors_of_tokens_or_frames_and_padding_changes_none(target):
    model = small(target).eval()
    frames, _, mask = example()
    _, embeddings = model(frames, mask)
    _, alone = model(frames[1:, :9], mask[1:, :9])
    assert tuple(embeddings) == TARGETS[target]
    for part, items in embeddings.items():
        assert items.shape == (2, 6 if part == "action_token" else 14, 8)
        torch.testing.assert_close(items.norm(dim=-1), torch.ones(items.shape[:2]))
        torch.testing.assert_close(items[1:, : alone[part].shape[1]], alone[part], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("chain", ["i", "iu", "iuUU"])
def test_a_step_gives_no_gradient_to_what_answers_for_held_out_classes(target, chain):
    model = small(target, chain)
    frames, label_BT, mask_BT = example()
    assert (~SEEN[label_BT[mask_BT]]).any()
    text = unit(5, 8).float().requires_grad_()
    outputs, embeddings = model(frames, mask_BT)
    targets = targets_of(outputs[-1], label_BT, mask_BT, SETTINGS)
    loss = fact_loss(outputs, targets, SETTINGS)["loss"]
    loss = loss + clip_loss(embeddings, targets, text, SEEN, model.temperature)
    loss.backward()
    assert torch.equal(text.grad[~SEEN], torch.zeros(2, 8))
    unseen = (~SEEN).nonzero().flatten()
    checked = 0
    for name, layer in model.fact.named_modules():
        if name.endswith(".leave"):
            rows = layer.weight.grad[-(6 if "tokens" in name else 5) :]
            assert torch.equal(rows[unseen], torch.zeros_like(rows[unseen])), name
            assert rows[SEEN.nonzero().flatten()].abs().sum() > 0, name
            checked += 1
    assert checked == 2 * len(chain) + chain.count("U")
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_vocabulary_is_no_part_of_the_weights_and_may_be_another_one_at_test_time():
    model = small("action_token").eval()
    frames, _, mask = example()
    outputs, embeddings = model(frames, mask)
    text = unit(23, 8).float()
    found = score(outputs[-1], embeddings, text, mask, 0.1, 0.0, torch.ones(23).bool(), "cosine", 0.07)
    assert found.shape == (2, 14, 23)
    order = torch.randperm(23)
    swapped = score(outputs[-1], embeddings, text[order], mask, 0.1, 0.0, torch.ones(23).bool(), "cosine", 0.07)
    torch.testing.assert_close(swapped, found[..., order])


def scored(kind="u", null=()):
    """One video of 7 frames and 4 tokens; tokens in `null` are surely null."""
    video, pooled = literal.random_video(kind, 7, 4, 5)
    video["token_logits_BMK"].data[:, -1] = -20.0
    video["token_logits_BMK"].data[list(null), -1] = 20.0
    return literal.padded([(video, pooled)], room=0), literal.attention(video, pooled).detach()


def by_hand(item, way, temperature):
    """p of each class for one item."""
    exp = [math.exp(sum(item[e] * of[e] for e in range(len(item))) / temperature) for of in way.tolist()]
    return [value / sum(exp) for value in exp]


@pytest.mark.parametrize("frames", [False, True], ids=["tokens alone", "tokens and frames"])
@pytest.mark.parametrize("null", [(), (1, 2)], ids=["none null", "two null, which stay"])
@pytest.mark.parametrize("kind", ["u", "U"])
def test_token_scores_are_those_of_a_loop_over_frames_and_tokens(kind, null, frames):
    output, attention = scored(kind, null)
    items = {"action_token": unit(1, 4, 6)} | ({"frame": unit(1, 7, 6)} if frames else {})
    text, mask, seen = unit(9, 6), torch.ones(1, 7, dtype=torch.bool), torch.arange(9) < 5
    found, way = score(output, items, text, mask, 0.3, 0.15, seen, "cosine", 0.2), centred(text, seen)
    token = [by_hand(of, way, 0.2) for of in items["action_token"][0].tolist()]
    for t in range(7):
        best = max(range(4), key=lambda m: attention[t, m])
        logp = literal.log_softmax(attention[t], list(range(4)))
        for c in range(9):
            if frames:
                other = by_hand(items["frame"][0, t].tolist(), way, 0.2)[c]
            else:
                other = sum(logp[m].exp().item() * token[m][c] for m in range(4))
            wanted = 0.7 * token[best][c] + 0.3 * other - 0.15 * (c < 5)
            assert found[0, t, c].item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("target", ["frame", "logit"])
def test_frames_are_scored_by_their_own_similarity_and_padded_ones_by_zero(target):
    output, _ = scored()
    frames, text, mask = unit(1, 7, 6), unit(3, 6), torch.arange(7)[None] < 5
    seen = torch.tensor([True, False, True])
    found, way = score(output, {target: frames}, text, mask, 0.3, 0.2, seen, "cosine", 0.1), centred(text, seen)
    for t in range(5):
        wanted = [p - 0.2 * bool(of) for p, of in zip(by_hand(frames[0, t].tolist(), way, 0.1), seen, strict=True)]
        assert found[0, t].tolist() == pytest.approx(wanted, abs=1e-9)
    assert found[:, 5:].abs().sum() == 0


@pytest.mark.parametrize("frames", [False, True], ids=["tokens alone", "tokens and frames"])
def test_without_gamma_the_scores_of_a_frame_are_probabilities_over_seen_and_unseen_classes(frames):
    output, _ = scored()
    items = {"action_token": unit(1, 4, 6)} | ({"frame": unit(1, 7, 6)} if frames else {})
    mask = torch.ones(1, 7, dtype=torch.bool)
    found = score(output, items, unit(5, 6), mask, 0.3, 0.0, SEEN, "cosine", 0.07)
    torch.testing.assert_close(found.sum(2), torch.ones(1, 7, dtype=torch.float64))


def test_the_classifier_knows_nothing_of_unseen_classes_and_gamma_is_taken_from_the_seen_ones():
    model = small("action_token").eval()
    frames, _, mask = example()
    outputs, embeddings = model(frames, mask)
    text = unit(5, 8).float()
    found = score(outputs[-1], embeddings, text, mask, 0.1, 0.25, SEEN, "classifier", 0.07)
    wanted = predict(outputs[-1], mask, 0.1)
    torch.testing.assert_close(found[mask], wanted[mask] - 0.25 * SEEN)
    assert (found[mask][:, ~SEEN] == 0).all()


def test_enough_gamma_puts_every_frame_on_an_unseen_class():
    output, _ = scored()
    tokens, text, mask = unit(1, 4, 6), unit(5, 6), torch.ones(1, 7, dtype=torch.bool)
    found = score(output, {"action_token": tokens}, text, mask, 0.1, 1.1, SEEN, "cosine", 0.07)
    assert not SEEN[found.argmax(2)].any()


@pytest.mark.parametrize("target", ["both", "action_token", "frame"])
def test_the_contrastive_loss_and_the_scores_never_make_the_host_wait(target):
    """A fake tensor has no value: whatever asks for one, or for a shape that depends on one, fails."""
    output, _ = scored()
    mode = FakeTensorMode()
    output = literal.mapped(output, mode.from_tensor)
    with mode:
        label, items = torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, 6)
        text, seen = torch.zeros(5, 6), torch.ones(5, dtype=torch.bool)
        assert contrast(items, label, text, seen, 0.07).shape == ()
        items = {part: items[:, : 4 if part == "action_token" else 7] for part in TARGETS[target]}
        assert score(output, items, text, label == 0, 0.1, 0.1, seen, "cosine", 0.07).shape == (1, 7, 5)
        with pytest.raises(DataDependentOutputException):
            label.max().item()


def test_both_cost_the_mean_of_what_tokens_and_frames_cost():
    frames, label_BT, mask_BT = example()
    model, text = small("both"), unit(5, 8).float()
    outputs, embeddings = model(frames, mask_BT)
    targets = targets_of(outputs[-1], label_BT, mask_BT, SETTINGS)
    parts = [clip_loss({part: items}, targets, text, SEEN, 0.07) for part, items in embeddings.items()]
    assert parts[0] != parts[1]
    torch.testing.assert_close(clip_loss(embeddings, targets, text, SEEN, 0.07), (parts[0] + parts[1]) / 2)
    label = {"action_token": targets.token_label_BM, "frame": label_BT.masked_fill(~mask_BT, IGNORE)}
    for cost, (part, items) in zip(parts, embeddings.items(), strict=True):
        torch.testing.assert_close(cost, contrast(items, label[part], centred(text, SEEN), SEEN, 0.07))


def test_what_does_not_fit_is_refused_with_the_remedy():
    output, _ = scored()
    tokens, mask = {"action_token": unit(1, 4, 6)}, torch.ones(1, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match="width 5 and embeddings 6; use the text feature"):
        score(output, tokens, unit(3, 5), mask, 0.1, 0.0, torch.ones(3).bool(), "cosine", 0.07)
    with pytest.raises(ValueError, match="classifier has 5 classes and the vocabulary 3; score another"):
        score(output, tokens, unit(3, 6), mask, 0.1, 0.0, torch.ones(3).bool(), "classifier", 0.07)
    with pytest.raises(ValueError, match="something of 2 classes and there are 3 texts"):
        score(output, tokens, unit(3, 6), mask, 0.1, 0.0, torch.ones(2).bool(), "cosine", 0.07)
    with pytest.raises(ValueError, match="one of cosine, classifier, got 'both'"):
        score(output, tokens, unit(3, 6), mask, 0.1, 0.0, torch.ones(3).bool(), "both", 0.07)
    with pytest.raises(ValueError, match="one of both, action_token, frame, logit, got 'token'"):
        small("token")


@pytest.mark.slow
def test_training_aligns_tokens_so_that_unseen_pairs_of_seen_words_are_recognised():
    """Classes are pairs of 4 verbs and 5 nouns, texts sums of their vectors, features what both look like."""
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    words, looks = torch.randn(9, 16), torch.randn(9, 24)
    text = F.normalize(F.normalize(words, dim=-1)[pairs + torch.tensor([0, 4])].sum(1), dim=-1)
    shown = looks[pairs + torch.tensor([0, 4])].sum(1)
    seen = torch.ones(20, dtype=torch.bool)
    seen[[0, 6, 12, 18]] = False
    wide = TINY | dict(hid_dim=48, a_dim=32, a_ffdim=32, a_layers=2, a_nhead=4, f_dim=32, f_layers=3)
    fact = Fact(
        feature_dim=24, n_classes=20, tokens=10, blocks=blocks("iu", wide), fpos=True, transcript=False, cmr=0.0
    )
    fact.seen.copy_(seen)
    model = FactClip(fact, text_dim=16, target="both", hidden=32, dropout=0.0, temperature=0.07)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    settings = replace(SETTINGS, pc=0.2, sw=0.0, avg_segments=5.0)

    def videos():
        label = torch.randint(20, (8, 5)).repeat_interleave(6, 1)
        return shown[label] + 0.3 * torch.randn(*label.shape, 24), label, torch.ones_like(label, dtype=torch.bool)

    for _ in range(300):
        frames, label, mask = videos()
        outputs, embeddings = model(frames, mask)
        targets = targets_of(outputs[-1], label, mask, settings, n_segments=5)
        loss = fact_loss(outputs, targets, settings)["loss"]
        loss = (loss + clip_loss(embeddings, targets, text, seen, 0.07)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = {"cosine": [], "classifier": []}
    model.eval()
    for _ in range(8):
        frames, label, mask = videos()
        with torch.no_grad():
            outputs, embeddings = model(frames, mask)
        for scoring, found in right.items():
            scores = score(outputs[-1], embeddings, text, mask, 0.1, 0.0, seen, scoring, 0.07)
            found.append(torch.stack([scores.argmax(2) == label, seen[label]]).flatten(1))
    right = {scoring: torch.cat(found, 1) for scoring, found in right.items()}
    accuracy = {name: (hit[known].float().mean(), hit[~known].float().mean()) for name, (hit, known) in right.items()}
    assert accuracy["cosine"][0] > 0.8
    assert accuracy["cosine"][1] > 3 / 20
    assert accuracy["classifier"][1] == 0
