"""A head of somebody else's: one class in a package of their own, named in params. Nothing here is edited for it.

It has no `.head` and no `.streams`, reads one vector a video, and is on a data set that no other head reads.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from permafrost.cli import app
from pipeline.config import ParamsError, load_params, parse_params
from pipeline.plan import Plan
from pipeline.store import FeatureStore
from tests.flat import flatten
from tests.prediction.worlds import ROOT, ask, document, evaluation_of, finished, invoke, run_of, verb

HEAD = '''"""A probe over one vector a video."""

from torch import nn

from pipeline.config.base import Name, Positive, Strict
from pipeline.config.heads import ClassifierHead


class Reads(Strict):
    video: Name


class Probe(nn.Module):
    class Config(ClassifierHead):
        features: Reads
        hidden: Positive = 8

    def __init__(self, width, hidden, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes))

    @classmethod
    def of(cls, config, samples):
        return cls(samples.streams["video"].width, config.hidden, len(samples.classes))

    def logits(self, batch):
        return self.layers(batch["video"])
'''
PROBE = {
    "kind": "own_package.probe:Probe", "dataset": "own-videos", "features": {"video": "clip_image"}, "result": "own",
    "seed": 0, "lr": 0.1, "batch_size": 8, "epochs": 2, "warmup_epochs": 0, "label_smoothing": 0.0, "weight_decay": 0.0,
    "clip_norm": 1.0, "ema_decay": 0.0, "precision": "32-true", "patience": 2, "train_split": "train",
    "eval_split": "validation", "holdout": 0.25, "bootstrap": 10, "calibration_bins": 5,
}  # fmt: skip


def with_probe(small: dict) -> dict:
    """A document with the probe, its data set and an ablation of it."""
    full = load_params(ROOT / "params.yaml").model_dump(mode="json")
    own = full["datasets"]["toy-ssv2"] | {"root": "data/own-videos", "features": []}
    sweep = {"head": "probe", "seeds": [0], "grid": {"hidden": [4, 8]}}
    return small | {
        "datasets": small["datasets"] | {"own-videos": own},
        "features": small["features"] | {"clip_image": full["features"]["clip_image"]},
        "heads": small["heads"] | {"probe": PROBE},
        "ablations": {"widths": sweep},
    }


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of somebody else's package, to be imported from."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "own_package").mkdir()
    (folder / "own_package/__init__.py").write_text("", encoding="utf-8")
    (folder / "own_package/probe.py").write_text(HEAD, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield folder / "own_package"
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def project(package, tmp_path_factory):
    """A project in which the probe is trained and evaluated."""
    rendered = {"ssv2": {"train": 4, "validation": 2, "test": 1, "frames": [16, 20]}}
    small = with_probe(document(rendered=rendered))
    near = {"kind": "probe", "probe": "knn", "k": 3, "features": "clip_image", "result": "near", "holdout": 0.25}
    small["heads"]["near"] = {**near, "dataset": "own-videos", "eval_split": "validation", "bootstrap": 10}
    with finished(tmp_path_factory.mktemp("project"), small, "probe") as root:
        yield root


def test_it_is_trained_and_evaluated(project):
    record = json.loads((run_of("probe") / "run.json").read_text(encoding="utf-8"))
    width = FeatureStore(next(Path("features/own-videos").glob("clip_image-*"))).fields["image_embed"][0][0]
    result = json.loads((evaluation_of("probe") / "result.json").read_text(encoding="utf-8"))
    assert record["trainable"] == (width + 1) * 8 + 9 * len(record["classes"])
    assert result["task"] == "classification" and 0 <= result["top1"] <= 1
    assert "top1_tokens_reversed" not in result, "of one vector there is no other order"
    assert result["provenance"]["features"]["video"]["name"] == "clip_image"


def test_it_is_reported_explained_and_on_the_page_and_what_it_lacks_is_said(project, monkeypatch):
    verb("baselines", "probe")
    (linear,) = Plan(load_params("params.yaml")).baselines["own"].values()
    verb("report", evaluation_of("probe"), "results/own.json", "--baseline", f"video={linear.evaluation_folder}")
    assert Path("results/own/report/pictures/confusion.png").exists()
    beside = json.loads(Path("results/own.json").read_text(encoding="utf-8"))["baselines"]
    assert beside["linear"]["video"]["feature"] == "clip_image" and beside["linear"]["video"]["same_samples"]
    assert beside["chance"] == beside["majority"], "each class has as many samples"
    flatten(monkeypatch)
    done = invoke("explain", "probe")
    assert done.exit_code == 0, done.output
    assert "left out attention: own_package.probe:Probe offers no attention" in done.output
    assert "left out overlays" in done.output
    made = {path.name for path in Path("results/own/explanation").rglob("*.*")}
    assert made == {"features.json", "features.png", "importance.json", "importance.png"}
    importance = json.loads(Path("results/own/explanation/importance.json").read_text(encoding="utf-8"))
    assert list(importance["streams"]) == ["video"]
    verb("page", "--out", "results/report.html")
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert "own: action recognition" in page and "top-1" in page and "attention.png is not made" not in page
    assert "Beside baselines" in page and "linear probe of clip_image" in page
    assert "is gone" not in page, "what is beside it does not hide where it was published from"


def test_it_is_exported_as_a_file_that_answers_as_its_run(project):
    line = ["export", "probe", "--format", "torch", "--out", "deployed/probe.pt2"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0 and "samples it answers as the run did" in done.output
    assert Path("deployed/probe.pt2").stat().st_size
    done = CliRunner().invoke(app, [*line, "--set", "seed=1"])
    assert done.exit_code and "has no finished run of these params" in str(done.exception)


def test_a_part_that_was_asked_for_and_is_not_offered_is_an_error(project):
    done = invoke("explain", "probe", "--only", "attention")
    assert "offers no attention" in str(done.exception or done.output) and done.exit_code != 0


def test_it_predicts_new_videos(project):
    video = next(Path("data/own-videos").rglob("*.webm"))
    answer = json.loads(ask("probe", video).stdout)
    assert answer["run"] == str(run_of("probe")) and len(answer["top"]) == 5


def test_neighbours_predict_new_videos_as_they_were_evaluated(project):
    verb("evaluate", "near")
    rows = pd.read_parquet(evaluation_of("near") / "predictions.parquet").set_index("sample")
    videos = {path.stem: path for path in Path("data/own-videos").rglob("*.webm")}
    sample = next(name for name in rows.index if name in videos)
    answer = json.loads(ask("near", videos[sample]).stdout)
    assert answer["run"] == str(run_of("near")) and not (run_of("near") / "weights.safetensors").exists()
    assert [of["class"] for of in answer["top"]][:3] == list(rows.loc[sample, "top"])[:3]


def test_it_is_swept_in_an_ablation(project):
    plan = Plan(load_params("params.yaml"))
    runs = plan.ablated("widths")
    assert len({run.key for run in runs.values()}) == 2 and plan.results["own"].key in {
        run.key for run in runs.values()
    }
    verb("train", "probe", "--set", "hidden=4")
    verb("evaluate", "probe", "--set", "hidden=4")
    verb("ablation", "widths")
    table = Path("results/ablations/widths.md").read_text(encoding="utf-8")
    assert "hidden=4" in table and "hidden=8" in table and "nan" not in table


def test_it_moves_no_other_key_and_its_own_code_moves_its_own(package, monkeypatch):
    monkeypatch.chdir(ROOT)
    full = load_params("params.yaml").model_dump(mode="json")
    before = {run.head: run.key for run in Plan(parse_params(full)).results.values()}
    document = with_probe(full | {"ablations": {}, "claims": {}})

    def keys() -> dict[str, str]:
        return {run.head: run.key for run in Plan(parse_params(document)).results.values()}

    own = keys()
    assert {name: own[name] for name in before} == before
    path = package / "probe.py"
    path.write_text(f"# A remark.\n{HEAD}", encoding="utf-8")
    assert keys() == own
    path.write_text(HEAD.replace("GELU", "ReLU"), encoding="utf-8")
    changed = keys()
    assert changed.pop("probe") != own["probe"] and changed == before
    (package / "parts.py").write_text("X = 1\n", encoding="utf-8")
    path.write_text(f"{HEAD}\nfrom . import parts\n", encoding="utf-8")
    with_parts = keys()["probe"]
    (package / "parts.py").write_text("X = 2\n", encoding="utf-8")
    assert keys()["probe"] != with_parts, "what it imports of its own package is its code, too"
    path.write_text(HEAD, encoding="utf-8")
    assert keys() == own


def test_two_heads_in_one_module_with_the_same_options_are_two_runs(package, monkeypatch):
    monkeypatch.chdir(ROOT)
    (package / "two.py").write_text(f"{HEAD}\n\nclass Other(Probe):\n    pass\n", encoding="utf-8")
    document = with_probe(load_params("params.yaml").model_dump(mode="json") | {"ablations": {}, "claims": {}})
    keys = set()
    for name in ("Probe", "Other"):
        document["heads"]["probe"] = PROBE | {"kind": f"own_package.two:{name}"}
        keys.add(Plan(parse_params(document)).results["own"].key)
    assert len(keys) == 2


def test_a_head_whose_source_cannot_enter_a_key_is_one_line(package, monkeypatch):
    monkeypatch.chdir(ROOT)
    bare = package.parent / "no_init"
    bare.mkdir()
    (bare / "probe.py").write_text(HEAD, encoding="utf-8")
    document = with_probe(load_params("params.yaml").model_dump(mode="json") | {"ablations": {}, "claims": {}})
    document["heads"]["probe"] = PROBE | {"kind": "no_init.probe:Probe"}
    with pytest.raises(ParamsError, match=r"heads\.probe\.kind: the source of no_init\.probe:Probe .*__init__\.py"):
        _ = Plan(parse_params(document)).runs


@pytest.mark.parametrize(("feature", "gives"), [("i3d_frames", "rows of frames"), ("clip_text", "embeddings of texts")])
def test_rows_and_texts_are_refused_in_a_role_that_does_not_say_what_it_takes(package, monkeypatch, feature, gives):
    monkeypatch.chdir(ROOT)
    document = with_probe(load_params("params.yaml").model_dump(mode="json") | {"ablations": {}, "claims": {}})
    document["heads"]["probe"] = PROBE | {"features": {"video": feature}}
    said = (
        rf"heads\.probe\.features\.video names '{feature}', which gives {gives}.*; classification reads what has one "
        r"shape in every sample: name another feature \(.*clip_image"
    )
    with pytest.raises(ParamsError, match=said) as error:
        parse_params(document)
    assert "i3d_frames" not in str(error.value).partition("name another feature")[2]


def test_a_kind_is_replaced_by_no_override(package, monkeypatch):
    monkeypatch.chdir(ROOT)
    document = with_probe(load_params("params.yaml").model_dump(mode="json") | {"ablations": {}, "claims": {}})
    params = parse_params(document)
    for head, kind in (("gasm_cast", "fact"), ("gasm_cast", "nonsense"), ("probe", "own_package.probe:Gone")):
        with pytest.raises(ParamsError, match=r"^kind: is .* declare what has another kind under a name of its own"):
            params.changed(head, {"kind": kind})
    assert params.changed("gasm_cast", {"kind": "gasm_cast"}) == params.head("gasm_cast")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nowhere.heads:Mine", r"heads\.probe: nowhere\.heads:Mine cannot be imported: No module named 'nowhere'"),
        ("own_package.probe:Prob", r"heads\.probe: .*has no Prob; correct the name"),
        ("own_package.probe:Reads", r"heads\.probe: .*is no head: it needs a class Config"),
        ("own_package", r"heads\.probe: 'own_package' is none of clip_align, fact.*name your own class"),
        ("own package:X", r"heads\.probe: .*is no place of code"),
    ],
)
def test_what_is_no_head_is_one_line_when_params_are_read(package, kind, said):
    document = {"heads": {"probe": PROBE | {"kind": kind}}}
    with pytest.raises(ParamsError, match=said):
        parse_params(document)


def test_its_params_are_checked_as_any(package):
    with pytest.raises(ParamsError, match=r"heads\.probe\.hidden: .*greater than 0"):
        parse_params({"heads": {"probe": PROBE | {"hidden": 0}}})
