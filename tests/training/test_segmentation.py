"""Training a segmentation head: what its losses cannot be told from is one error, before an epoch ends."""

import pytest

from pipeline.datasets.manifest import read_manifest, write_manifest
from pipeline.runs import Run
from pipeline.training import DataError
from pipeline.training.registry import HeadError
from tests.later import train
from tests.training.procedures import CLASSES, FACT, make


def fact(world, folder):
    return Run(world.params, "fact", world.manifest, {"frames": world.stores["frames"]}, folder)


def test_fewer_tokens_than_segments_leave_null_without_a_weight_and_are_told_with_the_remedy(tmp_path):
    world = make(tmp_path, model={**FACT, "tokens": 1}, epochs=1)
    with pytest.raises(HeadError, match=r"heads\.fact\.loss: nullw -1 needs more tokens than the .* segments"):
        train(fact(world, tmp_path / "run"), progress=lambda line: None)


@pytest.mark.parametrize("split", ["nowhere", "unlabelled"])
def test_a_split_to_evaluate_that_is_not_there_or_has_no_label_is_told_before_training(split, tmp_path):
    world = make(tmp_path, eval_split=split)
    table = read_manifest(world.manifest)
    for row in table.index[table["split"] == "test"]:
        table.at[row, "split"], table.at[row, "segments"] = "unlabelled", None
    write_manifest(table, world.manifest)
    with pytest.raises(DataError, match=rf"no sample of the split '{split}' is usable.*correct eval_split in params"):
        train(fact(world, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_frames_of_one_class_are_nothing_to_learn(tmp_path):
    world = make(tmp_path)
    table = read_manifest(world.manifest)
    for row in table.index:
        segments = [{**dict(segment), "label": "background"} for segment in table.at[row, "segments"]]
        table.at[row, "segments"] = segments
    write_manifest(table, world.manifest)
    with pytest.raises(DataError, match=r"what fact can learn from is of fewer than two classes"):
        train(fact(world, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        (CLASSES, r"fewer than two classes, .* or train_split in params, or the list held_out of unseen"),
        (
            CLASSES[2:],
            r"1 of 1 seen classes cannot stand in .*; lower stand_ins of the head, or hold fewer classes out",
        ),
        ([], r"unseen names the list 'held_out', which holds no class; write one a line, or ask the fact head"),
    ],
    ids=["all", "all but two", "none"],
)
def test_a_list_of_unseen_classes_that_leaves_nothing_to_learn_or_to_recognise_is_told(held_out, said, tmp_path):
    world = make(tmp_path)
    table = read_manifest(world.manifest)
    table.attrs["class_lists"] = {"held_out": list(held_out)}
    write_manifest(table, world.manifest)
    with pytest.raises(DataError, match=said):
        train(Run(world.params, "fact_clip", world.manifest, world.stores, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
