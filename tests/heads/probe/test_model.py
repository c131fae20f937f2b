"""Probes against others' implementations: scikit-learn's, and the published attentive pooler as transformers has it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.heads.probe import model as probe
from pipeline.heads.probe.attentive import AttentivePooler
from pipeline.heads.probe.config import ProbeHead
from pipeline.heads.probe.model import Neighbours, Normalised, Probe
from tests.later import Later

modeling_vjepa2 = Later("transformers.models.vjepa2.modeling_vjepa2")
transformers = Later("transformers")

step = Later("pipeline.training.step")
sklearn = Later("sklearn")


def config(**changes) -> ProbeHead:
    document = {"kind": "probe", "dataset": "made", "features": "video", "result": "made", "eval_split": "test"}
    targets = changes.get("targets", "label")
    return ProbeHead.for_targets(targets).model_validate({**document, "targets": targets, **changes})


def samples(classes: int, **widths: int) -> SimpleNamespace:
    streams = {role: SimpleNamespace(width=width, pooled=width) for role, width in widths.items()}
    return SimpleNamespace(classes=[str(c) for c in range(classes)], streams=streams, centre=(0.0,), spread=(1.0,))


def overlapping(n: int = 300, width: int = 8, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters that no plane parts, of channels of unequal size: the likeliest weights are finite."""
    random = np.random.default_rng(0)
    labels = random.integers(classes, size=n)
    centres = random.normal(size=(classes, width))
    values = (centres[labels] + 2 * random.normal(size=(n, width))) * 10.0 ** np.arange(-2, width - 2) + 5
    return torch.tensor(values, dtype=torch.float32), torch.tensor(labels)


def test_a_linear_probe_learns_what_logistic_regression_of_standardised_features_does():
    values, labels = overlapping()
    torch.manual_seed(0)
    chosen = config(lr=0.05, epochs=400, warmup_epochs=10, batch_size=300)
    module = Probe.of(chosen, samples(3, video=8))
    of = step.adamw_and_cosine(module, chosen, 256, 1)
    optimizer, schedule = of["optimizer"], of["lr_scheduler"]["scheduler"]
    for _ in range(chosen.epochs):
        optimizer.zero_grad()
        F.cross_entropy(module.logits({"video": values}), labels).backward()
        optimizer.step()
        schedule.step()
    module.eval()
    with torch.no_grad():
        found = module.logits({"video": values}).double().softmax(dim=1).numpy()
    whole = sklearn.preprocessing.StandardScaler().fit_transform(values.numpy())
    reference = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-8, max_iter=2000).fit(whole, labels.numpy())
    assert (
        abs(sklearn.metrics.log_loss(labels, found) - sklearn.metrics.log_loss(labels, reference.predict_proba(whole)))
        < 1e-4
    )
    assert np.abs(found - reference.predict_proba(whole)).max() < 0.02
    assert (found.argmax(axis=1) == reference.predict(whole)).mean() > 0.99


def test_a_linear_probe_normalises_by_what_it_learned_from_and_has_no_affine_parameters():
    layer = Normalised({"a": 2, "b": 3})
    assert list(layer.parameters()) == [] and layer.norm.eps == 1e-6 and layer.width == 5
    batch = {"a": torch.randn(64, 2) * 7 + 3, "b": torch.randn(64, 3)}
    out = layer(batch)
    assert torch.allclose(out.mean(dim=0), torch.zeros(5), atol=1e-5)
    assert torch.allclose(out.std(dim=0, unbiased=False), torch.ones(5), atol=1e-4)
    layer({"a": torch.ones(1, 2), "b": torch.ones(1, 3)})  # a batch of one has no spread of its own


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("k", [1, 20, 500])
def test_neighbours_vote_as_scikit_learn_s_do_however_the_memory_is_cut(monkeypatch, k, chunk):
    monkeypatch.setattr(probe, "CHUNK", chunk)
    values, labels = overlapping(n=120)
    known, asked = values[:90], values[90:]
    module = Neighbours({"video": 8}, 3, k, 0.07, "label")
    module.remember(module.direction({"video": known}), labels[:90])
    reference = sklearn.neighbors.KNeighborsClassifier(min(k, 90), weights=lambda far: np.exp((1 - far**2 / 2) / 0.07))
    reference.fit(F.normalize(known.double(), dim=1).numpy(), labels[:90])
    expected = reference.predict_proba(F.normalize(asked.double(), dim=1).numpy())
    found = module({"video": asked}).double().softmax(dim=1).numpy()
    assert np.allclose(found, expected, atol=1e-4)


def test_neighbours_give_the_share_that_has_a_label_and_the_mean_of_numbers():
    values, _ = overlapping(n=100)
    random = np.random.default_rng(1)
    several, numbers = random.integers(2, size=(80, 4)), random.normal(size=(80, 2))
    known, asked = (F.normalize(of, dim=1) for of in (values[:80], values[80:]))
    weights = {"n_neighbors": 20, "weights": lambda far: np.exp((1 - far**2 / 2) / 0.07)}
    expected = sklearn.neighbors.KNeighborsRegressor(**weights).fit(known, several).predict(asked)
    module = Neighbours({"video": 8}, 4, 20, 0.07, "labels")
    module.remember(module.direction({"video": values[:80]}), torch.from_numpy(several).bool())
    assert np.allclose(module({"video": values[80:]}).sigmoid().numpy(), expected, atol=1e-4)
    expected = sklearn.neighbors.KNeighborsRegressor(**weights).fit(known, numbers).predict(asked)
    module = Neighbours({"video": 8}, 2, 20, 0.07, "target")
    module.remember(module.direction({"video": values[:80]}), torch.from_numpy(numbers).float())
    assert np.allclose(module({"video": values[80:]}).numpy(), expected, atol=1e-4)


def test_each_stream_of_neighbours_weighs_the_same_whatever_its_size():
    module = Neighbours({"a": 2, "b": 3}, 2, 1, 0.07, "label")
    batch = {"a": torch.randn(5, 2), "b": torch.randn(5, 3)}
    louder = {**batch, "b": 100 * batch["b"]}
    assert torch.allclose(module.direction(batch), module.direction(louder), atol=1e-6)


# --- attentive --------------------------------------------------------------------------------------------------------


def published(width: int, heads: int, blocks: int, device: str = "cpu"):
    with torch.device(device):
        return modeling_vjepa2.VJEPA2AttentivePooler(
            transformers.VJEPA2Config(
                hidden_size=width, num_attention_heads=heads, num_pooler_layers=blocks - 1, attn_implementation="eager"
            )
        ).eval()


def test_the_four_block_probe_of_a_vit_l_has_the_published_parameters():
    """By hand: norm 2 D; attention 4 (D² + D), across 3 (D² + D); MLP 8 D² + 5 D; a query D; K400 has 400 classes."""
    d = 1024
    norms, mlp = 4 * d, 8 * d**2 + 5 * d
    within, across = norms + 4 * (d**2 + d) + mlp, norms + 3 * (d**2 + d) + mlp
    by_hand = 3 * within + across + d
    assert by_hand == 49_336_320
    with torch.device("meta"):
        pooler = AttentivePooler(d, 16, 4)
        light = AttentivePooler(d, 16, 1)
        whole = Probe.of(config(probe="attentive"), samples(400, video=d))
    assert sum(p.numel() for p in pooler.parameters()) == by_hand
    assert sum(p.numel() for p in published(d, 16, 4, "meta").parameters()) == by_hand
    assert sum(p.numel() for p in light.parameters()) == across + d
    assert sum(p.numel() for p in whole.parameters()) == by_hand + 400 * d + 400


@pytest.mark.parametrize("blocks", [1, 4])
def test_it_pools_as_the_published_one_does(blocks):
    torch.manual_seed(0)
    own, other = AttentivePooler(32, 4, blocks).eval(), published(32, 4, blocks)
    state = {}
    for i, block in enumerate(own.blocks):
        weights, biases = block.qkv.weight.chunk(3), block.qkv.bias.chunk(3)
        place, names = f"self_attention_layers.{i}", ("q_proj", "k_proj", "v_proj")
        for number, name in enumerate(names):
            state |= {
                f"{place}.self_attn.{name}.weight": weights[number],
                f"{place}.self_attn.{name}.bias": biases[number],
            }
        for name, layer in (("self_attn.out_proj", block.out), *named(block)):
            state |= {f"{place}.{name}.weight": layer.weight, f"{place}.{name}.bias": layer.bias}
    k, v = own.cross.kv.weight.chunk(2)
    k_bias, v_bias = own.cross.kv.bias.chunk(2)
    across = {"q_proj": (own.cross.q.weight, own.cross.q.bias), "k_proj": (k, k_bias), "v_proj": (v, v_bias)}
    for name, (weight, bias) in across.items():
        state |= {f"cross_attention_layer.cross_attn.{name}.weight": weight}
        state |= {f"cross_attention_layer.cross_attn.{name}.bias": bias}
    for name, layer in named(own.cross):
        state |= {
            f"cross_attention_layer.{name}.weight": layer.weight,
            f"cross_attention_layer.{name}.bias": layer.bias,
        }
    other.load_state_dict({**state, "query_tokens": own.query})
    tokens = torch.randn(3, 11, 32)
    with torch.no_grad():
        for eps in (module for module in own.modules() if isinstance(module, torch.nn.LayerNorm)):
            eps.eps = 1e-6  # of its configuration
        assert torch.allclose(own(tokens), other(tokens), atol=1e-5)


def named(block) -> tuple:
    return (
        ("layer_norm1", block.norm), ("layer_norm2", block.mlp_norm), ("mlp.fc1", block.mlp[0]),
        ("mlp.fc2", block.mlp[2]),
    )  # fmt: skip


@pytest.mark.parametrize("blocks", [1, 4])
def test_what_pads_a_sample_is_attended_to_by_none(blocks):
    torch.manual_seed(0)
    module = Probe.of(config(probe="attentive", blocks=blocks, attention_heads=4), samples(3, video=16)).eval()
    rows = torch.randn(1, 5, 16)
    padded = torch.cat([rows, 100 * torch.randn(1, 4, 16)], dim=1)
    mask = torch.arange(9)[None] < 5
    with torch.no_grad():
        alone = module.logits({"video": rows})
        assert torch.allclose(module.logits({"video": padded, "video.mask": mask}), alone, atol=1e-6)
        assert not torch.allclose(module.logits({"video": padded}), alone, atol=1e-4)


def test_streams_of_several_features_meet_in_the_width_of_the_widest():
    module = Probe.of(config(probe="attentive", features=["a", "b"], attention_heads=4), samples(3, a=16, b=8))
    batch = {"a": torch.randn(2, 4, 16), "b": torch.randn(2, 6, 8), "b.mask": torch.arange(6)[None].expand(2, -1) < 3}
    assert module.reader.width == 16 and module.logits(batch).shape == (2, 3)
    longer = {**batch, "b": F.pad(batch["b"], (0, 0, 0, 2), value=9), "b.mask": F.pad(batch["b.mask"], (0, 2))}
    with torch.no_grad():
        assert torch.allclose(module.logits(batch), module.logits(longer), atol=1e-5)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="attention_heads 5 does not divide the width 16; choose a divisor"):
        Probe.of(config(probe="attentive", attention_heads=5), samples(3, video=16))


def test_numbers_come_in_their_own_unit():
    of = samples(2, video=8)
    of.centre, of.spread = (100.0, -3.0), (10.0, 0.5)
    module = Probe.of(config(targets="target"), of).eval()
    with torch.no_grad():
        found = module.logits({"video": torch.zeros(1, 8)})
    assert torch.allclose(found, torch.tensor([[100.0, -3.0]]))
    assert {"centre", "spread"} <= module.state_dict().keys()


def test_figures_of_a_worked_case():
    from pipeline.heads.probe.figures import average_precisions, r2  # scikit-learn

    found = average_precisions(np.array([[0.9], [0.8], [0.1]]), np.array([[1], [0], [1]]))
    assert found == pytest.approx([(1 + 2 / 3) / 2])
    assert r2(np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]])).tolist() == [0.5]
