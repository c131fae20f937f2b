"""A trained classifier on another data set: what it comes to, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.datasets.manifest import write_manifest
from pipeline.evaluation import evaluate
from pipeline.store import FeatureStore
from pipeline.training import DataError
from tests.later import train
from tests.training import learnable
from tests.training.learnable import CLASSES, FEATURES, FIELDS, Made, frame, make, write_store

OPPOSITE = {"falling": "rising", "rising": "falling"}
NAMED = {"elsewhere": {"reversed_video": "other"}}


def silent(line: str) -> None:
    """No line."""


def other(root: Path, table: pd.DataFrame, labels: pd.Series | None = None, **changes) -> Path:
    """The data set `other` below root: stores of a table's samples, and a manifest that may call them otherwise."""
    home = root / "other"
    for role in FEATURES:
        write_store(home, role, table, **changes)
    write_manifest(table if labels is None else table.assign(label=labels), home / "manifest.parquet")
    return home


def directions(samples: int = 10) -> pd.DataFrame:
    """New samples of the two classes that are each other's time reversal."""
    table = frame(
        {"validation": samples},
    )
    table = table[table["label"].isin(OPPOSITE)].reset_index(drop=True)
    table["sample"] = "new-" + table["sample"]
    table["digest"] = table["digest"].str[::-1]
    return table


def beside(made: Made, root: Path) -> Made:
    """The same, its manifest in another folder of features."""
    (root / "made").mkdir()
    (root / "made" / made.manifest.name).symlink_to(made.manifest)
    return Made(made.params, root / "made" / made.manifest.name, made.features)


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> tuple[Path, Made]:
    root = tmp_path_factory.mktemp("elsewhere")
    made = make(root / "made", train=40)
    train(made.run(root / "run", epochs=16), progress=silent)
    return root, made


def test_another_data_set_is_judged_by_its_own_labels_and_nothing_else_moves(learned):
    root, made = learned
    table = directions()
    backwards = table["label"].map(OPPOSITE)
    # What was recorded backwards shows the opposite: the stores hold that, and so say the manifest's labels.
    home = other(root, table.assign(label=backwards), backwards)
    lines: list[str] = []
    alone = evaluate(made.run(root / "run", epochs=16), progress=silent)
    result = evaluate(made.run(root / "run", epochs=16, **NAMED), progress=lines.append)
    of = result["elsewhere"]["reversed_video"]
    assert of["dataset"] == "other" and of["split"] == "validation" and of["samples"]["evaluated"] == len(table) == 20
    assert result["top1_reversed_video"] == of["top1"] >= 0.8
    assert {key: value for key, value in alone.items() if key != "provenance"} == {
        key: value for key, value in result.items() if key in alone and key != "provenance"
    }
    stores = {role: FeatureStore(home / path.name) for role, path in made.features.items()}
    run, right = made.run(root / "run", epochs=16), {label: [] for label in OPPOSITE}
    for row in table.itertuples():
        tokens = [torch.from_numpy(stores[role].read([row.sample], FIELDS[role])) for role in FEATURES]
        times = torch.tensor([stores["semantic"].meta(row.sample)["times"]])
        with torch.inference_mode():
            told = CLASSES[int(run.model(*tokens, times).argmax())]
        right[OPPOSITE[row.label]].append(told == OPPOSITE[row.label])
    assert of["top1"] == np.mean(right["falling"] + right["rising"])
    recalls = {row["class"]: row["recall"] for row in of["per_class"] if row["n"]}
    assert recalls == {label: np.mean(hits) for label, hits in right.items()}
    assert of["worst"]["recall"] == min(recalls.values()) and of["worst"]["n"] == 10
    assert "reversed_video" in lines[-1] and of["worst"]["class"] in lines[-1]
    folder = made.run(root / "run", epochs=16, **NAMED).evaluation_folder
    draws = pd.read_parquet(folder / "draws.parquet")["top1_reversed_video"]
    assert abs(draws.mean() - of["top1"]) < 0.05


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"split": "test"}, r"other\): no sample of the split 'validation' is usable: .* its splits are \['test'\]"),
        ({"label": "flying"}, r"\['flying'\] are no classes of made, which gasm_cast has learned"),
        ({"digest": None}, r"1 samples are byte for byte among those that were learned from, the first is new-"),
    ],
    ids=["split", "class", "learned from"],
)
def test_what_cannot_be_judged_is_refused_with_the_place_and_the_remedy(learned, tmp_path, broken, told):
    _, made = learned
    table = directions(2)
    (column, value), *_ = broken.items()
    if column == "digest":
        seen = pd.read_parquet(made.manifest).query("split == 'train'")["digest"].iloc[0]
        table.loc[0, "digest"] = seen
    else:
        table[column] = value
    run = beside(made, tmp_path).run(learned[0] / "run", epochs=16, **NAMED)
    other(tmp_path, table)
    with pytest.raises(DataError, match=rf"heads\.gasm_cast\.elsewhere\.reversed_video .*{told}"):
        evaluate(run, progress=silent)


def test_features_of_another_shape_are_refused(learned, tmp_path, monkeypatch):
    root, made = learned
    run = beside(made, tmp_path).run(root / "run", epochs=16, **NAMED)
    monkeypatch.setitem(learnable.WIDTHS, "motion", 12)
    other(tmp_path, directions(2))
    with pytest.raises(DataError, match=r"motion is .* 12\) \(field, grid, width\), and .* 8\) was learned from"):
        evaluate(run, progress=silent)
