"""A result of clip_align says what its model says, video by video; and what it looked at lies beside it."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.evaluation.alignment import ATTENTION, cohort, evaluate
from pipeline.evaluation.alignment_metrics import FORMS, by_patient
from pipeline.runs import WEIGHTS
from pipeline.training.clips import ClipTable
from tests.evaluation.clinic import GRID, clinic

KEYS = {"accuracy", "macro_f1", "auroc", "ci95", "per_class", "confusion", "patient", "retrieval", "agreement"}
KEYS |= {"ci95_without_map"}
KEYS |= {"accuracy_without_map", "macro_f1_without_map", "auroc_without_map", "by_clinician", "without_map"}


FIGURES = ("r1", "r5", "median_rank", "chance_r1", "chance_r5", "ci95", "queries", "gallery")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def looked_at(found):
    """What lies beside the result."""
    return np.load(io.BytesIO(found.files[ATTENTION]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return clinic(tmp_path_factory.mktemp("clinic"))


@pytest.fixture(scope="module")
def found(made):
    return evaluate(made.run)


@pytest.fixture(scope="module")
def one_by_one(made):
    """What the model says of each evaluated video alone, as numbers of numpy."""
    model, samples, ids = made.run.model, made.samples, made.samples.parts["evaluated"]
    table, who, said = ClipTable(samples, ids, 1e9), cohort(samples, made.run.config.seed), []
    guides = dict(zip(who.drawn, who.swapped, strict=True))
    for row in range(len(ids)):
        batch, other = table[[row]], table[[guides.get(row, row)]]
        with torch.no_grad():
            own = model(batch["tokens"], batch["maps"], batch["has_map"])
            blind = model(batch["tokens"])
            encoded = model.encode(batch["tokens"])
            videos = {
                "published": own.video_embed,
                "unguided": model.video(encoded).embed,
                "shuffled": model.video(encoded, other["maps"]).embed,
            }
        said.append(
            {
                "probabilities": own.logits[0].double().softmax(0).numpy(),
                "without": int(blind.logits.argmax()),
                "map": own.attn_embed[0].numpy(),
                **{form: value[0].numpy() for form, value in videos.items()},
            }
        )
    return said


def test_the_result_has_the_promised_keys_and_can_be_written(found):
    assert set(found.scores) >= KEYS
    json.dumps(found.scores, allow_nan=False)
    assert set(found.scores["retrieval"]) == set(FORMS)
    for of in found.scores["retrieval"].values():
        assert set(of) == {"video_to_map", "map_to_video"}
        assert set(of["map_to_video"]) == set(FIGURES)
    assert set(found.scores["agreement"]) == {"published", "unguided"}
    assert set(found.scores["patient"]) == {"accuracy", "macro_f1", "auroc", "accuracy_without_map", "patients"}
    low, high = found.scores["ci95"]
    assert low <= found.scores["accuracy"] <= high


def test_probabilities_and_similarities_are_those_of_each_video_alone(found, one_by_one, made):
    table = found.predictions
    assert table["sample"].tolist() == made.samples.parts["evaluated"]
    names = made.samples.classes
    for row, said in zip(table.itertuples(), one_by_one, strict=True):
        np.testing.assert_allclose(row.probabilities, said["probabilities"], atol=1e-5)
        assert row.prediction == names[said["probabilities"].argmax()]
        assert row.prediction_without_map == names[said["without"]]
        assert row.patient == made.samples.patients[row.sample]
        assert (None if pd.isna(row.clinician) else row.clinician) == made.samples.clinicians[row.sample]
        if made.samples.maps[row.sample] is None:
            assert np.isnan([row.similarity, row.similarity_unguided, row.rank_video_to_map]).all()
        else:
            assert row.similarity == pytest.approx(said["published"] @ said["map"], abs=1e-5)
            assert row.similarity_unguided == pytest.approx(said["unguided"] @ said["map"], abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_retrieval_is_that_of_a_literal_loop_over_videos_and_distinct_maps(found, one_by_one, made, form):
    samples, ids = made.samples, made.samples.parts["evaluated"]
    of_map = {}
    for sample, said in zip(ids, one_by_one, strict=True):
        if samples.maps[sample] is not None:
            of_map.setdefault(samples.maps[sample], said["map"])
    assert len(of_map) == 15 and len(ids) == 18, "two clips without a map, and two that share one"

    def excluded(sample, digest):
        own = {samples.maps[other] for other in ids if samples.patients[other] == samples.patients[sample]}
        return digest in own and digest != samples.maps[sample]

    ranks, back = {}, {}
    drawn = [(sample, said) for sample, said in zip(ids, one_by_one, strict=True) if samples.maps[sample] is not None]
    for sample, said in drawn:
        there = [digest for digest in of_map if not excluded(sample, digest)]
        there.sort(key=lambda digest: -float(said[form] @ of_map[digest]))
        ranks[sample] = there.index(samples.maps[sample]) + 1
    for digest, embed in of_map.items():
        there = [(sample, said) for sample, said in drawn if not excluded(sample, digest)]
        there.sort(key=lambda pair: -float(pair[1][form] @ embed))
        back[digest] = next(place for place, (sample, _) in enumerate(there, 1) if samples.maps[sample] == digest)
    scores = found.scores["retrieval"][form]
    for direction, places in (("video_to_map", ranks), ("map_to_video", back)):
        values = np.array(list(places.values()))
        assert scores[direction]["queries"] == len(values)
        assert scores[direction]["r1"] == pytest.approx(100 * (values == 1).mean())
        assert scores[direction]["r5"] == pytest.approx(100 * (values <= 5).mean())
        assert scores[direction]["median_rank"] == pytest.approx(np.median(values))
    column = {"published": "rank_video_to_map", "unguided": "rank_video_to_map_unguided"}.get(form)
    if column:
        table = found.predictions.set_index("sample")[column].dropna()
        assert table.to_dict() == pytest.approx(ranks)


def test_the_figures_agree_with_the_table_of_predictions(found):
    table, scores = found.predictions, found.scores
    right = table["label"] == table["prediction"]
    assert scores["accuracy"] == pytest.approx(100 * right.mean())
    assert scores["accuracy_without_map"] == pytest.approx(
        100 * (table["label"] == table["prediction_without_map"]).mean()
    )
    counts = np.array(scores["confusion"]["matrix"])
    assert 100 * counts.trace() / counts.sum() == pytest.approx(scores["accuracy"])
    assert scores["without_map"] == table["similarity"].isna().sum() == 2
    groups = table[table["clinician"].notna()].groupby("clinician")
    assert set(scores["by_clinician"]) == {name for name, _ in groups} == {"ann", "bob", "cat"}
    for name, of in groups:
        assert scores["by_clinician"][name]["videos"] == len(of)
        assert scores["by_clinician"][name]["accuracy"] == pytest.approx(100 * right[of.index].mean())
    drawn = table["similarity"].notna()
    for form, column in (("published", "similarity"), ("unguided", "similarity_unguided")):
        gap = table[column][drawn & right].mean() - table[column][drawn & ~right].mean()
        assert scores["agreement"][form]["gap"] == pytest.approx(gap)


def test_a_patient_is_the_mean_over_all_clips_of_a_diagnosis(found):
    hits = []
    for _, clips in found.predictions.groupby(["patient", "label"]):
        mean = np.mean(clips["probabilities"].tolist(), axis=0)
        hits.append(sorted(found.scores["confusion"]["classes"])[mean.argmax()] == clips["label"].iloc[0])
    assert found.scores["patient"]["patients"] == len(hits) == 9
    assert found.scores["patient"]["accuracy"] == pytest.approx(100 * np.mean(hits))


def test_a_patient_with_two_diagnoses_counts_as_two():
    labels, means = by_patient(np.array([0, 1, 1]), np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8]]), ["ann"] * 3)
    np.testing.assert_array_equal(labels, [0, 1])
    np.testing.assert_allclose(means, [[0.8, 0.2], [0.3, 0.7]])


def test_attention_shows_the_most_confident_right_and_wrong_videos_as_the_model_sees_them(found, made):
    table = found.predictions
    shown = looked_at(found)
    assert set(shown) == {"sample", "label", "prediction", "token_map", "gate", "energy"}
    assert shown["token_map"].shape == shown["gate"].shape == shown["energy"].shape == (6, *GRID)
    table = table[table["similarity"].notna()].assign(best=table["probabilities"].map(max))
    table = table.sort_values("best", ascending=False, kind="stable")
    right = table["label"] == table["prediction"]
    assert shown["sample"].tolist() == [*table["sample"][right][:3], *table["sample"][~right][:3]]
    assert (shown["label"] == shown["prediction"]).tolist() == [True] * 3 + [False] * 3
    model = made.run.model
    batch = ClipTable(made.samples, shown["sample"].tolist(), 1e9)[range(6)]
    with torch.no_grad():
        output = model(batch["tokens"], batch["maps"])
    np.testing.assert_allclose(shown["token_map"], output.token_map, atol=1e-5)
    np.testing.assert_allclose(shown["gate"], output.gate, atol=1e-5)
    for cell in np.ndindex(6, *GRID):
        assert shown["energy"][cell] == pytest.approx(float((output.video_tokens[cell] ** 2).sum()) ** 0.5, rel=1e-5)


def test_the_same_twice_is_the_same_to_the_byte_and_other_batches_give_the_same_figures(found, made, tmp_path):
    again = evaluate(made.run)
    assert json.dumps(again.scores) == json.dumps(found.scores) and again.said == found.said
    assert again.files[ATTENTION] == found.files[ATTENTION]
    other = evaluate(clinic(tmp_path, batch_size=5).run)
    assert other.scores["retrieval"] == found.scores["retrieval"]
    assert other.scores["accuracy"] == found.scores["accuracy"]


def test_without_guidance_no_map_is_in_the_embedding_and_no_gate_in_the_picture(tmp_path):
    made = clinic(tmp_path, model__map_guided=False, loss__clip_weight=0.0)
    found = evaluate(made.run)
    scores = found.scores
    for other in ("unguided", "shuffled"):
        assert scores["retrieval"]["published"] == scores["retrieval"][other]
    assert scores["agreement"]["published"] == scores["agreement"]["unguided"]
    assert "gate" not in looked_at(found)


@pytest.mark.parametrize("guidance", ["channel", "weighted_pool", "summary_gate"])
def test_a_guidance_without_a_gate_of_cells_draws_none(tmp_path, guidance):
    made = clinic(tmp_path, model__map_guided_type=guidance)
    assert set(looked_at(evaluate(made.run))) == {"sample", "label", "prediction", "token_map", "energy"}


PREDICTED = {"model__map_guided_type": "predicted", "model__classifier_source": "video", "loss__clip_weight": 0.0}


def test_a_predicted_map_is_compared_with_the_drawn_ones_and_retrieves_them_without_any_leak(tmp_path):
    made = clinic(tmp_path, **PREDICTED)
    found = evaluate(made.run)
    scores, table, samples = found.scores, found.predictions, made.samples
    json.dumps(scores, allow_nan=False)
    ids, model = samples.parts["evaluated"], made.run.model
    batch = ClipTable(samples, ids, 1e9)[range(len(ids))]
    with torch.no_grad():
        output = model(batch["tokens"], batch["maps"], batch["has_map"])
        assert table["prediction_without_map"].tolist() == [
            samples.classes[c] for c in model(batch["tokens"]).logits.argmax(1).tolist()
        ]
    a, m = output.log_map.double().exp().flatten(1).numpy(), output.step_map.double().mean(1).flatten(1).numpy()
    drawn = [row for row, sample in enumerate(ids) if samples.maps[sample] is not None]
    overlaps = [sum(np.sqrt(x * y) for x, y in zip(a[row], m[row], strict=True)) for row in drawn]
    np.testing.assert_allclose(table["map_overlap"].dropna(), overlaps, atol=1e-6)
    assert table["map_overlap"].isna().sum() == len(ids) - len(drawn) == 2
    assert scores["predicted_map"]["overlap"] == pytest.approx(100 * np.mean(overlaps), abs=1e-4)
    of_map = {}
    for row in drawn:
        of_map.setdefault(samples.maps[ids[row]], m[row])
    ranks = []
    for row in drawn:
        own = {samples.maps[other] for other in ids if samples.patients[other] == samples.patients[ids[row]]}
        there = [d for d in of_map if d not in own or d == samples.maps[ids[row]]]
        there.sort(key=lambda d: -float(np.sqrt(a[row] * of_map[d]).sum()))
        ranks.append(there.index(samples.maps[ids[row]]) + 1)
    side = scores["retrieval"]["predicted"]["video_to_map"]
    assert side["median_rank"] == np.median(ranks) and side["r5"] == pytest.approx(100 * np.mean(np.array(ranks) <= 5))
    low, high = side["ci95"]["median_rank"]
    assert low <= side["median_rank"] <= high
    assert table["rank_predicted_map"].dropna().tolist() == ranks
    shown = looked_at(found)
    np.testing.assert_allclose(shown["predicted"].sum((2, 3)), 1, rtol=1e-5)
    assert shown["predicted"].shape == shown["token_map"].shape


def test_without_any_map_there_is_a_diagnosis_and_no_retrieval(tmp_path):
    made = clinic(tmp_path, without=tuple(range(18)))
    found = evaluate(made.run)
    json.dumps(found.scores, allow_nan=False)
    nothing = {**dict.fromkeys(FIGURES), "queries": 0, "gallery": 0}
    for form in FORMS:
        assert found.scores["retrieval"][form] == {"video_to_map": nothing, "map_to_video": nothing}
    assert found.scores["agreement"]["published"]["gap"] is None and found.scores["without_map"] == 18
    assert "R@1" not in found.said and "nan" not in found.said
    assert (looked_at(found)["token_map"] == 0).all()


def test_where_all_share_one_map_nobody_can_be_shuffled_and_everybody_finds_it(tmp_path):
    scores = evaluate(clinic(tmp_path, same=True).run).scores["retrieval"]
    assert scores["shuffled"]["video_to_map"]["queries"] == scores["shuffled"]["map_to_video"]["queries"] == 0
    found = scores["published"]["video_to_map"]
    assert (found["r1"], found["chance_r1"], found["gallery"]) == (100, 100, 1)


def test_a_collapsed_model_is_at_chance(tmp_path):
    made = clinic(tmp_path)
    weights = load_file(made.run.folder / WEIGHTS)
    for side in ("video", "attn"):
        # The last linear layer of a projection, which the norm and the unit length follow.
        weights[f"project_{side}.layers.3.weight"].zero_()
    save_file(weights, made.run.folder / WEIGHTS)
    for direction in evaluate(made.run).scores["retrieval"]["published"].values():
        assert direction["r1"] == pytest.approx(direction["chance_r1"])
