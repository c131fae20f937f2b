"""The ready parameter sets for segmentation: FACT's published settings, and what is told where the data is absent."""

from pathlib import Path

import pytest

from pipeline.config import Params, load_params
from pipeline.datasets import DatasetError
from pipeline.plan import Plan
from tests.datasets.layouts.test_epic import write_epic
from tests.datasets.made_up import write_labelled, write_texts

CONFIGS = Path(__file__).parents[1] / "configs"

# FACT's defaults, stood by 50Salads which has nothing published, and its published settings.
TABLE = """
| set        | block | M   | a/f dim | ffdim | f  | drop | cmr | mwt | pc  | sw  | bgw | match | nullw | time mask | sr | eval_bg |
| 50salads   | iuUU  | 30  | 512     | 2048  | m  | 0.5  | 0.3 | 0.1 | 1.0 | 0.0 | 1.0 | o2o   | -1.0  | off       | 1  | no      |
| breakfast  | iuUU  | 60  | 512     | 512   | m2 | 0.0  | 0.3 | 0.1 | 0.2 | 5.0 | 1.0 | o2o   | -1.0  | 30/0.05/5 | 1  | yes     |
| gtea       | iuU   | 60  | 128     | 512   | m  | 0.2  | 0.5 | 0.1 | 0.2 | 5.0 | 1.0 | o2o   | -1.0  | 60/0.1/5  | 1  | no      |
| egoprocel  | iUUU  | 200 | 256     | 512   | m2 | 0.0  | 0.3 | 0.9 | 0.2 | 5.0 | 0.5 | o2o   | -1.0  | off       | 3  | no      |
| epic       | IUUU  | 300 | 256     | 512   | m2 | 0.0  | 0.3 | 0.1 | 0.2 | 5.0 | 0.5 | o2m   | 0.05  | off       | 4  | no      |
| havid      | iuUU  | 75  | 256     | 512   | m  | 0.2  | 0.3 | 0.1 | 0.2 | 5.0 | 1.0 | o2o   | -1.0  | 30/0.05/5 | 1  | yes     |
"""  # noqa: E501
# Layers of the convolutions in the blocks u and U: FACT's default, and what its published sets have instead.
UPDATE_LAYERS = {"50salads": 5, "breakfast": 10, "gtea": 10, "egoprocel": 10, "epic": 10, "havid": 10}
# Frames have no positions in these published sets, and only the default normalises layers.
WITHOUT_POSITIONS, WITH_LAYER_NORM = {"breakfast", "gtea", "egoprocel", "havid"}, {"50salads"}
# Of Edit and F1: GTEA's background is left out, the start and end of a salad are actions like others.
BACKGROUND = {
    "50salads": (), "breakfast": ("SIL",), "gtea": ("background",), "egoprocel": ("0",), "epic": ("background",),
    "havid": (),
}  # fmt: skip
SCHEDULE = {
    "gtea": (1, 400, 250), "egoprocel": (1, 350, 250), "epic": (1, 200, 600), "breakfast": (4, 150, 80),
    "havid": (2, 250, 80),
}  # fmt: skip


def rows() -> dict[str, dict[str, str]]:
    head, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.strip().splitlines())
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


def params_of(name: str) -> Params:
    return load_params(CONFIGS / f"{name}.yaml")


def cells(head) -> dict[str, str]:
    """A head's settings as a row of the table; a dimension that differs between the branches is no dimension."""
    model, loss, mask = head.model, head.loss, head.model.time_mask
    return {
        "block": model.blocks,
        "M": str(model.tokens),
        "a/f dim": str(model.Bi.a_dim) if model.Bi.a_dim == model.Bi.f_dim else "differ",
        "ffdim": str(model.Bi.a_ffdim),
        "f": model.Bi.f,
        "drop": str(model.Bi.dropout),
        "cmr": str(model.channel_dropout),
        "mwt": str(head.mwt),
        "pc": str(loss.pc),
        "sw": str(loss.sw),
        "bgw": str(loss.bgw),
        "match": loss.match,
        "nullw": str(loss.nullw),
        "time mask": "off" if mask is None else f"{mask.longest}/{mask.share}/{mask.times}",
        "sr": str(head.sample_rate),
        "eval_bg": "yes" if head.with_background else "no",
    }


SETS = sorted(rows())


def test_every_segmentation_set_is_in_the_table():
    found = {path.stem for path in CONFIGS.glob("*.yaml") if params_of(path.stem).heads.get("fact")}
    assert found == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_each_cell_of_the_table_is_what_the_set_says(name):
    heads = params_of(name).heads
    assert cells(heads["fact"]) == rows()[name]
    if "fact_clip" in heads:
        assert cells(heads["fact_clip"]) == rows()[name]


@pytest.mark.parametrize("name", SETS)
def test_what_the_published_sets_share_is_the_same_in_all(name):
    params = params_of(name)
    head, model = params.head("fact"), params.head("fact").model
    assert (model.Bi.hid_dim, model.Bi.a_nhead, model.Bi.f_layers, model.Bi.a_layers) == (512, 8, 10, 6)
    assert (model.Bu.a_layers, model.BU.a_layers, model.BU.s_layers) == (1, 1, 1)
    assert (model.Bu.f_layers, model.BU.f_layers) == (UPDATE_LAYERS[name], UPDATE_LAYERS[name])
    assert model.frame_positions == (name not in WITHOUT_POSITIONS) and model.Bi.f_ln == (name in WITH_LAYER_NORM)
    inherited = {"a_dim", "a_ffdim", "f", "f_dim", "f_ln", "dropout", "hid_dim"}
    assert all(getattr(block, field) is None for block in (model.Bu, model.BU) for field in inherited)
    assert (head.lr, head.clip_norm, head.loss.a2fc) == (1e-4, 10.0, 1.0) and not model.transcript
    assert (head.batch_size, head.epochs, head.decay_epoch) == SCHEDULE.get(name, SCHEDULE["breakfast"])
    assert head.patience == head.epochs, "the best epoch counts, and none is cut off"


@pytest.mark.parametrize("name", SETS)
def test_background_features_and_splits_are_the_data_sets_own(name):
    params = params_of(name)
    dataset, feature = params.datasets[name], params.features["i3d_published"]
    assert dataset.background == BACKGROUND[name] and dataset.videos is None
    assert feature.orientation == ("TD" if name in ("egoprocel", "epic") else "DT") and feature.width == 2048
    assert dataset.layout == (name if name in ("egoprocel", "epic") else "mstcn")
    assert feature.fps == (dataset.label_fps or feature.fps), "a label a row"


MISSING = {name: r"no list of videos \(\*\.bundle\) in data/{}/splits" for name in SETS} | {
    "egoprocel": r"no list of videos \(\*\.train, \*\.test\) in data/egoprocel",
    "epic": r"data/epic/annotations/EPIC_100_train\.csv does not exist",
}


@pytest.mark.parametrize("name", SETS)
def test_a_plan_without_the_data_is_one_error_that_names_the_file_and_the_remedy(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan(params_of(name))
    (run, *_) = plan.runs.values()
    with pytest.raises(DatasetError, match=MISSING[name].format(name) + r".*put the data set's files? there .*params"):
        plan.shard_manifests(run.config.inputs.values())


@pytest.mark.parametrize("name", SETS)
def test_with_the_files_of_the_docs_everything_is_planned(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, params = tmp_path / "data" / name, params_of(name)
    if name == "epic":
        write_epic(root)
    elif name == "egoprocel":
        write_labelled(root, {"split1.train": ["v1", "v2"], "split1.test": ["v3"]})
    else:
        write_labelled(root, {"splits/train.split1.bundle": ["v1.txt"], "splits/test.split1.bundle": ["v3.txt"]})
    if name == "havid":
        (root / "held_out.txt").write_text("pour_coffee\n")
        write_texts(root / "texts.txt", ["SIL", "take cup", "pour coffee"])
    plan = Plan(params)
    for run in plan.runs.values():
        assert plan.shard_manifests(run.config.inputs.values())
    assert f"{name}_segmentation" in plan.results
