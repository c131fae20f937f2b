"""NegAlign from caches to a result: each switch changes what it should and nothing else, and λ is chosen blindly."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.config import override, parse_params
from pipeline.digests import Damaged, file_digest
from pipeline.evaluation import ood
from pipeline.evaluation.negatives import ORIGIN, TABLE
from pipeline.evaluation.ood_metrics import choose_lambda, fit_lambda, ood_metrics
from pipeline.store import FeatureStore, StoreError
from pipeline.training.dataset import DataError
from tests.evaluation.pictures import CLASSES, FAILED, OOD, SPLITS, make, picture, word, write_store
from tests.evaluations import evaluation_of
from tests.heads.negalign import literal
from tests.training.learnable import digest

COLUMNS = ("predicted", "cam_valid", "neglabel", "star", "p_align", "negalign")
OFF = {"lam__fixed": 0.0}
VALIDATION = {"lam__choose": "validation", "lam__fixed": None}
ADAPTIVE = {"lam__choose": "adaptive", "lam__fixed": None}


def table_of(run) -> pd.DataFrame:
    return pd.read_parquet(evaluation_of(run) / "predictions.parquet")


def rows(table, name, part):
    return table[(table["set"] == name) & (table["part"] == part)]


def sides(table, part):
    """S* and P_align of ID, then of all OOD."""
    inside, outside = rows(table, "id", part), pd.concat([rows(table, name, part) for name in OOD])
    return [side[column].to_numpy() for side in (inside, outside) for column in ("star", "p_align")]


def by_set(table, columns):
    """Both terms of the reference pictures: those of ID, and of each OOD set."""
    sets = [rows(table, name, "reference") for name in ("id", *sorted(OOD))]
    inside, *outside = [tuple(of[column].to_numpy() for column in columns) for of in sets]
    return inside, outside


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def base(world, tmp_path_factory):
    """All switches off, λ 0.5."""
    run = tmp_path_factory.mktemp("base") / "run"
    return run, world.evaluated(run)


@pytest.fixture
def evaluated(world, tmp_path):
    """(table, result) of changed params."""

    def evaluate(of=world, **changes):
        result = of.changed(**changes).evaluated(tmp_path / "run")
        return table_of(tmp_path / "run"), result

    return evaluate


# --- the pointing game ------------------------------------------------------------------------------------------------


def with_masks(world, directory, masks):
    """The world with a store of masks (1, 1, 3, 3) of ID pictures."""
    document = world.params.model_dump(mode="json")
    document["features"]["masks"] = {"backbone": "maps", "source": "cam", "scale": 1}
    params = parse_params(document)
    config = override(params.head("negalign"), {"features.masks": "masks"})
    write_store(directory, "masks", {name: {"maps": mask.reshape(1, 1, 3, 3)} for name, mask in masks.items()})
    return world._replace(params=params.replacing("negalign", config), stores=world.stores | {"masks": directory})


def test_the_pointing_game_is_a_literal_count_over_the_masks_that_are_there(world, tmp_path):
    rng = np.random.default_rng(0)
    masks = {f"test-{i}": rng.choice([0, 0.3, 0.5, 1], size=9, p=[0.5, 0.2, 0.1, 0.2]) for i in range(10)}
    masks["test-4"] = np.zeros(9)  # no object: no peak could be on it
    told = with_masks(world, tmp_path / "masks", masks).evaluated(tmp_path / "run")["pointing_game"]
    cam = FeatureStore(world.stores["cam"])
    touched, half, chance, chance_half = [], [], [], []
    for name, mask in masks.items():
        if name in (FAILED, "test-4"):
            continue
        peak = max(range(9), key=lambda patch: cam.read([name], "map")[0][patch])
        touched.append(mask[peak] > 0), half.append(mask[peak] >= 0.5)
        chance += [value > 0 for value in mask]
        chance_half += [value >= 0.5 for value in mask]
    wanted = {"touched": touched, "half": half, "chance": chance, "chance_half": chance_half}
    assert told == pytest.approx({name: 100 * np.mean(of) for name, of in wanted.items()} | {"pictures": 8})


def test_masks_that_were_replaced_since_their_store_was_made_are_refused_by_name(world, tmp_path, monkeypatch):
    masked = with_masks(world, tmp_path / "masks", {f"test-{i}": np.ones(9) for i in range(10)})
    masked.mined(tmp_path / "run")
    read = ood.read_manifest

    def replaced(path):
        table = read(path)
        table.loc[table["sample"] == "test-7", "digest"] = "another"
        return table

    monkeypatch.setattr(
        ood, "read_manifest", lambda path: replaced(path) if path.parent.name == "birds" else read(path)
    )
    with pytest.raises(DataError, match=r"the masks store \(masks-keymasks\) is stale: sample test-7 was made from an"):
        masked.evaluated(tmp_path / "run", mined=False)


def test_without_masks_there_is_no_pointing_game(base):
    assert base[1]["pointing_game"] is None


# --- the figures ------------------------------------------------------------------------------------------------------


def test_every_figure_follows_from_the_predictions(base):
    run, result = base
    table = table_of(run)
    inside = rows(table, "id", "evaluated")
    for name in OOD:
        outside = rows(table, name, "evaluated")
        for kind in ood.KINDS:
            assert result["sets"][name][kind] == pytest.approx(ood_metrics(inside[kind], outside[kind]))
        low, high = result["sets"][name]["ci95"]["auroc"]
        assert 0 <= low <= high <= 100
        assert result["statistics"][name]["p_align"] == pytest.approx(outside["p_align"].mean())
        sweep = result["sets"][name]["lambda_sweep"]
        assert sweep["0.5"] == result["sets"][name]["negalign"] and sweep["0"] == result["sets"][name]["star"]
    for figure in ("auroc", "aupr_in", "aupr_out", "fpr95"):
        for key, kind in ((figure, "negalign"), (f"{figure}_neglabel", "neglabel")):
            mean = np.mean([result["sets"][name][kind][figure] for name in OOD])
            assert result[key] == pytest.approx(mean) and result["average"][kind][figure] == pytest.approx(mean)
    assert result["auroc_neglabel"] > 70, "the made-up pictures can be told apart"
    assert result["task"] == "ood" and result["lambda"] == 0.5 and result["classes"] == list(CLASSES)


def test_pictures_show_what_is_predicted(base):
    table = table_of(base[0])
    inside = table[table["set"] == "id"]
    truth = [CLASSES[int(sample.split("-")[1]) % 2] for sample in inside["sample"]]
    assert (inside["predicted"] == truth).mean() > 0.9


def test_a_picture_scores_the_same_alone_and_among_others(world, base, tmp_path, monkeypatch):
    monkeypatch.setattr(ood, "CHUNK", 1)
    world.evaluated(tmp_path)
    pd.testing.assert_frame_equal(table_of(tmp_path), table_of(base[0]), rtol=1e-5)


def test_equal_params_give_equal_bytes_but_for_timings(world, base, tmp_path):
    run, result = base
    again = world.evaluated(tmp_path)
    for one in (result, again):
        one["provenance"].pop("timings", None)
    assert json.dumps(result) == json.dumps(again)
    assert (tmp_path / TABLE).read_bytes() == (run / TABLE).read_bytes()
    for name in ("predictions.parquet", ood.GROUPS):
        assert (evaluation_of(tmp_path) / name).read_bytes() == (evaluation_of(run) / name).read_bytes()


def test_the_result_names_every_store_that_it_rests_on(world, base):
    features = base[1]["provenance"]["features"]
    assert set(features) == set(world.params.head("negalign").inputs)
    assert features["ood.empty.cam"]["dataset"] == "birds-empty" and features["words.background"]["name"] == "behind"
    assert features["cam"]["failed"] == 1 and base[1]["provenance"]["params"]["score"]["groups"] == 3


# --- the switches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"score__role_aware": True}, {"star", "negalign"}),
        ({"score__topk": 2}, {"star", "negalign"}),
        ({"score__zscore": True}, {"star", "negalign"}),
        ({"lam__fixed": 1.0}, {"negalign"}),
        ({"background__k_neg": 1}, {"p_align", "negalign"}),
        ({"background__percentile": 20.0}, {"p_align", "negalign"}),
        ({"background__dilate": 2}, {"cam_valid", "p_align", "negalign"}),
        ({"score__scale": 20.0}, {"neglabel", "star", "negalign"}),
        ({"score__groups": 2}, {"neglabel", "star", "negalign"}),
        ({"score__ambiguous": True}, set()),  # without role_aware every word counts already
        ({"bootstrap": 6}, set()),
    ],
    ids=lambda value: next(iter(value), None) if isinstance(value, dict) else "",
)
def test_a_switch_changes_what_it_should_and_nothing_else(base, evaluated, changes, changed):
    before, (after, _) = table_of(base[0]), evaluated(**changes)
    assert before["sample"].equals(after["sample"])
    assert {column for column in COLUMNS if not np.array_equal(before[column], after[column])} == changed


def test_with_all_switches_off_and_lambda_0_it_is_neglabel(evaluated):
    table, result = evaluated(**OFF)
    assert np.array_equal(table["negalign"], table["neglabel"]) and np.array_equal(table["star"], table["neglabel"])
    assert result["average"]["negalign"] == result["average"]["neglabel"] == result["average"]["star"]
    assert result["auroc"] == result["auroc_neglabel"]


def test_topk_of_a_whole_group_changes_nothing(base, evaluated):
    whole = len(json.loads((evaluation_of(base[0]) / ood.GROUPS).read_text())["star"][0])
    np.testing.assert_allclose(evaluated(score__topk=whole)[0]["star"], table_of(base[0])["star"], rtol=1e-6)


@pytest.mark.parametrize(("ambiguous", "roles"), [(False, {"object"}), (True, {"object", "ambiguous"})])
def test_role_aware_negatives_are_the_words_of_their_roles(evaluated, tmp_path, ambiguous, roles):
    _, result = evaluated(score__role_aware=True, score__ambiguous=ambiguous, words__roles__value=20.0)
    mined = pd.read_csv(tmp_path / "run" / TABLE, keep_default_na=False).set_index("word")["role"]
    drawn = json.loads((evaluation_of(tmp_path / "run") / ood.GROUPS).read_text())
    assert {mined[word] for group in drawn["star"] for word in group} == roles
    assert {mined[word] for group in drawn["neglabel"] for word in group} == {"object", "background", "ambiguous"}
    assert result["words"] == mined.value_counts().to_dict()


def test_zscores_are_standardised_by_reference_pictures_that_are_in_distribution(base, evaluated):
    table, _ = evaluated(score__zscore=True)
    reference = rows(table, "id", "reference")["star"]
    assert reference.mean() == pytest.approx(0, abs=1e-9) and reference.std() == pytest.approx(1)
    raw = table_of(base[0])["star"]
    mean, std = (getattr(rows(table_of(base[0]), "id", "reference")["star"], of)() for of in ("mean", "std"))
    np.testing.assert_allclose(table["star"], (raw - mean) / std, rtol=1e-6, atol=1e-9)


# --- λ ----------------------------------------------------------------------------------------------------------------


def test_lambda_is_the_best_of_the_values_on_the_reference_pictures(world, evaluated):
    table, result = evaluated(**VALIDATION)
    values = world.params.head("negalign").lam.values
    assert result["lambda"] == choose_lambda(*by_set(table, ("star", "p_align")), values, 0.05)
    np.testing.assert_allclose(table["negalign"], table["star"] + result["lambda"] * table["p_align"], rtol=1e-12)


def test_an_adaptive_lambda_is_fitted_on_the_reference_pictures(evaluated):
    table, result = evaluated(**ADAPTIVE)
    assert result["lambda"] == pytest.approx(fit_lambda(*sides(table, "reference")))
    assert list(result["lambda_sweep"]) == ["0", "0.25", "0.5", "0.75", "1"], "the curve is drawn over the values"


@pytest.mark.parametrize("choose", [VALIDATION, ADAPTIVE], ids=["validation", "adaptive"])
def test_lambda_is_never_chosen_from_pictures_that_are_evaluated(world, base, evaluated, tmp_path, choose):
    _, before = evaluated(**choose, score__zscore=True)
    table = table_of(base[0])
    parts = dict(zip(table["sample"], table["part"], strict=True))

    def otherwise(part):
        """Other pictures under the names of one part."""
        return lambda name: picture(f"strange-{name}-7" if parts.get(name) == part else name)

    _, after = evaluated(make(tmp_path / "evaluated", otherwise("evaluated")), **choose, score__zscore=True)
    assert after["lambda"] == before["lambda"] and after["auroc"] != before["auroc"]
    _, after = evaluated(make(tmp_path / "reference", otherwise("reference")), **ADAPTIVE)
    assert after["lambda"] != evaluated(**ADAPTIVE)[1]["lambda"], "the reference pictures do decide"


# --- the local score --------------------------------------------------------------------------------------------------

MAX = {"score__local": "max"}


def test_the_local_score_is_the_picture_s_evidence_and_lambda_times_that_of_its_best_patch(world, base, evaluated):
    table, result = evaluated(**MAX)
    assert result["local"] == "max" and result["lambda"] == 0.5
    np.testing.assert_allclose(table["negalign"], table["evidence"] + 0.5 * table["local"], rtol=1e-12)
    words = pd.read_csv(base[0] / TABLE, keep_default_na=False)["word"]
    row = rows(table, "strange", "evaluated").iloc[2]
    image, _, patches = picture(row["sample"])
    scale = world.params.head("negalign").score.scale
    texts = [[word(text) for text in of] for of in (CLASSES, words)]
    own = [literal.evidence(x, *texts, scale) for x in (image, *patches.astype("float16"))]
    assert row["evidence"] == pytest.approx(own[0], abs=1e-4)
    assert row["local"] == pytest.approx(max(own[1:]), abs=1e-4) and row["patch"] == own.index(max(own[1:])) - 1
    for column in ("neglabel", "star", "p_align"):
        np.testing.assert_array_equal(table[column], table_of(base[0])[column], err_msg="the published figures stay")


def test_roles_topk_and_z_scores_do_not_touch_the_local_score(evaluated):
    plain, _ = evaluated(**MAX)
    switched, _ = evaluated(**MAX, score__role_aware=True, score__topk=1, score__zscore=True)
    np.testing.assert_array_equal(switched["negalign"], plain["negalign"])


def test_without_ood_pictures_to_choose_on_lambda_is_a_third_of_the_picture_s_weight(evaluated):
    assert evaluated(**MAX, lam__fixed=None)[1]["lambda"] == 0.3


def test_without_a_local_term_the_score_is_s_neglabel_star_alone(evaluated):
    table, result = evaluated(score__local="none", lam__fixed=None)
    np.testing.assert_array_equal(table["negalign"], table["star"])
    assert result["lambda"] == 0 and "local" not in table


def test_lambda_of_the_local_score_is_chosen_with_the_guard(evaluated):
    table, result = evaluated(**MAX, **VALIDATION)
    values = [float(of) for of in result["lambda_sweep"]]
    assert result["lambda"] == choose_lambda(*by_set(table, ("evidence", "local")), values, 0.05)


# --- what is scored ---------------------------------------------------------------------------------------------------


def test_every_row_of_every_manifest_of_pictures_is_counted_once_and_failures_say_why(base):
    table, counts = table_of(base[0]), base[1]["samples"]
    failures = counts.pop("failures")
    assert failures == [{"sample": f"id/{FAILED}", "reason": "no cam"}]
    assert sum(counts.values()) == sum(SPLITS.values()) + sum(OOD.values())
    assert counts["failed"] == 1 and counts["skipped"] == SPLITS["train"]
    assert counts["id.reference"] == SPLITS["val"] and counts["id.evaluated"] == SPLITS["test"] - 1
    assert FAILED not in set(table["sample"]) and not table["sample"].str.startswith("train").any()
    for (name, part), found in table.groupby(["set", "part"]):
        assert counts[f"{name}.{part}"] == len(found)


def test_a_share_of_each_ood_set_is_for_choosing_and_none_of_it_is_evaluated(base, evaluated):
    table = table_of(base[0])
    for name, count in OOD.items():
        assert len(rows(table, name, "reference")) == round(0.25 * count)
    assert not table.duplicated(["set", "sample"]).any()
    other, _ = evaluated(seed=1)
    assert set(rows(other, "empty", "reference")["sample"]) != set(rows(table, "empty", "reference")["sample"])


def test_without_a_reference_split_a_share_of_the_evaluated_split_is_carved_out(evaluated):
    table, result = evaluated(reference_split=None, **VALIDATION)
    inside = table[table["set"] == "id"]
    assert inside["sample"].str.startswith("test").all() and not inside["sample"].duplicated().any()
    assert inside["part"].value_counts().to_dict() == {"evaluated": 10, "reference": 3}
    assert result["samples"]["skipped"] == SPLITS["train"] + SPLITS["val"]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_without_negative_words_the_error_says_what_to_run(world, tmp_path):
    with pytest.raises(DataError, match=r"negatives\.csv does not exist: mine the negative words first \(`mine neg"):
        world.evaluated(tmp_path / "run", mined=False)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda table: table.assign(role="odd"), r"heads\.negalign: .* no known role"),
        (lambda table: table.assign(word="Gull"), "are ID classes"),
        (lambda table: table.head(0), "the list of negative words is empty"),
        (lambda table: table.assign(word="unheard of"), "holds no sample 'unheard of'"),
    ],
    ids=["role", "class", "empty", "unknown"],
)
def test_a_list_of_words_that_does_not_fit_is_refused(world, base, tmp_path, edit, says):
    edit(pd.read_csv(base[0] / TABLE, keep_default_na=False)).to_csv(tmp_path / TABLE, index=False)
    with pytest.raises((DataError, StoreError), match=says):
        world.evaluated(tmp_path, mined=False)


def test_a_table_of_words_without_roles_is_refused_with_the_remedy(world, tmp_path):
    world.mined(tmp_path / "run")
    table = tmp_path / "run" / TABLE
    (tmp_path / "run" / ORIGIN).unlink()
    pd.read_csv(table).drop(columns="role").to_csv(table, index=False)
    with pytest.raises(DataError, match=r"negatives\.csv has no column 'role'; delete it and mine the words again"):
        world.evaluated(tmp_path / "run", mined=False)


def test_a_table_that_is_not_the_one_that_was_mined_is_a_person_s_only_where_that_is_said(world, tmp_path):
    world.mined(tmp_path)
    table = tmp_path / TABLE
    table.write_text(table.read_text(encoding="utf-8").replace("object", "background", 1), encoding="utf-8")
    with pytest.raises(Damaged, match=r"negatives\.csv is not the file that was written.* or delete .*negatives\.json"):
        world.evaluated(tmp_path, mined=False)
    (tmp_path / ORIGIN).unlink()
    result = world.evaluated(tmp_path, mined=False)
    assert result["provenance"]["read"] == {TABLE: file_digest(table)}


def test_scores_that_cannot_be_standardised_or_weighed_name_the_head(tmp_path):
    same = make(tmp_path, show=lambda name: picture("test-0"), failed=())
    with pytest.raises(DataError, match=r"heads\.negalign: all \d+ reference scores are .* no deviation to divide by"):
        same.changed(score__zscore=True).evaluated(tmp_path / "run")


def test_more_groups_than_words_are_refused_by_the_head(evaluated):
    with pytest.raises(DataError, match=r"heads\.negalign: 99 groups of"):
        evaluated(score__groups=99)


def test_a_set_without_a_usable_picture_is_refused_by_its_name(tmp_path):
    world = make(tmp_path / "world", failed=[f"strange-{i}.png" for i in range(OOD["strange"])])
    with pytest.raises(DataError, match="birds-strange has no usable picture for reference"):
        world.evaluated(tmp_path / "run")


def test_a_split_that_is_not_there_is_refused(world, tmp_path):
    told = r"birds has no usable picture for evaluated: 1 failed, .* are \['test', 'train', 'val'\]; correct the splits"
    with pytest.raises(DataError, match=told):
        world.changed(eval_split="tset").evaluated(tmp_path)


# --- sets that share pictures -----------------------------------------------------------------------------------------


def opened_with_copies(world, monkeypatch, copies) -> ood.Pictures:
    """The pictures, where the ID manifest also has byte-for-byte copies of some of the OOD set `empty`."""
    read = ood.read_manifest

    def with_copies(path):
        table = read(path)
        if path.parent.name != "birds":
            return table
        rows = [table.iloc[[0]].assign(sample=f"train-copy-{i}", digest=digest(name)) for i, name in enumerate(copies)]
        return pd.concat([table, *rows], ignore_index=True)

    monkeypatch.setattr(ood, "read_manifest", with_copies)
    return ood.open_pictures(world.run(Path()))


def test_a_picture_that_is_in_distribution_too_is_none_of_an_ood_set_and_counted_with_the_reason(world, monkeypatch):
    found = opened_with_copies(world, monkeypatch, ["empty-0.png", "empty-3.png"])
    shared = {name: why for name, why in found.failed.items() if "birds" in why}
    assert shared == dict.fromkeys(["empty/empty-0.png", "empty/empty-3.png"], "a picture of birds too")
    assert sum(len(ids) for ids in found.sets["empty"].values()) == OOD["empty"] - 2
    assert sum(len(ids) for ids in found.sets["strange"].values()) == OOD["strange"]


def test_a_set_whose_pictures_are_all_in_distribution_is_refused(world, monkeypatch):
    told = r"all 20 pictures of ood\.empty \(birds-empty\) are pictures of birds too, byte for byte, .*; name another"
    with pytest.raises(DataError, match=told):
        opened_with_copies(world, monkeypatch, [f"empty-{i}.png" for i in range(20)])
