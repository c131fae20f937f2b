"""What a params document asks for, as parts that a rule may see."""

import json
import re
from pathlib import Path

import pytest

from pipeline.config import ParamsError, canonical_json, load_params, parse_params
from pipeline.datasets import DatasetError
from pipeline.plan import RENDERED, Plan

ROOT = Path(__file__).parents[1]


def test_the_part_of_an_ablation_holds_every_feature_that_its_variants_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan(load_params("params.yaml"))
    part = load_params(plan.part(ablation="gasm_cast_storage"))
    assert {"dinov3_full", "dinov3_int8", "dinov3_pool_int8", "dinov3_patches"} <= set(part.features)
    assert [run.key for run in Plan(part).ablation_runs("gasm_cast_storage")] == [
        run.key for run in plan.ablation_runs("gasm_cast_storage")
    ]


def test_the_job_of_a_table_sees_its_rows_in_the_order_and_by_the_names_that_params_give_them(plan):
    document = plan.params.model_dump(mode="json") | {"claims": {}}
    rows = {"variants": {"z": {}, "y": {"lr": 0.5}, "a": {"lr": 0.7}}, "grid": {"model.width": [32, 16], "lr": [0.1]}}
    document["ablations"] = {"it": {"head": "gasm_cast", "seeds": [1, 0], **rows}}
    made = Plan(parse_params(document))
    expected = [(row, seed) for row in ("z", "y", "a", "width=32 lr=0.1", "width=16 lr=0.1") for seed in (1, 0)]
    for text in (made.part(ablation="it"), made.document):
        assert list(Plan(load_params(text)).ablated("it")) == expected


def ablating(plan, head, seeds=(0,), **variants):
    """The same params with one ablation, `it`, alone."""
    document = plan.params.model_dump(mode="json")
    document["claims"] = {}
    document["ablations"] = {"it": {"head": head, "seeds": list(seeds), "variants": variants}}
    return Plan(parse_params(document))


def test_variants_of_an_ablation_that_are_one_evaluation_of_one_training_are_refused(plan):
    of = ablating(plan, "gasm_cast", (0, 1), here={}, there={"model.width": 48})  # as the head has it
    with pytest.raises(ParamsError, match=r"ablations\.it: there with seed 0 is the same as here with seed 0"):
        of.ablation_runs("it")


def test_the_part_of_an_ablation_holds_what_its_variants_other_data_sets_are_rendered_from(plan):
    part = json.loads(plan.part(ablation="relations_graphs"))
    assert set(part["toyworld"]) == {"seed", "ssv2", "relations"}
    assert list(Plan(load_params(json.dumps(part))).ablated("relations_graphs")) == list(
        plan.ablated("relations_graphs")
    )


def test_what_is_evaluated_elsewhere_is_read_by_evaluations_alone(plan):
    of = ablating(plan, "gasm_cast", own={"elsewhere": {}})
    main, (own,) = of.results["ssv2_top1"], of.ablation_runs("it")
    assert main.folder == own.folder and main.result_file != own.result_file
    assert {read.dataset for read in main.config.inputs.values()} == {"toy-ssv2"} and main.features == own.features
    read = main.config.evaluation_inputs
    assert read["elsewhere.reversed_video.motion"] == ("toy-ssv2-reversed", "r3d18_clips")
    assert of.features("toy-ssv2-reversed") == ("dinov3_patches", "r3d18_clips")
    parts = [json.loads(of.part(head="gasm_cast", key=run.key, evaluation=run.evaluation)) for run in (main, own)]
    assert [sorted(part["datasets"]) for part in parts] == [["toy-ssv2", "toy-ssv2-reversed"], ["toy-ssv2"]]
    assert next(iter(Plan(load_params(json.dumps(parts[0]))).evaluations)) == ("gasm_cast", main.key, main.evaluation)


def test_a_head_that_looks_nowhere_else_has_the_evaluation_it_always_had(plan):
    (own,) = ablating(plan, "gasm_cast", own={"elsewhere": {}}).ablation_runs("it")
    assert "elsewhere" not in own.config.evaluated | own.config.learned
    assert set(own.config.evaluated) == {"eval_split", "bootstrap", "calibration_bins"}


@pytest.mark.parametrize(("field", "value"), [("eval_split", "test"), ("bootstrap", 7), ("calibration_bins", 5)])
def test_what_training_does_not_see_is_another_evaluation_of_the_same_run(plan, field, value):
    of = ablating(plan, "gasm_cast", other={field: value})
    main, (other,) = of.results["ssv2_top1"], of.ablation_runs("it")
    assert main.folder == other.folder == Path(main.result_file).parents[1] and main.result_file != other.result_file
    said = [
        json.loads(of.part(head="gasm_cast", key=run.key, evaluation=run.evaluation))["heads"]["gasm_cast"][field]
        for run in (main, other)
    ]
    assert said == [getattr(main.config, field), value]
    # The one training is asked for as before the ablation was declared: no job is triggered.
    assert of.part(head="gasm_cast", key=main.key) == plan.part(head="gasm_cast", key=main.key)
    assert {Path("runs") / run.head / run.key / run.evaluation for run in (main, other)} <= of.referenced(
        Path("features"), Path("runs")
    )


def test_the_name_of_a_result_is_part_of_no_key(plan):
    document = plan.params.model_dump(mode="json")
    document["heads"]["gasm_cast"]["result"] = "renamed"
    assert Plan(parse_params(document)).results["renamed"].result_file == plan.results["ssv2_top1"].result_file


@pytest.mark.parametrize("changes", [{"label_fps": 6}, {"background": []}])
def test_how_labels_are_read_is_part_of_a_runs_key(plan, changes):
    document = plan.params.model_dump(mode="json")
    document["datasets"]["toy-assembly"] |= changes
    other = Plan(parse_params(document))
    assert other.results["assembly_segmentation"].key != plan.results["assembly_segmentation"].key
    assert other.results["ssv2_top1"].key == plan.results["ssv2_top1"].key


def test_another_evaluation_of_a_result_is_scored_by_itself_and_no_sweep_touches_its_run(plan):
    other = {"lam.choose": "fixed", "lam.fixed": 0.5}
    of = ablating(plan, "negalign", ours={"eval_split": "train"}, a=other, b={**other, "bootstrap": 7})
    ours, a, b = (run for row in ("ours", "a", "b") for (variant, _), run in of.ablated("it").items() if variant == row)
    assert ours.key == of.results["waterbirds_ood"].key and a.key == b.key
    assert [run.result_file for run in of.swept["it"]] == [a.result_file, b.result_file]


def test_runs_of_heads_without_training_are_swept_each_once_and_the_result_apart(plan):
    swept = [run.key for runs in plan.swept.values() for run in runs]
    assert {plan.params.ablations[name].head for name in plan.swept} == {"negalign"}
    assert len(swept) == len(set(swept)) and plan.results["waterbirds_ood"].key not in swept
    made = {run.key for name in plan.swept for run in plan.ablation_runs(name)}
    assert made == {*swept, plan.results["waterbirds_ood"].key}


def test_the_part_of_an_ablation_holds_the_data_sets_that_its_variants_read(plan):
    other = {"dataset": "toy-assembly-texts", "feature": "clip_text_negatives"}
    part = load_params(ablating(plan, "negalign", other={"classes": other}).part(ablation="it"))
    assert "toy-assembly-texts" in part.datasets and "toy-ssv2" not in part.datasets


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.chdir(ROOT)
    return Plan(load_params("params.yaml"))


def test_a_shard_of_maps_is_made_from_the_same_shard_of_tokens_and_every_shard_of_the_texts(plan, monkeypatch):
    monkeypatch.setattr(plan, "shards", lambda dataset: {"toy-waterbirds-classes": [0, 1]}[dataset])
    read = plan.read_by("toy-waterbirds", "clip_cam", 3)
    assert [re.sub(r"-[0-9a-f]{8,}/", "-KEY/", path) for path in read] == [
        "features/toy-waterbirds/clip_cam_tokens-KEY/shard-003.json",
        "features/toy-waterbirds-classes/clip_text_negatives-KEY/shard-000.json",
        "features/toy-waterbirds-classes/clip_text_negatives-KEY/shard-001.json",
    ]
    assert plan.read_by("toy-waterbirds", "clip_cam_tokens", 3) == []


def test_the_texts_that_maps_are_compared_with_are_asked_for(plan):
    assert "clip_text_negatives" in plan.features("toy-waterbirds-classes")
    assert {"clip_image", "clip_cam_tokens", "clip_cam"} <= set(plan.features("toy-waterbirds-unknown-other"))
    assert "clip_cam" in plan.derived and "clip_cam_tokens" not in plan.derived


def test_a_data_set_in_the_folder_of_another_is_rendered_with_it(plan):
    assert plan.rendered_with("toy-waterbirds-backgrounds") == plan.rendered_with("toy-waterbirds") == "toy-waterbirds"
    assert plan.rendered_with("toy-waterbirds-words") is None


def test_a_head_that_names_a_split_that_its_data_set_lacks_is_refused_while_planning(plan, tmp_path):
    document = plan.params.model_dump(mode="json")
    document["datasets"]["toy-ssv2"] = {"layout": "table", "root": str(tmp_path)}
    table = tmp_path / "videos.csv"
    for text, told in (
        ("path,label,split\na.mp4,x,train\nb.mp4,x,test\n", "are test, train; name one of these$"),
        ("path,label\na.mp4,x\nb.mp4,x\n", "are all; name one of these, or draw splits with split: {train"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(DatasetError, match=rf"heads\.gasm_cast\..* but the splits of toy-ssv2 {told}"):
            Plan(parse_params(document)).shards("toy-ssv2")
    table.write_text("path,label,split\na.mp4,x,train\nb.mp4,x,validation\n", encoding="utf-8")
    assert Plan(parse_params(document)).shards("toy-ssv2") == [0]


def test_a_head_that_learns_what_no_sample_has_is_refused_while_planning(plan, tmp_path):
    document = plan.params.model_dump(mode="json")
    document["datasets"]["toy-ssv2"] = {"layout": "table", "root": str(tmp_path)}
    table = tmp_path / "videos.csv"
    table.write_text("path,labels,split\na.mp4,x;y,train\nb.mp4,x,validation\n", encoding="utf-8")
    with pytest.raises(ParamsError, match=r"samples have several labels each, and this head learns one label each"):
        parse_params(document)
    table.write_text("path,split\na.mp4,train\nb.mp4,validation\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"heads\.gasm_cast learns 'label', .* name its column .*: \{label: NAME\}$"):
        Plan(parse_params(document)).shards("toy-ssv2")
    probe = {"kind": "probe", "dataset": "toy-ssv2", "features": "dinov3_patches", "result": "own", "targets": "target"}
    document["heads"]["own"] = probe | {"eval_split": "validation"}
    with pytest.raises(ParamsError, match=r"this head learns numbers; .* columns: \{target: NAME\}$"):
        parse_params(document)


# --- baselines --------------------------------------------------------------------------------------------------------


def probing(plan, **head):
    """The same params with one probe of the data set of gasm_cast, `mine`, beside it."""
    document = plan.params.model_dump(mode="json") | {"ablations": {}, "claims": {}}
    own = {"kind": "probe", "dataset": "toy-ssv2", "result": "mine", "eval_split": "validation", **head}
    return Plan(parse_params({**document, "heads": {"gasm_cast": document["heads"]["gasm_cast"], "mine": own}}))


def test_a_classifier_s_result_has_a_linear_probe_of_each_input_among_its_runs(plan):
    assert list(plan.baselines) == ["ssv2_top1", "clinic_clip_align"], "frames and OOD have no label a sample"
    alone = Plan(parse_params(plan.params.model_dump(mode="json") | {"ablations": {}, "claims": {}}))
    main, found = alone.results["ssv2_top1"], alone.baselines["ssv2_top1"]
    assert list(found) == ["semantic", "motion"]
    assert all(run.head == "gasm_cast" and run.config.probe == "linear" for run in found.values())
    assert len({main.key, *(run.key for run in found.values())}) == 3
    assert {run.folder for run in found.values()} <= alone.referenced(Path("features"), Path("runs"))
    assert {(run.head, run.key) for run in found.values()} <= alone.runs.keys(), "so that absent weights are told of"


def test_the_job_of_baselines_sees_nothing_of_the_head_and_finds_the_same_runs(plan):
    document = plan.params.model_dump(mode="json") | {"ablations": {}, "claims": {}}
    alone = Plan(parse_params(document))
    part = Plan(load_params(alone.probing("ssv2_top1")))
    own = [(run.key, run.evaluation) for run in alone.probed["ssv2_top1"]]
    assert [(run.key, run.evaluation) for run in map(part.run, part.params.heads)] == own
    document["heads"]["gasm_cast"]["lr"] /= 2
    assert Plan(parse_params(document)).probing("ssv2_top1") == alone.probing("ssv2_top1")


def test_a_linear_probe_of_one_input_is_its_own_baseline_and_other_probes_have_one_of_each(plan):
    both = ["dinov3_patches", "r3d18_clips"]
    assert "mine" not in probing(plan, features=both[0]).baselines
    assert list(probing(plan, features=both).baselines["mine"]) == both
    assert list(probing(plan, features=both[0], probe="knn").baselines["mine"]) == both[:1]


def test_the_same_probe_beside_two_results_is_one_run(plan):
    """Whichever head is first makes it, or the head that is that very probe."""
    document = plan.params.model_dump(mode="json") | {"ablations": {}, "claims": {}}
    main = document["heads"]["gasm_cast"]
    document["heads"] = {"gasm_cast": main, "other": main | {"lr": 0.002, "result": "other"}}
    two = Plan(parse_params(document))
    assert two.baselines["other"] == two.baselines["ssv2_top1"] and list(two.probed) == ["ssv2_top1"]
    same = ("dataset", "seed", "train_split", "eval_split", "holdout", "bootstrap", "calibration_bins")
    alone = {"kind": "probe", "features": "r3d18_clips", "result": "alone", **{name: main[name] for name in same}}
    document["heads"]["alone"] = alone
    three = Plan(parse_params(document))
    assert three.baselines["other"]["motion"] is three.results["alone"]
    assert [run.config.features for run in three.probed["ssv2_top1"]] == [{"dinov3_patches": "dinov3_patches"}]
    document["heads"]["other"]["eval_split"] = "test"
    assert len(Plan(parse_params(document)).probed["other"]) == 2, "another evaluation is another run"


def test_what_is_asked_for_by_itself_is_no_part_of_the_job_of_baselines(plan):
    of = probing(plan, features=["dinov3_patches", "r3d18_clips"], seed=1)  # another than that of gasm_cast
    assert len(of.probed["mine"]) == 2
    document = of.params.model_dump(mode="json")
    variants = {"both": {}, "one": {"features": ["r3d18_clips"]}}
    document["ablations"] = {"streams": {"head": "mine", "seeds": [1], "variants": variants}}
    again = Plan(parse_params(document))
    assert [run.config.features for run in again.probed["mine"]] == [{"dinov3_patches": "dinov3_patches"}]
    assert again.baselines["mine"]["r3d18_clips"].key == again.ablated("streams")["one", 1].key


def test_probes_of_every_kind_may_be_variants_of_one_ablation(plan):
    of = probing(plan, features="dinov3_patches")
    rows = ablating(
        of, "mine", linear={}, knn={"probe": "knn"}, light={"probe": "attentive", "blocks": 1}
    ).ablation_runs
    assert [run.config.trains for run in rows("it")] == [True, False, True]
    assert len({run.key for run in rows("it")}) == 3


def test_what_is_not_rendered_yet_hides_no_other_dataset_s_plan(tmp_path, monkeypatch):
    for name in ("configs", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    plan = Plan(load_params(str(ROOT / "params.yaml")))
    assert {of.dataset for of in plan.extractions()} == plan.params.datasets.keys() - plan.unrendered.keys()
    assert plan.unrendered["toy-waterbirds-backgrounds"] == "toy-waterbirds" and len(plan.unrendered) == 9
    assert plan.samples("toy-waterbirds", "train") == 0
    monkeypatch.setattr(Plan, "unrendered", {})
    with pytest.raises(DatasetError):  # a set that is broken is not one that is yet to be rendered
        plan.samples("toy-waterbirds", "train")


def test_a_set_that_lacks_a_list_which_params_name_is_rendered_anew(tmp_path):
    lists = {"held_out": "held_out.txt"}
    chosen = {"layout": "mstcn", "root": str(tmp_path), "class_lists": lists}
    plan = Plan(load_params(json.dumps({"datasets": {"set": chosen}})))
    assert not plan.rendered_otherwise("set"), "it is not rendered at all"
    (tmp_path / RENDERED).write_text(canonical_json(plan.params.rendering("set")))
    assert plan.rendered_otherwise("set")
    (tmp_path / "held_out.txt").touch()
    assert not plan.rendered_otherwise("set")
