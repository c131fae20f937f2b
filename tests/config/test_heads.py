"""Claims about what heads may be asked for: what cannot fit, or cannot learn, is refused when params are read."""

from pathlib import Path

import pytest

from pipeline.config import ParamsError, load_params, override, parse_params
from pipeline.config.documents import merged, read_documents

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def params():
    return load_params(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("head", "changes", "message"),
    [
        ("gasm_cast", {"model.attention_heads": 5}, "model: width is 48, which 5 attention_heads do not divide"),
        ("gasm_cast", {"model.bottleneck": 62}, "model: bottleneck is 62, which 4 attention_heads do not divide"),
        ("gasm_cast", {"model.layers": 3}, r"model: radii are \[1, 2\], expected at least one for each of 3 layers"),
        ("gasm_cast", {"model.radii": [1, -2]}, "each >= 0, or -1 for all"),
        ("gasm_cast", {"model.radii": []}, "expected at least one for each of 2 layers"),
        ("fact", {"model.Bi.f": "m2", "model.Bi.f_ln": True}, "model: f of block 'i' is m2 and f_ln is true"),
        ("fact", {"model.Bi.hid_dim": 127}, "model: hid_dim of block 'i' is 127, expected an even number"),
        ("fact", {"model.Bi.a_nhead": 5}, "model: a_dim of block 'i' is 64, which a_nhead 5 does not divide"),
        ("fact", {"model.Bi.a_dim": 256}, "model: a_dim of block 'i' is 256, expected at most hid_dim, which is 128"),
        ("fact", {"model.Bu.a_nhead": 3}, "model: a_dim of block 'u' is 64, which a_nhead 3 does not divide"),
        ("fact", {"model.Bu.a_dim": 32}, r"model: a_dim is \[32, 64\] in different blocks, expected one; set it in Bi"),
        ("fact", {"model.blocks": "iU", "model.BU.hid_dim": 64}, r"hid_dim is \[64, 128\] in different blocks"),
        ("fact", {"model.Bi.f_dim": None}, "model: block 'i' lacks f_dim; set it in Bi"),
        ("fact", {"model.Bi.a_dim": 63, "model.Bi.a_nhead": 1, "model.transcript": True}, "a transcript has positions"),
        ("fact_clip", {"model.Bi.a_nhead": 5}, "model: a_dim of block 'i' is 64, which a_nhead 5 does not divide"),
        ("fact", {"loss.nullw": -0.5}, "loss: nullw is -0.5, expected 0 or more, or -1: from the data"),
        ("clip_align", {"model.width": 30}, r"model\.width: Input should be a multiple of 8, got 30"),
        (
            "clip_align",
            {"model.classifier_source": "fusion"},
            "classifier_source is fusion, but map_guided_type is predict",
        ),
        ("clip_align", {"model.map_dropout": 0.2}, "map_dropout is 0.2, but map_guided_type is predicted"),
        ("clip_align", {"model.sigmoid_gate": True}, "sigmoid_gate is true, but map_guided_type is predicted"),
        ("clip_align", {"compat": "published"}, "compat is published, but map_guided_type is predicted"),
        (
            "clip_align",
            {"model.map_teach": 1.0, "loss.lambda_map": 0.0},
            "would be learned from nothing; lower map_teach",
        ),
        ("clip_align", {"model.map_width": 12}, r"model\.map_width: Input should be a multiple of 8, got 12"),
        ("clip_align", {"model.embed_dim": 1}, r"model\.embed_dim: Input should be greater than or equal to 2"),
        ("negalign", {"words.roles.value": 51}, r"words\.roles: value is 51 percent of the words at either end"),
    ],
    ids=str,
)
def test_what_no_model_can_be_made_of_is_refused_when_params_are_read(params, head, changes, message):
    with pytest.raises(ParamsError, match=message):
        override(params.head(head), changes)


@pytest.mark.parametrize(
    ("head", "changes", "message"),
    [
        *(
            (head, {key: 1.0}, rf"{key.replace('.', '[.]')}: Input should be less than 1")
            for head, key in [
                *((head, "ema_decay") for head in ("gasm_cast", "fact", "fact_clip", "clip_align")),
                *(("gasm_cast", key) for key in ("model.dropout", "model.token_dropout", "label_smoothing")),
                *(("fact", key) for key in ("model.channel_dropout", "model.Bi.dropout", "model.time_mask.share")),
                ("fact_clip", "alignment.dropout"),
                *(("clip_align", key) for key in ("model.dropout", "model.map_dropout", "label_smoothing")),
            ]
        ),
        *((head, {"lr": 1e3}, "lr: Input should be less than or equal to 1") for head in ("gasm_cast", "fact")),
        ("gasm_cast", {"warmup_epochs": 21}, "warmup_epochs is 21 of 20 epochs: the learning rate would never reach"),
        ("clip_align", {"epochs": 1}, "warmup_epochs is 2 of 1 epochs"),
        (
            "gasm_cast",
            {"batch_size": 65536},
            "lr 0.016 per 256 samples is 4.096 with batch_size 65536, expected at most 1",
        ),
        *((head, {"weight_decay": 2.0}, "weight_decay: .*less than or equal to 1") for head in ("fact", "fact_clip")),
        ("clip_align", {"weight_decay": 600}, "takes all of a weight at once, expected a product below 1"),
        *((head, {"eval_split": "train"}, "both 'train'; a split that was learned") for head in ("gasm_cast", "fact")),
        *((head, {"clip_norm": float("inf")}, "clip_norm: Input should be a finite number") for head in ("fact",)),
        ("negalign", {"score.scale": float("nan")}, r"score\.scale: Input should be a finite number"),
        ("gasm_cast", {"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ("gasm_cast", {"seed": 2**63}, "seed: Input should be less than 9223372036854775808"),
        ("gasm_cast", {"epochs": 2**31}, "epochs: Input should be less than 2147483648"),
        ("gasm_cast", {"result": "x" * 200}, "result: String should have at most 120 characters"),
    ],
    ids=str,
)
def test_what_cannot_learn_is_refused_when_params_are_read(params, head, changes, message):
    with pytest.raises(ParamsError, match=message):
        override(params.head(head), changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": {"toy-ssv2": {"videos": "{x}"}}}, r"datasets\.toy-ssv2\.videos: \{x\} has the character '\{'"),
        ({"datasets": {"d": {"layout": "images", "root": "a{b}"}}}, r"datasets\.d\.root: a\{b\} has the character"),
        ({"datasets": {"d": {"layout": "images", "root": ""}}}, r"datasets\.d\.root: String should have at least 1"),
        (
            {"datasets": {"d": {"layout": "images", "root": "a\0"}}},
            r"datasets\.d\.root: 'a\\x00' has the character '\\x00'",
        ),
        (
            {"datasets": {"toy-ssv2": {"extension": ".{y}"}}},
            r"datasets\.toy-ssv2\.extension: \.\{y\} has the character",
        ),
        (
            {"datasets": {"toy-ssv2": {"extension": "webm"}}},
            r"datasets\.toy-ssv2\.extension: webm has no dot, and it is put behind an id as it is; write \.webm$",
        ),
        (
            {
                "features": {
                    "f": {
                        "backbone": "npy",
                        "root": "r",
                        "orientation": "TD",
                        "width": 4,
                        "fps": 1.0,
                        "extension": "npy",
                    }
                }
            },
            r"features\.f\.npy\.extension: npy has no dot, .*; write \.npy$",
        ),
        (
            {
                "datasets": {"d": {"layout": "images", "root": "data/toy-waterbirds/./"}},
                "heads": {"negalign": {"ood": {"own": "d"}}},
            },
            r"heads\.negalign\.ood\.own names 'd', whose pictures are those of heads\.negalign\.dataset, both in "
            r"data/toy-waterbirds; name another data set, or remove it",
        ),
        (
            {"heads": {"negalign": {"ood": {"again": "toy-waterbirds-backgrounds"}}}},
            r"again names .*, whose pictures are those of heads\.negalign\.ood\.backgrounds, both in",
        ),
        (
            {"features": {"dinov3_full": {"weights": {"path": "a\nb"}}}},
            r"weights\.path: 'a\\nb' has the character '\\n'",
        ),
        (
            {"features": {"dinov3_full": {"weights": {"path": None, "hub": "no hub/id/", "revision": "1"}}}},
            r"hub: String",
        ),
        *(
            ({"features": {"dinov3_full": {"weights": {"path": None, "hub": hub, "revision": "1"}}}}, message)
            for hub, message in {
                "a--b/c": r"hub a--b/c is no id of a hub, for its '--'",
                "a/b..c": r"hub a/b\.\.c is no id of a hub, for its '\.\.'",
                "a/b-": r"hub a/b- is no id of a hub, for its '-'",
                "a./b": r"hub a\./b is no id of a hub, for its '\.'",
                "a/b.git": r"hub a/b\.git is no id of a hub, for its '\.git'",
                "a/" + "b" * 97: r"hub: String should match",
            }.items()
        ),
        ({"features": {"dinov3_full": {"weights": {"path": None, "random": -1}}}}, r"random: Input should be greater"),
        ({"toyworld": {"seed": -1}}, r"toyworld\.seed: Input should be greater than or equal to 0"),
        (
            {"features": {"f": {"backbone": "a\nb"}}},
            r"features\.f\.backbone: expected one of 'dinov3', .*, got 'a\\nb'$",
        ),
        ({"features": {"f": {"pool": 2}}}, r"features\.f\.backbone: required, but absent"),
        ({"compute": {"threads": 2**31 - 1}}, r"compute\.threads: Input should be less than or equal to 4096"),
        ({"compute": {"cache_memory_gb": float("inf")}}, r"compute\.cache_memory_gb: Input should be a finite number"),
        (
            {"ablations": {"a": {"head": "fact", "seeds": [0, 1, 0], "variants": {"v": {}}}}},
            r"ablations\.a: seeds has 0 twice, and the same training twice says nothing",
        ),
        (
            {"ablations": {"a": {"head": "fact", "seeds": [0], "variants": {"v": {"seed": 3}}}}},
            r"ablations\.a: seed is changed by a variant or the grid, but every row is trained with `seeds`",
        ),
        (
            {"ablations": {"a": {"head": "fact", "seeds": [0], "grid": {"result": ["other"]}}}},
            r"ablations\.a: result is changed by a variant or the grid, but a row has no file of its own",
        ),
        (
            {"ablations": {"a": {"head": "gasm_cast", "seeds": [0], "grid": {"accumulate": [1, 2], "lr": [0.1]}}}},
            r"ablations\.a: accumulate=1 lr=0.1 and accumulate=2 lr=0.1 differ in accumulate alone",
        ),
        (
            {"ablations": {"a": {"head": "fact", "seeds": [0], "grid": {str(n): [0] * 10 for n in range(20)}}}},
            r"ablations\.a: the grid has 100,000,000,000,000,000,000 combinations, expected at most 10,000",
        ),
        (
            {"ablations": {"a": {"head": "fact", "seeds": [0], "variants": {"v": {"lr": float("inf")}}}}},
            r"ablations\.a\.variants\.v: lr: Input should be a finite number",
        ),
        (
            {"ablations": {"a": {"head": "gasm_cast", "seeds": [0], "grid": {"model.layers": [2, 3]}}}},
            r"ablations\.a\.grid\.layers=3: model: radii are \[1, 2\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_machine_cannot_do_is_refused_with_its_key(change, message):
    with pytest.raises(ParamsError, match=message):
        parse_params(merged(read_documents([ROOT / "params.yaml"]).document, change))


def test_the_longest_warm_up_and_the_rates_in_use_are_accepted(params):
    assert override(params.head("gasm_cast"), {"warmup_epochs": 20}).warmup_epochs == 20
    assert override(params.head("gasm_cast"), {"lr": 1, "batch_size": 256, "weight_decay": 0.9}).lr == 1


@pytest.mark.parametrize(
    ("head", "changes", "message"),
    [
        ("gasm_cast", {"accumulate": 2}, "accumulate is 2, but a compiled head computes its batch at once"),
        ("gasm_cast", {"gradient_checkpointing": True}, "compile and gradient_checkpointing are both true"),
        ("fact", {}, "compile is true, but videos differ in length, and torch would compile FACT anew for each"),
    ],
)
def test_what_cannot_be_compiled_is_refused_when_params_are_read(params, head, changes, message):
    with pytest.raises(ParamsError, match=message):
        override(params.head(head), {"compile": True, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.Bi.dropout": 0.0}, "FACT draws the windows of model.time_mask for the whole batch"),
        ({"model.time_mask": None}, "FACT draws the dropout of its blocks for the whole batch"),
        ({"model.time_mask": None, "model.Bi.dropout": 0.0, "model.Bu.dropout": 0.1}, "dropout of its blocks"),
    ],
)
def test_fact_is_divided_where_it_draws_nothing_for_the_whole_batch(params, changes, message):
    with pytest.raises(ParamsError, match=f"accumulate is 2, but .*{message}"):
        override(params.head("fact"), {"accumulate": 2, **changes})
    nothing = {"model.time_mask": None, "model.Bi.dropout": 0.0}
    assert override(params.head("fact"), {"accumulate": 2, **nothing}).undivided == ""


def test_compile_is_in_a_key_where_it_is_true_alone(params):
    head, feature = params.head("gasm_cast"), params.features["dinov3_patches"]
    assert override(head, {"compile": True}).learned == {**head.learned, "compile": True}
    assert override(head, {"compile": False}).learned == head.learned and "compile" not in head.learned
    assert feature.model_copy(update={"compile": True}).keyed == {**feature.keyed, "compile": True}
    assert "compile" not in feature.keyed
